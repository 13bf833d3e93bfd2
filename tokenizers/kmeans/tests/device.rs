//! Fits and assignments on an emulated device, compared with the CPU.

use super::*;
use crate::kmeans::device::OnDevice;
use crate::kmeans::rows::Rows;
use crate::kmeans::step::{self, Stepper};
use tessera_kernels::device::launcher;
use tessera_testing::under_test;

/// Photograph-like images of odd sizes, each with a box and some mirrored.
pub(super) struct Pictures(pub usize);

impl ImageStream for Pictures {
    fn len(&self) -> usize {
        self.0
    }

    fn view(&self, indices: &[usize]) -> Result<ViewBuf> {
        let samples = indices.iter().map(|&index| {
            let (width, height) = (17 + index % 5, 13 + index % 3);
            let byte = |i: usize| {
                let (x, y, c) = (i / 3 % width, i / 3 / width, i % 3);
                ((x * x * (c + 1) + y * (index % 7 + 2) * (3 - c) + x * y * index) % 256) as u8
            };
            let rgb: Vec<u8> = (0..width * height * 3).map(byte).collect();
            Sample {
                image: Arc::new(Image {
                    width,
                    height,
                    rgb: rgb.into(),
                }),
                crop: CropBox {
                    left: 1.5,
                    top: (index % 3) as f64 * 0.25,
                    width: 12.0,
                    height: 11.5,
                },
                finest: None,
                flip: index % 2 == 1,
                is_eval_box: true,
                id: SampleId {
                    split: Split::Train,
                    index,
                },
            }
        });
        Ok(ViewBuf(samples.collect()))
    }
}

/// Calls `work` with a context for images of 8 pixels and patches of 4.
fn on<R>(device: Option<&launcher::Device>, work: impl FnOnce(&BuildContext<'_>) -> R) -> R {
    let registry = Registry::builtin();
    let cx = BuildContext::alone(&registry, 8, Grid { rows: 2, cols: 2 });
    work(&BuildContext { device, ..cx })
}

fn with(features: serde_json::Value, more: serde_json::Value) -> Config {
    let mut value = json!({"features": features, "k": 6, "epochs": 3, "batch": 16});
    for (key, v) in more.as_object().unwrap() {
        value[key] = v.clone();
    }
    Config::from_value(value)
}

fn assert_near(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (at, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f - e).abs() <= tolerance,
            "{what}[{at}]: {f}, expected {e}"
        );
    }
}

/// Returns the fit's codebook, read from its file.
fn codebook(fitted: &dyn Tokenizer) -> Codebook {
    let dir = tempfile::tempdir().unwrap();
    fitted.save(dir.path()).unwrap();
    Codebook::load(&dir.path().join("codebook.safetensors")).unwrap()
}

#[test]
fn features_on_a_device_equal_the_cpus() {
    let Some(device) = under_test() else {
        return;
    };
    let images = Pictures(9);
    let view = images.view(&(0..9).collect::<Vec<_>>()).unwrap();
    for features in [
        json!({"kind": "pixels"}),
        json!({"kind": "pixels", "normalize": "per-patch"}),
        json!({"kind": "hog"}),
    ] {
        on(None, |cx| {
            let built = Config::from_value(features.clone());
            let built = cx.registry.build_features(&built, cx).unwrap();
            let expected = built.extract(&view.as_view()).unwrap();
            let expected: Vec<f32> = expected.flatten_all().unwrap().to_vec1().unwrap();
            let there = built.on_device().unwrap();
            let found = there.extract(&device, &view.as_view()).unwrap();
            let found: Vec<f32> = device.read(&found).unwrap();
            match features["normalize"].is_null() {
                true => assert!(found == expected, "{features} are bitwise equal"),
                false => assert_near(&found, &expected, 2e-5, &features.to_string()),
            }
        });
    }
}

#[test]
fn continuous_targets_on_a_device_equal_the_cpus() {
    let Some(device) = under_test() else {
        return;
    };
    let view = Pictures(3).view(&[2, 0, 1]).unwrap();
    for features in [json!({"kind": "pixels"}), json!({"kind": "hog"})] {
        let with = Config::from_value(json!({"features": features}));
        let values = |device| {
            on(device, |cx| {
                let factory = cx.registry.tokenizer("continuous", &with).unwrap();
                let tokenizer = factory.build(&with, cx).unwrap();
                let Targets::Values(values) = tokenizer.tokenize(&view.as_view()).unwrap() else {
                    panic!("not values")
                };
                values.flatten_all().unwrap().to_vec1::<f32>().unwrap()
            })
        };
        let (found, expected) = (values(Some(&device)), values(None));
        assert_near(&found, &expected, 2e-5, &features.to_string());
    }
}

#[test]
fn a_box_that_the_cpu_refuses_is_refused_on_a_device() {
    let Some(device) = under_test() else {
        return;
    };
    let mut view = Pictures(2).view(&[0, 1]).unwrap();
    view.0[1].crop.width = 40.0;
    let refused = |e: Error| e.to_string();
    let found = refused(view.as_view().render_on(&device, 8).err().unwrap());
    let input = crate::view::InputSpec::imagenet(8);
    let expected = refused(view.as_view().render(&input).err().unwrap());
    assert_eq!(found, expected);
}

#[test]
fn a_step_on_a_device_equals_the_cpus() {
    let Some(device) = under_test() else {
        return;
    };
    // More rows than one CPU task, so that there are two farthest rows.
    for (n, dim, k) in [(1, 5, 1), (700, 12, 6), (2200, 4, 3)] {
        let number = |i: usize| ((i * 7919 + 13) % 1009) as f32 / 256.0 - 2.0;
        let rows: Vec<f32> = (0..n * dim).map(number).collect();
        let given = Given { rows, dim };
        let images = Colors(n);
        let all: Vec<usize> = (0..n).collect();
        let centers: Vec<f32> = (0..k * dim).map(|i| number(31 * i + 5)).collect();
        let expected = Stepper::new().step(&given.rows, dim, &centers).unwrap();
        let mut host = Rows::new(&given, &images, false);
        let mut there = OnDevice::new(&device, &given, &images, false);
        let batch = there.get(&mut host, &all).unwrap();
        let found = batch.step(&centers).unwrap().unwrap();
        assert_eq!(found.counts, expected.counts);
        let far = batch.farthest(&centers).unwrap().unwrap();
        let same = step::farthest(&given.rows, dim, &centers).unwrap();
        let rows = |far: &[(f32, usize)]| far.iter().map(|f| f.1).collect::<Vec<_>>();
        assert_eq!(rows(&far), rows(&same));
        for (f, e) in found.sums.iter().zip(&expected.sums) {
            assert!((f - e).abs() <= 1e-5 * e.abs().max(10.0), "{f} {e}");
        }
        for (f, e) in [
            (found.inertia, expected.inertia),
            (found.squares, expected.squares),
        ] {
            assert!((f - e).abs() <= 1e-5 * e.abs().max(1.0), "{f} {e}");
        }
        assert_eq!(batch.row(n - 1).unwrap(), given.rows[(n - 1) * dim..]);
    }
}

#[test]
fn fits_on_a_device_equal_the_cpus() {
    let Some(device) = under_test() else {
        return;
    };
    for (features, more) in [
        (
            json!({"kind": "pixels"}),
            json!({"algorithm": "lloyd", "epochs": 4}),
        ),
        (
            json!({"kind": "hog"}),
            json!({"algorithm": "lloyd", "epochs": 2, "restarts": 2}),
        ),
        (
            json!({"kind": "pixels"}),
            json!({"epochs": 2, "held_out": 3}),
        ),
        // Empty centres are reassigned.
        (
            json!({"kind": "pixels", "normalize": "per-patch"}),
            json!({"k": 30, "init": "random"}),
        ),
    ] {
        let images = Pictures(50);
        let with = with(features, more);
        let fit = |device| {
            on(device, |cx| {
                let fitted = KMeansFactory.fit(&with, &images, 3, cx).unwrap();
                let view = images.view(&[4, 40, 7]).unwrap();
                let Targets::Ids(ids) = fitted.tokenize(&view.as_view()).unwrap() else {
                    panic!("not ids")
                };
                let ids: Vec<u32> = ids.flatten_all().unwrap().to_vec1().unwrap();
                (codebook(fitted.as_ref()), ids)
            })
        };
        let ((expected, ids), (found, ids_there)) = (fit(None), fit(Some(&device)));
        let what = with.value().to_string();
        assert_eq!(found.weights, expected.weights, "{what}");
        assert_near(&found.centers, &expected.centers, 1e-4, &what);
        let inertia = |codebook: &Codebook| codebook.inertia.unwrap().per_patch;
        let (f, e) = (inertia(&found), inertia(&expected));
        assert!((f - e).abs() <= 1e-4 * e, "{what}: {f} {e}");
        assert_eq!(ids_there, ids, "{what}");
    }
}

#[test]
fn fits_of_several_codebooks_on_a_device_equal_the_cpus() {
    let Some(device) = under_test() else {
        return;
    };
    for (kind, count) in [
        (GroupedFactory::Product, json!({"groups": 4})),
        (GroupedFactory::Residual, json!({"levels": 2})),
    ] {
        let (images, with) = (Pictures(50), with(json!({"kind": "hog"}), count));
        let fit = |device| {
            on(device, |cx| {
                codebook(kind.fit(&with, &images, 3, cx).unwrap().as_ref())
            })
        };
        let (expected, found) = (fit(None), fit(Some(&device)));
        assert_eq!(found.weights, expected.weights, "{kind:?}");
        assert_near(&found.centers, &expected.centers, 1e-4, "centres");
    }
}

#[test]
fn ids_on_a_device_equal_the_cpus_for_every_matching() {
    let Some(device) = under_test() else {
        return;
    };
    let images = Pictures(12);
    let all: Vec<usize> = (0..12).collect();
    let view = images.view(&all).unwrap();
    for matching in ["euclidean", "inner-product", "cosine"] {
        let with = with(json!({"kind": "hog"}), json!({"matching": matching}));
        let ids = |device| {
            on(device, |cx| {
                // Both use the same codebook.
                let codebook = on(None, |cx| {
                    codebook(KMeansFactory.fit(&with, &images, 0, cx).unwrap().as_ref())
                });
                let dir = tempfile::tempdir().unwrap();
                codebook
                    .save(&dir.path().join("codebook.safetensors"))
                    .unwrap();
                let loaded = KMeansFactory.load(&with, dir.path(), cx).unwrap();
                let Targets::Ids(ids) = loaded.tokenize(&view.as_view()).unwrap() else {
                    panic!("not ids")
                };
                ids.flatten_all().unwrap().to_vec1::<u32>().unwrap()
            })
        };
        assert_eq!(ids(Some(&device)), ids(None), "{matching}");
    }
}

#[test]
fn cached_rows_on_a_device_equal_fresh_ones() {
    let Some(device) = under_test() else {
        return;
    };
    on(None, |cx| {
        let images = Pictures(20);
        for kind in ["pixels", "hog"] {
            let with = Config::from_value(json!({"kind": kind}));
            let features = cx.registry.build_features(&with, cx).unwrap();
            let mut host = Rows::new(features.as_ref(), &images, false);
            let mut cached = OnDevice::new(&device, features.as_ref(), &images, true);
            let mut fresh = OnDevice::new(&device, features.as_ref(), &images, false);
            assert!(cached.caches() && !fresh.caches());
            let orders: [Vec<usize>; 3] =
                [(0..20).rev().collect(), (3..9).collect(), vec![7, 2, 7]];
            for order in orders {
                let mut rows = |from: &mut OnDevice<'_>| {
                    let rows = from.get(&mut host, &order).unwrap();
                    let row = |at| rows.row(at).unwrap();
                    (0..rows.count()).flat_map(row).collect::<Vec<f32>>()
                };
                assert_eq!(rows(&mut cached), rows(&mut fresh), "{kind} {order:?}");
            }
        }
    });
}

#[test]
fn non_finite_features_are_refused_as_on_the_cpu() {
    let Some(device) = under_test() else {
        return;
    };
    for bad in [f32::NAN, f32::NEG_INFINITY, 3e19] {
        let mut rows: Vec<f32> = (0..40 * 6).map(|i| (i * 37 % 101) as f32).collect();
        rows[23 * 6 + 4] = bad;
        let given = Given { rows, dim: 6 };
        let fit = |device| {
            let registry = Registry::builtin();
            with_cx(&registry, |cx| {
                let cx = BuildContext { device, ..*cx };
                let fields: Fields = config(4, json!({"batch": 40})).parse().unwrap();
                let fitted = fit::fit(&given, &Colors(40), &fields, 0, &cx);
                fitted.err().map(|e| e.to_string())
            })
        };
        let (found, expected) = (fit(Some(&device)), fit(None));
        assert!(expected.is_some(), "{bad}");
        assert_eq!(found, expected, "{bad}");
    }
}
