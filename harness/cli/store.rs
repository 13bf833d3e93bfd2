//! `bench store ls`, `bench store gc` and `bench store verify`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tessera_tokenizers::Config;

use super::args::StoreVerb;
use super::failure::Failure;
use crate::store;

/// Returns the folder of finished stages: the argument, `TESSERA_STORE` (in which `~/` is the home folder, as in suites), or `runs/.store`.
pub fn folder(argument: Option<&Path>) -> PathBuf {
    let variable = std::env::var_os("TESSERA_STORE").filter(|v| !v.is_empty());
    argument
        .map(Path::to_owned)
        .or_else(|| variable.map(|path| Config::from_value(Value::Null).resolve_path(path)))
        .unwrap_or_else(|| Path::new("runs").join(".store"))
}

pub fn store(argument: Option<&Path>, what: &StoreVerb) -> Result<(), Failure> {
    let root = folder(argument);
    match what {
        StoreVerb::Ls => ls(&root),
        StoreVerb::Gc { keep_days, dry_run } => gc(&root, *keep_days, *dry_run),
        StoreVerb::Verify => verify(&root),
    }
}

fn ls(root: &Path) -> Result<(), Failure> {
    let entries = store::list(root)?;
    for entry in &entries {
        let seconds = entry.seconds.map_or("-".into(), |s| format!("{s:.1}"));
        let fault = match entry.fault.is_empty() {
            true => String::new(),
            false => format!(" ({})", entry.fault),
        };
        put!(
            "{:<10} {:.12}  {:>9}  {seconds:>8} s  {:>6.1} d  {}{fault}",
            entry.stage,
            entry.key,
            size(entry.bytes),
            entry.age.as_secs_f64() / 86400.0,
            entry.label
        )?;
    }
    let bytes = entries.iter().map(|e| e.bytes).sum();
    put!(
        "{} entries, {} in {}",
        entries.len(),
        size(bytes),
        named(root)
    )?;
    Ok(())
}

/// Names the store, and says if it does not exist: its path may be mistyped.
fn named(root: &Path) -> String {
    let absent = if root.exists() {
        ""
    } else {
        " (no such folder)"
    };
    format!("{}{absent}", root.display())
}

fn gc(root: &Path, keep_days: f64, dry_run: bool) -> Result<(), Failure> {
    let keep = Duration::try_from_secs_f64(keep_days * 86400.0)
        .map_err(|e| Failure::Wrong(format!("--keep-days {keep_days}: {e}")))?;
    let removed = store::gc(root, keep, dry_run)?;
    for (dir, bytes) in &removed {
        put!("{:>9}  {}", size(*bytes), dir.display())?;
    }
    let bytes = removed.iter().map(|(_, bytes)| bytes).sum();
    let verb = if dry_run { "would remove" } else { "removed" };
    let (folders, bytes) = (removed.len(), size(bytes));
    put!("{verb} {folders} folders, {bytes}, in {}", named(root))?;
    Ok(())
}

fn verify(root: &Path) -> Result<(), Failure> {
    if !root.exists() {
        return Err(Failure::Wrong(format!(
            "{}: no such folder, expected a store; check --store and TESSERA_STORE",
            root.display()
        )));
    }
    let mut unsaid = Ok(());
    let verified = store::verify(root, |line| {
        if unsaid.is_ok() {
            unsaid = put!("{line}");
        }
    })?;
    unsaid?;
    let if_any = |count: usize, what: &str| match count {
        0 => String::new(),
        count => format!(", {count} {what}"),
    };
    put!(
        "{} whole entries, {}{}{}{}, {} damaged, in {}",
        verified.whole,
        size(verified.bytes),
        if_any(verified.states, "with whole resume state"),
        if_any(verified.old, "of an earlier version without digests"),
        if_any(verified.unread, "that could not be read"),
        verified.damaged,
        root.display()
    )?;
    match verified.damaged + verified.unread {
        0 => Ok(()),
        _ => Err(Failure::Failed),
    }
}

/// Formats bytes with a unit.
fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB"] {
        if value < 1024.0 {
            return format!("{value:.0} {unit}");
        }
        value /= 1024.0;
    }
    format!("{value:.1} GiB")
}
