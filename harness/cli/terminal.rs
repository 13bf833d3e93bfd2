//! Standard output and standard error. Unlike `println!`, a closed reader or a full disk neither panics nor ends a run, and names in a
//! line cannot command the terminal.

use std::borrow::Cow;
use std::fmt::Arguments;
use std::fs::File;
use std::io::{self, IsTerminal as _, Write};
use std::os::fd::AsFd as _;

use tessera_reports::{printable, wrapped};

/// Writes a line to standard output: `put!("{} entries", 3)?`.
macro_rules! put {
    ($($text:tt)*) => {
        $crate::cli::terminal::output(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// Writes a JSON document to standard output: `put_json!(value)?`.
macro_rules! put_json {
    ($value:expr) => {
        $crate::cli::terminal::json(&format!("{:#}", $value))
    };
}

/// As `put!`, and folds long lines on a terminal.
macro_rules! tell {
    ($($text:tt)*) => {
        $crate::cli::terminal::fold(&format!("{}\n", format_args!($($text)*)))
    };
}

/// Writes a line to standard error. Errors are ignored.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::terminal::error(format_args!("{}\n", format_args!($($text)*)))
    };
}

/// Returns standard output, up to here, and standard error, as files: a user may name them as `/dev/stdout`.
pub fn streams() -> Vec<File> {
    let _ = io::stdout().flush();
    let (out, error) = (io::stdout(), io::stderr());
    let all = [out.as_fd(), error.as_fd()].map(|stream| stream.try_clone_to_owned());
    all.into_iter().flatten().map(File::from).collect()
}

/// Writes to standard output. A closed pipe is not an error.
///
/// # Errors
/// If the text cannot be written.
pub fn output(text: Arguments<'_>) -> Result<(), String> {
    is_written(io::stdout().write_all(printable(&text.to_string()).as_bytes()))
}

/// Writes a JSON document. What would command a terminal is escaped as JSON escapes it, so every parser reads it.
///
/// # Errors
/// As for [`output`].
pub fn json(text: &str) -> Result<(), String> {
    is_written(io::stdout().write_all(escaped(text).as_bytes()))
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        match printable(c.encode_utf8(&mut [0; 4])) {
            Cow::Borrowed(_) => out.push(c),
            // All are below U+10000.
            Cow::Owned(_) => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push('\n');
    out
}

/// As [`output`]; on a terminal, long lines are folded. Without one, a line stays whole for programs that read it.
///
/// # Errors
/// As for [`output`].
pub fn fold(text: &str) -> Result<(), String> {
    match io::stdout().is_terminal() {
        true => output(format_args!("{}", folded(text))),
        false => output(format_args!("{text}")),
    }
}

/// Characters of a line.
const LINE: usize = 80;
/// The last column of a table begins before this place, if it is folded.
const LAST_COLUMN: usize = 60;

/// Breaks lines at words. The rest of a line is below its last column, or is indented.
fn folded(text: &str) -> String {
    let mut all = String::new();
    for line in text.lines() {
        let line: Vec<char> = line.chars().collect();
        let starts = (2..line.len().min(LAST_COLUMN))
            .rev()
            .find(|at| line[*at] != ' ' && line[at - 2..*at] == [' ', ' ']);
        let leading = line.iter().take_while(|c| **c == ' ').count();
        let column = starts.filter(|at| *at > leading).unwrap_or(leading + 2);
        if line.len() <= LINE || column > line.len() {
            all.extend(line.into_iter().chain(['\n']));
            continue;
        }
        let (start, rest): (String, String) = (
            line[..column].iter().collect(),
            line[column..].iter().collect(),
        );
        let mut start = start;
        for part in wrapped(&rest, LINE - column) {
            all.push_str(&format!("{start}{part}\n"));
            start = " ".repeat(column);
        }
    }
    all
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

#[cfg(test)]
mod tests {
    use super::{escaped, folded};

    /// `\u{202a}` is no escape of JSON.
    #[test]
    fn names_that_command_a_terminal_stay_json() {
        let name = "a\u{202a}b\u{7f}\u{85}\"\n\u{1b}é";
        let document = serde_json::json!({ "name": name });
        let text = escaped(&format!("{document:#}"));
        assert!(
            text.contains(r#"a\u202ab\u007f\u0085\"\n\u001bé"#),
            "{text}"
        );
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            document
        );
    }

    #[test]
    fn long_lines_are_folded_below_their_last_column() {
        let words = ["word"; 20].join(" ");
        let folded = folded(&format!("short\nname    {words}\n- {words}\n"));
        assert!(folded.lines().all(|line| line.chars().count() <= 80));
        let lines: Vec<&str> = folded.lines().collect();
        assert_eq!(lines[0], "short");
        assert!(lines[1].starts_with("name    word") && lines[2].starts_with("        word"));
        assert!(lines[3].starts_with("- word") && lines[4].starts_with("  word"));
        let words = |text: &str| text.split_whitespace().count();
        assert_eq!(words(&folded), 1 + 1 + 20 + 1 + 20);
    }
}
