//! `product-kmeans` and `residual-kmeans`: codes by brute force in NumPy, fits by scikit-learn, and `kmeans` itself.

use super::*;
use crate::contract::FitCost;
use crate::registry::FeaturesFactory;
use std::sync::atomic::{AtomicUsize, Ordering};
use tessera_models::Groups;

const KINDS: [GroupedFactory; 2] = [GroupedFactory::Product, GroupedFactory::Residual];

fn fixture() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../tests/fixtures/kmeans/codes.json")).unwrap()
}

fn floats(values: &serde_json::Value) -> Vec<f32> {
    let values = values.as_array().unwrap().iter();
    values.map(|v| v.as_f64().unwrap() as f32).collect()
}

/// The rows of the fixture as a kind of features, one patch per image, and the number of images whose features were computed.
#[derive(Clone, Default)]
struct GivenFactory(Arc<AtomicUsize>);

struct Counted {
    given: Given,
    computed: Arc<AtomicUsize>,
}

impl Features for Counted {
    fn grid(&self) -> Grid {
        self.given.grid()
    }
    fn dim(&self) -> usize {
        self.given.dim()
    }
    fn fingerprint(&self) -> Fingerprint {
        self.given.fingerprint()
    }
    fn extract(&self, view: &View<'_>) -> Result<Tensor> {
        self.computed.fetch_add(view.batch(), Ordering::Relaxed);
        self.given.extract(view)
    }
}

impl FeaturesFactory for GivenFactory {
    fn kind(&self) -> &'static str {
        "given"
    }
    fn summary(&self) -> &'static str {
        "for a test"
    }
    fn schema(&self) -> schemars::Schema {
        json!({}).try_into().unwrap()
    }
    fn build(&self, _: &Config, _: &BuildContext<'_>) -> Result<Box<dyn Features>> {
        let rows = floats(&fixture()["rows"]);
        Ok(Box::new(Counted {
            given: Given { rows, dim: 6 },
            computed: Arc::clone(&self.0),
        }))
    }
}

fn with_given<R>(work: impl FnOnce(&BuildContext<'_>) -> R) -> R {
    with_counted(GivenFactory::default(), work)
}

fn with_counted<R>(given: GivenFactory, work: impl FnOnce(&BuildContext<'_>) -> R) -> R {
    let registry = Registry::builtin().with_features(given);
    work(&BuildContext::alone(
        &registry,
        4,
        Grid { rows: 1, cols: 1 },
    ))
}

/// Three codebooks of four codes.
fn three(kind: GroupedFactory, more: serde_json::Value) -> Config {
    let mut value = json!({"features": {"kind": "given"}, "k": 4, "epochs": 1});
    value[count(kind)] = json!(3);
    for (key, v) in more.as_object().unwrap() {
        value[key] = v.clone();
    }
    Config::from_value(value)
}

fn count(kind: GroupedFactory) -> &'static str {
    match kind {
        GroupedFactory::Product => "groups",
        GroupedFactory::Residual => "levels",
    }
}

fn codes(tokenizer: &dyn Tokenizer, images: &dyn ImageStream) -> Vec<u32> {
    let all: Vec<usize> = (0..images.len()).collect();
    let view = images.view(&all).unwrap();
    let targets = tokenizer.tokenize(&view.as_view()).unwrap();
    let targets = targets.checked(
        tokenizer.target(),
        all.len(),
        tokenizer.grid().num_patches(),
    );
    let Targets::Codes(codes, _) = targets.unwrap() else {
        panic!("not codes")
    };
    codes.flatten_all().unwrap().to_vec1().unwrap()
}

/// NumPy computes every distance in f64 (`tests/fixtures/kmeans/codes.py`).
#[test]
fn codes_of_given_centres_equal_numpy() {
    let fixture = fixture();
    for (kind, centers, width, expected) in [
        (KINDS[0], "of_groups", 2, "product"),
        (KINDS[1], "of_levels", 6, "residual"),
    ] {
        with_given(|cx| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("codebook.safetensors");
            let all = Codebook::new(floats(&fixture[centers]), width);
            all.save(&path).unwrap();
            let tokenizer = kind.load(&three(kind, json!({})), dir.path(), cx).unwrap();
            let found: Vec<f32> = codes(tokenizer.as_ref(), &Colors(300))
                .iter()
                .map(|code| *code as f32)
                .collect();
            assert_eq!(found, floats(&fixture[expected]), "{kind:?}");
        });
    }
}

/// Returns the mean squared difference of the rows from the centres of their codes.
fn error(kind: GroupedFactory, all: &Codebook, rows: &[f32], codes: &[u32]) -> f64 {
    let mut sum = 0.0;
    for (row, codes) in rows.chunks_exact(6).zip(codes.chunks_exact(3)) {
        let mut left: Vec<f64> = row.iter().copied().map(f64::from).collect();
        for (group, code) in codes.iter().enumerate() {
            let center = &all.centers[(4 * group + *code as usize) * all.dim..][..all.dim];
            let first = match kind {
                GroupedFactory::Product => group * all.dim,
                GroupedFactory::Residual => 0,
            };
            let own = left[first..].iter_mut().zip(center);
            own.for_each(|(x, c)| *x -= f64::from(*c));
        }
        sum += left.iter().map(|x| x * x).sum::<f64>();
    }
    sum / (rows.len() / 6) as f64
}

#[test]
fn the_errors_of_fits_are_those_of_their_codes_and_as_small_as_with_scikit_learn() {
    let fixture = fixture();
    for (kind, expected) in [
        (KINDS[0], "product_inertia"),
        (KINDS[1], "residual_inertia"),
    ] {
        with_given(|cx| {
            let images = Colors(300);
            let more = json!({"algorithm": "lloyd", "epochs": 100, "restarts": 10});
            let fitted = kind.fit(&three(kind, more), &images, 0, cx).unwrap();
            let found = fitted.fit_report().unwrap()["inertia"]["per_patch"]
                .as_f64()
                .unwrap();
            let expected = fixture[expected].as_f64().unwrap();
            assert!(
                (found / expected - 1.0).abs() < 0.02,
                "{kind:?}: {found} {expected}"
            );
            let dir = tempfile::tempdir().unwrap();
            fitted.save(dir.path()).unwrap();
            let all = Codebook::load(&dir.path().join("codebook.safetensors")).unwrap();
            let rows = floats(&fixture["rows"]);
            let own = error(kind, &all, &rows, &codes(fitted.as_ref(), &images));
            assert!((found / own - 1.0).abs() < 1e-4, "{kind:?}: {found} {own}");
        });
    }
}

#[test]
fn codebooks_survive_a_save_and_others_are_refused() {
    for kind in KINDS {
        with_given(|cx| {
            let (images, dir) = (Colors(300), tempfile::tempdir().unwrap());
            let with = three(kind, json!({}));
            let fitted = kind.fit(&with, &images, 3, cx).unwrap();
            fitted.save(dir.path()).unwrap();
            let loaded = kind.load(&with, dir.path(), cx).unwrap();
            assert_eq!(loaded.fingerprint(), fitted.fingerprint());
            assert_eq!(
                codes(loaded.as_ref(), &images),
                codes(fitted.as_ref(), &images)
            );
            let plan = kind.plan(&with, cx).unwrap();
            assert_eq!(plan.target, Some(fitted.target()));
            let other = kind.fit(&with, &images, 4, cx).unwrap();
            assert_ne!(other.fingerprint(), fitted.fingerprint());
            let wrong = kind.load(&three(kind, json!({"k": 5})), dir.path(), cx);
            let error = wrong.err().unwrap().to_string();
            assert!(error.contains("expected 15x"), "{error}");
        });
    }
}

#[test]
fn the_features_of_an_image_are_computed_once_for_all_codebooks() {
    for kind in KINDS {
        let given = GivenFactory::default();
        with_counted(given.clone(), |cx| {
            let with = three(kind, json!({"epochs": 3, "restarts": 2}));
            kind.fit(&with, &Colors(300), 0, cx).unwrap();
            assert_eq!(given.0.load(Ordering::Relaxed), 300, "{kind:?}");
        });
    }
}

#[test]
fn one_codebook_is_kmeans() {
    let registry = Registry::builtin();
    with_cx(&registry, |cx| {
        let images = Colors(64);
        let one = KMeansFactory
            .fit(&config(4, json!({})), &images, 7, cx)
            .unwrap();
        let expected = ids(one.as_ref(), &images, &[0, 1, 2]);
        for kind in KINDS {
            let mut with = config(4, json!({})).value().clone();
            with[count(kind)] = json!(1);
            let fitted = kind.fit(&Config::from_value(with), &images, 7, cx).unwrap();
            assert_eq!(codes(fitted.as_ref(), &images)[..expected.len()], expected);
        }
    });
}

#[test]
fn each_slice_has_the_codebook_that_kmeans_fits_to_it() {
    let rows = floats(&fixture()["rows"]);
    with_given(|cx| {
        let (kind, images) = (GroupedFactory::Product, Colors(300));
        let fitted = kind.fit(&three(kind, json!({})), &images, 5, cx).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fitted.save(dir.path()).unwrap();
        let all = Codebook::load(&dir.path().join("codebook.safetensors")).unwrap();
        let fields: Fields = config(4, json!({"epochs": 1, "batch": 256}))
            .parse()
            .unwrap();
        for (group, own) in all.centers.chunks_exact(4 * 2).enumerate() {
            let slices = rows.chunks_exact(6).flat_map(|row| &row[2 * group..][..2]);
            let given = Given {
                rows: slices.copied().collect(),
                dim: 2,
            };
            let alone = fit::fit(&given, &images, &fields, 5, cx).unwrap();
            assert_eq!(own, alone.centers, "group {group}");
        }
    });
}

#[test]
fn fields_that_fit_no_features_or_head_are_refused() {
    for (kind, more, expected) in [
        (
            KINDS[0],
            json!({"groups": 4}),
            "with.groups: found 4, expected a divisor of the 6",
        ),
        (KINDS[0], json!({"groups": 17}), "with.groups: found 17"),
        (KINDS[1], json!({"levels": 0}), "with.levels: found 0"),
        (
            KINDS[1],
            json!({"matching": "cosine"}),
            "with.matching: expected euclidean",
        ),
        (KINDS[1], json!({"groups": 2}), "unknown field `groups`"),
        (KINDS[1], json!({"leves": 2}), "did you mean `levels`?"),
        (KINDS[0], json!({"k": 1 << 23}), "with.k: found groups of"),
        (KINDS[0], json!({"k": 1000}), "lower k or add images"),
    ] {
        with_given(|cx| {
            let images = Some([300, 0]);
            let found = kind.validate(&three(kind, more), &BuildContext { images, ..*cx });
            let found = found.unwrap_err().to_string();
            assert!(found.contains(expected), "{found}");
        });
    }
    with_given(|cx| {
        let with = Config::from_value(json!({"features": {"kind": "given"}}));
        let found = KINDS[1].validate(&with, cx).unwrap_err().to_string();
        for name in ["`k`", "`epochs`", "`levels`"] {
            assert!(found.contains(name), "{found}");
        }
    });
}

#[test]
fn a_plan_has_the_codes_and_the_cost_of_every_codebook() {
    with_given(|cx| {
        let cx = BuildContext {
            images: Some([300, 0]),
            ..*cx
        };
        let groups = Groups::new(&[4, 4, 4]).unwrap();
        let plans = KINDS.map(|kind| kind.plan(&three(kind, json!({})), &cx).unwrap());
        for plan in &plans {
            assert_eq!(plan.target, Some(TargetSpec::Codes { groups }));
        }
        let [product, residual]: [FitCost; 2] = plans.map(|plan| plan.fit.unwrap());
        // Two passes over 300 patches, each with 4 centres of all 6 values in three slices, or at three levels.
        assert_eq!(product.flops, 2.0 * 600.0 * 4.0 * 6.0);
        // Levels two and three first assign 300 patches to one and two levels.
        assert_eq!(
            residual.flops,
            3.0 * product.flops + 2.0 * 900.0 * 4.0 * 6.0
        );
        assert_eq!([product.images, residual.images], [300.0; 2]);
    });
}
