//! `bench fetch` on a disk that is full, and killed at any call: the folder is whole or absent, and the next call ends well.

use std::path::Path;
use std::process::Output;

use super::common::{Bench, error};
use super::inject::shim;
use super::server::{Answer, Server, sha256, tgz};
use super::{files, must_not_panic};

const CALLS: &str = "open,write,fsync,rename,mkdir";

struct Fetch {
    bench: Bench,
    server: Server,
    digest: String,
}

impl Fetch {
    fn new() -> Self {
        let names = ["train.bin", "test.bin"].map(|name| format!("cifar-100-binary/{name}"));
        let image = vec![7; 3074];
        let archive = tgz(&[(&names[0], image.clone()), (&names[1], image)]);
        Self {
            bench: Bench::new(""),
            server: Server::start(&archive, &[Answer::Whole]),
            digest: sha256(&archive),
        }
    }

    fn run(&self, fault: Option<(&Path, &str)>) -> Output {
        let (url, digest) = (&self.server.url, &self.digest);
        let args = ["fetch", "cifar100", "--from", url, "--sha256", digest];
        let mut command = self.bench.command(&args);
        command.env("TESSERA_DATA", self.bench.path("data"));
        if let Some((shim, fault)) = fault {
            command.env("LD_PRELOAD", shim).env("FAULT", fault);
            command.env("FAULT_COUNT", self.bench.path("count"));
        }
        command.output().unwrap()
    }

    /// Returns the files of the cache, with their bytes.
    fn cached(&self) -> Vec<(String, u64)> {
        let data = self.bench.path("data");
        let about = |path: &Path| {
            let name = path.strip_prefix(&data).unwrap().display().to_string();
            (name, path.metadata().unwrap().len())
        };
        files(&data).iter().map(|path| about(path)).collect()
    }

    /// Nothing but the folder is there, and it is whole.
    fn is_whole(&self) -> bool {
        self.cached() == Self::expected()
    }

    /// The folder is whole.
    fn has_folder(&self) -> bool {
        let mut cached = self.cached();
        cached.retain(|(name, _)| name.starts_with("cifar100/"));
        cached == Self::expected()
    }

    fn expected() -> [(String, u64); 3] {
        // A SHA-256 and the end of its line.
        let files = [(".fetched", 65), ("test.bin", 3074), ("train.bin", 3074)];
        files.map(|(name, bytes)| (format!("cifar100/{name}"), bytes))
    }
}

#[test]
fn a_fetch_is_whole_or_absent() {
    let fetch = Fetch::new();
    let Some(shim) = shim(fetch.bench.dir.path()) else {
        return;
    };
    let output = fetch.run(Some((&shim, &format!("eio:{CALLS}:999999"))));
    assert!(output.status.success(), "{}", error(&output));
    let count = std::fs::read_to_string(fetch.bench.path("count")).unwrap();
    let count: u64 = count.trim().parse().unwrap();
    assert!(count > 8, "only {count} calls");
    for how in ["enospc", "enospc+", "kill"] {
        for nth in 1..=count {
            let _ = std::fs::remove_dir_all(fetch.bench.path("data"));
            let fault = format!("{how}:{CALLS}:{nth}");
            let output = fetch.run(Some((&shim, &fault)));
            must_not_panic(&output, &fault);
            let folder = fetch.bench.path("data/cifar100");
            match output.status.code() {
                Some(0) => assert!(fetch.is_whole(), "{fault}"),
                Some(status) => {
                    assert_eq!(status, 2, "{fault}");
                    assert!(error(&output).contains("No space left"), "{fault}");
                    assert!(!folder.exists(), "{fault}");
                    let left = fetch.cached();
                    let is_part = |(name, _): &(String, u64)| name.ends_with(".part");
                    assert!(left.iter().all(is_part), "{fault}: {left:?}");
                }
                None => assert!(!folder.exists() || fetch.has_folder(), "{fault}"),
            }
            let output = fetch.run(None);
            assert!(output.status.success(), "{fault}: {}", error(&output));
            // Between the rename and the removal of the download, a killed process leaves the download.
            let is_allowed = |(name, _): &(String, u64)| {
                name.starts_with("cifar100/") || (how == "kill" && name.ends_with(".part"))
            };
            let cached = fetch.cached();
            assert!(
                fetch.has_folder() && cached.iter().all(is_allowed),
                "{fault}: {cached:?}"
            );
        }
    }
}
