//! K-means steps on a device, with rows in device memory.

use super::launch;
use crate::device::launch::Dtype;
use crate::device::launcher::{Device, Memory, Result};

/// Centres on a device.
#[derive(Clone)]
pub struct Centers {
    k: usize,
    dim: usize,
    centers: Memory,
    bias: Memory,
}

impl Centers {
    /// Uploads `centers` `[k, dim]`. The best centre is the nearest by Euclidean distance.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn euclidean(device: &Device, centers: &[f32], dim: usize) -> Result<Self> {
        let k = centers.len() / dim;
        let centers = device.put(centers)?;
        let launch = launch::bias(k, dim)?;
        let [bias] = device.run_all(&[launch], &[("centers", &centers)], ["bias"])?;
        Ok(Self {
            k,
            dim,
            centers,
            bias,
        })
    }

    /// Uploads `centers` `[k, dim]`. The best centre has the largest inner product.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn inner_product(device: &Device, centers: &[f32], dim: usize) -> Result<Self> {
        let k = centers.len() / dim;
        Ok(Self {
            k,
            dim,
            centers: device.put(centers)?,
            bias: device.put(&vec![0.0_f32; k])?,
        })
    }

    /// Returns `id` and `best`, both `[n]`: the best centre of each of `n` rows and its score `row . centre + bias`. The lower centre
    /// wins a tie.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn assign(&self, device: &Device, rows: &Memory) -> Result<[Memory; 2]> {
        let launch = launch::assign(rows.len() / self.dim, self.k, self.dim)?;
        let given = [
            ("rows", rows),
            ("centers", &self.centers),
            ("bias", &self.bias),
        ];
        device.run_all(&[launch], &given, ["id", "best"])
    }
}

/// Results of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Sum of each centre's rows, `[k, dim]`. The error is at most half a fixed-point unit per row, where a unit is 2^-59 of the
    /// largest possible sum.
    pub sums: Vec<f64>,
    /// Number of rows per centre, `[k]`.
    pub counts: Vec<u64>,
    /// Results of each run of [`launch::RUN`] rows.
    pub runs: Vec<Run>,
}

/// Results of a step for a run of rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Run {
    /// Sum of squared lengths.
    pub squares: f32,
    /// Sum of squared distances to the nearest centre.
    pub inertia: f32,
    /// The largest squared distance and its row.
    pub farthest: (f32, usize),
    /// The first row without a nearest centre.
    pub failed: Option<usize>,
}

/// Returns the largest magnitude in `rows`; it is not finite if any number is not finite.
///
/// # Errors
/// Errors of the device.
pub fn largest(device: &Device, rows: &Memory, dim: usize) -> Result<f32> {
    let launch = launch::largest(rows.len() / dim, dim)?;
    let found = device.put(&[0_u32])?;
    device.run(&launch, &[("rows", rows), ("largest", &found)])?;
    let bits = device.read::<u32>(&found)?;
    Ok(f32::from_bits(bits[0]))
}

/// Assigns every row of `rows` `[n, dim]` to its nearest centre and sums the rows of each centre. `largest` is the largest magnitude.
///
/// # Errors
/// Errors of the device.
pub fn step(device: &Device, rows: &Memory, centers: &Centers, largest: f32) -> Result<Found> {
    let (k, dim) = (centers.k, centers.dim);
    let n = rows.len() / dim;
    let [id, best] = centers.assign(device, rows)?;
    let scale = launch::fixed_point_scale(largest, n);
    let sums = device.put(&vec![0_i64; k * dim])?;
    let counts = device.put(&vec![0_u64; k])?;
    let launches = [launch::accumulate(n, k, dim, scale)?, launch::runs(n, dim)?];
    let given = [
        ("rows", rows),
        ("id", &id),
        ("best", &best),
        ("sums", &sums),
        ("counts", &counts),
    ];
    let names = ["squares", "inertia", "far", "far_row", "failed"];
    let runs = device.run_all(&launches, &given, names)?;
    let sums = device.read::<i64>(&sums)?.into_iter();
    Ok(Found {
        sums: sums.map(|sum| sum as f64 / f64::from(scale)).collect(),
        counts: device.read(&counts)?,
        runs: read_runs(device, &runs, n)?,
    })
}

fn read_runs(
    device: &Device,
    [squares, inertia, far, far_row, failed]: &[Memory; 5],
    n: usize,
) -> Result<Vec<Run>> {
    let squares: Vec<f32> = device.read(squares)?;
    let inertia: Vec<f32> = device.read(inertia)?;
    let far: Vec<f32> = device.read(far)?;
    let far_row: Vec<u32> = device.read(far_row)?;
    let failed: Vec<u32> = device.read(failed)?;
    let run = |at: usize| Run {
        squares: squares[at],
        inertia: inertia[at],
        farthest: (far[at], far_row[at] as usize),
        failed: Some(failed[at] as usize).filter(|row| *row < n),
    };
    Ok((0..squares.len()).map(run).collect())
}

/// Returns rows `from` of `all` as `[from.len(), dim]`.
///
/// # Errors
/// Errors of the device.
pub fn gathered(device: &Device, all: &Memory, from: &[u32], dim: usize) -> Result<Memory> {
    use crate::device::launch::Float;
    use crate::ops::gather::launch::gather;
    let launch = gather(Float::F32, all.len() / dim, from.len(), dim)?;
    let from = device.put(from)?;
    let [out] = device.run_all(&[launch], &[("x", all), ("from", &from)], ["out"])?;
    debug_assert_eq!(out.dtype(), Dtype::F32);
    Ok(out)
}
