//! JPEG files to pixels, and on to the evaluation transform's tensors: `decode/file-<width>x<height>` and `decode/eval-224`,
//! images per second on one thread. The first 64 photographs of Imagenette where they lie beside the repository, otherwise a
//! fixture.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tessera::data::{EvalTransform, decode_file};
use tessera::{InputSpec, Sample, SampleId, Split, View};

/// Files that are decoded.
const FILES: usize = 64;

/// Photographs, or the fixture once.
fn files() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let photographs = root.join("../shared/data/imagenette160/val/n01440764");
    let entries = std::fs::read_dir(photographs)
        .into_iter()
        .flatten()
        .flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    files.sort_unstable();
    files.truncate(FILES);
    if files.is_empty() {
        files.push(root.join("tests/fixtures/jpeg/restarts.jpg"));
    }
    files
}

fn sample(path: &Path) -> Sample {
    let image = decode_file(path).expect("the file decodes");
    let eval = EvalTransform {
        resize_shorter: 256,
        crop: 224,
    };
    Sample {
        crop: eval.eval_box(image.width, image.height),
        image: Arc::new(image),
        finest: None,
        flip: false,
        is_eval_box: true,
        id: SampleId {
            split: Split::Val,
            index: 0,
        },
    }
}

fn decode(c: &mut Criterion) {
    let files = files();
    let first = sample(&files[0]).image;
    let mut group = c.benchmark_group("decode");
    group.throughput(Throughput::Elements(files.len() as u64));
    group.bench_function(format!("file-{}x{}", first.width, first.height), |b| {
        b.iter(|| {
            files
                .iter()
                .map(|f| black_box(decode_file(f)).map_or(0, |i| i.rgb.len()))
                .sum::<usize>()
        });
    });
    group.bench_function("eval-224", |b| {
        b.iter(|| {
            for path in &files {
                let sample = sample(path);
                let view = View::new(std::slice::from_ref(&sample));
                black_box(
                    view.render(&InputSpec::imagenet(224))
                        .expect("the box is inside"),
                );
            }
        });
    });
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
