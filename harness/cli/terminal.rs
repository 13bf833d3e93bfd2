//! Standard output and standard error. A reader that is gone or a full disk ends no run and never panics, as `println!` would.

use std::fmt::Arguments;
use std::io::{self, Write};

/// A line on standard output: `put!("{} entries", 3)?`.
macro_rules! put {
    ($($text:tt)*) => {
        $crate::cli::terminal::output(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// A line on standard error; nothing where it cannot be written.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::terminal::error(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// Writes to standard output. A closed pipe is no error: its reader has read what it wanted.
///
/// # Errors
/// When the text cannot be written.
pub fn output(text: Arguments<'_>) -> Result<(), String> {
    is_written(io::stdout().write_all(text.to_string().as_bytes()))
}

/// What became of something written to standard output, once nothing of it waits.
///
/// # Errors
/// As [`output`].
pub fn is_written(written: io::Result<()>) -> Result<(), String> {
    match written.and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("standard output: {error}"))
        }
        _ => Ok(()),
    }
}

/// Writes to standard error, as one piece.
pub fn error(text: Arguments<'_>) {
    let _ = io::stderr().write_all(text.to_string().as_bytes());
}
