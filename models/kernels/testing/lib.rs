//! Helpers for tests of kernels and their callers: the device under test, generated numbers, notices on standard error.
//!
//! Only tests depend on this crate. The unit tests of `tessera-kernels` include it as a module.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub mod emulation;

use std::sync::OnceLock;

use candle_core::{DType, Tensor};
use tessera_kernels::device::launcher::Device;

/// Writes a notice to standard error, past the test harness, which captures the output of passing tests.
pub fn tell(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Returns whether tests run on a GPU, that is, whether `TESSERA_GPU` is set. They then fail without a GPU.
///
/// # Panics
/// If it is set and the program was built without CUDA.
pub fn gpu_is_requested() -> bool {
    let requested = std::env::var_os("TESSERA_GPU").is_some();
    assert!(
        !requested || tessera_kernels::device::has_cuda(),
        "TESSERA_GPU is set, but these tests were built without the feature `cuda`"
    );
    requested
}

/// Returns the host as a device; `None`, with a notice, without a host compiler.
pub fn emulated() -> Option<Device> {
    let skipped = |reason| {
        tell(&format!(
            "SKIPPED, nothing ran on an emulated device: {reason}"
        ))
    };
    emulation::device().map_err(skipped).ok()
}

/// Returns the device for tests: a GPU if [requested](gpu_is_requested), otherwise the host through [`emulated`].
///
/// # Panics
/// If a GPU is requested, but there is none or the program was built without CUDA.
pub fn under_test() -> Option<Device> {
    match gpu_is_requested() {
        false => emulated(),
        true => Some(gpu().unwrap_or_else(|reason| panic!("TESSERA_GPU is set: {reason}"))),
    }
}

/// Opens the GPU once for all tests of a program: that takes a second.
fn gpu() -> Result<Device, String> {
    static OPENED: OnceLock<Result<Device, String>> = OnceLock::new();
    let open = || {
        let tensors = tessera_kernels::device::tensors()?;
        let device = tessera_kernels::device::beside(&tensors)?;
        device.ok_or_else(|| "no CUDA device was opened".into())
    };
    OPENED.get_or_init(open).clone()
}

/// Returns `count` numbers in [-scale, scale), a hash of salt and position: `formula` of `tests/fixtures/reference.py`.
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

/// Returns the root mean square of the differences, relative to that of `expected`.
///
/// # Panics
/// If the lengths differ.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let square = |v: f32| f64::from(v).powi(2);
    let off = found.iter().zip(expected).map(|(f, e)| square(f - e));
    let whole: f64 = expected.iter().map(|e| square(*e)).sum();
    (off.sum::<f64>() / whole).sqrt()
}

/// Asserts that the root mean square of the differences, relative to that of `expected`, is at most `allowed`. A NaN fails.
///
/// # Panics
/// If the tensors differ by more than `allowed` or in shape.
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
