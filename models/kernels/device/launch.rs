//! What is launched on a GPU, as plain values: kernel, grid, shared memory, arguments in order. An operation's `launch.rs` computes
//! them; a device runs them (`cuda/`), and so do the tests, on a host that has none.
//!
//! An operation may be several launches. Buffers go by name: what one launch writes under a name, a later one reads.

use std::fmt;

/// Threads of a block in most kernels.
pub const THREADS: u32 = 256;
/// Warps of such a block.
pub const WARPS: u32 = THREADS / 32;
/// Shared memory that a block may have without asking for more, bytes.
pub const SHARED_UNASKED: u32 = 48 * 1024;
/// Shared memory that a block can have on every GPU of compute capability 8.0 and later, bytes (8.6, 8.9 and 12.0 have the
/// least).
pub const SHARED_ANYWHERE: u32 = 99 * 1024;
/// Where a gathered row comes from nowhere.
pub const NONE: u32 = u32::MAX;

/// Blocks of a grid and sizes that kernels take: both are held in 31 bits.
const LARGEST: u64 = (1 << 31) - 1;

/// Why something cannot be launched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// A size or a grid is beyond 31 bits.
    #[error("{what} is {found}, expected at most {LARGEST}; use a smaller batch")]
    TooLarge {
        /// Which size.
        what: &'static str,
        /// What it is.
        found: u64,
    },
    /// A size that the kernel does not take.
    #[error("{kernel}: {what} is {found}, expected {expected}")]
    Size {
        /// The operation.
        kernel: &'static str,
        /// Which size.
        what: &'static str,
        /// What it is.
        found: usize,
        /// What it can be.
        expected: &'static str,
    },
    /// More shared memory than the device gives a block.
    #[error("{kernel} needs {needed} bytes of shared memory, the device gives a block {limit}")]
    Shared {
        /// The kernel.
        kernel: String,
        /// Needed, bytes.
        needed: u32,
        /// There, bytes.
        limit: u32,
    },
}

/// Result of launch arithmetic.
pub type Result<T> = std::result::Result<T, LaunchError>;

/// Type of a buffer's numbers.
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
    /// Bytes of a number.
    pub fn size(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::Bf16 => 2,
            Self::F32 | Self::U32 | Self::I32 => 4,
            Self::I64 | Self::U64 => 8,
        }
    }

    /// As the kernels write it.
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

/// Type of the activations that a kernel is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Float {
    /// f32
    F32,
    /// bf16; sums are f32 all the same
    Bf16,
}

impl Float {
    /// As a buffer's type.
    pub fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
        }
    }

    /// The name of a kernel for it.
    pub fn of(self, kernel: &str) -> String {
        match self {
            Self::F32 => format!("{kernel}_f32"),
            Self::Bf16 => format!("{kernel}_bf16"),
        }
    }
}

/// What a kernel does with a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Writes every number of it.
    Write,
    /// Changes what is there.
    Update,
}

/// A buffer among a kernel's arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffer {
    /// The kernel's parameter.
    pub parameter: &'static str,
    /// The buffer that is given for it, by name.
    pub name: &'static str,
    /// Type of its numbers.
    pub dtype: Dtype,
    /// What is done with it.
    pub access: Access,
    /// How many numbers.
    pub len: usize,
}

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg {
    /// A buffer's address.
    Buffer(Buffer),
    /// A number.
    U32(&'static str, u32),
    /// A number.
    F32(&'static str, f32),
}

impl Arg {
    /// Gives the buffer `name` for the parameter.
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

/// A buffer that is read.
pub fn read(parameter: &'static str, dtype: Dtype, len: usize) -> Arg {
    buffer(parameter, dtype, Access::Read, len)
}

/// A buffer whose every number is written.
pub fn write(parameter: &'static str, dtype: Dtype, len: usize) -> Arg {
    buffer(parameter, dtype, Access::Write, len)
}

/// A buffer that is changed.
pub fn update(parameter: &'static str, dtype: Dtype, len: usize) -> Arg {
    buffer(parameter, dtype, Access::Update, len)
}

/// A source file and the constants that it is compiled with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Module {
    /// Name of the file, without `.cu`.
    pub name: &'static str,
    /// Its text.
    pub source: &'static str,
    /// Its constants.
    pub constants: Vec<(&'static str, u32)>,
}

/// A source file with constants; [`THREADS`] and [`WARPS`] are added.
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

/// One launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// Where the kernel is.
    pub module: Module,
    /// The kernel.
    pub kernel: String,
    /// Blocks; with none there is nothing to do.
    pub grid: u32,
    /// Threads of a block.
    pub block: u32,
    /// Dynamic shared memory of a block, bytes.
    pub shared: u32,
    /// In the kernel's order.
    pub args: Vec<Arg>,
}

impl Launch {
    /// A launch without dynamic shared memory, of blocks of `module`'s `THREADS`.
    pub fn new(module: Module, kernel: impl Into<String>, grid: u32, args: Vec<Arg>) -> Self {
        let threads = module.constants.iter().find(|(name, _)| *name == "THREADS");
        Self {
            block: threads.map_or(THREADS, |(_, threads)| *threads),
            module,
            kernel: kernel.into(),
            grid,
            shared: 0,
            args,
        }
    }

    /// With dynamic shared memory.
    #[must_use]
    pub fn shared(mut self, bytes: u32) -> Self {
        self.shared = bytes;
        self
    }

    /// Its buffers.
    pub fn buffers(&self) -> impl Iterator<Item = &Buffer> {
        self.args.iter().filter_map(|arg| match arg {
            Arg::Buffer(buffer) => Some(buffer),
            _ => None,
        })
    }

    /// Holds the shared memory against what the device gives a block.
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

/// Blocks for `work`, `per_block` each.
///
/// # Errors
/// [`LaunchError::TooLarge`] beyond 31 bits.
pub fn blocks(work: u64, per_block: u32) -> Result<u32> {
    fits("the grid", work.div_ceil(u64::from(per_block)))
}

/// A size as kernels take it.
///
/// # Errors
/// [`LaunchError::TooLarge`] beyond 31 bits.
pub fn size(what: &'static str, found: usize) -> Result<u32> {
    fits(what, found as u64)
}

fn fits(what: &'static str, found: u64) -> Result<u32> {
    match u32::try_from(found) {
        Ok(size) if found <= LARGEST => Ok(size),
        _ => Err(LaunchError::TooLarge { what, found }),
    }
}

/// A product of sizes.
///
/// # Errors
/// [`LaunchError::TooLarge`] where it is no `usize`.
pub fn product(what: &'static str, sizes: &[usize]) -> Result<usize> {
    let all = sizes.iter().try_fold(1, |a: usize, b| a.checked_mul(*b));
    all.ok_or(LaunchError::TooLarge {
        what,
        found: u64::MAX,
    })
}

/// Refuses a size that is not as expected.
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
