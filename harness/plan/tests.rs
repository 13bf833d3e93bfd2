//! Tests walks over complete graphs, on the CPU and on an emulated device, with and without stored ids.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use candle_core::Tensor;
use serde_json::{Value, json};
use tessera_kernels::device::launcher::Device;
use tessera_kernels::device::ledger::Ledger;
use tessera_kernels::ops::patchify::Order;
use tessera_models::pretrain::PretrainData;
use tessera_models::{Compute, ImageSource, Precision, Targets};
use tessera_reports::Record;
use tessera_reports::evaluations::EVALUATIONS;
use tessera_reports::evaluations::PRETRAIN;
use tessera_testing::emulated;
use tessera_tokenizers::InputSpec;
use tessera_tokenizers::{Split, Tokenizer};

use super::graph::{Graph, Node};
use super::walk::{Ignored, Mode, State, Walk, Watch};
use crate::registry::Registry;
use crate::stages::common::context::{Context, Images, StageError};
use crate::stages::common::machine::Machine;
use crate::stages::common::rates::{Cost, Rates};
use crate::stages::common::reporter::Silent;
use crate::stages::common::stage::{Done, Inputs, Product, Stage};
use crate::stages::common::views::Views;
use crate::stages::pretrain::WithTargets;
use crate::stages::scan;
use crate::stages::tokens::{BothWays, FEW_EPOCHS, are_stored, ids};
use crate::store::{Entry, Store, Workspace};
use crate::suite::{Augment, Suite};

mod ids;

const HEAD: &str = "version: 1
name: tiny
seeds: [0, 1]
image_size: 16
patch_size: 4
backbone: {variant: nano}
tokenizers:
  - {name: K, kind: kmeans, with: {features: {kind: pixels}, k: 5, epochs: 2, batch: 32}}
";

const CROPS: &str =
    "dataset: {kind: mosaics, seed: 3, train: 50, val: 6, size: 20}
eval_transform: {resize_shorter: 20, crop: 17}
pretrain: {epochs: 2, batch: 16, base_lr: 1.0e-3, warmup_epochs: 1, weight_decay: 0.05, mask_ratio: 0.75, augment: random-resized-crop}
fine_tune: {epochs: 1, batch: 16, base_lr: 1.0e-3, layer_decay: 0.75, pooling: mean, warmup_epochs: 0, drop_path: 0.0, mixup: 0.8, cutmix: 1.0, augment: random-resized-crop, auto_augment: none, random_erasing: 0}
";

const FIXED: &str =
    "dataset: {kind: mosaics, seed: 3, train: 70, val: 8, size: 16}
eval_transform: {resize_shorter: 16, crop: 14}
pretrain: {epochs: 3, batch: 32, base_lr: 1.0e-3, warmup_epochs: 1, weight_decay: 0.05, mask_ratio: 0.75, augment: fixed-view}
";

/// Overrides of a suite, and its devices and threads.
#[derive(Default)]
struct Setting<'a> {
    launcher: Option<&'a Device>,
    workers: usize,
    sets: &'a [String],
}

/// Calls `work` with the suite and a new store.
fn with_suite<R>(
    text: &str,
    setting: &Setting<'_>,
    work: impl FnOnce(&Context<'_>, &Images) -> R,
) -> R {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("suite.yaml");
    let head = if text.starts_with("version") {
        ""
    } else {
        HEAD
    };
    std::fs::write(&path, format!("{head}{text}")).unwrap();
    let registry = Registry::builtin();
    let suite = Suite::load(&path, setting.sets, &registry).unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let stop = AtomicBool::new(false);
    let mut cx = Context::new(&suite, &registry, &store, &Silent, &stop, 2);
    cx.launcher = setting.launcher.cloned();
    cx.workers = setting.workers;
    let images = scan::scan(&cx).unwrap();
    work(&cx, &images)
}

/// Results of a walk.
#[derive(Default)]
struct Found {
    entries: BTreeMap<String, Entry>,
    tokenizer: Option<Arc<dyn Tokenizer>>,
}

impl Watch for Found {
    fn done(&mut self, node: &Node<'_>, done: &Done<'_>) -> anyhow::Result<()> {
        if let Some(entry) = &done.entry {
            self.entries.insert(node.id.clone(), entry.clone());
        }
        if let Product::Tokenizer(tokenizer) = &done.product {
            self.tokenizer = Some(Arc::clone(tokenizer));
        }
        Ok(())
    }

    fn failed(&mut self, node: &Node<'_>, error: &str) -> anyhow::Result<()> {
        panic!("{}: {error}", node.id)
    }
}

/// Computes the nodes that `wants` selects.
fn compute(cx: &Context<'_>, images: &Images, wants: fn(&Node<'_>) -> bool) -> Found {
    let graph = Graph::of(cx).unwrap();
    let mut walk = Walk::new(cx, images, &graph, wants);
    let mut found = Found::default();
    walk.pass(Mode::Compute, &mut found).unwrap();
    assert!(!walk.is_missing());
    found
}

fn file(entry: &Entry, name: &str) -> Vec<u8> {
    std::fs::read(entry.dir.join(name)).unwrap()
}

#[test]
fn ids_do_not_depend_on_results_and_only_wanted_inputs_are_computed() {
    with_suite(CROPS, &Setting::default(), |cx, images| {
        let graph = Graph::of(cx).unwrap();
        let ids = |graph: &Graph<'_>| -> Vec<String> {
            graph.nodes.iter().map(|node| node.id.clone()).collect()
        };
        let before = ids(&graph);
        assert_eq!(before[..2], ["fit/K", "count/K"]);
        assert!(before.contains(&"pretrain/K/1".to_owned()));
        let count = |node: &Node<'_>| node.id == "count/K";
        let mut walk = Walk::new(cx, images, &graph, count);
        let mut found = Found::default();
        walk.pass(Mode::Compute, &mut found).unwrap();
        assert!(found.entries.is_empty(), "its input is not wanted");
        let score = |node: &Node<'_>| node.is_shared();
        assert_eq!(compute(cx, images, score).entries.len(), 4);
        assert_eq!(ids(&Graph::of(cx).unwrap()), before);
        // A look-up finds stored results.
        let mut walk = Walk::new(cx, images, &graph, |_| true);
        walk.pass(Mode::Lookup, &mut found).unwrap();
        let done = walk.states.iter().filter(|state| **state == State::Done);
        assert_eq!((done.count(), walk.is_missing()), (4, true));
    });
}

/// Reads a file that another program replaces while the stage runs.
struct Replaced<'a>(&'a Path);

impl Stage for Replaced<'_> {
    fn name(&self) -> &'static str {
        "import"
    }

    fn provenance(&self, _: &Inputs<'_>) -> Result<Value, StageError> {
        Ok(json!({"file": std::fs::read_to_string(self.0).unwrap()}))
    }

    fn cost(&self, _: &Rates<'_>) -> anyhow::Result<Cost> {
        Ok(Cost::default())
    }

    fn run(&self, _: &Inputs<'_>, _: &Workspace<'_>) -> anyhow::Result<Value> {
        std::fs::write(self.0, "new")?;
        Ok(Value::Null)
    }
}

/// The weights of one checkpoint were stored under the key of another.
#[test]
fn a_file_that_is_replaced_while_a_stage_reads_it_is_noticed() {
    with_suite(CROPS, &Setting::default(), |cx, images| {
        let graph = Graph::of(cx).unwrap();
        let mut walk = Walk::new(cx, images, &graph, |_| true);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "old").unwrap();
        let stage = Replaced(file.path());
        let error = walk.beside(&stage, "weights".into()).err().unwrap();
        assert!(error.to_string().contains("has changed"), "{error}");
        // It is the new file's result now, and the old one has none.
        assert!(walk.beside(&stage, "weights".into()).unwrap().is_some());
        std::fs::write(file.path(), "old").unwrap();
        assert!(walk.beside(&stage, "weights".into()).is_err());
    });
}

/// 400 rows by 10 seeds with four shared stages and two of each seed.
#[test]
fn the_graph_of_a_large_suite_has_every_node_once_and_every_edge() {
    let ks = Vec::from_iter((2..402).map(|k: usize| k.to_string())).join(", ");
    let text = format!("{FIXED}knn: {{k: 5, temperature: 0.07}}\n");
    let sets = [
        "seeds=[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]".to_owned(),
        format!(
            "tokenizers=[{{name: \"K={{k}}\", kind: kmeans, with: {{features: {{kind: pixels}}, epochs: 1}}, sweep: {{k: [{ks}]}}}}]"
        ),
    ];
    let setting = Setting {
        sets: &sets,
        ..Setting::default()
    };
    with_suite(&text, &setting, |cx, images| {
        let graph = Graph::of(cx).unwrap();
        assert_eq!(graph.nodes.len(), 400 * (4 + 10 * 2));
        let ids: BTreeSet<&str> = graph.nodes.iter().map(|node| node.id.as_str()).collect();
        assert_eq!(ids.len(), graph.nodes.len());
        let edges = graph.nodes.iter().map(|node| node.after.len());
        // count, metrics and pictures of a row; pretraining and k-NN of a cell.
        let needs = graph.nodes.iter().map(|node| node.stage.needs().len());
        assert_eq!(edges.clone().sum::<usize>(), needs.sum::<usize>());
        assert!(edges.sum::<usize>() >= 400 * (3 + 10 * 2));
        for node in &graph.nodes {
            for (need, before) in node.stage.needs().iter().zip(&node.after) {
                assert_eq!(graph.nodes[*before].stage.gives(), Some(*need));
                assert!(*before < node.at, "{}", node.id);
            }
        }
        let mut walk = Walk::new(cx, images, &graph, |_| true);
        walk.pass(Mode::Lookup, &mut Ignored).unwrap();
        assert!(walk.states.iter().all(|state| *state == State::Missing));
    });
}

/// Calls `work` with a graph that has every evaluation.
fn with_evaluations(work: impl FnOnce(&Graph<'_>)) {
    let sets = [
        "seeds=[0]",
        "knn={k: 5, temperature: 0.07}",
        "bag_of_tokens={}",
        "attentive_probe={epochs: 1, batch: 8, base_lr: 0.1, warmup_epochs: 0, augment: none}",
        "linear_probe={epochs: 1, batch: 8, base_lr: 0.1, pooling: cls, warmup_epochs: 0, augment: none}",
    ];
    let setting = Setting {
        sets: &sets.map(str::to_owned),
        ..Setting::default()
    };
    with_suite(CROPS, &setting, |cx, _| work(&Graph::of(cx).unwrap()));
}

#[test]
fn stages_that_the_reports_name_are_in_the_graph() {
    with_evaluations(|graph| {
        let stages: BTreeSet<&str> = graph.nodes.iter().map(|node| node.stage.name()).collect();
        let columns = Record::COLUMNS.iter();
        let timed: BTreeSet<&str> = columns
            .filter_map(|column| column.name.strip_suffix("_seconds"))
            .collect();
        assert!(timed.contains(PRETRAIN));
        assert!(timed.is_subset(&stages), "{timed:?} of {stages:?}");
    });
}

#[test]
fn evaluations_of_the_reports_and_evaluating_stages_are_the_same() {
    with_evaluations(|graph| {
        let evaluates = |node: &&Node<'_>| !node.is_shared() && node.stage.gives().is_none();
        let nodes = graph.nodes.iter().filter(evaluates);
        let stages: BTreeSet<&str> = nodes.map(|node| node.stage.name()).collect();
        let listed = |of_encoder: bool| -> BTreeSet<&str> {
            let all = EVALUATIONS.iter().filter(|e| e.of_encoder == of_encoder);
            all.map(|e| e.stage).collect()
        };
        assert_eq!(stages, listed(true));
        // All seeds share the evaluations of a tokenizer alone.
        let shared = graph.nodes.iter().filter(|node| node.is_shared());
        let shared: BTreeSet<&str> = shared.map(|node| node.stage.name()).collect();
        assert!(listed(false).is_subset(&shared), "{shared:?}");
    });
}

#[test]
fn crops_on_a_device_equal_those_of_the_cpu_to_the_bit() {
    let Some(device) = emulated() else {
        return;
    };
    let views = |launcher| {
        let setting = Setting {
            launcher,
            ..Setting::default()
        };
        with_suite(CROPS, &setting, |cx, images| {
            let train = |augment, scale| Views::train(cx, images, augment, scale, 7);
            let views = [
                Views::eval(cx, images, Split::Val),
                train(Augment::RandomResizedCrop, (0.2, 1.0)),
                train(Augment::FixedView, (1.0, 1.0)),
                // The CPU applies other changes.
                train(Augment::RandomResizedCrop, (0.2, 1.0)).with_edits(None, 1.0),
            ];
            let values = |views: &Views<'_>| {
                let tensor = views.images(1, &[5, 0, 3]).unwrap();
                assert_eq!(tensor.dims(), [3, 3, 16, 16]);
                tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            };
            views.each_ref().map(values)
        })
    };
    assert!(views(Some(&device)) == views(None));
}

/// One for pixels and lists of the two kernels that crop, and one for the lists of the one that scales.
#[test]
fn a_shard_goes_to_a_device_in_few_copies() {
    let ledger = Ledger::default();
    with_suite(CROPS, &Setting::default(), |cx, images| {
        let views = Views::train(cx, images, Augment::RandomResizedCrop, (0.2, 1.0), 7);
        let view = views.view(1, &[5, 0, 3]).unwrap();
        let (device, input) = (ledger.device(), InputSpec::imagenet(16));
        let patches = view
            .as_view()
            .patches_on(&device, &input, 4, Order::ChannelLast);
        assert_eq!(patches.unwrap().len(), 3 * 16 * 16 * 3);
        let lines = ledger.lines();
        assert_eq!((lines["upload"].calls, ledger.launches()), (2, 3));
    });
}

/// Ids and pixels are equal to the bit, so the weights are too.
#[test]
fn data_from_a_device_trains_the_same_weights() {
    let Some(device) = emulated() else {
        return;
    };
    let run = |launcher, workers| {
        let setting = Setting {
            launcher,
            workers,
            sets: &["seeds=[0]".to_owned()],
        };
        with_suite(CROPS, &setting, |cx, images| {
            let entries = compute(cx, images, |_| true).entries;
            assert_ne!(entries["fit/K"].key, entries["pretrain/K/0"].key);
            [
                ("count/K", "counts.npy"),
                ("pretrain/K/0", "pretrained.safetensors"),
                ("finetune/K/0", "finetuned.safetensors"),
            ]
            .map(|(id, name)| file(&entries[id], name))
        })
    };
    let expected = run(None, 0);
    assert!(expected == run(None, 2), "loader threads changed something");
    assert!(
        expected == run(Some(&device), 2),
        "the device changed something"
    );
}

#[test]
fn results_of_a_device_are_stored_under_another_key() {
    let Some(device) = emulated() else {
        return;
    };
    let numerics = |launcher| {
        let setting = Setting {
            launcher,
            ..Setting::default()
        };
        with_suite(CROPS, &setting, |cx, _| cx.numerics(None))
    };
    let (here, there) = (numerics(None), numerics(Some(&device)));
    assert_ne!(here, there);
    assert_eq!(there["launcher"], device.name());
}

/// Only a model in bf16 depends on the instructions for bf16, and only on a CPU.
#[test]
fn instructions_for_bf16_are_in_the_keys_of_models_in_bf16_alone() {
    with_suite(CROPS, &Setting::default(), |cx, _| {
        let mut other = Context::new(cx.suite, cx.registry, cx.store, &Silent, cx.stop, 2);
        let mut of = |arch: &str, precision| {
            let machine = Machine::new(arch.to_owned(), &Compute::cpu(precision), None);
            other.looked_up = Some(machine);
            (other.numerics(None), other.model_numerics(None))
        };
        let [plain, short] = ["x+avx512f", "x+avx512f+avx512bf16"];
        let tiles = "x+avx512f+avx512bf16+amx-bf16";
        assert_eq!(of(plain, Precision::F32), of(short, Precision::F32));
        assert_eq!(of(plain, Precision::F32), of(tiles, Precision::F32));
        let (emulated, fast) = (of(plain, Precision::Bf16), of(short, Precision::Bf16));
        assert_eq!(emulated.0, fast.0, "tokenizers run in f32");
        assert_eq!(emulated.1["dtype"], "bf16-emulated");
        assert_eq!(fast.1["dtype"], "bf16");
        assert_eq!(fast.1["arch"], short);
        let in_tiles = of(tiles, Precision::Bf16).1;
        assert_eq!(
            (&in_tiles["dtype"], &in_tiles["arch"]),
            (&json!("bf16"), &json!(tiles))
        );
    });
}

#[test]
fn results_of_another_instruction_set_are_found_under_its_name_only() {
    let setting = Setting::default();
    with_suite(CROPS, &setting, |cx, images| {
        compute(cx, images, |node| node.id == "fit/K");
        let found = |arch: &str| {
            let mut other = Context::new(cx.suite, cx.registry, cx.store, &Silent, cx.stop, 2);
            other.looked_up = Some(Machine::new(arch.to_owned(), &cx.compute, None));
            let graph = Graph::of(&other).unwrap();
            let wanted = |node: &Node<'_>| node.id == "fit/K";
            let mut walk = Walk::new(&other, images, &graph, wanted);
            walk.pass(Mode::Collect, &mut Found::default()).unwrap();
            !walk.is_missing()
        };
        let own = cx.machine().arch;
        assert_eq!(["x86_64+older", &own].map(found), [false, true]);
    });
}

fn flat(targets: &Targets) -> Vec<u32> {
    match targets {
        Targets::Ids(ids) | Targets::Codes(ids, _) => ids.flatten_all().unwrap().to_vec1().unwrap(),
        Targets::Values(_) => unreachable!(),
    }
}

#[test]
fn stored_ids_equal_those_of_the_views_of_training() {
    check_stored_ids(FIXED);
    let product = HEAD.replace(
        "kind: kmeans, with: {",
        "kind: product-kmeans, with: {groups: 3, ",
    );
    check_stored_ids(&format!("{product}{FIXED}"));
}

fn check_stored_ids(suite: &str) {
    with_suite(suite, &Setting::default(), |cx, images| {
        let fitted = compute(cx, images, |node| node.id == "fit/K");
        let tokenizer = fitted.tokenizer.unwrap();
        let recipe = cx.suite.file.pretrain.as_ref().unwrap();
        assert!(are_stored(recipe, tokenizer.as_ref()));
        let on = Inputs {
            cx,
            images,
            given: Vec::new(),
        };
        let data = |stored| WithTargets {
            views: Views::train(cx, images, recipe.augment, recipe.crop_scale.into(), 5),
            tokenizer: Arc::clone(&tokenizer),
            stored,
        };
        let stored = data(Some(BothWays::of(&on, tokenizer.as_ref()).unwrap()));
        let computed = data(None);
        for epoch in 0..4 {
            for shard in [[0, 1, 2, 3], [69, 35, 31, 32]] {
                let (pixels, ids) = stored.shard(epoch, &shard).unwrap();
                let (expected_pixels, expected) = computed.shard(epoch, &shard).unwrap();
                let values = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                assert_eq!(values(pixels), values(expected_pixels));
                assert_eq!(flat(&ids), flat(&expected));
                let (target, patches) = (tokenizer.target(), tokenizer.grid().num_patches());
                ids.checked(target, shard.len(), patches).unwrap();
            }
        }
        // The ids of mirrored images differ from mirrored ids.
        let row = |mirrored| {
            let ids = ids(&on, tokenizer.as_ref(), mirrored).unwrap();
            ids.row(0).collect::<Vec<_>>()
        };
        let (plain, other) = (row(false), row(true));
        let lines = plain.chunks(4);
        let grid: Vec<u32> = lines.flat_map(|r| r.iter().rev().copied()).collect();
        assert_ne!(other, plain);
        assert_ne!(other, grid);
    });
}

#[test]
fn counts_are_the_same_from_stored_ids() {
    let counted = |epochs: usize| {
        let setting = Setting {
            sets: &[format!("pretrain.epochs={epochs}")],
            ..Setting::default()
        };
        with_suite(FIXED, &setting, |cx, images| {
            let found = compute(cx, images, |node| node.is_shared());
            let stored = Path::is_dir(&cx.store.root().join("tokens"));
            assert_eq!(stored, epochs > FEW_EPOCHS);
            let count = &found.entries["count/K"];
            ["counts.npy", "images.npy"].map(|name| file(count, name))
        })
    };
    assert_eq!(counted(2), counted(3));
}
