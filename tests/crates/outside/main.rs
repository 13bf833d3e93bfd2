//! A complete `bench` with a custom tokenizer, as described in README and CONTRIBUTING.md.

mod lloyd;
mod product_quantization;

use std::process::ExitCode;

use tessera::Registry;

fn main() -> ExitCode {
    tessera::bench(Registry::builtin().with(product_quantization::Factory))
}
