//! Whether this program can use a GPU.

/// What a program needs to have one, for messages.
pub const BUILD: &str = "a GPU needs a program built with `--features cuda` and, to start at all, the NVIDIA driver's libcuda.so.1";

/// The GPU that is there: name and compute capability. Never panics.
///
/// # Errors
/// Why there is none, in words.
pub fn gpu() -> Result<String, String> {
    #[cfg(feature = "cuda")]
    return crate::kernels::cuda::device::describe().map_err(|error| error.to_string());
    #[cfg(not(feature = "cuda"))]
    Err("this program was built without CUDA".into())
}

/// Memory of that GPU, bytes: all of it, so that what fits does not depend on who else is there.
///
/// # Errors
/// As [`gpu`].
pub fn memory() -> Result<usize, String> {
    #[cfg(feature = "cuda")]
    return crate::kernels::cuda::device::memory().map_err(|error| error.to_string());
    #[cfg(not(feature = "cuda"))]
    Err("this program was built without CUDA".into())
}

/// Whether it was built with CUDA.
pub const fn has_cuda() -> bool {
    cfg!(feature = "cuda")
}
