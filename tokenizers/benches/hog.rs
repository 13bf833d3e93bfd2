//! HOG features of whole images, including rendering: `hog/<image size>`, images per second on one thread.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tessera_tokenizers::config::Config;
use tessera_tokenizers::{
    BuildContext, CropBox, Grid, Image, Registry, Sample, SampleId, Split, View,
};

/// A batch of the size that stages use.
const BATCH: usize = 16;

fn view(side: usize) -> Vec<Sample> {
    let sample = |index: usize| {
        let byte = |i: usize| (i * 31 + i / 7 * (index + 13) + i * i % 251) as u8;
        let rgb = (0..side * side * 3).map(byte).collect::<Vec<u8>>();
        let whole = side as f64;
        Sample {
            image: Arc::new(Image {
                width: side,
                height: side,
                rgb: rgb.into(),
            }),
            crop: CropBox {
                left: 0.0,
                top: 0.0,
                width: whole,
                height: whole,
            },
            finest: None,
            flip: false,
            is_eval_box: true,
            id: SampleId {
                split: Split::Val,
                index,
            },
        }
    };
    (0..BATCH).map(sample).collect()
}

fn hog(c: &mut Criterion) {
    let mut group = c.benchmark_group("hog");
    group.throughput(Throughput::Elements(BATCH as u64));
    let registry = Registry::builtin();
    for (side, patch) in [(32, 4), (224, 16)] {
        let about = BuildContext::alone(
            &registry,
            side,
            Grid {
                rows: side / patch,
                cols: side / patch,
            },
        );
        let config = Config::from_value(serde_json::json!({"kind": "hog"}));
        let hog = registry
            .build_features(&config, &about)
            .expect("hog has no fields");
        let samples = view(side);
        group.bench_function(format!("{side}"), |b| {
            b.iter(|| black_box(hog.extract(&View::new(&samples))).map(|t| t.elem_count()));
        });
    }
    group.finish();
}

criterion_group!(benches, hog);
criterion_main!(benches);
