//! Errors of suites.

use std::path::PathBuf;

use tessera_tokenizers::ConfigError;

/// Error of a suite, always reported before any work (exit status 2).
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// The file cannot be read.
    #[error("{}: {error}{}", .path.display(), hint(.error))]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        error: std::io::Error,
    },
    /// A `--set` or `--only` argument is wrong.
    #[error("{0}")]
    Argument(String),
    /// A field is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A tokenizer refuses its configuration.
    #[error(transparent)]
    Tokenizer(#[from] tessera_tokenizers::Error),
    /// Several rows are wrong.
    #[error("{} rows are wrong:{}", .0.len(), lines(.0))]
    Rows(Vec<SuiteError>),
}

/// What to do where no file is, or one that is too large for a suite.
fn hint(error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind::{FileTooLarge, NotADirectory, NotFound};
    match error.kind() {
        FileTooLarge | NotFound | NotADirectory => {
            "; give the path of a suite file, e.g. suites/quickstart.yaml"
        }
        _ => "",
    }
}

fn lines(errors: &[SuiteError]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}

impl SuiteError {
    /// Returns the errors of rows as one.
    ///
    /// # Errors
    /// If there are any.
    pub(super) fn of_rows(mut all: Vec<Self>) -> Result<(), Self> {
        match all.len() {
            0 => Ok(()),
            1 => Err(all.remove(0)),
            _ => Err(Self::Rows(all)),
        }
    }

    /// Returns the field that is wrong, the first if there are several.
    pub fn field(&self) -> Option<&ConfigError> {
        use tessera_tokenizers::Error;
        match self {
            Self::Config(at) => Some(at),
            Self::Rows(all) => all.first()?.field(),
            Self::Tokenizer(
                Error::Config(at)
                | Error::Missing { at, .. }
                | Error::NotFetched { at }
                | Error::NotStarted { at },
            ) => Some(at),
            _ => None,
        }
    }
}
