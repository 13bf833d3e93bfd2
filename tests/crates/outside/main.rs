//! A whole `bench` with a tokenizer of one's own: what README and CONTRIBUTING.md promise.

mod lloyd;
mod product_quantization;

use std::process::ExitCode;

use tessera::Registry;

fn main() -> ExitCode {
    tessera::bench(Registry::builtin().with(product_quantization::Factory))
}
