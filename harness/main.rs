//! The `bench` program: the command line over the built-in tokenizers.

use std::process::ExitCode;

fn main() -> ExitCode {
    tessera::bench(tessera::Registry::builtin())
}
