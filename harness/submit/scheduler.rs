//! The schedulers, and how their programs are called.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// A scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Slurm.
    Slurm,
    /// HyperQueue.
    Hq,
}

impl Scheduler {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Slurm => "slurm",
            Self::Hq => "hq",
        }
    }
}

/// Jobs that have not ended, and whether they may run now.
pub type Live = HashMap<String, bool>;

/// Runs a program of a scheduler and returns its standard output.
///
/// # Errors
/// If it is absent or fails, with its message.
pub(super) fn output(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let run = command.stdin(Stdio::null()).output();
    let run = run.with_context(|| {
        format!("{name}: expected this program on the PATH; run the command where the scheduler is installed, or use --dry-run")
    })?;
    if !run.status.success() {
        bail!(
            "{name}: {}",
            String::from_utf8_lossy(&run.stderr).trim_end()
        );
    }
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}

/// Quotes a word for a POSIX shell, if it needs quotes.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@%+".contains(c);
    match !word.is_empty() && word.chars().all(is_plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_a_shell() {
        for word in [
            "plain-1.sbatch",
            "a b",
            "it's",
            "two\nlines",
            "$HOME `x`",
            "",
        ] {
            let echo = format!("printf %s {}", quoted(word));
            let said = output(Command::new("sh").args(["-c", &echo])).unwrap();
            assert_eq!(said, word);
        }
    }
}
