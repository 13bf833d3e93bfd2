//! `bench fetch`.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::failure::{Failure, STOP};
use super::fetch_args::FetchOptions;
use super::running::tell;
use crate::data::Fetched;
use crate::data::fetched::cache;
use crate::fetch::{self, Archive, Done, Watch};

pub fn fetch(options: &FetchOptions) -> Result<(), Failure> {
    let cache = cache()?;
    let Some(dataset) = options.dataset else {
        return list(&cache);
    };
    let archive = Archive::official(dataset);
    let archive = archive.at(options.from.as_deref(), options.sha256.as_deref())?;
    let told = AtomicUsize::new(0);
    let watch = Watch {
        progress: &|done, total, note| tell(&told, done, total, note),
        interrupted: &|| STOP.load(Ordering::Relaxed),
    };
    let (folder, done) = fetch::fetch(&archive, &cache, watch).map_err(|error| {
        if STOP.load(Ordering::Relaxed) {
            return Failure::Interrupted { kept: true };
        }
        Failure::from(format!("{error:#}"))
    })?;
    let (folder, name) = (folder.display(), dataset.name());
    match done {
        Done::Nothing => put!("{folder} is there; remove it to fetch it again")?,
        Done::Unpacked => put!(
            "{folder} is complete; suites with `fetch: {name}` use it where their `root` does not exist; terms: {}",
            archive.terms
        )?,
    }
    Ok(())
}

/// Lists the datasets: name, size of the archive, folder if it is there, address, terms.
fn list(cache: &std::path::Path) -> Result<(), Failure> {
    for dataset in Fetched::ALL {
        let archive = Archive::official(dataset);
        let name = dataset.name();
        let megabytes = archive.bytes.unwrap_or_default() as f64 / 1e6;
        let state = match fetch::is_in(cache, &archive) {
            Ok(true) => format!("in {}", cache.join(name).display()),
            Ok(false) => "not fetched".to_owned(),
            Err(error) => error.to_string(),
        };
        let Archive { from, terms, .. } = archive;
        tell!("{name:<14} {megabytes:>4.0} MB  {state}; {from}; terms: {terms}")?;
    }
    Ok(())
}
