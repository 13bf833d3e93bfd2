//! Which engine runs ONNX graphs: chosen once per process.
//!
//! ONNX Runtime where a library of it is found, else rten, which is part of the program. `TESSERA_ONNX=rten` asks for rten,
//! `TESSERA_ONNX=onnxruntime` for ONNX Runtime and refuses to do without, `TESSERA_ONNX=cuda` too, and asks it for its CUDA
//! provider. Without that variable a run on a device asks for the provider by itself. A library or a machine without CUDA says so
//! once and runs on the CPU.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::engine::Engine;
use super::onnxruntime::OnnxRuntime;
use super::rten::Rten;
use crate::{Error, Result};

/// The engine of this process, with the CUDA provider or without.
pub struct Chosen {
    found: Found,
    /// Why it is not what was asked for.
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

    /// Why it is not what was asked for, to the first who asks.
    pub fn note_once(&self) -> Option<&str> {
        let note = self.note.as_deref()?;
        (!self.noted.swap(true, Ordering::Relaxed)).then_some(note)
    }

    /// The same with its CUDA provider, which `who` asks for, or with a note why not.
    fn with_cuda(&self, who: &str) -> Self {
        let (same, reason) = match &self.found {
            Found::OnnxRuntime(engine) => match engine.with_cuda() {
                Ok(with) => return Self::new(Found::OnnxRuntime(with), None),
                Err(reason) => (Found::OnnxRuntime(engine.clone()), reason),
            },
            Found::Rten(_) => (Found::Rten(Rten), "has none".into()),
        };
        let note = format!(
            "{who} asks for a CUDA provider: {}: {reason}; ONNX graphs run on the CPU. The Python package onnxruntime-gpu has the \
             provider",
            self.engine().name()
        );
        Self::new(same, Some(note))
    }
}

const VARIABLE: &str = "TESSERA_ONNX";

static ENGINE: OnceLock<Result<Chosen, String>> = OnceLock::new();
static WITH_CUDA: OnceLock<Chosen> = OnceLock::new();

/// The engine, started by the first caller; of a run on a device, with the CUDA provider unless [`VARIABLE`] says what is wanted.
///
/// # Errors
/// [`Error::Engine`] when none starts.
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

/// Lines for `bench doctor`.
pub fn engines() -> Vec<(String, String)> {
    let line = match chosen(false) {
        Ok(chosen) => match (&chosen.found, &chosen.note) {
            (Found::Rten(engine), _) => format!(
                "{}, embedded; up to three times slower than ONNX Runtime. For that: pip install onnxruntime (1.24 or newer) in an \
                 active environment, or ORT_DYLIB_PATH=/path/to/libonnxruntime.so",
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
            "{VARIABLE}={wish}, but no libonnxruntime 1.24 or newer opens; pip install onnxruntime in an active environment, or \
             set ORT_DYLIB_PATH"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_on_a_device_asks_for_cuda_and_says_once_why_it_has_none() {
        let (plain, asked) = (chosen(false).unwrap(), chosen(true).unwrap());
        let [plain_name, name] = [plain, asked].map(|chosen| chosen.engine().name());
        if !wish().is_empty() {
            // The variable overrides, for both.
            assert_eq!(plain_name, name);
            return;
        }
        if name == format!("{plain_name} cuda") {
            assert!(asked.note.is_none());
            return;
        }
        assert_eq!(name, plain_name);
        assert!(plain.note.is_none());
        let note = asked.note.as_deref().unwrap();
        assert!(
            note.starts_with("a run on a GPU asks for a CUDA provider")
                && note.contains(plain_name),
            "{note}"
        );
    }
}
