//! Environment variables of this crate that stand for a choice among words. A misspelt word would be taken for another one.

use crate::device::defaults::{CUDA_GRAPH, DEFAULTS, SETTINGS};

/// Environment variable that, as `off`, keeps products in vector registers: to measure what the tiles of AMX are worth, or to share results
/// with machines without them.
pub const AMX: &str = "TESSERA_AMX";

/// Words of a switch.
const SWITCH: [&str; 2] = ["on", "off"];

/// Checks the variables' words. A program calls this when it starts; without a call, an unknown word is that of no variable.
///
/// # Errors
/// The variable, what is found and what is expected.
pub fn check() -> Result<(), String> {
    for name in [AMX, CUDA_GRAPH] {
        let found = of(name);
        if !found.is_empty() && !SWITCH.contains(&&found[..]) {
            return Err(format!("{name}={found}: expected on or off"));
        }
    }
    let found = of(DEFAULTS);
    let is_other = |word: &&str| !word.is_empty() && !SETTINGS.contains(word);
    match found.split(',').find(is_other) {
        None => Ok(()),
        Some(word) => Err(format!(
            "{DEFAULTS}={found}: found {word:?}, expected a list of {} with commas between them",
            SETTINGS.join(", ")
        )),
    }
}

fn of(name: &str) -> String {
    let found = std::env::var_os(name).unwrap_or_default();
    found.to_string_lossy().into_owned()
}
