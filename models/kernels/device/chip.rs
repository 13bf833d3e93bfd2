//! The name of a GPU in keys of results. A program without CUDA reads it, too, because it looks up results of other machines.

use std::fmt;
use std::str::FromStr;

/// Joins name and compute capability.
const BETWEEN: &str = ", compute capability ";

/// Oldest compute capability with the instructions of the kernels: products in bf16.
pub const OLDEST: (i32, i32) = (8, 0);

/// A GPU's name and compute capability: `NVIDIA H200, compute capability 9.0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chip {
    name: String,
    capability: (i32, i32),
}

/// The text is not the name of a GPU that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChipError {
    /// It has another form.
    #[error(
        "found {0:?}, expected NAME{between}M.m, as `bench doctor --json` prints it as `gpu` on a machine with this GPU",
        between = BETWEEN
    )]
    Form(String),
    /// The GPU lacks instructions of the kernels.
    #[error("found {0:?}, expected a compute capability of at least {major}.{minor}, which the kernels need", major = OLDEST.0, minor = OLDEST.1)]
    Old(String),
}

impl Chip {
    /// Returns the GPU with the driver's `name`.
    pub fn new(name: String, capability: (i32, i32)) -> Self {
        Self { name, capability }
    }

    /// The driver's name, which is also that of a launcher on it.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl fmt::Display for Chip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, (major, minor)) = (&self.name, self.capability);
        write!(f, "{name}{BETWEEN}{major}.{minor}")
    }
}

impl FromStr for Chip {
    type Err = ChipError;

    fn from_str(text: &str) -> Result<Self, ChipError> {
        let parse = || {
            let (name, capability) = text.rsplit_once(BETWEEN)?;
            let (major, minor) = capability.split_once('.')?;
            let number = |digits: &str| digits.parse::<u8>().ok().map(i32::from);
            Some(Self::new(name.to_owned(), (number(major)?, number(minor)?)))
        };
        // Keys hold the text, so another way of writing the same GPU would find nothing.
        let is_printed = |chip: &Self| chip.to_string() == text && !chip.name.trim().is_empty();
        match parse().filter(is_printed) {
            None => Err(ChipError::Form(text.to_owned())),
            Some(chip) if chip.capability < OLDEST => Err(ChipError::Old(text.to_owned())),
            Some(chip) => Ok(chip),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_form_is_the_one_that_is_read() {
        for (name, capability) in [("NVIDIA H200", (9, 0)), ("A, b", (12, 1))] {
            let chip = Chip::new(name.into(), capability);
            assert_eq!(chip.to_string().parse(), Ok(chip));
        }
        let chip: Chip = "NVIDIA H200, compute capability 9.0".parse().unwrap();
        assert_eq!(chip.name(), "NVIDIA H200");
    }

    #[test]
    fn a_gpu_that_the_kernels_do_not_run_on_is_refused() {
        let found = "Tesla T4, compute capability 7.5".parse::<Chip>();
        let said = found.unwrap_err().to_string();
        assert!(said.contains("at least 8.0"), "{said}");
    }

    #[test]
    fn other_forms_are_refused_with_the_expected_one() {
        for text in [
            "NVIDIA H200",
            "NVIDIA H200, compute capability 9",
            "NVIDIA H200, compute capability 09.0",
            "NVIDIA H200, compute capability -9.0",
            "NVIDIA H200, compute capability 9.0; training uses it",
            ", compute capability 9.0",
            "",
        ] {
            let error = text.parse::<Chip>().unwrap_err().to_string();
            for part in [
                &format!("{text:?}"),
                "NAME, compute capability M.m",
                "bench doctor",
            ] {
                assert!(error.contains(part), "{error}");
            }
        }
    }
}
