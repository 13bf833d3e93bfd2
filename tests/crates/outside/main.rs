//! A whole `bench` with a tokenizer and a dataset of one's own, as README and CONTRIBUTING.md describe.

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
