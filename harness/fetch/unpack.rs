//! Unpacks an archive. Nothing in it is trusted: paths stay inside the folder, links are refused, sizes are bounded.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use anyhow::{Context as _, bail, ensure};
use flate2::bufread::{DeflateDecoder, MultiGzDecoder};
use tar::EntryType;
use tessera_models::{ReadOn, files};
use zip::{CompressionMethod, ZipArchive};

use super::watch::{Watch, unwritten};
use crate::data::Fetched;

/// Maximum number of entries; Tiny ImageNet has 120,609.
const MOST_ENTRIES: usize = 200_000;
/// Maximum bytes of all files; CIFAR has 184 million.
const MOST_BYTES: u64 = 1 << 30;
/// Maximum bytes of Tiny ImageNet's table of val images; it has 270 thousand.
const MOST_TABLE: u64 = 1 << 24;
/// Maximum bytes of headers and long names before a file of a `.tar`, and of padding after it.
const MOST_HEADERS: u64 = 1 << 20;
/// Maximum bytes of a name.
const MOST_NAME: usize = 1024;
/// The classes of Tiny ImageNet's val images, which lie in one folder.
const TABLE: &str = "val/val_annotations.txt";

/// Unpacks the archive of `dataset` at `path` into the new folder `to`. Returns the number of its files.
///
/// # Errors
/// If the archive is damaged or hostile or has another layout, or if a file cannot be written.
pub fn unpack(path: &Path, dataset: Fetched, to: &Path, watch: Watch<'_>) -> anyhow::Result<usize> {
    let mut sink = Sink {
        to,
        dataset,
        classes: HashMap::new(),
        entries: 0,
        files: 0,
        bytes: 0,
        watch,
    };
    fs::create_dir(to).map_err(|e| unwritten(to, &e))?;
    let unpacked = match dataset {
        Fetched::TinyImagenet => sink.unzip(path),
        _ => sink.untar(path),
    };
    unpacked.with_context(|| path.display().to_string())?;
    for name in required(dataset) {
        ensure!(
            to.join(name).exists(),
            "{}: the archive has no {name}; is it that of {}?",
            path.display(),
            dataset.name()
        );
    }
    Ok(sink.files)
}

/// Returns the folder in the archive that holds everything.
fn top(dataset: Fetched) -> &'static str {
    match dataset {
        Fetched::Cifar10 => "cifar-10-batches-bin",
        Fetched::Cifar100 => "cifar-100-binary",
        Fetched::Imagenette160 => "imagenette2-160",
        Fetched::TinyImagenet => "tiny-imagenet-200",
    }
}

/// Returns files and folders that the dataset's kind reads.
pub(super) fn required(dataset: Fetched) -> &'static [&'static str] {
    match dataset {
        Fetched::Cifar10 => &[
            "data_batch_1.bin",
            "data_batch_2.bin",
            "data_batch_3.bin",
            "data_batch_4.bin",
            "data_batch_5.bin",
            "test_batch.bin",
        ],
        Fetched::Cifar100 => &["train.bin", "test.bin"],
        Fetched::Imagenette160 | Fetched::TinyImagenet => &["train", "val"],
    }
}

/// Receives the entries of an archive.
struct Sink<'a> {
    to: &'a Path,
    dataset: Fetched,
    /// Classes of the val images of Tiny ImageNet, by file name.
    classes: HashMap<String, String>,
    entries: usize,
    /// Number of files that are written.
    files: usize,
    bytes: u64,
    watch: Watch<'a>,
}

impl Sink<'_> {
    fn untar(&mut self, path: &Path) -> anyhow::Result<()> {
        let decoder = MultiGzDecoder::new(BufReader::new(ReadOn(files::open(path)?)));
        let left = Rc::new(Cell::new(0));
        let bounded = Bounded {
            from: decoder,
            left: Rc::clone(&left),
        };
        let mut archive = tar::Archive::new(bounded);
        let mut entries = archive.entries()?;
        loop {
            left.set(MOST_HEADERS);
            let Some(entry) = entries.next() else { break };
            let mut entry = entry?;
            let (name, claimed) = (entry.path()?.into_owned(), entry.size());
            short(&name)?;
            match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    left.set(claimed.saturating_add(MOST_HEADERS));
                    self.file(&name, claimed, &mut entry)?;
                }
                EntryType::Directory | EntryType::XGlobalHeader => self.count()?,
                _ => bail!("{}: is no file or folder", name.display()),
            }
        }
        Ok(())
    }

    fn unzip(&mut self, path: &Path) -> anyhow::Result<()> {
        let mut archive = ZipArchive::new(BufReader::new(ReadOn(files::open(path)?)))?;
        let table = format!("{}/{TABLE}", top(self.dataset));
        let table = archive.index_for_name(&table);
        let table = table.with_context(|| format!("the archive has no {TABLE}"))?;
        let mut text = String::new();
        raw(&mut archive, table, |_, _, content| {
            content.take(MOST_TABLE).read_to_string(&mut text)?;
            Ok(())
        })?;
        self.classes = text.lines().filter_map(class).collect();
        for index in 0..archive.len() {
            raw(&mut archive, index, |name, claimed, content| {
                match name.ends_with('/') {
                    true => self.count(),
                    false => self.file(Path::new(name), claimed, content),
                }
            })?;
        }
        Ok(())
    }

    fn count(&mut self) -> anyhow::Result<()> {
        self.watch.check()?;
        self.entries += 1;
        ensure!(
            self.entries <= MOST_ENTRIES,
            "found more than {MOST_ENTRIES} entries"
        );
        Ok(())
    }

    /// Writes a file, which claims so many bytes, to its place.
    fn file(&mut self, name: &Path, claimed: u64, content: &mut dyn Read) -> anyhow::Result<()> {
        self.count()?;
        let Some(place) = self.place(&inside(name)?)? else {
            return Ok(());
        };
        let place = self.to.join(inside(&place)?);
        if let Some(folder) = place.parent() {
            fs::create_dir_all(folder).map_err(|e| unwritten(folder, &e))?;
        }
        let mut file = File::create_new(&place).map_err(|e| unwritten(&place, &e))?;
        let left = MOST_BYTES - self.bytes;
        let mut bytes = claimed;
        if claimed <= left {
            bytes = copied(&mut content.take(left + 1), &mut file, &place)?;
        }
        ensure!(bytes <= left, "found more than {MOST_BYTES} bytes of files");
        self.bytes += bytes;
        self.files += 1;
        Ok(())
    }

    /// Returns the path of a file in the dataset's folder; `None` for files that no suite reads: the test images of Tiny ImageNet, which have
    /// no labels, and its boxes.
    fn place(&self, name: &Path) -> anyhow::Result<Option<PathBuf>> {
        let name = name.strip_prefix(top(self.dataset)).unwrap_or(name);
        if self.dataset != Fetched::TinyImagenet {
            return Ok(Some(name.to_owned()));
        }
        let text = name.to_str().context("a name is not UTF-8")?;
        let parts: Vec<&str> = text.split('/').collect();
        Ok(match parts[..] {
            ["train", class, "images", image] => Some(["train", class, image].iter().collect()),
            ["val", "images", image] => {
                let class = self.classes.get(image);
                let class = class.with_context(|| format!("{text}: has no line in {TABLE}"))?;
                Some(["val", class, image].iter().collect())
            }
            ["train" | "val" | "test", ..] => None,
            _ => Some(name.to_owned()),
        })
    }
}

/// Returns the image and the class of a line of [`TABLE`]: name, class and box, separated by tabs.
fn class(line: &str) -> Option<(String, String)> {
    let (image, rest) = line.split_once('\t')?;
    let class = rest.split('\t').next()?;
    Some((image.to_owned(), class.to_owned()))
}

/// Calls `work` with the name, the claimed bytes and the content of an entry. The feature of `zip` that inflates would compile candle-core again.
fn raw<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    index: usize,
    work: impl FnOnce(&str, u64, &mut dyn Read) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let entry = archive.by_index_raw(index)?;
    let (name, claimed) = (entry.name()?.into_owned(), entry.size());
    short(Path::new(&name))?;
    ensure!(!entry.is_symlink(), "{name}: is no file or folder");
    match entry.compression() {
        CompressionMethod::STORE => work(&name, claimed, &mut { entry }),
        CompressionMethod::DEFLATE => work(
            &name,
            claimed,
            &mut DeflateDecoder::new(BufReader::new(entry)),
        ),
        other => bail!("{name}: found compression {other}, expected stored or deflated"),
    }
}

/// Reads at most the bytes that are left. The `tar` crate keeps names of any length in memory.
struct Bounded<R> {
    from: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let left = self.left.get();
        if left == 0 && !block.is_empty() {
            let message = format!("found more than {MOST_HEADERS} bytes of headers and names");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let most = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.from.read(&mut block[..most])?;
        self.left.set(left - count as u64);
        Ok(count)
    }
}

/// Refuses a name that no file system holds, so that errors stay readable.
fn short(name: &Path) -> anyhow::Result<()> {
    let bytes = name.as_os_str().len();
    ensure!(
        bytes <= MOST_NAME,
        "found a name of {bytes} bytes, expected at most {MOST_NAME}"
    );
    Ok(())
}

/// Returns a path of an archive, if it leads to a place inside of any folder.
fn inside(name: &Path) -> anyhow::Result<PathBuf> {
    short(name)?;
    let mut path = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => bail!("{}: leads out of the folder", name.display()),
        }
    }
    ensure!(!path.as_os_str().is_empty(), "an entry has no name");
    Ok(path)
}

/// Copies a file and returns its bytes. Errors of reading and writing differ, because one is the archive's.
fn copied(from: &mut dyn Read, to: &mut File, path: &Path) -> anyhow::Result<u64> {
    let mut block = [0; 1 << 14];
    let mut bytes = 0;
    loop {
        let read = from.read(&mut block);
        let count = read.with_context(|| format!("{}: is damaged", path.display()))?;
        if count == 0 {
            return Ok(bytes);
        }
        io::Write::write_all(to, &block[..count]).map_err(|e| unwritten(path, &e))?;
        bytes += count as u64;
    }
}
