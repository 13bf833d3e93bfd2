//! Limits of the process that tries a graph.

use serde::{Deserialize, Serialize};

use crate::memory::free;
use crate::{Error, Result};

/// Environment variable that replaces the limit of memory, in MiB.
pub const MEMORY: &str = "TESSERA_ONNX_MEMORY";
/// Environment variable that replaces the limit of time, in seconds.
pub const SECONDS: &str = "TESSERA_ONNX_SECONDS";

const MIB: u64 = 1 << 20;

/// Limits of a trial.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of private memory that can be written, used or not.
    pub memory: u64,
    /// Seconds of processor time, of all threads together.
    pub seconds: u64,
}

impl Limits {
    /// Returns the limits for `graph` bytes of graph and external data, and calls of `images` bytes of f32 pixels and `threads` threads.
    ///
    /// # Errors
    /// If a variable is not a number, or 0.
    pub fn of(graph: u64, images: u64, threads: u64) -> Result<Self> {
        let usual = usual(graph, images, threads);
        let memory = variable(MEMORY, "MiB")?.map(|mib| mib.saturating_mul(MIB));
        Ok(Self {
            memory: memory.unwrap_or_else(|| usual.memory.min(most()).max(LEAST)),
            seconds: variable(SECONDS, "seconds")?.unwrap_or(usual.seconds),
        })
    }

    /// Adds limit and remedy to an engine's message about memory that it did not get.
    pub fn explained(self, message: String) -> String {
        match SIGNS.iter().any(|sign| message.contains(sign)) {
            true => self.added(&message),
            false => message,
        }
    }

    /// Adds limit and remedy of memory to a message.
    pub fn added(self, message: &str) -> String {
        format!(
            "{message}; the limit of memory is {} MiB: does the graph make tensors that no image needs? If you trust it, set {MEMORY} to more \
             MiB",
            self.memory / MIB
        )
    }
}

/// Parts of messages about memory: of allocators, and of the system about a thread's stack or a mapping.
const SIGNS: [&str; 4] = [
    "alloc",
    "Resource temporarily unavailable",
    "os error 11)",
    "os error 12)",
];

/// Bytes for the program, the engine and its stacks.
const LEAST: u64 = 1 << 30;

/// Returns limits that are a multiple of what real graphs need. Measured with a VQGAN's encoder of 118 MB (128 channels at the size of the
/// image) and one of 329 MB (216 channels), up to 16 images of 224 pixels: 3.2 times the graph; 120 and 170 times the pixels in rten, 570
/// and 1050 times in ONNX Runtime, whose arena doubles; 230 MiB for the rest. The trial of the larger one took 2.7 GiB in rten and 8.3 GiB
/// in ONNX Runtime, and 4.2 s of processor time per image in rten.
fn usual(graph: u64, images: u64, threads: u64) -> Limits {
    Limits {
        memory: LEAST + 16 * graph + 4096 * images + 16 * MIB * threads,
        // 200 s for an image of 224 pixels.
        seconds: (600 + images / 3000) * threads,
    }
}

/// Returns three quarters of the bytes that are free: this process and others need some.
fn most() -> u64 {
    free().map_or(u64::MAX, |bytes| bytes / 4 * 3)
}

fn variable(name: &str, unit: &str) -> Result<Option<u64>> {
    let Some(found) = std::env::var_os(name).filter(|found| !found.is_empty()) else {
        return Ok(None);
    };
    let number = found.to_str().and_then(|found| found.parse().ok());
    // The system takes a limit of 0 for none, or ends the process at once.
    number.filter(|number| *number > 0).map(Some).ok_or_else(|| Error::Engine {
        engine: "ONNX".into(),
        message: format!(
            "{name}={}: expected a whole number of {unit}, at least 1; without the variable, the limit follows from the graph",
            found.display()
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// docs/onnx.md states them.
    #[test]
    fn limits_follow_from_graph_images_and_threads() {
        let images = 16 * 3 * 224 * 224 * 4;
        let limits = usual(100 * MIB, images, 2);
        assert_eq!(limits.memory, MIB * (1024 + 1600 + 32) + 4096 * images);
        assert_eq!(limits.seconds, 2 * (600 + 16 * 200 + 11));
    }

    #[test]
    fn only_messages_about_memory_get_the_remedy() {
        let limits = usual(0, 0, 1);
        let said = limits.explained("std::bad_alloc".into());
        assert!(
            said.contains("is 1040 MiB") && said.contains(MEMORY),
            "{said}"
        );
        assert_eq!(
            limits.explained("no operator `X`".into()),
            "no operator `X`"
        );
    }
}
