//! Rendering of boxes on originals: `render/<original side>-<rendered side>`, images per second on one thread.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tessera_tokenizers::{CropBox, Image, InputSpec, Sample, SampleId, Split, View};

/// A batch of the size that stages use.
const BATCH: usize = 16;

fn samples(original: usize) -> Vec<Sample> {
    let sample = |index: usize| {
        let byte = |i: usize| (i * 31 + i / 7 * (index + 13) + i * i % 251) as u8;
        let rgb = (0..original * original * 3).map(byte).collect::<Vec<u8>>();
        // The evaluation box of resize 256, crop 224.
        let side = original as f64 * 224.0 / 256.0;
        let edge = (original as f64 - side) / 2.0;
        Sample {
            image: Arc::new(Image {
                width: original,
                height: original,
                rgb: rgb.into(),
            }),
            crop: CropBox {
                left: edge,
                top: edge,
                width: side,
                height: side,
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

fn render(c: &mut Criterion) {
    let mut group = c.benchmark_group("render");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (original, side) in [(32, 32), (160, 224), (500, 224)] {
        let samples = samples(original);
        let input = InputSpec::imagenet(side);
        group.bench_function(format!("{original}-{side}"), |b| {
            b.iter(|| black_box(View::new(&samples).render(&input)).map(|t| t.elem_count()));
        });
    }
    group.finish();
}

criterion_group!(benches, render);
criterion_main!(benches);
