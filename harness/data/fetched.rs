//! The datasets that `bench fetch` downloads, and where suites find them.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
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
/// A message if no variable names a folder.
pub fn cache() -> Result<PathBuf, String> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = || Some(std::env::home_dir()?.join(".cache"));
    let folder = variable("TESSERA_DATA").map(PathBuf::from).or_else(|| {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        Some(cache?.join("tessera/data"))
    });
    let folder =
        folder.ok_or("no folder for datasets; set TESSERA_DATA to the one that shall hold them")?;
    std::path::absolute(&folder).map_err(|e| format!("{}: {e}", folder.display()))
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
        .filter(|folder| !root.exists() && folder.is_dir())
    {
        value["root"] = json!(folder.to_string_lossy());
    }
    value
}

/// Returns `spec`, or a dataset whose every use fails with the remedy if `dataset:` names one with `fetch:` and has no folder.
pub fn or_absent(spec: Box<dyn DatasetSpec>, at: &Config) -> Box<dyn DatasetSpec> {
    match Wish::of(at).filter(|wish| !wish.root.exists()) {
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
            Ok(cache) => format!("downloads the images into {}", cache.join(name).display()),
            Err(_) => "downloads the images into the folder TESSERA_DATA".to_owned(),
        };
        DataError::at(
            &self.root,
            format!(
                "no such folder; `bench fetch {name}` {into}, where this suite finds them; or set `root` to their folder"
            ),
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

/// Returns whether the dataset is in the folder `cache`.
///
/// # Errors
/// If its name is taken by something other than a folder.
pub fn is_in(cache: &Path, fetched: Fetched) -> Result<bool, DataError> {
    let folder = cache.join(fetched.name());
    match std::fs::metadata(&folder) {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(DataError::at(&folder, "is no folder; move it away")),
        Err(_) => Ok(false),
    }
}
