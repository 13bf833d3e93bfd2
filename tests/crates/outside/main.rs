//! A complete `bench` with a custom tokenizer and a custom dataset, as described in README and CONTRIBUTING.md.

mod gradients;
mod lloyd;
mod product_quantization;

use std::process::ExitCode;

use tessera::Registry;

fn main() -> ExitCode {
    tessera::bench(
        Registry::builtin()
            .with(product_quantization::Factory)
            .with_dataset(gradients::Factory),
    )
}
