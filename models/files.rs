//! Files that are whole or absent: temporary names that no other process uses, and a digest at the end of resume state.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// What separates a temporary name's prefix from its owner.
const MARK: &str = ".tmp-";
/// Bytes of the digest behind a sealed file's content.
const DIGEST: usize = blake3::OUT_LEN;

/// The process that uses a temporary name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Host name and process table.
    pub host: String,
    /// Process.
    pub pid: u32,
}

impl Owner {
    /// This process.
    pub fn this() -> Self {
        Self {
            host: host().to_owned(),
            pid: std::process::id(),
        }
    }

    /// The owner of a file or folder whose name is from [`temporary`]; `None` for any other name.
    pub fn of(name: &str) -> Option<Self> {
        let (_, owner) = name.rsplit_once(MARK)?;
        let (owner, _nonce) = owner.rsplit_once('-')?;
        let (host, pid) = owner.rsplit_once('-')?;
        Some(Self {
            host: host.to_owned(),
            pid: pid.parse().ok()?,
        })
    }

    /// Whether the owner's process numbers are those of this system: same host, boot and process namespace.
    pub fn is_here(&self) -> bool {
        self.host == host() && !self.host.ends_with(UNKNOWN)
    }
}

/// A name that no other process and no other call uses: `PREFIX.tmp-HOST-PID-NONCE`.
pub fn temporary(prefix: &str) -> String {
    let (host, pid) = (host(), std::process::id());
    format!("{prefix}{MARK}{host}-{pid}-{}", nonce())
}

/// A text that this process has at no other time.
pub fn nonce() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanoseconds = since.map_or(0, |since| since.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{nanoseconds:x}.{count:x}")
}

/// The prefix of a name from [`temporary`].
pub fn prefix(name: &str) -> &str {
    name.rsplit_once(MARK).map_or(name, |(prefix, _)| prefix)
}

/// Ends the host of a system that does not describe its process table.
const UNKNOWN: &str = ".0";

/// Host name, and a digest of boot and process namespace: containers share small process numbers, and reboots begin again.
fn host() -> &'static str {
    static HOST: OnceLock<String> = OnceLock::new();
    HOST.get_or_init(|| {
        let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let name: String = name.trim().chars().take(32).map(plain).collect();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        let namespace = fs::read_link("/proc/self/ns/pid");
        match (boot, namespace) {
            (Ok(boot), Ok(namespace)) => {
                let table = format!("{boot}{}", namespace.display());
                let digest = blake3::hash(table.as_bytes()).to_hex();
                format!("{name}.{:.8}", digest.as_str())
            }
            _ => format!("{name}{UNKNOWN}"),
        }
    })
}

/// A temporary path in the folder of `path`.
pub fn beside(path: &Path) -> PathBuf {
    path.with_file_name(temporary(""))
}

/// Writes `bytes` beside `path`, syncs and renames: the file is whole or as it was, and nothing stays beside it after an error.
///
/// # Errors
/// What the system answered.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = beside(path);
    let written = File::create_new(&beside)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&beside, path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Writes resume state: as [`write_atomic`], with a digest behind the bytes. Makes the folder where another process, which has
/// finished the same stage, has removed it.
///
/// # Errors
/// What the system answered.
pub fn write_sealed(path: &Path, mut bytes: Vec<u8>) -> io::Result<()> {
    bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
    match write_atomic(path, &bytes) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            write_atomic(path, &bytes)
        }
        written => written,
    }
}

/// The bytes that [`write_sealed`] was given.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] when the file is damaged or truncated; what the system answered.
pub fn read_sealed(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = fs::read(path)?;
    let content = bytes.len().checked_sub(DIGEST).ok_or_else(damaged)?;
    let digest = bytes.split_off(content);
    match blake3::hash(&bytes).as_bytes()[..] == digest[..] {
        true => Ok(bytes),
        false => Err(damaged()),
    }
}

/// Checks a file of [`write_sealed`] without holding it in memory.
///
/// # Errors
/// As [`read_sealed`].
pub fn check_sealed(path: &Path) -> io::Result<()> {
    let mut file = File::open(path)?;
    let content = file.metadata()?.len().checked_sub(DIGEST as u64);
    let content = content.ok_or_else(damaged)?;
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader((&mut file).take(content))?;
    let mut digest = [0; DIGEST];
    file.read_exact(&mut digest)?;
    match hasher.finalize() == digest {
        true => Ok(()),
        false => Err(damaged()),
    }
}

fn damaged() -> io::Error {
    let message = "the digest at its end is not that of its content: damaged, truncated or of an earlier format";
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_is_unique_and_names_its_owner() {
        let (first, second) = (temporary("fit-0a"), temporary("fit-0a"));
        assert_ne!(first, second);
        assert_eq!(prefix(&first), "fit-0a");
        assert_eq!(Owner::of(&first), Some(Owner::this()));
        assert!(temporary("").starts_with('.'), "hidden");
        for other in ["results.csv", ".tmp-12", "x.tmp-host-pid-3", "fit-0a"] {
            assert_eq!(Owner::of(other), None, "{other}");
        }
        let elsewhere = Owner::of(".tmp-node-7.1a2b3c4d-12-9.0").unwrap();
        assert_eq!((elsewhere.pid, elsewhere.is_here()), (12, false));
    }

    #[test]
    fn every_changed_byte_and_length_of_state_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("gone").join("state");
        write_sealed(&path, b"weights".to_vec()).unwrap();
        assert_eq!(read_sealed(&path).unwrap(), b"weights");
        check_sealed(&path).unwrap();
        let whole = fs::read(&path).unwrap();
        let changed = (0..whole.len()).map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        });
        let cut = (0..whole.len()).map(|len| whole[..len].to_vec());
        for bytes in changed.chain(cut) {
            fs::write(&path, &bytes).unwrap();
            assert!(read_sealed(&path).is_err() && check_sealed(&path).is_err());
        }
    }

    #[test]
    fn a_failed_write_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        assert!(write_atomic(&path, b"x").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
