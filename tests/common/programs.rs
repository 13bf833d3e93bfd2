//! Programs for `kind: command` and `kind: python`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Returns the compiled `examples/command_tokenizer.rs`. `cargo test --test NAME` compiles no examples.
pub fn tokenizer() -> &'static Path {
    static BUILT: OnceLock<(tempfile::TempDir, PathBuf)> = OnceLock::new();
    let (_, program) = BUILT.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("command_tokenizer");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/command_tokenizer.rs");
        let compiler = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut rustc = Command::new(compiler);
        rustc.args(["--edition", "2024", "-O", "-o"]);
        let built = rustc.arg(&program).arg(source).output().unwrap();
        assert!(built.status.success(), "{}", super::error(&built));
        (folder, program)
    });
    program
}

/// The function of [`tokenizer`] with patches of 4 pixels and 8 codes, and others, for `kind: python`.
pub const PYTHON: &str = "
import os, sys
import numpy as np

print('a module that prints')

def largest(images, patch, codes):
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // patch, patch, width // patch, patch)
    return (patches.max((1, 3, 5)) * np.float32(codes - 1)).astype(np.int32)

def tokenize(images):
    print('a function that prints')
    return largest(images, 4, 8)

def flat(images):
    return largest(images, 4, 8).reshape(len(images), -1)

def codes(images):
    ids = tokenize(images)
    return np.stack([ids // 4, ids % 4], -1)

def above(images):
    return tokenize(images) + 1

def masked(images):
    return np.ma.masked_less(tokenize(images), 3)

def beside(images):
    return tokenize(images - images.mean() + 0.1 > 0)

def in_eighths(images):
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // 4, 4, width // 4, 4)
    return np.clip(patches.mean((1, 3, 5)) * 8, 0, 7).astype(int)

def largest_of(images):
    return in_eighths(images / images.max())

def smallest_of(images):
    return in_eighths(images - images.min())

def spread_of(images):
    return in_eighths(images / images.std() / 4)

def quantile_of(images):
    return in_eighths(images / np.quantile(images, 0.9))

def alone(images):
    assert len(images) == 1
    return beside(images)

def random(images):
    return np.random.randint(0, 8, tokenize(images).shape)

STARTS = []

def of_process(images):
    if not STARTS:
        open('starts', 'a').write('x')
        STARTS.append(os.path.getsize('starts'))
    return (tokenize(images) + STARTS[0]) % 8

def means(images):
    batch, channels, height, width = images.shape
    patches = images.reshape(batch, channels, height // 4, 4, width // 4, 4)
    return patches.mean((3, 5)).transpose(0, 2, 3, 1)

class Tensor:
    def __init__(self, array): self.array = array
    def detach(self): return self
    def cpu(self): return self
    def is_floating_point(self): return False
    def numpy(self): return self.array

def tensor(images):
    return Tensor(tokenize(images))

def fails(images):
    raise ValueError('no such code')

def hangs(images):
    while True:
        pass

def listed(images):
    return tokenize(images).tolist()
";

/// Returns whether `python3` has NumPy. Without it, it prints that this half of the test is skipped.
pub fn python() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    let found = *FOUND.get_or_init(|| {
        let import = Command::new("python3")
            .args(["-c", "import numpy"])
            .output();
        import.is_ok_and(|import| import.status.success())
    });
    if !found {
        super::skipped("no python3 with NumPy on PATH for `kind: python`");
    }
    found
}
