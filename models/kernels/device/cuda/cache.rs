//! An on-disk cache of compiled kernels, so that each machine compiles a kernel once.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::HEADERS;
use super::nvrtc::{Nvrtc, Result, variable};
use crate::device::launch::Module;

/// A folder of PTX files, keyed by everything that determines them.
pub struct Cache(Option<PathBuf>);

impl Cache {
    /// A cache in `folder`.
    pub fn at(folder: &Path) -> Self {
        Self(Some(folder.to_owned()))
    }

    /// A cache in the user's cache folder; without such a folder, nothing is cached.
    pub fn of_user() -> Self {
        let caches = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        Self(caches.map(|caches| caches.join("tessera/ptx")))
    }

    /// Returns the PTX of `module` for `arch`, from the folder or compiled. A damaged file is compiled again. If the folder is not
    /// writable, each run compiles.
    ///
    /// # Errors
    /// If it does not compile.
    pub fn ptx(&self, nvrtc: &Nvrtc, module: &Module, arch: &str) -> Result<String> {
        let Some(folder) = &self.0 else {
            return nvrtc.ptx(module, arch);
        };
        let path = folder.join(format!("{}.ptx", key(module, arch, nvrtc.version())));
        if let Some(text) = read(&path) {
            return Ok(text);
        }
        let text = nvrtc.ptx(module, arch)?;
        // A failed write is harmless: the next run compiles again.
        write(folder, &path, &text).ok();
        Ok(text)
    }
}

/// Returns a digest of everything that determines the PTX.
fn key(module: &Module, arch: &str, version: (i32, i32)) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut add = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    [module.name, module.source, arch]
        .iter()
        .for_each(|text| add(text));
    HEADERS.iter().for_each(|(_, header)| add(header));
    add(&format!("{:?} {version:?}", module.constants));
    hasher.finalize().to_hex().to_string()
}

fn sum(text: &str) -> String {
    format!("// blake3 {}\n", blake3::hash(text.as_bytes()).to_hex())
}

fn read(path: &Path) -> Option<String> {
    let file = std::fs::read_to_string(path).ok()?;
    let (_, text) = file.split_once('\n')?;
    (file.starts_with(&sum(text))).then(|| text.to_owned())
}

/// Writes a temporary file, syncs and renames it. Concurrent writers never leave a partial file.
fn write(folder: &Path, path: &Path, text: &str) -> std::io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    std::fs::create_dir_all(folder)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let beside = folder.join(format!(".{}-{count}", std::process::id()));
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(sum(text).as_bytes())?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::launch::module;

    fn copied() -> Module {
        let source =
            "#include \"common.cuh\"\nextern \"C\" __global__ void one(float *x) { x[0] = 1.0f; }";
        module("one", source, &[])
    }

    #[test]
    fn a_key_depends_on_everything_that_determines_the_ptx() {
        let base = key(&copied(), "compute_80", (13, 0));
        let mut other = copied();
        other.constants[0].1 += 1;
        assert_ne!(base, key(&other, "compute_80", (13, 0)));
        assert_ne!(base, key(&module("one", "", &[]), "compute_80", (13, 0)));
        assert_ne!(base, key(&copied(), "compute_90", (13, 0)));
        assert_ne!(base, key(&copied(), "compute_80", (13, 2)));
        assert_eq!(base, key(&copied(), "compute_80", (13, 0)));
    }

    #[test]
    fn reading_returns_what_was_written_and_rejects_damaged_files() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cached.ptx");
        write(folder.path(), &path, "one\ntwo\n").unwrap();
        assert_eq!(read(&path).as_deref(), Some("one\ntwo\n"));
        let files = folder.path().read_dir().unwrap().count();
        assert_eq!(files, 1, "no temporary file remains");
        for broken in ["", "// blake3 0\none\n"] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(read(&path), None, "{broken:?}");
        }
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        assert_eq!(read(&path), None);
    }

    #[test]
    fn ptx_is_compiled_once() {
        let Ok(nvrtc) = Nvrtc::find() else { return };
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(&folder.path().join("new"));
        let first = cache.ptx(&nvrtc, &copied(), "compute_80").unwrap();
        assert!(first.contains(".entry one("), "{first}");
        let path = folder
            .path()
            .join("new")
            .read_dir()
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        // A valid file is used; a damaged one is compiled again.
        let other = "other\n";
        std::fs::write(&path, format!("{}{other}", sum(other))).unwrap();
        assert_eq!(cache.ptx(&nvrtc, &copied(), "compute_80").unwrap(), other);
        std::fs::write(&path, "broken").unwrap();
        assert_eq!(cache.ptx(&nvrtc, &copied(), "compute_80").unwrap(), first);
        assert_eq!(read(&path), Some(first));
    }
}
