//! Which engine runs ONNX graphs: chosen once per process.
//!
//! ONNX Runtime is opened at run time: `ORT_DYLIB_PATH`, the system's library, the active Python environment's
//! `onnxruntime` package, in this order. Where none opens, tract, which is part of the program. `TESSERA_ONNX=tract` asks for
//! tract, `TESSERA_ONNX=onnxruntime` refuses to do without ONNX Runtime.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use ort::environment::Environment;

use crate::{Error, Result};

/// The engine of this process.
pub struct Engine {
    /// "onnxruntime 1.24.4" or "tract 0.23".
    pub name: String,
    /// Where ort keeps it.
    pub environment: Environment,
    /// Whether it is tract.
    pub embedded: bool,
}

impl Engine {
    /// Images per call of a session, a constant (the rest is padded), so that a value does not depend on its neighbours. One at a
    /// time in tract, whose sums depend on where in the batch an image lies (about 1e-6), and which is no faster with more.
    pub fn batch(&self) -> usize {
        if self.embedded { 1 } else { 16 }
    }
}

const VARIABLE: &str = "TESSERA_ONNX";
const TRACT: &str = "tract 0.23";

static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();

/// The engine, started by the first caller.
///
/// # Errors
/// [`Error::Engine`] when none starts.
pub fn engine() -> Result<&'static Engine> {
    let started = ENGINE.get_or_init(start).as_ref();
    started.map_err(|message| Error::Engine {
        engine: "ONNX".into(),
        message: message.clone(),
    })
}

/// Lines for `bench doctor`.
pub fn engines() -> Vec<(String, String)> {
    let line = match engine() {
        Ok(engine) if engine.embedded => format!(
            "{}, embedded; several times slower than ONNX Runtime, fine for small models. For real encoders: pip install \
             onnxruntime (1.24 or newer) in an active environment, or ORT_DYLIB_PATH=/path/to/libonnxruntime.so",
            engine.name
        ),
        Ok(engine) => engine.name.clone(),
        Err(error) => error.to_string(),
    };
    vec![("ONNX".to_owned(), line)]
}

fn start() -> Result<Engine, String> {
    let wish = std::env::var(VARIABLE).unwrap_or_default();
    if !["", "tract", "onnxruntime"].contains(&wish.as_str()) {
        return Err(format!("{VARIABLE}={wish}: expected tract or onnxruntime"));
    }
    if wish != "tract" {
        for library in candidates() {
            // ort opens what the path names; a library that is absent or too old is no error of the user's.
            if let Ok(builder) = ort::init_from(&library) {
                let environment = builder.build().map_err(|e| e.to_string())?;
                let name = format!("onnxruntime {}", version(&library));
                return Ok(Engine {
                    name,
                    environment,
                    embedded: false,
                });
            }
        }
    }
    if wish == "onnxruntime" {
        return Err(format!(
            "{VARIABLE}=onnxruntime, but no libonnxruntime 1.24 or newer opens; pip install onnxruntime in an active environment, or \
             set ORT_DYLIB_PATH"
        ));
    }
    ort::set_api(ort_tract::api());
    let environment = ort::init().build().map_err(|e| e.to_string())?;
    Ok(Engine {
        name: TRACT.into(),
        environment,
        embedded: true,
    })
}

/// Where a libonnxruntime may be, best first.
fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|v| !v.is_empty()) {
        return vec![path.into()];
    }
    let names: &[&str] = if cfg!(target_os = "windows") {
        &["onnxruntime.dll"]
    } else if cfg!(target_os = "macos") {
        &["libonnxruntime.dylib"]
    } else {
        &["libonnxruntime.so", "libonnxruntime.so.1"]
    };
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(prefix) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
            found.extend(in_environment(Path::new(&prefix)));
        }
    }
    let system = [
        "/usr/lib",
        "/usr/local/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/opt/homebrew/lib",
    ];
    for folder in system {
        found.extend(names.iter().map(|name| Path::new(folder).join(name)));
    }
    found.retain(|path| path.is_file());
    found
}

/// `PREFIX/lib/python3.*/site-packages/onnxruntime/capi/libonnxruntime.*`.
fn in_environment(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for python in std::fs::read_dir(prefix.join("lib"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let folder = python.path().join("site-packages/onnxruntime/capi");
        for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if file
                .file_name()
                .to_string_lossy()
                .starts_with("libonnxruntime.")
            {
                found.push(file.path());
            }
        }
    }
    found.sort();
    found
}

/// "1.24.4", from the build information or the file's name.
fn version(library: &Path) -> String {
    let info = ort::info();
    let real = library
        .canonicalize()
        .unwrap_or_else(|_| library.to_owned());
    let name = real
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let digits = |text: &str| -> Option<String> {
        let start = text.find(|c: char| c.is_ascii_digit())?;
        let version: String = text[start..]
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        let version = version.trim_end_matches('.').to_owned();
        (version.matches('.').count() >= 2).then_some(version)
    };
    let of_branch = info.split("rel-").nth(1).and_then(digits);
    of_branch
        .or_else(|| digits(&name))
        .unwrap_or_else(|| info.to_owned())
}
