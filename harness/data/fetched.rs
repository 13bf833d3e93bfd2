//! The datasets that `bench fetch` downloads, and where suites find them.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tessera_models::files::is_absent;
use tessera_tokenizers::{Config, schemars};

use super::contract::{DatasetSpec, PixelSource, ScanContext, Survey};
use super::error::DataError;
use super::scan::Scan;

/// A dataset that `bench fetch` downloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum Fetched {
    /// CIFAR-10, binary version.
    Cifar10,
    /// CIFAR-100, binary version.
    Cifar100,
    /// Imagenette, 160 px.
    Imagenette160,
    /// Tiny ImageNet.
    TinyImagenet,
}

impl Fetched {
    /// All.
    pub const ALL: [Self; 4] = [
        Self::Cifar10,
        Self::Cifar100,
        Self::Imagenette160,
        Self::TinyImagenet,
    ];

    /// Returns its name: the argument of `bench fetch`, the value of `fetch:`, and its folder in the cache.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cifar10 => "cifar10",
            Self::Cifar100 => "cifar100",
            Self::Imagenette160 => "imagenette160",
            Self::TinyImagenet => "tiny-imagenet",
        }
    }

    /// Returns the dataset of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// Returns the folder of fetched datasets: `TESSERA_DATA`, else `tessera/data` in the user's cache (`XDG_CACHE_HOME`, else `~/.cache`).
///
/// # Errors
/// A message if no variable names a folder, or if one is not an absolute path in UTF-8.
pub fn cache() -> Result<PathBuf, String> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(data) = variable("TESSERA_DATA") {
        return plain("TESSERA_DATA", data.into());
    }
    let cache = match variable("XDG_CACHE_HOME") {
        Some(cache) => plain("XDG_CACHE_HOME", cache.into())?,
        None => {
            let home = std::env::home_dir().filter(|home| !home.as_os_str().is_empty());
            let home = home.ok_or(
                "no folder for datasets; set TESSERA_DATA to the one that shall hold them",
            )?;
            plain("HOME", home)?.join(".cache")
        }
    };
    Ok(cache.join("tessera/data"))
}

/// Returns the folder that a variable names. A suite resolves a relative path from its own folder, and commands from the current one; suites are
/// text in UTF-8.
fn plain(variable: &str, folder: PathBuf) -> Result<PathBuf, String> {
    let shown = folder.display();
    if folder.to_str().is_none() {
        return Err(format!(
            "environment variable {variable}: {shown} is not UTF-8; set TESSERA_DATA to a folder whose path is"
        ));
    }
    if folder.is_relative() {
        return Err(format!(
            "environment variable {variable}: found the relative path {shown}, which names another folder in a suite than here; expected an \
             absolute path, as in TESSERA_DATA=\"$PWD/data\""
        ));
    }
    Ok(folder)
}

/// The fields of a `dataset:` that may be fetched.
struct Wish {
    fetched: Fetched,
    root: PathBuf,
}

impl Wish {
    /// Reads them; `None` without `fetch:` and `root:`, or if they are wrong, which the kind refuses.
    fn of(at: &Config) -> Option<Self> {
        let text = |name: &str| at.value().get(name)?.as_str();
        Some(Self {
            fetched: Fetched::named(text("fetch")?)?,
            root: at.resolve_path(text("root")?),
        })
    }
}

/// Returns `dataset:` with `root` in the cache if it names a dataset with `fetch:`, its own root does not exist, and the dataset has been
/// fetched.
pub fn located(at: &Config) -> Value {
    let mut value = at.value().clone();
    let Some(Wish { fetched, root }) = Wish::of(at) else {
        return value;
    };
    let folder = cache().map(|cache| cache.join(fetched.name()));
    if let Some(folder) = folder
        .ok()
        .filter(|folder| is_absent(&root) && folder.is_dir())
    {
        value["root"] = json!(folder.to_string_lossy());
    }
    value
}

/// Returns a note if `dataset:` uses its own root although `bench fetch` has downloaded the dataset to another folder.
pub fn unused(at: &Config) -> Option<String> {
    let Wish { fetched, root } = Wish::of(at).filter(|wish| !is_absent(&wish.root))?;
    let folder = cache().ok()?.join(fetched.name());
    let same = root.canonicalize().ok() == folder.canonicalize().ok();
    (folder.is_dir() && !same).then(|| {
        format!(
            "dataset.root: {} exists and is used; the fetched {} is not (--set dataset.root={} uses it)",
            root.display(),
            fetched.name(),
            folder.display()
        )
    })
}

/// Returns `spec`, or a dataset whose every use fails with the remedy if `dataset:` names one with `fetch:` and has no folder.
pub fn or_absent(spec: Box<dyn DatasetSpec>, at: &Config) -> Box<dyn DatasetSpec> {
    match Wish::of(at).filter(|wish| is_absent(&wish.root)) {
        Some(Wish { fetched, root }) => Box::new(Absent { fetched, root }),
        None => spec,
    }
}

/// A dataset that has not been fetched.
#[derive(Debug)]
struct Absent {
    fetched: Fetched,
    root: PathBuf,
}

impl Absent {
    fn error(&self) -> DataError {
        let name = self.fetched.name();
        let into = match cache() {
            Ok(cache) => format!(
                "downloads the images into {}, where this suite finds them",
                cache.join(name).display()
            ),
            Err(error) => format!("downloads the images, once this is mended: {error}"),
        };
        DataError::at(
            &self.root,
            format!("no such folder; `bench fetch {name}` {into}; or set `root` to their folder"),
        )
    }
}

impl DatasetSpec for Absent {
    fn scan(&self, _: &ScanContext<'_>) -> Result<Scan, DataError> {
        Err(self.error())
    }

    fn survey(&self) -> Result<Survey, DataError> {
        Err(self.error())
    }

    fn snapshot(&self) -> Result<Option<Value>, DataError> {
        Err(self.error())
    }

    fn open(&self, _: &Scan) -> Result<PixelSource, DataError> {
        Err(self.error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_suites_read_otherwise_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let wrong = PathBuf::from(std::ffi::OsString::from_vec(b"/a\xff".to_vec()));
        let error = plain("TESSERA_DATA", wrong).unwrap_err();
        assert!(error.contains("is not UTF-8"), "{error}");
        let error = plain("TESSERA_DATA", "data".into()).unwrap_err();
        assert!(error.contains("absolute path"), "{error}");
        assert_eq!(plain("TESSERA_DATA", "/data".into()), Ok("/data".into()));
    }
}
