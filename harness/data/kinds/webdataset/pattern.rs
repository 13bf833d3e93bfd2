//! Expands a pattern of shards: braces as in bash and the webdataset library, a glob, a folder, or a file.

use std::fs;
use std::path::{Path, PathBuf};

use tessera_models::files;

use crate::data::error::DataError;
use crate::data::foreign::is_hidden;

/// Maximum number of shards, so that a typing error in a range does not fill the memory.
const MOST: usize = 1 << 20;

/// Expands `{a,b}`, `{000..012}` and `{0..10..2}`, in order. Braces may be nested.
///
/// # Errors
/// The reason why the braces are invalid.
pub fn braces(pattern: &str) -> Result<Vec<String>, String> {
    let Some(open) = pattern.find('{') else {
        return match pattern.contains('}') {
            true => Err(format!("found `{pattern}`, where a `}}` has no `{{`")),
            false => Ok(vec![pattern.to_owned()]),
        };
    };
    let close = closing(pattern, open)
        .ok_or_else(|| format!("found `{pattern}`, where a `{{` has no `}}`"))?;
    let (before, rest) = (&pattern[..open], &pattern[close + 1..]);
    let middles = alternatives(&pattern[open + 1..close])?;
    let ends = braces(rest)?;
    if middles.len().saturating_mul(ends.len()) > MOST {
        return Err(format!(
            "found `{pattern}`, more than {MOST} names; expected fewer"
        ));
    }
    let all = middles
        .iter()
        .flat_map(|middle| ends.iter().map(move |end| format!("{before}{middle}{end}")));
    Ok(all.collect())
}

/// Returns the position of the brace that closes the one at `open`.
fn closing(pattern: &str, open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    let mut braces = pattern[open..].char_indices();
    let found = braces.find(|(_, c)| {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => (),
        }
        depth == 0
    });
    found.map(|(at, _)| open + at)
}

/// Expands the text between two braces.
fn alternatives(inside: &str) -> Result<Vec<String>, String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    for c in inside.chars() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => (),
        }
        match (c, parts.last_mut()) {
            (',', _) if depth == 0 => parts.push(String::new()),
            (_, Some(part)) => part.push(c),
            (_, None) => (),
        }
    }
    match &parts[..] {
        [range] if !range.contains('{') => self::range(range),
        _ => {
            let all = parts.iter().map(|part| braces(part));
            Ok(all.collect::<Result<Vec<_>, _>>()?.concat())
        }
    }
}

/// Expands `000..012` or `0..10..2`. If an end begins with 0, numbers have as many digits as the longer end.
fn range(text: &str) -> Result<Vec<String>, String> {
    let wrong = || {
        format!(
            "found `{{{text}}}`, expected a range like {{000000..000012}} or alternatives like {{a,b}}"
        )
    };
    let parts: Vec<&str> = text.split("..").collect();
    let (first, last, step) = match parts[..] {
        [first, last] => (first, last, 1),
        [first, last, step] => (first, last, step.parse::<usize>().map_err(|_| wrong())?),
        _ => return Err(wrong()),
    };
    let number = |text: &str| text.parse::<usize>().map_err(|_| wrong());
    let (low, high) = (number(first)?, number(last)?);
    if step == 0 || low.abs_diff(high) / step >= MOST {
        return Err(wrong());
    }
    let padded = [first, last]
        .iter()
        .any(|end| end.len() > 1 && end.starts_with('0'));
    let width = if padded {
        first.len().max(last.len())
    } else {
        0
    };
    let named = |n: usize| format!("{n:0width$}");
    Ok(match low <= high {
        true => (low..=high).step_by(step).map(named).collect(),
        false => (high..=low).rev().step_by(step).map(named).collect(),
    })
}

/// Returns the shards of a path, by name: the file itself, every `*.tar` of a folder, or the matches of a glob.
///
/// # Errors
/// If there are none, or if a match is no regular file.
pub fn files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    // The name of a folder that exists may contain characters of patterns.
    let folder = path.ancestors().find(|folder| folder.is_dir());
    let rest = folder
        .and_then(|folder| path.strip_prefix(folder).ok())
        .unwrap_or(path);
    let rest = match rest.as_os_str().is_empty() {
        true => "*.tar".into(),
        false => rest.to_string_lossy(),
    };
    let glob = match folder.filter(|folder| !folder.as_os_str().is_empty()) {
        Some(folder) => format!(
            "{}/{rest}",
            glob::Pattern::escape(&folder.to_string_lossy())
        ),
        None => rest.into_owned(),
    };
    // Hidden files are no shards, as in a shell: macOS writes `._NAME` beside each file of an archive.
    let options = glob::MatchOptions {
        require_literal_leading_dot: true,
        ..glob::MatchOptions::new()
    };
    let found = glob::glob_with(&glob, options).map_err(|e| {
        DataError::at(
            path,
            format!("is not a pattern of files ({e}); expected shards like train-*.tar"),
        )
    })?;
    let found = found.map(|shard| {
        let shard = shard.map_err(|e| DataError::at(e.path(), e.error().to_string()))?;
        files::open(&shard).map_err(|e| {
            let message = format!(
                "{e}; {} selects it as a shard; remove or restore it, or name the shards",
                path.display()
            );
            DataError::at(&shard, message)
        })?;
        Ok(shard)
    });
    let found: Vec<PathBuf> = found.collect::<Result<_, DataError>>()?;
    if found.is_empty() {
        return Err(DataError::at(
            path,
            "no such shard; expected local .tar files: a file, a pattern like train-{000000..000012}.tar or train-*.tar, \
             or a folder; copy the shards there, or correct `train` or `val`",
        ));
    }
    Ok(found)
}

/// Returns what lies in a folder of shards, or below it, and looks like an archive, but is no shard: other names and compressed archives.
pub fn passed_over(folder: &Path) -> Vec<PathBuf> {
    let is_archive = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = name.to_lowercase();
        [".tar", ".tgz", ".tar.gz", ".tar.zst", ".tar.xz", ".tar.bz2"]
            .iter()
            .any(|end| name.ends_with(end))
    };
    let entries = |folder: &Path| {
        let all = fs::read_dir(folder).into_iter().flatten().flatten();
        all.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let is_visible = |path: &Path| {
        let name = path.file_name().unwrap_or_default();
        !is_hidden(name.as_encoded_bytes())
    };
    let is_shard =
        |path: &Path| is_visible(path) && path.extension().is_some_and(|end| end == "tar");
    let (inner, here): (Vec<_>, Vec<_>) =
        entries(folder).into_iter().partition(|path| path.is_dir());
    let here = here
        .into_iter()
        .filter(|path| is_archive(path) && !is_shard(path));
    let below = inner.iter().flat_map(|folder| entries(folder));
    let mut all: Vec<PathBuf> = here.chain(below.filter(|path| is_archive(path))).collect();
    all.sort_unstable();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn braces_are_those_of_bash_and_webdataset() {
        for (pattern, names) in [
            ("a.tar", vec!["a.tar"]),
            (
                "t-{08..11}.tar",
                vec!["t-08.tar", "t-09.tar", "t-10.tar", "t-11.tar"],
            ),
            ("t-{9..11}.tar", vec!["t-9.tar", "t-10.tar", "t-11.tar"]),
            ("t-{2..0}", vec!["t-2", "t-1", "t-0"]),
            ("t-{0..6..3}", vec!["t-0", "t-3", "t-6"]),
            ("{a,b}/{0..1}", vec!["a/0", "a/1", "b/0", "b/1"]),
            ("x{,y{1..2},z}", vec!["x", "xy1", "xy2", "xz"]),
        ] {
            assert_eq!(braces(pattern).unwrap(), names, "{pattern}");
        }
    }

    #[test]
    fn broken_braces_are_errors() {
        for (pattern, part) in [
            ("t-{0..3.tar", "has no `}`"),
            ("t-0..3}.tar", "has no `{`"),
            ("t-{0..a}.tar", "expected a range"),
            ("t-{single}.tar", "expected a range"),
            ("t-{0..5..0}.tar", "expected a range"),
            ("t-{0..99999999999}.tar", "expected a range"),
            ("{0..9999}{0..9999}", "more than"),
        ] {
            let error = braces(pattern).unwrap_err();
            assert!(error.contains(part), "{pattern}: {error}");
        }
    }

    #[test]
    fn folders_and_globs_give_their_shards_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.tar", "a.tar", "c.txt", "._a.tar", ".old.tar"] {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        let both = [dir.path().join("a.tar"), dir.path().join("b.tar")];
        assert_eq!(files(dir.path()).unwrap(), both);
        assert_eq!(files(&dir.path().join("?.tar")).unwrap(), both);
        assert_eq!(files(&both[1]).unwrap(), both[1..]);
        let hidden = ["._a.tar", ".old.tar"].map(|name| dir.path().join(name));
        assert_eq!(passed_over(dir.path()), hidden);
        let odd = dir.path().join("run [1]");
        std::fs::create_dir(&odd).unwrap();
        std::fs::copy(&both[0], odd.join("a.tar")).unwrap();
        assert_eq!(files(&odd.join("?.tar")).unwrap(), [odd.join("a.tar")]);
        let error = files(&dir.path().join("d*.tar")).unwrap_err().to_string();
        assert!(error.contains("no such shard"), "{error}");
    }
}
