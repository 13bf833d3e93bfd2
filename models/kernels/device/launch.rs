//! GPU launches as plain values: kernel, grid, shared memory and arguments in order. An operation's `launch.rs` computes them;
//! a GPU runs them (`cuda/`), and so does the host in tests.
//!
//! An operation may need several launches. Buffers have names: a launch reads what an earlier one wrote under the same name.

use std::fmt;

/// Threads per block in most kernels.
pub const THREADS: u32 = 256;
/// Warps per block of [`THREADS`].
pub const WARPS: u32 = THREADS / 32;
/// Numbers next to each other that a thread processes if the row length is a multiple of it, as in `common.cuh`.
pub const WIDE: usize = 8;
/// Shared memory that a block may use without opting in, bytes.
pub const SHARED_UNASKED: u32 = 48 * 1024;
/// Shared memory that a block can opt in to on every GPU of compute capability 8.0 and later, bytes (the minimum is that of 8.6,
/// 8.9 and 12.0).
pub const SHARED_ANYWHERE: u32 = 99 * 1024;
/// Source index of a gathered row that has no source.
pub const NONE: u32 = u32::MAX;

/// Maximum number of blocks in a grid and maximum size that kernels accept: both must fit 31 bits.
const LARGEST: u64 = (1 << 31) - 1;

/// Reason why a launch is impossible.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// A size or a grid exceeds 31 bits.
    #[error("{what} is {found}, expected at most {LARGEST}; use a smaller batch")]
    TooLarge {
        /// Name of the size.
        what: &'static str,
        /// Its value.
        found: u64,
    },
    /// A size that the kernel does not support.
    #[error("{kernel}: {what} is {found}, expected {expected}")]
    Size {
        /// The operation.
        kernel: &'static str,
        /// Name of the size.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The supported values.
        expected: &'static str,
    },
    /// The launch needs more shared memory than the device allows per block.
    #[error("{kernel} needs {needed} bytes of shared memory, the device allows {limit} per block")]
    Shared {
        /// The kernel.
        kernel: String,
        /// Required shared memory, bytes.
        needed: u32,
        /// Available shared memory per block, bytes.
        limit: u32,
    },
}

/// Result of computing a launch.
pub type Result<T> = std::result::Result<T, LaunchError>;

/// Type of a buffer's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// `float`
    F32,
    /// `bf16`
    Bf16,
    /// `u8`
    U8,
    /// `u32`
    U32,
    /// `i32`
    I32,
    /// `i64`
    I64,
    /// `u64`
    U64,
}

impl Dtype {
    /// Returns the size of an element in bytes.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::F32 | Self::U32 | Self::I32 => 4,
            Self::I64 | Self::U64 => 8,
        }
    }

    /// Returns the type's name in the kernels.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float",
            Self::Bf16 => "bf16",
            Self::U8 => "u8",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U64 => "u64",
        }
    }
}

/// Type of the activations for which a kernel is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// f32
    F32,
    /// bf16; sums are still f32
    Bf16,
}

impl Float {
    /// Returns the type of a buffer of such numbers.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
        }
    }

    /// Returns the name of `kernel` for this type.
    pub fn of(self, kernel: &str) -> String {
        match self {
            Self::F32 => format!("{kernel}_f32"),
            Self::Bf16 => format!("{kernel}_bf16"),
        }
    }
}

/// How a kernel uses a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes every element.
    Write,
    /// Modifies its contents.
    Update,
}

/// A buffer among a kernel's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// Name of the kernel's parameter.
    pub parameter: &'static str,
    /// Name of the buffer passed for it.
    pub name: &'static str,
    /// Type of the elements.
    pub dtype: Dtype,
    /// How the kernel uses it.
    pub access: Access,
    /// Number of elements.
    pub len: usize,
}

/// An argument of a kernel.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// A buffer's address.
    Buffer(Buffer),
    /// An integer: the parameter's name and the value.
    U32(&'static str, u32),
    /// A float: the parameter's name and the value.
    F32(&'static str, f32),
}

impl Arg {
    /// Passes the buffer `name` for the parameter.
    #[must_use]
    pub fn named(mut self, name: &'static str) -> Self {
        if let Self::Buffer(buffer) = &mut self {
            buffer.name = name;
        }
        self
    }
}

fn buffer(parameter: &'static str, dtype: Dtype, access: Access, len: usize) -> Arg {
    Arg::Buffer(Buffer {
        parameter,
        name: parameter,
        dtype,
        access,
        len,
    })
}

/// A buffer that the kernel reads.
pub fn read(parameter: &'static str, dtype: Dtype, len: usize) -> Arg {
    buffer(parameter, dtype, Access::Read, len)
}

/// A buffer that the kernel writes completely.
pub fn write(parameter: &'static str, dtype: Dtype, len: usize) -> Arg {
    buffer(parameter, dtype, Access::Write, len)
}

/// A buffer that the kernel modifies.
pub fn update(parameter: &'static str, dtype: Dtype, len: usize) -> Arg {
    buffer(parameter, dtype, Access::Update, len)
}

/// A source file and its compile-time constants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Name of the file without `.cu`.
    pub name: &'static str,
    /// The source text.
    pub source: &'static str,
    /// The constants: name and value.
    pub constants: Vec<(&'static str, u32)>,
}

/// Returns a module with `constants`; [`THREADS`] and [`WARPS`] are added unless `constants` defines `THREADS`.
pub fn module(
    name: &'static str,
    source: &'static str,
    constants: &[(&'static str, u32)],
) -> Module {
    let mut constants = constants.to_vec();
    if !constants.iter().any(|(name, _)| *name == "THREADS") {
        constants.extend([("THREADS", THREADS), ("WARPS", WARPS)]);
    }
    Module {
        name,
        source,
        constants,
    }
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The module that contains the kernel.
    pub module: Module,
    /// Name of the kernel.
    pub kernel: String,
    /// Number of blocks; with 0, the launch does nothing.
    pub grid: u32,
    /// Threads per block.
    pub block: u32,
    /// Dynamic shared memory per block, bytes.
    pub shared: u32,
    /// Operations of matrix products inside the kernel.
    pub flops: u64,
    /// Arguments in the kernel's order.
    pub args: Vec<Arg>,
}

impl Launch {
    /// A launch without dynamic shared memory, with `module`'s `THREADS` per block.
    pub fn new(module: Module, kernel: impl Into<String>, grid: u32, args: Vec<Arg>) -> Self {
        let threads = module.constants.iter().find(|(name, _)| *name == "THREADS");
        Self {
            block: threads.map_or(THREADS, |(_, threads)| *threads),
            module,
            kernel: kernel.into(),
            grid,
            shared: 0,
            flops: 0,
            args,
        }
    }

    /// Sets the dynamic shared memory per block, in bytes.
    #[must_use]
    pub fn shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    /// Sets the operations of matrix products inside the kernel.
    #[must_use]
    pub fn flops(mut self, flops: u64) -> Self {
        self.flops = flops;
        self
    }

    /// Iterates over the launch's buffers.
    pub fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.args.iter().filter_map(|arg| match arg {
            Arg::Buffer(buffer) => Some(buffer),
            _ => None,
        })
    }

    /// Checks the shared memory against the device's limit per block, in bytes.
    ///
    /// # Errors
    /// [`LaunchError::Shared`].
    pub fn check_shared(&self, limit: u32) -> Result<()> {
        if self.shared <= limit {
            return Ok(());
        }
        Err(LaunchError::Shared {
            kernel: self.kernel.clone(),
            needed: self.shared,
            limit,
        })
    }
}

impl fmt::Display for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kernel, grid, block) = (&self.kernel, self.grid, self.block);
        write!(f, "{kernel} <<<{grid}, {block}, {}>>>", self.shared)
    }
}

/// Returns the number of blocks for `work` items, with `per_block` items each.
///
/// # Errors
/// [`LaunchError::TooLarge`] above 31 bits.
pub fn blocks(work: u64, per_block: u32) -> Result<u32> {
    fits("the grid", work.div_ceil(u64::from(per_block)))
}

/// Returns how many numbers next to each other a thread processes in rows of `dim` numbers.
pub fn width(dim: usize) -> usize {
    if dim.is_multiple_of(WIDE) { WIDE } else { 1 }
}

/// Returns a size as a kernel argument.
///
/// # Errors
/// [`LaunchError::TooLarge`] above 31 bits.
pub fn size(what: &'static str, found: usize) -> Result<u32> {
    fits(what, found as u64)
}

fn fits(what: &'static str, found: u64) -> Result<u32> {
    match u32::try_from(found) {
        Ok(size) if found <= LARGEST => Ok(size),
        _ => Err(LaunchError::TooLarge { what, found }),
    }
}

/// Returns the product of sizes.
///
/// # Errors
/// [`LaunchError::TooLarge`] if it overflows a `usize`.
pub fn product(what: &'static str, sizes: &[usize]) -> Result<usize> {
    let all = sizes.iter().try_fold(1, |a: usize, b| a.checked_mul(*b));
    all.ok_or(LaunchError::TooLarge {
        what,
        found: u64::MAX,
    })
}

/// Checks the condition `holds` on a size.
///
/// # Errors
/// [`LaunchError::Size`].
pub fn expect(
    holds: bool,
    kernel: &'static str,
    what: &'static str,
    found: usize,
    expected: &'static str,
) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(LaunchError::Size {
        kernel,
        what,
        found,
        expected,
    })
}

#[cfg(test)]
mod tests;
