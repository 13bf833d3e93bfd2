//! `bench doctor`: describes this machine, with remedies.

use std::path::Path;

use serde_json::{Value, json};

use super::failure::Failure;
use super::store;
use crate::run::{environment, places};
use crate::store::free_bytes;

pub fn doctor(folder: Option<&Path>, data: Option<&Path>, json: bool) -> Result<(), Failure> {
    let here = Path::new(".");
    let mut found = environment::findings(here);
    found.extend(places::store(&store::folder(folder)));
    found.extend(data.map(places::data).unwrap_or_default());
    if json {
        let mut all = document(&found);
        all["threads"] = json!(std::thread::available_parallelism().map_or(1, usize::from));
        all["free_disk_bytes"] = json!(free_bytes(here));
        all["gpu"] = json!(tessera_kernels::device::gpu().ok());
        return Ok(put_json!(all)?);
    }
    for (name, finding) in found {
        tell!("{name:<16}  {finding}")?;
    }
    Ok(())
}

/// Returns the findings by name. Indented names, as of a file system, are fields of the folder before them.
fn document(found: &[(String, String)]) -> Value {
    let mut all = json!({});
    let mut group = String::new();
    for (name, finding) in found {
        let key = name.trim().to_lowercase().replace(' ', "_");
        if !name.starts_with(' ') {
            all[&key] = json!(finding);
            group = key;
            continue;
        }
        if all[&group].is_string() {
            all[&group] = json!({"folder": all[&group]});
        }
        all[&group][&key] = json!(finding);
    }
    all
}
