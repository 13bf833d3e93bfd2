use std::path::PathBuf;

use super::row::NO_PRETRAINING;
use super::*;
use tessera_models::Precision;

mod resolved;
mod steps;

const BASE: &str = "version: 1
name: tiny
seeds: [0]
dataset: {kind: mosaics, seed: 0, train: 20, val: 20, size: 16}
image_size: 16
patch_size: 4
eval_transform: {resize_shorter: 16, crop: 16}
backbone: {variant: nano}
";

/// Loads `BASE` with `more` after it.
fn load(more: &str, sets: &[&str]) -> (tempfile::TempDir, Result<Suite, SuiteError>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("suite.yaml");
    std::fs::write(&path, format!("{BASE}{more}")).unwrap();
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    let suite = Suite::load(&path, &sets, &Registry::builtin());
    (dir, suite)
}

fn loaded(more: &str, sets: &[&str]) -> Suite {
    load(more, sets).1.unwrap()
}

fn refused(more: &str) -> String {
    load(more, &[]).1.unwrap_err().to_string()
}

const ROW: &str = "tokenizers:
  - {name: HOG, kind: continuous, with: {features: {kind: hog}}}
";

#[test]
fn a_sweep_is_the_product_of_its_keys() {
    let suite = loaded(
        "tokenizers:
  - name: \"K={k}, {matching}\"
    kind: kmeans
    with: {features: {kind: pixels}, epochs: 1}
    sweep: {k: [2, 4], matching: [cosine, euclidean]}
",
        &[],
    );
    let names: Vec<&str> = suite.rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "K=2, cosine",
            "K=2, euclidean",
            "K=4, cosine",
            "K=4, euclidean"
        ]
    );
    assert_eq!(
        suite.resolved["tokenizers"].as_array().unwrap().len(),
        4,
        "the resolved suite has no sweep"
    );
}

#[test]
fn set_changes_a_field_and_an_unknown_one_is_refused() {
    assert_eq!(loaded(ROW, &["seeds=[3, 4]"]).file.seeds, [3, 4]);
    assert_eq!(
        loaded(ROW, &["eval_transform.crop=8"])
            .file
            .eval_transform
            .crop,
        8
    );
    let error = load(ROW, &["pretrian.epochs=3"]).1.unwrap_err().to_string();
    assert!(error.contains("pretrian"), "{error}");
}

#[test]
fn an_unknown_field_is_refused_with_line_and_nearest_name() {
    let error = refused(&format!("{ROW}basleines: [no-pretraining]\n"));
    assert!(
        error.contains("suite.yaml:11")
            && error.contains("basleines")
            && error.contains("did you mean `baselines`?"),
        "{error}"
    );
}

#[test]
fn a_misspelt_list_of_rows_is_refused_with_its_name() {
    let error = refused(&ROW.replace("tokenizers", "tokenizrs"));
    assert!(
        error.contains("suite.yaml:9: tokenizrs: unknown field `tokenizrs`"),
        "{error}"
    );
    assert!(error.contains("did you mean `tokenizers`?"), "{error}");
}

#[test]
fn an_unknown_kind_suggests_the_nearest() {
    let error = refused(
        "tokenizers:\n  - {name: a, kind: kmean, with: {features: {kind: pixels}, k: 2}}\n",
    );
    assert!(
        error.contains("suite.yaml:10") && error.contains("kmeans"),
        "{error}"
    );
}

#[test]
fn names_must_be_unique() {
    let twice =
        format!("{ROW}  - {{name: HOG, kind: continuous, with: {{features: {{kind: pixels}}}}}}\n");
    let error = refused(&twice);
    assert!(error.contains("\"HOG\" occurs twice"), "{error}");
}

/// The default leaves no trace in a recipe, so keys of earlier results still hold.
#[test]
fn the_residual_stream_is_part_of_a_recipe_if_it_is_f32() {
    let recipe = |stream: &str| {
        let pretrain = format!("pretrain: {{epochs: 2, batch: 4, base_lr: 0.1{stream}}}\n");
        let suite = loaded(&format!("{pretrain}{ROW}"), &[]);
        let recipe = suite.rows[0].recipes.pretrain.clone().unwrap();
        let written = serde_json::to_value(&recipe).unwrap();
        (
            written.get("residual_stream").cloned(),
            recipe.residual_stream.precision(),
        )
    };
    assert_eq!(recipe(""), (None, Precision::Bf16));
    assert_eq!(recipe(", residual_stream: auto"), (None, Precision::Bf16));
    let f32 = serde_json::Value::from("f32");
    assert_eq!(
        recipe(", residual_stream: f32"),
        (Some(f32), Precision::F32)
    );
    let pretrain = "pretrain: {epochs: 2, batch: 4, base_lr: 0.1, residual_stream: half}\n";
    let error = refused(&format!("{pretrain}{ROW}"));
    assert!(error.contains("residual_stream"), "{error}");
}

#[test]
fn an_override_is_merged_and_recorded() {
    let pretrain = "pretrain: {epochs: 2, batch: 4, base_lr: 0.1, warmup_epochs: 0, weight_decay: 0, mask_ratio: 0.5, augment: none}\n";
    let row = "tokenizers:
  - {name: HOG, kind: continuous, with: {features: {kind: hog}}, override: {pretrain: {epochs: 9}}}
";
    let suite = loaded(&format!("{pretrain}{row}"), &[]);
    let recipe = suite.rows[0].recipes.pretrain.as_ref().unwrap();
    assert_eq!((recipe.epochs, recipe.batch), (9, 4));
    let written = &suite.resolved["tokenizers"][0]["override"];
    assert_eq!(written.to_string(), r#"{"pretrain":{"epochs":9}}"#);
    let error = refused(&format!(
        "{pretrain}{}",
        row.replace("epochs: 9", "augment: none")
    ));
    assert!(error.contains("same crops"), "{error}");
}

/// The warm-up of the suite's epochs was used, or refused as too long.
#[test]
fn a_warm_up_that_nobody_states_follows_the_epochs_of_the_row() {
    let recipes = "pretrain: {epochs: 100, batch: 4, base_lr: 0.1}
linear_probe: {epochs: 90, batch: 4, base_lr: 0.1}
attentive_probe: {epochs: 5, batch: 4, base_lr: 0.1}
";
    let warmups = |overrides: &str| {
        let row = format!(
            "tokenizers:\n  - {{name: HOG, kind: continuous, with: {{features: {{kind: hog}}}}, override: {overrides}}}\n"
        );
        let suite = loaded(&format!("{recipes}{row}"), &[]);
        let of = &suite.rows[0].recipes;
        let probe = of.linear_probe.as_ref().unwrap().warmup_epochs;
        let attentive = of.attentive_probe.as_ref().unwrap().warmup_epochs;
        [
            of.pretrain.as_ref().unwrap().warmup_epochs,
            probe,
            attentive,
        ]
    };
    assert_eq!(warmups("{}"), [10.0, 10.0, 0.5]);
    let epochs = "{pretrain: {epochs: 300}, linear_probe: {epochs: 5}}";
    assert_eq!(warmups(epochs), [30.0, 0.5, 0.5]);
    let stated = "{pretrain: {epochs: 300, warmup_epochs: 7}}";
    assert_eq!(warmups(stated), [7.0, 10.0, 0.5]);
}

#[test]
fn paths_relative_to_no_folder_are_refused() {
    let error = refused(&format!("relative_to: no/folder\n{ROW}"));
    for part in ["relative_to", "no/folder", "expected the folder"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn numbers_out_of_range_are_refused() {
    let pretrain = "pretrain: {epochs: 2, batch: 4, base_lr: 0.1, warmup_epochs: 0, weight_decay: 0, mask_ratio: 1.5, augment: none}\n";
    let error = refused(&format!("{pretrain}{ROW}"));
    assert!(
        error.contains("pretrain.mask_ratio") && error.contains("above 0 and below 1"),
        "{error}"
    );
    let probe = "linear_probe: {epochs: 2, batch: 4, base_lr: [0.1, 1.0e-45]}\n";
    let valid = pretrain.replace("1.5", "0.5");
    let error = refused(&format!("{valid}{probe}{ROW}"));
    assert!(error.contains("linear_probe.base_lr"), "{error}");
    // No weight moved, and another ratio than the stated one was used.
    for (field, value, expected) in [
        ("base_lr: 0.1", "base_lr: 1.0e-45", "at least 1e-12"),
        (
            "mask_ratio: 1.5",
            "mask_ratio: 1.0e-300",
            "masks some patches",
        ),
        (
            "mask_ratio: 1.5",
            "mask_ratio: 0.9999",
            "leaves some visible",
        ),
    ] {
        let pretrain = pretrain.replace(field, value).replace("1.5", "0.5");
        let error = refused(&format!("{pretrain}{ROW}"));
        assert!(error.contains(expected), "{value}: {error}");
    }
}

#[test]
fn the_row_without_pretraining_has_no_layer_decay() {
    let recipes = "baselines: [no-pretraining]
pretrain: {epochs: 2, batch: 4, base_lr: 0.1, warmup_epochs: 0, weight_decay: 0, mask_ratio: 0.5, augment: none}
fine_tune: {epochs: 1, batch: 4, base_lr: 0.1, layer_decay: 0.65, pooling: mean, from_scratch_base_lr: 0.2, warmup_epochs: 0}
";
    let suite = loaded(&format!("{recipes}{ROW}"), &[]);
    let tune = |row: usize| suite.rows[row].recipes.fine_tune.clone().unwrap();
    assert_eq!(suite.rows[0].name, NO_PRETRAINING);
    assert_eq!((tune(0).layer_decay, tune(0).base_lr), (1.0, 0.2));
    assert_eq!((tune(1).layer_decay, tune(1).base_lr), (0.65, 0.1));
}

#[test]
fn a_variable_without_value_is_refused_with_its_name() {
    let row = "tokenizers:\n  - {name: a, kind: continuous, with: {features: {kind: \"${TESSERA_NO_SUCH_VARIABLE}\"}}}\n";
    assert!(refused(row).contains("TESSERA_NO_SUCH_VARIABLE"));
    let fallback = row.replace("VARIABLE}", "VARIABLE:-hog}");
    assert_eq!(loaded(&fallback, &[]).rows[0].kind(), "continuous");
}

#[test]
fn every_bundled_suite_loads() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("suites");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "yaml") {
            // Data and models may be absent; only the file is tested.
            let sets =
                ["dataset={kind: mosaics, seed: 0, train: 20, val: 20, size: 224}".to_owned()];
            Suite::load(&path, &sets, &Registry::builtin()).unwrap();
            count += 1;
        }
    }
    assert!(count >= 1);
}

/// Adds the names of the definitions to which a schema refers.
fn referred(schema: &Value, names: &mut BTreeSet<String>) {
    match schema {
        Value::Object(fields) => {
            let to = fields.get("$ref").and_then(Value::as_str);
            names.extend(
                to.and_then(|to| to.strip_prefix("#/$defs/"))
                    .map(str::to_owned),
            );
            fields.values().for_each(|field| referred(field, names));
        }
        Value::Array(items) => items.iter().for_each(|item| referred(item, names)),
        _ => {}
    }
}

#[test]
fn the_schema_has_every_definition_to_which_it_refers() {
    let registry = Registry::builtin();
    let whole = schema::schema(&registry);
    let mut names = BTreeSet::new();
    referred(&whole, &mut names);
    assert!(names.contains("DecodedCache"), "{names:?}");
    for name in &names {
        assert!(whole["$defs"].get(name).is_some(), "no {name}");
    }
    // Kinds may not mean different types by one name.
    let datasets = registry.datasets().map(|d| json!(d.schema()));
    let features = registry.features().map(|f| json!(f.schema()));
    let tokenizers = registry.tokenizers().map(|t| json!(t.schema()));
    for kind in datasets.chain(features).chain(tokenizers) {
        for (name, own) in kind["$defs"].as_object().into_iter().flatten() {
            assert_eq!(&whole["$defs"][name], own, "{name}");
        }
    }
}

#[test]
fn the_schema_contains_every_kind() {
    let registry = Registry::builtin();
    let schema = schema::schema(&registry).to_string();
    for factory in registry.tokenizers() {
        assert!(schema.contains(&format!("\"{}\"", factory.kind())));
    }
    for dataset in registry.datasets() {
        assert!(schema.contains(&format!("\"{}\"", dataset.kind())));
    }
}

#[test]
fn variables_are_expanded_in_overrides() {
    let suite = loaded(
        "tokenizers:
  - {name: Theirs, kind: none, override: {pretrain: {checkpoint: \"${TESSERA_NO_SUCH:-folder}/there.pth\"}}}
pretrain: {epochs: 1, batch: 1, base_lr: 1, warmup_epochs: 0, weight_decay: 0, mask_ratio: 0.5, augment: none}
",
        &[],
    );
    let path = suite.rows[0].checkpoint.as_ref().unwrap();
    assert!(path.ends_with("folder/there.pth"), "{}", path.display());
    let resolved = &suite.resolved["tokenizers"][0]["override"]["pretrain"]["checkpoint"];
    assert_eq!(resolved, "folder/there.pth");
}

#[test]
fn fast_decode_uses_the_largest_side_of_any_row() {
    let rows = "tokenizers:
  - {name: a, kind: onnx-ids, with: {model: absent.onnx, codebook_size: 8, input: {side: 112}}, optional: true}
  - {name: b, kind: kmeans, with: {features: {kind: onnx, model: absent.onnx, input: {side: 224}}, k: 5, epochs: 1}}
  - {name: c, kind: kmeans, with: {features: {kind: pixels}, k: 5, epochs: 1}}
";
    let fast = "dataset={kind: image-folder, root: ., fast_decode: true}";
    assert_eq!(loaded(rows, &[fast]).finest, Some(224));
    assert_eq!(loaded(ROW, &[fast]).finest, Some(16), "the model's input");
    assert_eq!(loaded(rows, &[]).finest, None);
}

/// Serde reads any number. A number without bounds could compute or allocate for ever.
#[test]
fn every_number_of_a_suite_has_bounds() {
    let schema = schema::schema(&Registry::builtin());
    let found = tessera_tokenizers::schema::unbounded(&schema);
    assert!(found.is_empty(), "without bounds: {found:#?}");
}

#[test]
fn a_wrong_type_is_named_in_plain_words() {
    for (text, parts) in [
        (
            "- a\n",
            &["found a list, expected a mapping", ", tokenizers"][..],
        ),
        ("5\n", &["found 5, expected a mapping", ", tokenizers"]),
        ("", &["found nothing, expected a mapping", ", tokenizers"]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("suite.yaml");
        std::fs::write(&path, text).unwrap();
        let error = Suite::load(&path, &[], &Registry::builtin()).unwrap_err();
        let error = error.to_string();
        for part in parts {
            assert!(error.contains(part), "{error}");
        }
    }
    for (field, part) in [
        (
            "knn=[5, 0.07]",
            "knn: found a list, expected a mapping with fields of k",
        ),
        ("backbone=[nano]", "backbone: found a list"),
        (
            "backbone.variant=5",
            "backbone.variant: found 5, expected text",
        ),
        ("seeds=5", "seeds: found 5, expected a list"),
        ("seeds=[]", "seeds: found 0 items, expected 1 to 1000"),
        ("seeds=[-1]", "seeds[0]: found -1, expected a whole number"),
        (
            "image_size=16.5",
            "image_size: found 16.5, expected a whole number of at least 1",
        ),
        (
            "eval_transform.crop=17",
            "eval_transform.crop: found 17, expected at most resize",
        ),
        (
            "tokenizers[0]=HOG",
            "tokenizers[0]: found the text \"HOG\", expected a mapping",
        ),
        ("tokenizers[0].optional=maybe", "expected true or false"),
    ] {
        let error = load(ROW, &[field]).1.unwrap_err().to_string();
        assert!(error.contains(part), "{field}: {error}");
        assert!(!error.contains("struct"), "{field}: {error}");
    }
}

#[test]
fn names_that_are_no_line_of_text_are_refused() {
    for name in ["", " ", "a\\e[2J", "a\\nb", "\\0"] {
        let error = refused(&ROW.replace("HOG", &format!("\"{name}\"")));
        assert!(error.contains("tokenizers[0].name: found"), "{error}");
        assert!(!error.contains(char::is_control), "{error:?}");
    }
    let long = format!("name={}", "n".repeat(201));
    let error = load(ROW, &[&long]).1.unwrap_err().to_string();
    assert!(
        error.contains("found 201 letters, expected at most 200"),
        "{error}"
    );
}

#[test]
fn more_rows_and_seeds_than_a_table_shows_are_refused() {
    let many: Vec<String> = (1..=500).map(|k| k.to_string()).collect();
    let many = many.join(", ");
    let row = format!(
        "tokenizers:\n  - {{name: \"{{k}} {{epochs}}\", kind: kmeans, with: {{features: {{kind: pixels}}}}, sweep: {{k: [{many}], epochs: [1, 2, 3]}}}}\n"
    );
    let error = refused(&row);
    assert!(
        error.contains("sweep.epochs: found 1500 rows, expected at most 1000"),
        "{error}"
    );
    let row = row.replace("1, 2, 3]}", "1, 2]}");
    for (field, name) in [("seeds", "seeds"), ("fit_seeds", "fit seeds")] {
        let seeds = format!("{field}=[0, 1, 2, 3, 4]");
        let error = load(&row, &[&seeds]).1.unwrap_err().to_string();
        let expected = format!("found 1000 rows and 5 {name}, expected at most 4000");
        assert!(error.contains(&expected), "{error}");
    }
}

#[test]
fn a_baseline_is_the_name_of_a_row() {
    let suite = loaded(&format!("{ROW}baseline: HOG\n"), &[]);
    assert_eq!(suite.resolved["baseline"], "HOG");
    assert!(loaded(ROW, &[]).resolved.get("baseline").is_none());
    let error = refused(&format!("{ROW}baseline: HGO\n"));
    for part in [
        "suite.yaml:11: baseline",
        "\"HGO\"",
        "expected one of HOG",
        "did you mean `HOG`?",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn codebooks_are_fitted_once_or_thrice_unless_the_suite_says_otherwise() {
    let mut suite = loaded(ROW, &[]);
    assert_eq!(
        (&suite.fit_seeds[..], &suite.resolved["fit_seeds"]),
        (&[0][..], &json!([0]))
    );
    suite.score_only();
    assert_eq!(
        (&suite.fit_seeds[..], &suite.resolved["fit_seeds"]),
        (&[0, 1, 2][..], &json!([0, 1, 2]))
    );
    for (set, expected) in [("fit_seed=7", vec![7]), ("fit_seeds=[5, 3]", vec![5, 3])] {
        let mut suite = loaded(ROW, &[set]);
        suite.score_only();
        assert_eq!(suite.fit_seeds, expected);
        assert!(suite.resolved.get("fit_seed").is_none());
    }
    for (lines, part) in [
        (
            "fit_seeds: []\n",
            "fit_seeds: found 0 items, expected 1 to 1000",
        ),
        (
            "fit_seeds: [1, 1]\n",
            "fit_seeds: found [1, 1], expected at least one, each once",
        ),
        (
            "fit_seed: 0\nfit_seeds: [0, 1]\n",
            "fit_seed: found 0 beside `fit_seeds: [0, 1]`",
        ),
    ] {
        let error = refused(&format!("{ROW}{lines}"));
        assert!(error.contains(part), "{error}");
    }
}
