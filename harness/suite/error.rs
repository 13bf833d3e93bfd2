//! Errors of suites.

use std::path::PathBuf;

use tessera_tokenizers::ConfigError;

/// Error of a suite, always reported before any work (exit status 2).
#[derive(Debug, thiserror::Error)]
pub enum SuiteError {
    /// The file cannot be read.
    #[error("{}: {source}; give the path of a suite file, e.g. suites/quickstart.yaml", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
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
}

impl SuiteError {
    /// Returns the field that is wrong, if there is one.
    pub fn field(&self) -> Option<&ConfigError> {
        use tessera_tokenizers::Error;
        match self {
            Self::Config(at) => Some(at),
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
