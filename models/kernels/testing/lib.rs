//! What tests of kernels and of their callers share: the device under test, made numbers, lines past the test harness.
//!
//! A crate that only tests depend on. The unit tests of `tessera-kernels` compile it as a module of theirs.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod emulation;

use candle_core::{DType, Tensor};
use tessera_kernels::device::launcher::Device;

/// A line that says what a test did or did not do, past the test harness, which would keep it for itself.
pub fn tell(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Whether tests are to run on a GPU: `TESSERA_GPU` is set. Without a GPU they then fail.
///
/// # Panics
/// When it is set and this program was built without CUDA.
pub fn gpu_is_asked_for() -> bool {
    let asked = std::env::var_os("TESSERA_GPU").is_some();
    assert!(
        !asked || tessera_kernels::device::has_cuda(),
        "TESSERA_GPU is set, but these tests were built without the feature `cuda`"
    );
    asked
}

/// What tests of work on devices run on: a GPU where it [is asked for](gpu_is_asked_for), else the host as
/// [`emulation::device`] gives it.
///
/// # Panics
/// When a GPU is asked for and there is none, or this program was built without CUDA.
pub fn under_test() -> Option<Device> {
    match gpu_is_asked_for() {
        false => emulation::device(),
        true => Some(gpu().unwrap_or_else(|reason| panic!("TESSERA_GPU is set: {reason}"))),
    }
}

fn gpu() -> Result<Device, String> {
    tessera_kernels::device::gpu()?;
    let tensors = candle_core::Device::new_cuda(0).map_err(|e| e.to_string())?;
    let device = tessera_kernels::device::beside(&tensors)?;
    device.ok_or_else(|| "no CUDA device was opened".into())
}

/// `count` numbers in [-scale, scale) by a hash of salt and position: `formula` of `tests/fixtures/reference.py`.
pub fn formula(salt: u32, count: usize, scale: f64) -> Vec<f32> {
    let start = salt.wrapping_mul(0x9E37_79B9);
    let hash = |i: u32| {
        let x = i.wrapping_add(start);
        let x = (x ^ (x >> 16)).wrapping_mul(0x7FEB_352D);
        let x = (x ^ (x >> 15)).wrapping_mul(0x846C_A68B);
        x ^ (x >> 16)
    };
    let number = |i| ((f64::from(hash(i)) / 2_f64.powi(31) - 1.0) * scale) as f32;
    (0..count as u32).map(number).collect()
}

/// Root of the mean square of differences over that of what is expected: one number per tensor, a NaN fails.
///
/// # Panics
/// When they are farther apart than `allowed`, or have other shapes.
pub fn assert_near(what: &str, found: &Tensor, expected: &Tensor, allowed: f64) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let (found, expected) = (flat(found), flat(expected));
    let square = |v: f32| f64::from(v).powi(2);
    let off: f64 = found
        .iter()
        .zip(&expected)
        .map(|(f, e)| square(f - e))
        .sum();
    let whole: f64 = expected.iter().map(|e| square(*e)).sum();
    let off = (off / whole.max(1e-12)).sqrt();
    assert!(off <= allowed, "{what}: off by {off}, {allowed} allowed");
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.flatten_all().unwrap();
    tensor.to_dtype(DType::F32).unwrap().to_vec1().unwrap()
}
