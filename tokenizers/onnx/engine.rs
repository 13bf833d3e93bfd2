//! Which engine runs ONNX graphs: chosen once per process.
//!
//! ONNX Runtime is opened at run time: `ORT_DYLIB_PATH`, the system's library, the active Python environment's
//! `onnxruntime` package, in this order. Where none opens, tract, which is part of the program. `TESSERA_ONNX=tract` asks for
//! tract, `TESSERA_ONNX=onnxruntime` for ONNX Runtime and refuses to do without, `TESSERA_ONNX=cuda` too, and asks it for its CUDA
//! provider. Without that variable a run on a device asks for the provider by itself. A library or a machine without CUDA says so
//! once and runs on the CPU.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use ort::environment::Environment;
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::Session;
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};

use crate::{Error, Result};

/// The engine of this process, with the CUDA provider or without.
pub struct Engine {
    /// "onnxruntime 1.24.4" or "tract 0.23".
    pub name: String,
    opener: Opener,
    /// Whether it is tract.
    embedded: bool,
    /// Why it is not what was asked for.
    note: Option<String>,
    noted: AtomicBool,
}

/// Opens sessions.
#[derive(Clone)]
pub struct Opener {
    environment: Environment,
    /// Whether graphs run in the CUDA provider.
    cuda: bool,
}

impl Engine {
    /// Images per call of a session, a constant (the rest is padded), so that a value does not depend on its neighbours. One at a
    /// time in tract, whose sums depend on where in the batch an image lies (about 1e-6), and which is no faster with more.
    pub fn batch(&self) -> usize {
        if self.embedded { 1 } else { 16 }
    }

    /// Threads of a call where `asked` are asked for: one, so that calls run side by side instead, and always one in tract.
    pub fn threads(&self, asked: Option<NonZeroUsize>) -> usize {
        match asked {
            Some(threads) if !self.embedded => threads.get(),
            _ => 1,
        }
    }

    /// What opens its sessions.
    pub fn opener(&self) -> Opener {
        self.opener.clone()
    }

    /// Why it is not what was asked for, to the first who asks.
    pub fn note_once(&self) -> Option<&str> {
        let note = self.note.as_deref()?;
        (!self.noted.swap(true, Ordering::Relaxed)).then_some(note)
    }

    fn new(name: String, environment: Environment, embedded: bool) -> Self {
        Self {
            name,
            opener: Opener {
                environment,
                cuda: false,
            },
            embedded,
            note: None,
            noted: AtomicBool::new(false),
        }
    }

    /// The same with its CUDA provider, which `who` asks for, or with a note why not.
    fn with_cuda(&self, who: &str) -> Self {
        let environment = self.opener.environment.clone();
        let mut new = Self::new(self.name.clone(), environment, self.embedded);
        let tried = match self.embedded {
            true => Err("has none".into()),
            false => new.opener.try_cuda(),
        };
        match tried {
            Ok(()) => {
                new.opener.cuda = true;
                new.name.push_str(" cuda");
            }
            Err(reason) => {
                new.note = Some(format!(
                    "{who} asks for a CUDA provider: {}: {reason}; ONNX graphs run on the CPU. The Python package onnxruntime-gpu \
                     has the provider",
                    self.name
                ));
            }
        }
        new
    }
}

/// Sessions of a graph in the CUDA provider: one computes while another's images are on their way.
const CUDA_SESSIONS: usize = 2;

impl Opener {
    /// How many sessions of a graph may run at a time, whatever the number of threads.
    pub fn most_sessions(&self) -> usize {
        match self.cuda {
            true => CUDA_SESSIONS,
            false => usize::MAX,
        }
    }

    /// A session of the graph in `bytes`, whose calls take `threads` threads.
    ///
    /// # Errors
    /// When it is no graph that the engine reads.
    pub fn session(&self, bytes: &[u8], threads: usize) -> Result<Session, ort::Error> {
        let mut builder = Session::builder(&self.environment)?;
        // ONNX Runtime's default; without it tract runs the graph as it was written, several times slower.
        builder = kept(builder.with_optimization_level(GraphOptimizationLevel::Level3));
        // tract has no such option and one thread anyway.
        builder = kept(builder.with_intra_threads(threads));
        if self.cuda {
            builder =
                builder.with_execution_providers([CUDA::default().build().error_on_failure()])?;
        }
        builder.commit_from_memory(bytes)
    }

    /// Whether a session can have the CUDA provider.
    fn try_cuda(&self) -> Result<(), String> {
        let first = |e: &dyn std::fmt::Display| -> String {
            e.to_string().lines().next().unwrap_or_default().to_owned()
        };
        if !CUDA::is_available().map_err(|e| first(&e))? {
            return Err("this library was built without CUDA".into());
        }
        let builder = Session::builder(&self.environment).map_err(|e| first(&e))?;
        let provider = CUDA::default().build().error_on_failure();
        match builder.with_execution_providers([provider]) {
            Ok(_) => Ok(()),
            Err(refused) => Err(first(&refused)),
        }
    }
}

/// The builder with an option, or without it where the engine has no such option.
fn kept(result: Result<SessionBuilder, ort::Error<SessionBuilder>>) -> SessionBuilder {
    result.unwrap_or_else(ort::Error::recover)
}

const VARIABLE: &str = "TESSERA_ONNX";
const TRACT: &str = "tract 0.23";

static ENGINE: OnceLock<Result<Engine, String>> = OnceLock::new();
static WITH_CUDA: OnceLock<Engine> = OnceLock::new();

/// The engine, started by the first caller; of a run on a device, with the CUDA provider unless [`VARIABLE`] says what is wanted.
///
/// # Errors
/// [`Error::Engine`] when none starts.
pub fn engine(on_device: bool) -> Result<&'static Engine> {
    let started = ENGINE.get_or_init(start).as_ref();
    let engine = started.map_err(|message| Error::Engine {
        engine: "ONNX".into(),
        message: message.clone(),
    })?;
    let who = match wish().as_str() {
        "cuda" => "TESSERA_ONNX=cuda",
        "" if on_device => "a run on a GPU",
        _ => return Ok(engine),
    };
    Ok(WITH_CUDA.get_or_init(|| engine.with_cuda(who)))
}

fn wish() -> String {
    std::env::var(VARIABLE).unwrap_or_default()
}

/// Lines for `bench doctor`.
pub fn engines() -> Vec<(String, String)> {
    let line = match engine(false) {
        Ok(engine) if engine.embedded => format!(
            "{}, embedded; several times slower than ONNX Runtime, fine for small models. For real encoders: pip install \
             onnxruntime (1.24 or newer) in an active environment, or ORT_DYLIB_PATH=/path/to/libonnxruntime.so",
            engine.name
        ),
        Ok(engine) => match &engine.note {
            Some(note) => format!("{}; {note}", engine.name),
            None => engine.name.clone(),
        },
        Err(error) => error.to_string(),
    };
    vec![("ONNX".to_owned(), line)]
}

fn start() -> Result<Engine, String> {
    let wish = wish();
    if !["", "tract", "onnxruntime", "cuda"].contains(&wish.as_str()) {
        return Err(format!(
            "{VARIABLE}={wish}: expected tract, onnxruntime or cuda"
        ));
    }
    if wish != "tract" {
        for library in candidates() {
            // ort opens what the path names; a library that is absent or too old is no error of the user's.
            if let Ok(builder) = ort::init_from(&library) {
                let environment = builder.build().map_err(|e| e.to_string())?;
                let name = format!("onnxruntime {}", version(&library));
                return Ok(Engine::new(name, environment, false));
            }
        }
    }
    if !["", "tract"].contains(&wish.as_str()) {
        return Err(format!(
            "{VARIABLE}={wish}, but no libonnxruntime 1.24 or newer opens; pip install onnxruntime in an active environment, or \
             set ORT_DYLIB_PATH"
        ));
    }
    ort::set_api(ort_tract::api());
    let environment = ort::init().build().map_err(|e| e.to_string())?;
    Ok(Engine::new(TRACT.into(), environment, true))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_on_a_device_asks_for_cuda_and_says_once_why_it_has_none() {
        let (plain, asked) = (engine(false).unwrap(), engine(true).unwrap());
        if !wish().is_empty() {
            // The variable overrides, for both.
            assert_eq!(plain.name, asked.name);
            return;
        }
        if asked.opener.cuda {
            assert_eq!(asked.name, format!("{} cuda", plain.name));
            return;
        }
        assert_eq!(asked.name, plain.name);
        assert!(plain.note.is_none());
        let note = asked.note.as_deref().unwrap();
        assert!(
            note.starts_with("a run on a GPU asks for a CUDA provider")
                && note.contains(&plain.name),
            "{note}"
        );
    }
}
