//! Counting and one evaluation of all metrics. Sizes are in the ids: codes x classes.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::Rng;
use tessera::metrics::{Counter, CountsWriter, Table};
use tessera::models::rng::keyed_rng;

/// Patches counted.
const PATCHES: usize = 4_000_000;
/// 2^18 x 1000 is sparse: above 2^24 cells.
const SIZES: [(usize, usize); 4] = [(50, 10), (8192, 100), (16384, 1000), (1 << 18, 1000)];

fn random(seed: u64, below: usize) -> Vec<u32> {
    let mut rng = keyed_rng(seed, "bench count", 0, 0);
    (0..PATCHES)
        .map(|_| rng.random_range(0..below as u32))
        .collect()
}

fn counted(ids: &[u32], labels: &[u32], (codes, classes): (usize, usize)) -> Table {
    let mut counter = Counter::new(codes, classes, &std::env::temp_dir());
    counter.add(ids, labels).expect("ids and labels in range");
    counter.finish().expect("a temporary file")
}

fn counting(c: &mut Criterion) {
    let mut group = c.benchmark_group("count");
    group
        .sample_size(20)
        .throughput(Throughput::Elements(PATCHES as u64));
    for size in SIZES {
        let (ids, labels) = (random(0, size.0), random(1, size.1));
        let total = counted(&ids, &labels, size)
            .total()
            .expect("a temporary file");
        assert_eq!(total, PATCHES as u64, "check before timing");
        let name = format!("{}x{}", size.0, size.1);
        // Every patch with a label of its own, as a table of (id, label) pairs.
        group.bench_function(BenchmarkId::new("pairs", &name), |b| {
            b.iter(|| black_box(counted(&ids, &labels, size)));
        });
        let labels = &labels[..PATCHES / 200];
        group.bench_function(BenchmarkId::new("images of 200 patches", &name), |b| {
            b.iter(|| black_box(counted(&ids, labels, size)));
        });
        // The same with every image's tokens, into files: what `bench run` does.
        group.bench_function(BenchmarkId::new("files of images", &name), |b| {
            b.iter(|| {
                let dir = tempfile::tempdir().expect("a temporary folder");
                let writer = CountsWriter::create(dir.path(), dir.path(), size, None);
                let mut writer = writer.expect("files");
                for (ids, labels) in ids.chunks(200 * 32).zip(labels.chunks(32)) {
                    writer.add(ids, labels).expect("ids and labels in range");
                }
                black_box(writer.finish().expect("files"));
            });
        });
    }
}

fn metrics(c: &mut Criterion) {
    let mut group = c.benchmark_group("metrics");
    group.sample_size(10);
    for size in [(50, 10), (8192, 100), (1000, 1000)] {
        let mut table = counted(&random(0, size.0), &random(1, size.1), size);
        group.bench_function(
            BenchmarkId::new("values", format!("{}x{}", size.0, size.1)),
            |b| {
                b.iter(|| black_box(table.values(0.002).expect("a dense table")));
            },
        );
    }
}

criterion_group!(benches, counting, metrics);
criterion_main!(benches);
