//! Models from the Hugging Face hub: from its cache, from a server, and the errors if neither has them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![cfg(feature = "hub")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use common::{Bench, column, error};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const MODEL: &str = "hf:mosaics/vq/onnx/ids.onnx";

fn graph() -> Vec<u8> {
    let file = "tokenizers/embedded/mosaic_vq.onnx";
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

fn bench(model: &str) -> Bench {
    Bench::on_32_pixels(
        "onnx-ids",
        &format!("{{model: \"{model}\", codebook_size: 256, input: {{scale: zero-one}}}}"),
    )
}

/// Creates the files of a download by the hub's client: a blob, a link in the commit's snapshot, and the branch's commit.
fn fill(home: &Path, branch: Option<&str>) -> PathBuf {
    fill_with(home, branch, ("abc", &graph()))
}

/// As [`fill`], with a blob of this name and content.
fn fill_with(home: &Path, branch: Option<&str>, (name, content): (&str, &[u8])) -> PathBuf {
    let repo = home.join("hub/models--mosaics--vq");
    let snapshot = repo.join("snapshots").join(COMMIT).join("onnx");
    for folder in [&repo.join("blobs"), &repo.join("refs"), &snapshot] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(repo.join("blobs").join(name), content).unwrap();
    let blob = Path::new("../../../blobs").join(name);
    std::os::unix::fs::symlink(blob, snapshot.join("ids.onnx")).unwrap();
    if let Some(branch) = branch {
        std::fs::write(repo.join("refs").join(branch), COMMIT).unwrap();
    }
    snapshot
}

/// Runs `bench ARGS` with the hub's variables; returns status, standard output and standard error.
fn run(bench: &Bench, args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = bench.command(args);
    for name in ["HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN"] {
        command.env_remove(name);
    }
    // No server listens at this address, so a test that uses the network fails quickly.
    command.env("HF_ENDPOINT", "http://127.0.0.1:9");
    command.env("HF_HOME", bench.path("home"));
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code(), said, error(&output))
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "expected {part:?} in: {text}");
    }
}

#[test]
fn a_file_in_the_cache_needs_no_network() {
    let plain = MODEL.trim_start_matches("hf:");
    let pinned = format!("{MODEL}@{COMMIT}");
    let tagged = format!("{MODEL}@v1");
    for (model, branch) in [
        (MODEL, Some("main")),
        (plain, Some("main")),
        (&pinned, None),
        (&tagged, Some("v1")),
    ] {
        let bench = bench(model);
        fill(&bench.path("home"), branch);
        let offline = [("HF_HUB_OFFLINE", "1")];
        let (status, _, said) = run(&bench, &["score", "suite.yaml", "--out", "out"], &offline);
        assert_eq!(status, Some(0), "{model}: {said}");
        assert_eq!(column(&bench.path("out"), "status"), ["ok", "ok"]);
    }
}

#[test]
fn the_graph_must_match_the_manifest_in_the_cache() {
    let bench = bench(MODEL);
    let snapshot = fill(&bench.path("home"), Some("main"));
    let manifest = format!("sha256: {}\n", "1".repeat(64));
    std::fs::write(snapshot.join("ids.yaml"), manifest).unwrap();
    let (status, _, said) = run(&bench, &["validate", "suite.yaml"], &[]);
    assert_eq!(status, Some(2), "{said}");
    has(
        &said,
        &["ids.onnx: has SHA-256", "expected 1111", "ids.yaml"],
    );
}

#[test]
fn an_offline_error_names_the_remedy() {
    let bench = bench(MODEL);
    for (args, variables) in [
        (["score", "suite.yaml"], &[("HF_HUB_OFFLINE", "1")][..]),
        (["validate", "suite.yaml"], &[("HF_HUB_OFFLINE", "true")]),
        // No network.
        (["score", "suite.yaml"], &[]),
    ] {
        let (status, _, said) = run(&bench, &args, variables);
        assert_eq!(status, Some(2), "{said}");
        has(
            &said,
            &[
                "suite.yaml:",
                "with.model",
                "hf:mosaics/vq/onnx/ids.onnx@main is not in the hub's cache",
                "home/hub",
                "`hf download mosaics/vq onnx/ids.onnx onnx/ids.yaml --revision main`",
                "HF_HOME",
            ],
        );
    }
    assert!(!bench.path("runs").exists());
}

#[test]
fn an_optional_row_that_cannot_be_fetched_is_skipped() {
    let bench = bench(MODEL);
    let text = std::fs::read_to_string(bench.path("suite.yaml")).unwrap();
    let other = "}}, optional: true}, {name: P, kind: kmeans, with: {features: {kind: pixels}, k: 2, epochs: 1}}]";
    std::fs::write(bench.path("suite.yaml"), text.replace("}}}]", other)).unwrap();
    let (status, _, said) = run(&bench, &["score", "suite.yaml", "--out", "out"], &[]);
    assert_eq!(status, Some(0), "{said}");
    let states = column(&bench.path("out"), "status");
    assert_eq!(states, ["skipped", "skipped", "ok", "ok"]);
    assert!(column(&bench.path("out"), "error")[0].contains("hf download"));
}

#[test]
fn validate_and_dry_run_download_nothing_and_report_downloads() {
    let server = Server::start(false);
    let bench = bench(MODEL);
    let to = [("HF_ENDPOINT", server.address.as_str())];
    for args in [
        &["validate", "suite.yaml"][..],
        &["score", "suite.yaml", "--dry-run"],
    ] {
        let (status, said, errors) = run(&bench, args, &to);
        assert_eq!(status, Some(0), "{errors}");
        has(
            &said,
            &[
                "T ",
                "not checked",
                "hf:mosaics/vq/onnx/ids.onnx@main",
                "would download",
            ],
        );
    }
    assert_eq!(server.asked(), Vec::<String>::new());
    assert!(!bench.path("home").exists());
}

#[test]
fn a_run_downloads_once() {
    let server = Server::start(true);
    let bench = bench(MODEL);
    let to = [("HF_ENDPOINT", server.address.as_str())];
    let (status, _, said) = run(&bench, &["score", "suite.yaml", "--out", "out"], &to);
    assert_eq!(status, Some(0), "{said}");
    has(&said, &["downloading hf:mosaics/vq/onnx/ids.onnx@main"]);
    assert_eq!(column(&bench.path("out"), "status"), ["ok", "ok"]);
    let asked = server.asked();
    assert!(
        asked
            .iter()
            .any(|path| path.ends_with("/resolve/main/onnx/ids.onnx")),
        "{asked:?}"
    );
    assert!(
        asked
            .iter()
            .any(|path| path.ends_with("/resolve/main/onnx/ids.yaml")),
        "{asked:?}"
    );
    // The manifest was downloaded, too, so the licence is known.
    let about = std::fs::read_to_string(bench.path("out/environment.json")).unwrap();
    has(&about, &["CC0"]);
    let (status, _, said) = run(
        &bench,
        &["validate", "suite.yaml"],
        &[("HF_HUB_OFFLINE", "1")],
    );
    assert_eq!(status, Some(0), "{said}");
    assert_eq!(server.asked(), asked);
}

#[test]
fn a_manifest_is_optional_and_a_wrong_name_is_reported() {
    let server = Server::start(false);
    let to = [("HF_ENDPOINT", server.address.as_str())];
    let (status, _, said) = run(&bench(MODEL), &["score", "suite.yaml"], &to);
    assert_eq!(status, Some(0), "{said}");
    let wrong = bench("hf:mosaics/vq/onnx/other.onnx");
    let (status, _, said) = run(&wrong, &["score", "suite.yaml"], &to);
    assert_eq!(status, Some(2), "{said}");
    has(&said, &["other.onnx", "404", "hf download"]);
    let path = bench("mosaics/vq/onnx/other.onnx");
    let (_, _, said) = run(&path, &["score", "suite.yaml"], &to);
    has(
        &said,
        &["mosaics/vq/onnx/other.onnx does not exist; hf:mosaics"],
    );
    let form = bench("hf:vq.onnx");
    let (status, _, said) = run(&form, &["validate", "suite.yaml"], &to);
    assert_eq!(status, Some(2), "{said}");
    has(
        &said,
        &[
            "with.model",
            "found hf:vq.onnx",
            "hf:owner/name/path/to/file.onnx",
        ],
    );
}

/// The client appended the whole file to the half, and the cache kept it for good.
#[test]
fn a_download_that_is_resumed_and_retried_has_the_files_bytes() {
    let bench = bench(MODEL);
    let blobs = bench.path("home/hub/models--mosaics--vq/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let (graph, name) = (graph(), sha256(&graph()));
    let half = &graph[..graph.len() / 2];
    std::fs::write(blobs.join(format!("{name}.part")), half).unwrap();
    let server = Server::failing_once();
    let to = [("HF_ENDPOINT", server.address.as_str())];
    let (status, _, said) = run(&bench, &["score", "suite.yaml", "--out", "out"], &to);
    assert_eq!(status, Some(0), "{said}");
    assert!(std::fs::read(blobs.join(&name)).unwrap() == graph);
    assert_eq!(column(&bench.path("out"), "status"), ["ok", "ok"]);
}

/// Whatever an earlier download had left was taken for the file.
#[test]
fn a_damaged_file_in_the_cache_is_refused_or_downloaded_again() {
    let bench = bench(MODEL);
    let (graph, name) = (graph(), sha256(&graph()));
    // A field of protobuf that nobody knows is no error of the graph.
    let wrong = [&graph[..], &[0xf8, 0x07, 0x00]].concat();
    fill_with(&bench.path("home"), Some("main"), (&name, &wrong));
    let offline = [("HF_HUB_OFFLINE", "1")];
    let (status, _, said) = run(&bench, &["score", "suite.yaml"], &offline);
    assert_eq!(status, Some(2), "{said}");
    has(
        &said,
        &["is damaged in the hub's cache", &name, "--force-download"],
    );
    let server = Server::start(false);
    let to = [("HF_ENDPOINT", server.address.as_str())];
    let (status, _, said) = run(&bench, &["score", "suite.yaml", "--out", "out"], &to);
    assert_eq!(status, Some(0), "{said}");
    let blob = bench.path("home/hub/models--mosaics--vq/blobs").join(name);
    assert!(std::fs::read(blob).unwrap() == graph);
}

/// The manifest had stayed on the hub, and with it the labels that the training saw.
#[test]
fn a_graph_without_a_manifest_in_the_cache_is_noted_unless_the_row_speaks_of_labels() {
    let bench = bench(MODEL);
    fill(&bench.path("home"), Some("main"));
    let offline = [("HF_HUB_OFFLINE", "1")];
    let noted = || {
        let (status, _, said) = run(&bench, &["score", "suite.yaml", "--out", "out"], &offline);
        assert_eq!(status, Some(0), "{said}");
        said.matches("there is no manifest in the hub's cache")
            .count()
    };
    assert_eq!(noted(), 1);
    let text = std::fs::read_to_string(bench.path("suite.yaml")).unwrap();
    let text = text.replace("codebook_size:", "saw_labels: false, codebook_size:");
    std::fs::write(bench.path("suite.yaml"), text).unwrap();
    assert_eq!(noted(), 0);
}

/// A server with the part of the hub that a download uses: one graph and optionally its manifest.
struct Server {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(manifest: bool) -> Self {
        Self::of(manifest, false)
    }

    /// The first request for the graph itself fails.
    fn failing_once() -> Self {
        Self::of(false, true)
    }

    fn of(manifest: bool, mut fails: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                answer(&stream, manifest, &seen, &mut fails);
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(mut stream: &TcpStream, manifest: bool, seen: &Mutex<Vec<String>>, fails: &mut bool) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let Some(first) = lines.next() else { return };
    let headers: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    seen.lock().unwrap().push(path.clone());
    let body = match path.as_str() {
        "/mosaics/vq/resolve/main/onnx/ids.onnx" => graph(),
        "/mosaics/vq/resolve/main/onnx/ids.yaml" if manifest => {
            format!("sha256: \"{}\"\nlicence: \"CC0\"\n", sha256(&graph())).into_bytes()
        }
        _ => {
            let none = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(none.as_bytes());
            return;
        }
    };
    let range = headers.iter().find_map(|header| {
        let (name, value) = header.split_once(": ")?;
        let range = value.strip_prefix("bytes=")?.split_once('-')?;
        let end = range.1.parse().unwrap_or(body.len() - 1);
        name.eq_ignore_ascii_case("range")
            .then_some((range.0.parse().ok()?, end))
    });
    let (start, end): (usize, usize) = range.unwrap_or((0, body.len() - 1));
    if path.ends_with(".onnx") && end > 0 && std::mem::take(fails) {
        let busy =
            "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let _ = stream.write_all(busy.as_bytes());
        return;
    }
    let part = &body[start..=end.min(body.len() - 1)];
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nx-repo-commit: {COMMIT}\r\netag: \"{}\"\r\ncontent-length: {}\r\n\
         content-range: bytes {start}-{end}/{}\r\nconnection: close\r\n\r\n",
        sha256(&body),
        part.len(),
        body.len()
    );
    let _ = stream.write_all(head.as_bytes());
    let _ = stream.write_all(part);
}
