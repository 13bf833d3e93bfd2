//! An on-disk cache of compiled kernels, so that each machine compiles a kernel once.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::HEADERS;
use super::nvrtc::{Nvrtc, Result, variable};
use crate::device::launch::Module;

/// A folder of PTX and machine code, keyed by everything that determines them.
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
        let compile = || nvrtc.ptx(module, arch).map(String::into_bytes);
        let text = self.get("ptx", &key(module, arch, nvrtc.version()), compile)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Returns the machine code of `module` for `arch`, as for [`ptx`](Self::ptx).
    ///
    /// # Errors
    /// If it does not compile.
    pub fn cubin(&self, nvrtc: &Nvrtc, module: &Module, arch: &str) -> Result<Vec<u8>> {
        let compile = || nvrtc.cubin(module, arch);
        self.get("cubin", &key(module, arch, nvrtc.version()), compile)
    }

    fn get(
        &self,
        kind: &str,
        key: &str,
        compile: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Vec<u8>> {
        let Some(folder) = &self.0 else {
            return compile();
        };
        let path = folder.join(format!("{key}.{kind}"));
        if let Some(bytes) = read(&path) {
            return Ok(bytes);
        }
        let bytes = compile()?;
        // A failed write is harmless: the next run compiles again.
        write(folder, &path, &bytes).ok();
        Ok(bytes)
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

fn sum(bytes: &[u8]) -> String {
    format!("// blake3 {}\n", blake3::hash(bytes).to_hex())
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let file = std::fs::read(path).ok()?;
    let at = file.iter().position(|byte| *byte == b'\n')?;
    let bytes = &file[at + 1..];
    (file.starts_with(sum(bytes).as_bytes())).then(|| bytes.to_owned())
}

/// Writes a temporary file, syncs and renames it. Concurrent writers never leave a partial file.
fn write(folder: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    std::fs::create_dir_all(folder)?;
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let beside = folder.join(format!(".{}-{count}", std::process::id()));
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(sum(bytes).as_bytes())?;
    file.write_all(bytes)?;
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
        write(folder.path(), &path, b"one\ntwo\xff\n").unwrap();
        assert_eq!(read(&path).as_deref(), Some(&b"one\ntwo\xff\n"[..]));
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
        std::fs::write(&path, format!("{}{other}", sum(other.as_bytes()))).unwrap();
        assert_eq!(cache.ptx(&nvrtc, &copied(), "compute_80").unwrap(), other);
        std::fs::write(&path, "broken").unwrap();
        assert_eq!(cache.ptx(&nvrtc, &copied(), "compute_80").unwrap(), first);
        assert_eq!(read(&path), Some(first.into_bytes()));
        for _ in 0..2 {
            let code = cache.cubin(&nvrtc, &copied(), "sm_90").unwrap();
            assert_eq!(&code[..4], b"\x7fELF");
        }
    }
}
