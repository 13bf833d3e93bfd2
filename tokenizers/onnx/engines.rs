//! Chooses the engine for ONNX graphs, once per process.
//!
//! The default is ONNX Runtime if its library is found, else the embedded rten. `TESSERA_ONNX=rten` forces rten,
//! `TESSERA_ONNX=onnxruntime` requires ONNX Runtime, and `TESSERA_ONNX=cuda` requires it and requests its CUDA provider. Without
//! the variable a run on a device requests the provider too. If the provider is not available, one note says so and graphs run on
//! the CPU.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::engine::Engine;
use super::onnxruntime::OnnxRuntime;
use super::rten::Rten;
use crate::{Error, Result};

/// The engine of this process, with or without the CUDA provider.
pub struct Chosen {
    found: Found,
    /// Why it is not the requested one.
    note: Option<String>,
    noted: AtomicBool,
}

enum Found {
    OnnxRuntime(OnnxRuntime),
    Rten(Rten),
}

impl Chosen {
    fn new(found: Found, note: Option<String>) -> Self {
        Self {
            found,
            note,
            noted: AtomicBool::new(false),
        }
    }

    /// The engine.
    pub fn engine(&self) -> &dyn Engine {
        match &self.found {
            Found::OnnxRuntime(engine) => engine,
            Found::Rten(engine) => engine,
        }
    }

    /// Returns why it is not the requested one, on the first call only.
    pub fn note_once(&self) -> Option<&str> {
        let note = self.note.as_deref()?;
        (!self.noted.swap(true, Ordering::Relaxed)).then_some(note)
    }

    /// Returns the same engine with its CUDA provider, which `who` requests, or with a note why that failed.
    fn with_cuda(&self, who: &str) -> Self {
        let (same, reason) = match &self.found {
            Found::OnnxRuntime(engine) => match engine.with_cuda() {
                Ok(with) => return Self::new(Found::OnnxRuntime(with), None),
                Err(reason) => (Found::OnnxRuntime(engine.clone()), reason),
            },
            Found::Rten(_) => (Found::Rten(Rten), "it has none".into()),
        };
        let note = format!(
            "{who} requests a CUDA provider: {}: {reason}; ONNX graphs run on the CPU. The Python package onnxruntime-gpu has the \
             provider",
            self.engine().name()
        );
        Self::new(same, Some(note))
    }
}

const VARIABLE: &str = "TESSERA_ONNX";

static ENGINE: OnceLock<Result<Chosen, String>> = OnceLock::new();
static WITH_CUDA: OnceLock<Chosen> = OnceLock::new();

/// Returns the engine; the first call starts it. A run on a device gets the CUDA provider unless [`VARIABLE`] chooses an engine.
///
/// # Errors
/// [`Error::Engine`] if no engine starts.
pub fn chosen(on_device: bool) -> Result<&'static Chosen> {
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

/// Returns lines for `bench doctor`: label and text.
pub fn engines() -> Vec<(String, String)> {
    let line = match chosen(false) {
        Ok(chosen) => match (&chosen.found, &chosen.note) {
            (Found::Rten(engine), _) => format!(
                "{}, embedded; up to three times slower than ONNX Runtime. To use that: pip install onnxruntime (1.24 or newer) in an \
                 active environment, or set ORT_DYLIB_PATH=/path/to/libonnxruntime.so",
                engine.name()
            ),
            (Found::OnnxRuntime(engine), Some(note)) => format!("{}; {note}", engine.name()),
            (Found::OnnxRuntime(engine), None) => engine.name().to_owned(),
        },
        Err(error) => error.to_string(),
    };
    vec![("ONNX".to_owned(), line)]
}

fn start() -> Result<Chosen, String> {
    let wish = wish();
    let embedded = match wish.as_str() {
        "rten" => return Ok(Chosen::new(Found::Rten(Rten::start()), None)),
        "" => true,
        "onnxruntime" | "cuda" => false,
        "tract" => {
            return Err(format!(
                "{VARIABLE}=tract: rten has replaced tract as the embedded engine; write {VARIABLE}=rten"
            ));
        }
        _ => {
            return Err(format!(
                "{VARIABLE}={wish}: expected rten, onnxruntime or cuda"
            ));
        }
    };
    match OnnxRuntime::find()? {
        Some(engine) => Ok(Chosen::new(Found::OnnxRuntime(engine), None)),
        None if embedded => Ok(Chosen::new(Found::Rten(Rten::start()), None)),
        None => Err(format!(
            "{VARIABLE}={wish}, but no libonnxruntime 1.24 or newer loads; pip install onnxruntime in an active environment, or \
             set ORT_DYLIB_PATH"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_on_a_device_requests_cuda_or_notes_why_it_is_missing() {
        let (plain, on_gpu) = (chosen(false).unwrap(), chosen(true).unwrap());
        let [plain_name, name] = [plain, on_gpu].map(|chosen| chosen.engine().name());
        if !wish().is_empty() {
            // The variable decides for both.
            assert_eq!(plain_name, name);
            return;
        }
        if name.starts_with(&format!("{plain_name} cuda, ")) {
            assert!(on_gpu.note.is_none());
            return;
        }
        assert_eq!(name, plain_name);
        assert!(plain.note.is_none());
        let note = on_gpu.note.as_deref().unwrap();
        assert!(
            note.starts_with("a run on a GPU requests a CUDA provider")
                && note.contains(plain_name),
            "{note}"
        );
    }
}
