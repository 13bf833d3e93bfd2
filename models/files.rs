//! Atomic writes with unique temporary names, files that a user names as outputs, and files with a digest at their end for resume state.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Separates a temporary name's prefix from its owner.
const MARK: &str = ".tmp-";
/// Bytes of the digest at the end of a sealed file.
const DIGEST: usize = blake3::OUT_LEN;

/// The process that uses a temporary name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Host name and process table.
    pub host: String,
    /// Process number.
    pub pid: u32,
}

impl Owner {
    /// Returns this process.
    pub fn this() -> Self {
        Self {
            host: host().to_owned(),
            pid: std::process::id(),
        }
    }

    /// Returns the owner in a name from [`temporary`]; `None` for any other name.
    pub fn of(name: &str) -> Option<Self> {
        let (_, owner) = name.rsplit_once(MARK)?;
        let (owner, _nonce) = owner.rsplit_once('-')?;
        let (host, pid) = owner.rsplit_once('-')?;
        Some(Self {
            host: host.to_owned(),
            pid: pid.parse().ok()?,
        })
    }

    /// Whether the owner's process number is valid on this system: same host, boot and process namespace.
    pub fn is_here(&self) -> bool {
        self.host == host() && !self.host.ends_with(UNKNOWN)
    }
}

/// Returns a name that is unique among processes and calls: `PREFIX.tmp-HOST-PID-NONCE`.
pub fn temporary(prefix: &str) -> String {
    let (host, pid) = (host(), std::process::id());
    format!("{prefix}{MARK}{host}-{pid}-{}", nonce())
}

/// Returns a string that is unique within this process.
pub fn nonce() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanoseconds = since.map_or(0, |since| since.as_nanos());
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{nanoseconds:x}.{count:x}")
}

/// Returns the prefix of a name from [`temporary`].
pub fn prefix(name: &str) -> &str {
    name.rsplit_once(MARK).map_or(name, |(prefix, _)| prefix)
}

/// Suffix of the host on a system that does not describe its process table.
const UNKNOWN: &str = ".0";

/// Returns the host name with a digest of boot and process namespace, because process numbers repeat in containers and after reboots.
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

/// Returns a temporary path in the folder of `path`.
pub fn beside(path: &Path) -> PathBuf {
    path.with_file_name(temporary(""))
}

/// Writes `bytes` atomically: writes a temporary file in the same folder, syncs it and renames it. After an error, `path` is unchanged and
/// the temporary file is removed.
///
/// # Errors
/// An error of the file system.
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

/// Writes `bytes` into a file that a user names. A regular file, or the target of a link, is written as by [`write_atomic`]. A pipe or a
/// device like a terminal stays and receives the bytes; so does a file that is one of `open`, the standard output and error of a program.
///
/// # Errors
/// An error of the file system, or [`io::ErrorKind::InvalidInput`] for what is neither.
pub fn write_output(path: &Path, bytes: &[u8], open: &[File]) -> io::Result<()> {
    if let Some(mut file) = same_file(path, open) {
        return file.write_all(bytes);
    }
    match place(path)? {
        Place::File(target) => write_atomic(&target, bytes),
        Place::Stream => File::options().write(true).open(path)?.write_all(bytes),
    }
}

/// Returns the path of the regular file that a user names, at the end of its links; there may be nothing yet.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] for a pipe or a device, or an error of the file system.
pub fn output_file(path: &Path) -> io::Result<PathBuf> {
    match place(path)? {
        Place::File(target) => Ok(target),
        Place::Stream => Err(no_file()),
    }
}

/// Returns the one of `open` that is the file at `path`, as standard output is the file at `/dev/stdout`.
pub fn same_file<'a>(path: &Path, open: &'a [File]) -> Option<&'a File> {
    let named = fs::metadata(path).ok()?;
    let is_same = |file: &&File| {
        let about = file.metadata();
        about.is_ok_and(|about| (about.dev(), about.ino()) == (named.dev(), named.ino()))
    };
    open.iter().find(is_same)
}

/// What is written at a path.
enum Place {
    /// A regular file, or nothing yet. The path has no link at its end.
    File(PathBuf),
    /// A pipe or a device of characters.
    Stream,
}

/// Most links in a row, as the kernel's.
const LINKS: usize = 40;

fn place(path: &Path) -> io::Result<Place> {
    let kind = match fs::metadata(path) {
        Ok(about) => Some(about.file_type()),
        Err(error) if says_absent(&error) => None,
        Err(error) => return Err(error),
    };
    match kind {
        Some(kind) if kind.is_fifo() || kind.is_char_device() => Ok(Place::Stream),
        Some(kind) if kind.is_socket() || kind.is_block_device() => Err(no_file()),
        // A rename refuses a folder.
        _ => target(path).map(Place::File),
    }
}

/// Returns the path at the end of a chain of links.
fn target(path: &Path) -> io::Result<PathBuf> {
    let mut at = path.to_owned();
    for _ in 0..LINKS {
        match fs::read_link(&at) {
            Ok(to) => at = at.parent().unwrap_or(Path::new("")).join(to),
            Err(_) => return Ok(at),
        }
    }
    let message = format!("found more than {LINKS} links in a row, expected a file");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

fn no_file() -> io::Error {
    let message = "found a pipe or a device, expected a regular file or no file";
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Returns whether there is nothing at `path`. If something there cannot be read, its reader says why.
pub fn is_absent(path: &Path) -> bool {
    fs::metadata(path).is_err_and(|error| says_absent(&error))
}

/// Returns whether an error says that there is nothing at a path.
pub fn says_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// Opens a file for reading. A pipe or a device could keep its reader for ever, so only regular files are accepted.
///
/// # Errors
/// An error of the file system, or [`io::ErrorKind::InvalidInput`] if it is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let about = fs::metadata(path)?;
    match about.is_file() {
        true => File::open(path),
        false => Err(other_than_file(&about)),
    }
}

fn other_than_file(about: &fs::Metadata) -> io::Error {
    let found = if about.is_dir() {
        "a folder"
    } else {
        "a pipe or a device"
    };
    let message = format!("found {found}, expected a regular file");
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Refuses what is in place of a file that will be opened for writing: a pipe could keep its writer for ever. There may be nothing.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] if it is not a regular file. Whoever opens it gets other errors.
pub fn check_place(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(about) if !about.is_file() => Err(other_than_file(&about)),
        _ => Ok(()),
    }
}

/// As [`open`], for a file that need not exist; `None` if there is nothing at the path. A link to nothing is an error: its file is elsewhere.
///
/// # Errors
/// Those of [`open`], and [`io::ErrorKind::InvalidInput`] for a link to nothing.
pub fn open_optional(path: &Path) -> io::Result<Option<File>> {
    match open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if says_absent(&error) => match fs::read_link(path) {
            Ok(to) => {
                let message = format!(
                    "found a link to {}, which does not exist; bring that file, or remove the link",
                    to.display()
                );
                Err(io::Error::new(io::ErrorKind::InvalidInput, message))
            }
            Err(_) => Ok(None),
        },
        Err(error) => Err(error),
    }
}

/// Reads a whole file that a user names.
///
/// # Errors
/// Those of [`open`].
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// As [`read`], of at most `most` bytes. Reading stops there, too, because the size that the system tells may be wrong: of a file in `/proc` it
/// is 0. The caller adds the remedy.
///
/// # Errors
/// Those of [`open`], or [`io::ErrorKind::FileTooLarge`] if it has more bytes.
pub fn read_up_to(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    let refuse = |found: String| {
        let message = format!("found {found} bytes, expected at most {most}");
        Err(io::Error::new(io::ErrorKind::FileTooLarge, message))
    };
    if size > most {
        return refuse(size.to_string());
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > most {
        true => refuse(format!("more than {most}")),
        false => Ok(bytes),
    }
}

/// As [`read`], of a text in UTF-8.
///
/// # Errors
/// Those of [`open`], or [`io::ErrorKind::InvalidData`] if it is not UTF-8.
pub fn read_to_string(path: &Path) -> io::Result<String> {
    String::from_utf8(read(path)?).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Attempts to write into a folder, or to create it. Processes whose locks this one does not see may remove the folder after each attempt.
const ATTEMPTS: usize = 100;

/// Creates a folder with its parents, even if other processes remove or create any of them at the same time.
///
/// # Errors
/// An error of the file system.
pub fn make_dir(path: &Path) -> io::Result<()> {
    let raced = [io::ErrorKind::AlreadyExists, io::ErrorKind::NotFound];
    for _ in 1..ATTEMPTS {
        match fs::create_dir_all(path) {
            Err(error) if raced.contains(&error.kind()) => std::thread::yield_now(),
            created => return created,
        }
    }
    fs::create_dir_all(path).map_err(|error| match fs::read_link(path) {
        Ok(to) if !path.exists() => {
            let message = format!("found a link to {}, which does not exist", to.display());
            io::Error::new(io::ErrorKind::InvalidInput, message)
        }
        _ => error,
    })
}

/// Writes resume state atomically, with a digest after the bytes. Creates the folder again if another process finished the same stage and
/// removed it.
///
/// # Errors
/// An error of the file system.
pub fn write_sealed(path: &Path, mut bytes: Vec<u8>) -> io::Result<()> {
    bytes.extend_from_slice(blake3::hash(&bytes).as_bytes());
    for _ in 1..ATTEMPTS {
        match write_atomic(path, &bytes) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_dir(path.parent().unwrap_or(path))?;
            }
            written => return written,
        }
    }
    write_atomic(path, &bytes)
}

/// Reads the bytes of a file of [`write_sealed`] and checks the digest.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] if the file is damaged or truncated, or an error of the file system.
pub fn read_sealed(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = read(path)?;
    let content = bytes.len().checked_sub(DIGEST).ok_or_else(damaged)?;
    let digest = bytes.split_off(content);
    match blake3::hash(&bytes).as_bytes()[..] == digest[..] {
        true => Ok(bytes),
        false => Err(damaged()),
    }
}

/// Checks the digest of a file of [`write_sealed`] without loading the file into memory.
///
/// # Errors
/// Those of [`read_sealed`].
pub fn check_sealed(path: &Path) -> io::Result<()> {
    let mut file = open(path)?;
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
    let message = "the digest at its end does not match: the file is damaged, truncated or in an earlier format";
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests;
