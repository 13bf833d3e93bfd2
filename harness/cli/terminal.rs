//! Standard output and standard error. Unlike `println!`, a closed reader or a full disk neither panics nor ends a run, and names in a
//! line cannot command the terminal.

use std::fmt::Arguments;
use std::io::{self, Write};

use tessera_reports::printable;

/// Writes a line to standard output: `put!("{} entries", 3)?`.
macro_rules! put {
    ($($text:tt)*) => {
        $crate::cli::terminal::output(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// Writes a line to standard error. Errors are ignored.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::terminal::error(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// Writes to standard output. A closed pipe is not an error.
///
/// # Errors
/// If the text cannot be written.
pub fn output(text: Arguments<'_>) -> Result<(), String> {
    is_written(io::stdout().write_all(printable(&text.to_string()).as_bytes()))
}

/// Flushes standard output after `written` and converts the error.
///
/// # Errors
/// As for [`output`].
pub fn is_written(written: io::Result<()>) -> Result<(), String> {
    match written.and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// Writes to standard error in one call.
pub fn error(text: Arguments<'_>) {
    let _ = io::stderr().write_all(printable(&text.to_string()).as_bytes());
}
