//! One assignment and update of k-means, compared with linfa-clustering and with the matrix products alone.
//!
//!     cargo bench -p tessera-tokenizers --bench kmeans
//!
//! `step`: the operation that every fit repeats. `products`: its matrix products on the same tiles and threads. `one-product`: the
//! same product without packed centres, one call of the `gemm` crate per tile, with the best tile size for it. All use the same rows,
//! centres and rayon threads. linfa's fit of one iteration also validates its input once.

#![allow(missing_docs, reason = "criterion's macro makes a public function")]
#![allow(clippy::unwrap_used, reason = "a benchmark may panic")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng};
use rayon::prelude::*;
use tessera_kernels::product::{Mat, product};
use tessera_tokenizers::kmeans::{Stepper, products};

/// (rows, values per row, centres); the first two are the presets of `bench speed kmeans`.
const SIZES: [(usize, usize, usize); 3] =
    [(100_000, 768, 50), (100_000, 192, 100), (20_000, 768, 1000)];
/// Rows per call of `one-product`.
const PLAIN_TILE: usize = 1024;

fn rows(n: usize, dim: usize) -> Vec<f32> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(0);
    (0..n * dim).map(|_| rng.random::<f32>() - 0.5).collect()
}

fn one_product(rows: &[f32], dim: usize, centers: &[f32]) -> f32 {
    let tiles = rows.par_chunks(PLAIN_TILE * dim).map(|tile| {
        let tile = Mat::new(tile, tile.len() / dim, dim);
        product(tile, Mat::new(centers, centers.len() / dim, dim).t())[0]
    });
    tiles.sum()
}

#[cfg(feature = "linfa")]
fn linfa_step(rows: &ndarray_linfa::Array2<f32>, centers: &ndarray_linfa::Array2<f32>) -> f64 {
    use linfa::DatasetBase;
    use linfa::traits::Fit;
    use linfa_clustering::{KMeans, KMeansInit};
    let model = KMeans::params(centers.nrows())
        .init_method(KMeansInit::Precomputed(centers.clone()))
        .n_runs(1)
        .max_n_iterations(1)
        .tolerance(f32::MAX);
    let data = DatasetBase::from(rows.view());
    model.fit(&data).unwrap().inertia().into()
}

fn kmeans(criterion: &mut Criterion) {
    for (n, dim, k) in SIZES {
        let rows = rows(n, dim);
        let centers = rows[..k * dim].to_vec();
        let mut group = criterion.benchmark_group(format!("kmeans/{n}x{dim}-k{k}"));
        group.throughput(Throughput::Elements(n as u64));
        group.sample_size(10).warm_up_time(Duration::from_secs(1));
        group.bench_function(BenchmarkId::from_parameter("step"), |b| {
            let mut stepper = Stepper::new();
            b.iter(|| stepper.step(black_box(&rows), dim, &centers).unwrap());
        });
        group.bench_function(BenchmarkId::from_parameter("products"), |b| {
            b.iter(|| products(black_box(&rows), dim, &centers));
        });
        group.bench_function(BenchmarkId::from_parameter("one-product"), |b| {
            b.iter(|| one_product(black_box(&rows), dim, &centers));
        });
        #[cfg(feature = "linfa")]
        {
            let rows = ndarray_linfa::Array2::from_shape_vec((n, dim), rows).unwrap();
            let centers = ndarray_linfa::Array2::from_shape_vec((k, dim), centers).unwrap();
            group.bench_function(BenchmarkId::from_parameter("linfa"), |b| {
                b.iter(|| linfa_step(black_box(&rows), &centers));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, kmeans);
criterion_main!(benches);
