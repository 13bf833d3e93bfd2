//! Graphs on the Hugging Face hub: parses `model:`, finds the file in the hub's cache, and downloads it.
//!
//! The cache is the one that all programs of the hub share: `HF_HUB_CACHE`, else `HF_HOME/hub`, else
//! `~/.cache/huggingface/hub`. A cached file is used without access to the network, so a branch stays at the commit of its
//! first download; `@COMMIT` pins a commit. Whoever uses a large file reads it once more, to compare it with the digest that is its name.

use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use tessera_models::files;

use super::input::Context;
use super::manifest;
use crate::config::Config;
use crate::{Error, Result};

/// Prefix of a `model:` that always means the hub, even if a local file of that name exists.
pub const PREFIX: &str = "hf:";

/// A file of a repository at a revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// `owner/name`.
    repo: String,
    /// Path in the repository.
    file: String,
    /// Branch, tag or commit.
    revision: String,
    /// The local path that was tried first, if `model:` has no prefix.
    instead_of: Option<PathBuf>,
}

/// Parses a `model` on the hub: `hf:owner/name/path/file.onnx[@revision]`. The prefix is optional if `base` has no such file and
/// no folder `owner` (a mistyped path must not cause network access). Returns `None` for a local path.
///
/// # Errors
/// If a `model` with the prefix has a wrong form.
pub fn named(model: &str, base: &Path) -> Result<Option<Remote>, String> {
    if let Some(rest) = model.strip_prefix(PREFIX) {
        return match parsed(rest) {
            Some(remote) => Ok(Some(remote)),
            None => Err(format!(
                "found {model}, expected hf:owner/name/path/to/file.onnx[@revision]"
            )),
        };
    }
    let remote = parsed(model).filter(|remote| remote.file.ends_with(".onnx"));
    let Some(remote) = remote else {
        return Ok(None);
    };
    let (path, first) = (base.join(model), model.split('/').next());
    if path.exists() || first.is_some_and(|first| base.join(first).exists()) {
        return Ok(None);
    }
    Ok(Some(Remote {
        instead_of: Some(path),
        ..remote
    }))
}

fn parsed(text: &str) -> Option<Remote> {
    let (path, revision) = text.rsplit_once('@').unwrap_or((text, "main"));
    let plain = |part: &str, more: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c) || more.contains(c);
        !part.is_empty() && !part.starts_with('.') && part.chars().all(fits)
    };
    let parts: Vec<&str> = path.split('/').collect();
    let [owner, name, file @ ..] = &parts[..] else {
        return None;
    };
    let fits = plain(owner, "")
        && plain(name, "")
        && !file.is_empty()
        && file.iter().all(|part| plain(part, " +=()"))
        && revision.split('/').all(|part| plain(part, ""));
    fits.then(|| Remote {
        repo: format!("{owner}/{name}"),
        file: file.join("/"),
        revision: revision.to_owned(),
        instead_of: None,
    })
}

impl Remote {
    /// Returns the path of the file in the cache, with the repository's manifest, if any, beside it. Downloads the file if it is not
    /// cached and `cx` allows that.
    ///
    /// # Errors
    /// [`Error::NotFetched`] if `cx` forbids the download, [`Error::Missing`] if the file is not available.
    pub fn path(&self, with: &Config, cx: &Context<'_>) -> Result<PathBuf> {
        let folder = folder().map_err(|message| self.missing(with, &message))?;
        let mut absent = format!("is not in the hub's cache {}", folder.display());
        if let Some(path) = self.cached(&folder) {
            match damage(&path, None) {
                None => return Ok(path),
                Some(damage) => absent = format!("is damaged in the hub's cache: {damage}"),
            }
        }
        if let Some(variable) = offline() {
            return Err(self.missing(
                with,
                &format!("{absent}, and {variable} forbids the download"),
            ));
        }
        if !cx.fetch {
            let message = format!("{} {absent}: a run would download it", self.name());
            return Err(Error::NotFetched {
                at: with.error("model", message),
            });
        }
        let fetched = self.fetched(&folder, cx);
        fetched.map_err(|message| self.missing(with, &format!("{absent}, and {message}")))
    }

    /// Returns the file `location` in the same folder of the repository.
    pub fn beside(&self, location: &str) -> Self {
        let folder = self.file.rsplit_once('/').map(|(folder, _)| folder);
        Self {
            file: folder.map_or(location.into(), |folder| format!("{folder}/{location}")),
            instead_of: None,
            ..self.clone()
        }
    }

    /// Returns a note on a graph without a manifest: it may have stayed on the hub, and what it says of labels with it.
    pub fn without_manifest(&self) -> String {
        format!(
            "{}: there is no manifest in the hub's cache, so the row does not count as trained with labels; `saw_labels: true` or \
             `false` in the row states it, and if the repository has a manifest, `{}` fetches it",
            self.name(),
            self.command()
        )
    }

    /// Returns the command that fills the cache with the file and, of a graph, its manifest. It leaves out what the repository lacks.
    fn command(&self) -> String {
        let Self { repo, file, .. } = self;
        let manifest = Path::new(file).with_extension(manifest::ENDINGS[0]);
        let manifest = match file.ends_with(".onnx") {
            true => format!(" {}", manifest.display()),
            false => String::new(),
        };
        format!(
            "hf download {repo} {file}{manifest} --revision {}",
            self.revision
        )
    }

    /// `hf:owner/name/file.onnx@main`.
    fn name(&self) -> String {
        format!("{PREFIX}{}/{}@{}", self.repo, self.file, self.revision)
    }

    fn missing(&self, with: &Config, found: &str) -> Error {
        let path = self.instead_of.as_ref();
        let path = path.map_or(String::new(), |p| {
            format!("{} does not exist; ", p.display())
        });
        Error::Missing {
            at: with.error("model", format!("{path}{} {found}", self.name())),
            remedy: format!(
                "on a machine with network access `{}` fills the cache folder, which can be copied (HF_HOME sets its location; HF_TOKEN \
                 gives access to private repositories; `--force-download` replaces a damaged file); or save the file anywhere, with \
                 its manifest if it has one, and write its path as `model`",
                self.command()
            ),
        }
    }
}

/// Says what is wrong with a file of the cache. The name of a large file's blob is the SHA-256 of its content. Other blobs tell nothing of
/// it; a download knows their `size`.
fn damage(path: &Path, size: Option<usize>) -> Option<String> {
    let blob = path.canonicalize().ok()?;
    let bytes = files::read(&blob).ok()?;
    let name = blob.file_name()?.to_string_lossy();
    if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let size = size.filter(|size| *size != bytes.len())?;
        let (blob, found) = (blob.display(), bytes.len());
        return Some(format!("{blob} has {found} bytes, expected {size}"));
    }
    let found = digest(&SHA256, &bytes);
    let found: String = found.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    (!found.eq_ignore_ascii_case(&name)).then(|| format!("{} has SHA-256 {found}", blob.display()))
}

/// Returns the cache folder of the hub's programs.
fn folder() -> Result<PathBuf, String> {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty());
    let home = || Some(std::env::home_dir()?.join(".cache"));
    let folder = if let Some(folder) = variable("HF_HUB_CACHE") {
        Some(PathBuf::from(folder))
    } else if let Some(home) = variable("HF_HOME") {
        Some(PathBuf::from(home).join("hub"))
    } else {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(home);
        cache.map(|cache| cache.join("huggingface/hub"))
    };
    let folder = folder.ok_or("needs a cache folder; set HF_HOME")?;
    std::path::absolute(&folder).map_err(|e| format!("{}: {e}", folder.display()))
}

/// Returns the variable that forbids network access, if set, read as the hub's own programs do.
fn offline() -> Option<String> {
    let value = std::env::var("HF_HUB_OFFLINE").unwrap_or_default();
    let set = ["1", "on", "yes", "true"].contains(&value.to_lowercase().as_str());
    set.then(|| format!("HF_HUB_OFFLINE={value}"))
}

#[cfg(not(feature = "hub"))]
impl Remote {
    fn cached(&self, _: &Path) -> Option<PathBuf> {
        None
    }

    fn fetched(&self, _: &Path, _: &Context<'_>) -> Result<PathBuf, String> {
        Err("this program was built without the feature `hub`".into())
    }
}

#[cfg(feature = "hub")]
mod client {
    use std::cell::Cell;
    use std::io;
    use std::path::{Path, PathBuf};

    use hf_hub::api::Progress;
    use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
    use hf_hub::{Cache, Repo, RepoType};

    use super::{Context, Remote, damage, manifest};

    /// Retries of an interrupted download; each resumes where the last one stopped.
    const RETRIES: usize = 3;

    impl Remote {
        fn repo(&self) -> Repo {
            let revision = self.revision.clone();
            Repo::with_revision(self.repo.clone(), RepoType::Model, revision)
        }

        /// Returns the file in the cache `folder`.
        pub(super) fn cached(&self, folder: &Path) -> Option<PathBuf> {
            let repo = Cache::new(folder.to_owned()).repo(self.repo());
            // Each commit has its own folder, even if no branch points to it.
            let commit = repo.pointer_path(&self.revision).join(&self.file);
            let commit = commit.exists().then_some(commit);
            commit.or_else(|| repo.get(&self.file))
        }

        /// Downloads the file and its manifest, if there is one.
        pub(super) fn fetched(&self, folder: &Path, cx: &Context<'_>) -> Result<PathBuf, String> {
            let mut api =
                ApiBuilder::from_cache(Cache::new(folder.to_owned())).with_retries(RETRIES);
            let variable = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
            if let Some(endpoint) = variable("HF_ENDPOINT") {
                api = api.with_endpoint(endpoint.trim_end_matches('/').to_owned());
            }
            if let Some(token) = variable("HF_TOKEN") {
                api = api.with_token(Some(token));
            }
            let api = api.build().map_err(|e| e.to_string())?;
            let repo = api.repo(self.repo());
            // The manifest comes first, because a cached graph counts as complete.
            for ending in manifest::ENDINGS {
                let manifest = Path::new(&self.file).with_extension(ending);
                match download(&repo, &manifest.to_string_lossy(), &self.name(), None) {
                    Ok(_) => (),
                    Err(error) if is_absent(&error) => (),
                    Err(error) => return Err(describe(&repo, &self.file, &error)),
                }
            }
            download(&repo, &self.file, &self.name(), Some(cx))
                .map_err(|error| describe(&repo, &self.file, &error))
        }
    }

    fn describe(repo: &ApiRepo, file: &str, error: &ApiError) -> String {
        format!("{} failed: {error}", repo.url(file))
    }

    /// Returns whether the server has no such file.
    fn is_absent(error: &ApiError) -> bool {
        matches!(error, ApiError::RequestError(_)) && error.to_string().ends_with("status: 404")
    }

    /// Downloads a file, and again if its content is wrong: the client appends the whole file to what an interrupted download has left if
    /// its first request fails. The second time nothing is left.
    fn download(
        repo: &ApiRepo,
        file: &str,
        name: &str,
        cx: Option<&Context<'_>>,
    ) -> Result<PathBuf, ApiError> {
        let note = format!("downloading {name}");
        let total = Cell::new(0);
        let once = || {
            let reporter = Reporter {
                cx,
                note: &note,
                done: 0,
                total: &total,
            };
            let path = repo.download_with_progress(file, reporter)?;
            let damage = damage(&path, Some(total.get()));
            Ok::<_, ApiError>((path, damage))
        };
        if let (path, None) = once()? {
            return Ok(path);
        }
        let (path, damage) = once()?;
        let Some(damage) = damage else {
            return Ok(path);
        };
        // A cached file counts as whole if its name is not its digest.
        let blob = path.canonicalize()?;
        std::fs::remove_file(&path)?;
        if blob.exists() {
            std::fs::remove_file(&blob)?;
        }
        Err(io::Error::other(damage).into())
    }

    struct Reporter<'a> {
        cx: Option<&'a Context<'a>>,
        note: &'a str,
        done: usize,
        total: &'a Cell<usize>,
    }

    impl Reporter<'_> {
        fn report(&self) {
            if let Some(cx) = self.cx {
                (cx.progress)(self.done, self.total.get(), self.note);
            }
        }
    }

    impl Progress for Reporter<'_> {
        fn init(&mut self, size: usize, _: &str) {
            // Every attempt calls this again.
            self.done = 0;
            self.total.set(size);
        }

        fn update(&mut self, size: usize) {
            self.done += size;
            self.report();
        }

        fn finish(&mut self) {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(repo: &str, file: &str, revision: &str) -> Remote {
        Remote {
            repo: repo.into(),
            file: file.into(),
            revision: revision.into(),
            instead_of: None,
        }
    }

    #[test]
    fn the_prefix_always_means_the_hub() {
        let named = |model: &str| super::named(model, Path::new(""));
        for (model, expected) in [
            ("hf:o/n/m.onnx", remote("o/n", "m.onnx", "main")),
            (
                "hf:o/n.2/a/b/m.onnx@v1",
                remote("o/n.2", "a/b/m.onnx", "v1"),
            ),
            (
                "hf:o/n/m.onnx@refs/pr/1",
                remote("o/n", "m.onnx", "refs/pr/1"),
            ),
            ("hf:o/n/m.bin", remote("o/n", "m.bin", "main")),
        ] {
            assert_eq!(named(model), Ok(Some(expected)), "{model}");
        }
        let inside = remote("o/n.2", "a/b/m.onnx", "v1");
        assert_eq!(
            inside.beside("m.onnx.data"),
            remote("o/n.2", "a/b/m.onnx.data", "v1")
        );
        for wrong in [
            "hf:",
            "hf:m.onnx",
            "hf:o/m.onnx",
            "hf:o//m.onnx",
            "hf:o/n/../m.onnx",
            "hf:o/n/m.onnx@",
            "hf:/o/n/m.onnx",
            "hf:o/n/m.onnx@../../x",
            "hf:o n/n/m.onnx",
        ] {
            assert!(
                named(wrong).unwrap_err().contains("hf:owner/name"),
                "{wrong}"
            );
        }
    }

    #[test]
    fn a_name_without_prefix_means_the_hub_unless_a_local_path_matches() {
        let base = tempfile::tempdir().unwrap();
        let found = super::named("o/n/m.onnx", base.path()).unwrap().unwrap();
        assert_eq!(found.instead_of, Some(base.path().join("o/n/m.onnx")));
        for path in [
            "m.onnx",
            "o/m.onnx",
            "./o/n/m.onnx",
            "../o/n/m.onnx",
            "/o/n/m.onnx",
            "o/n/m.bin",
        ] {
            assert_eq!(super::named(path, base.path()), Ok(None), "{path}");
        }
        std::fs::create_dir(base.path().join("o")).unwrap();
        assert_eq!(super::named("o/n/m.onnx", base.path()), Ok(None));
    }
}
