//! Describes the file systems of the store and of a dataset, for `bench doctor`.

use std::fs;
use std::path::Path;

use crate::store::{Locks, Mount, probe};

const UNKNOWN: &str = "this system does not say";

/// Describes the file system of a store: what its documentation says of it, and what was tried now.
pub fn store(root: &Path) -> Vec<(String, String)> {
    let tried = match probe(root) {
        Ok(found) => found.join("; "),
        Err(error) => {
            format!("{error}; choose a writable folder with --store DIR or TESSERA_STORE")
        }
    };
    let mut found = vec![("store".to_owned(), root.display().to_string())];
    match Mount::of(root) {
        Some(mount) => {
            let known = mount.known();
            found.push(("  file system".into(), named(&mount)));
            let locks = format!("{}; {}", locks(known.locks), known.about);
            found.push(("  documentation".into(), locks));
        }
        None => found.push(("  file system".into(), UNKNOWN.into())),
    }
    found.push(("  tried now".into(), tried));
    found
}

/// Describes the file system of a dataset's folder. The digest of an image is kept while path, size, times and inode are the same.
pub fn data(folder: &Path) -> Vec<(String, String)> {
    let mount = Mount::of(folder);
    let scan = match &mount {
        Some(mount) if mount.kind.starts_with("fuse") => {
            "every scan asks for the state of every image, and reads all of them if inodes are numbered anew at each mount, as some FUSE \
             programs do; on many machines, use `bench plan` and --scan"
        }
        Some(mount) if mount.is_shared() => {
            "every scan asks for the state of every image; on many machines, use `bench plan` and --scan"
        }
        _ => "every scan asks for the state of every image",
    };
    let about = mount.map_or_else(|| UNKNOWN.to_owned(), |mount| named(&mount));
    let mut found = vec![("data".to_owned(), folder.display().to_string())];
    match fs::read_dir(folder) {
        Ok(_) => found.extend([
            ("  file system".into(), about),
            ("  scan".into(), scan.into()),
        ]),
        Err(error) => {
            let tried = format!("{error}; give the folder of a dataset that this user may read");
            found.push(("  tried now".into(), tried));
        }
    }
    found
}

fn named(mount: &Mount) -> String {
    let Mount {
        kind,
        source,
        options,
    } = mount;
    format!("{kind} ({source}; {})", options.join(","))
}

fn locks(locks: Locks) -> &'static str {
    match locks {
        Locks::Alone => "only this machine uses it, so locks work",
        Locks::Reach => "locks reach other machines",
        Locks::Local => {
            "locks do not reach other machines, which may compute a stage twice; results stay right"
        }
        Locks::Unknown => {
            "whether locks reach other machines is unknown; without them, machines may compute a stage twice, and results stay right"
        }
    }
}
