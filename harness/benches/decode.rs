//! JPEG files to pixels, and on to the evaluation transform's tensors: `decode/file-<width>x<height>` and `decode/eval-224`; the
//! same pixels from a decoded cache, every byte touched: `decode/mapped-<width>x<height>`; images per second on one thread. The first 64 photographs of Imagenette where they lie beside the repository, otherwise a
//! fixture.

use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tessera::data::{self, Dataset, Decoding, EvalTransform, ImageFolder, decode_file};
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

/// The files as a dataset whose train split is decoded into a file and mapped.
fn mapped(files: &[PathBuf], folder: &Path) -> Dataset {
    for split in ["train", "val"] {
        let class = folder.join(split).join("class");
        std::fs::create_dir_all(&class).expect("a temporary folder is writable");
        for (at, file) in files.iter().enumerate() {
            std::fs::copy(file, class.join(format!("{at:03}.jpg"))).expect("the file is readable");
        }
    }
    let spec = ImageFolder {
        held: None,
        root: folder.to_owned(),
        classes: None,
        decoding: Decoding::default(),
    };
    let scan = data::scan(&spec, folder, &|_, _, _| (), &|| false).expect("files decode");
    let dataset = Dataset::open(&spec, &scan).expect("files are there");
    let pixels = folder.join("pixels");
    let written = dataset.write_decoded(&pixels, &|_, _, _| (), &|| false);
    written.expect("a temporary folder is writable");
    dataset.use_decoded(&pixels).expect("the file is whole");
    dataset
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
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let dataset = mapped(&files, folder.path());
    group.bench_function(format!("mapped-{}x{}", first.width, first.height), |b| {
        b.iter(|| {
            let images = (0..files.len()).map(|at| dataset.image(Split::Train, at));
            images
                .map(|image| image.map_or(0, |i| i.rgb.iter().map(|byte| u64::from(*byte)).sum()))
                .sum::<u64>()
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
