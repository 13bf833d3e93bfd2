//! Tessera: a benchmark harness for the visual tokenizers of masked image modeling.
//!
//! One suite file names a dataset and a list of tokenizers; `bench run` scores each without training, pretrains the
//! same ViT against each one's targets, probes and fine-tunes it, and tables the comparison. This crate is the program:
//! [`suite`] reads the file, [`data`] the images, [`metrics`] scores, [`store`] keeps what is finished, [`run`] puts them
//! together, and [`bench()`] is the command line. It re-exports the contracts that tokenizers and datasets are written
//! against, so that a crate with tokenizers or datasets of its own depends on `tessera` alone:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     tessera::bench(tessera::Registry::builtin()) // .with(MyTokenizer).with_dataset(MyDataset)
//! }
//! ```

mod cli;
pub mod data;
pub mod fetch;
pub mod folder;
pub mod metrics;
mod npy;
pub mod plan;
pub mod registry;
pub mod run;
mod sha256;
pub mod speed;
pub mod stages;
pub mod store;
pub mod submit;
pub mod suite;
pub mod theory;

pub use cli::{bench, bench_as};
pub use data::{
    DataError, DatasetFactory, DatasetSpec, Encoded, PixelSource, Pixels, Scan, ScanContext,
    SplitScan,
};
pub use registry::Registry;
pub use tessera_kernels as kernels;
pub use tessera_models as models;
pub use tessera_reports as reports;
pub use tessera_tokenizers as tokenizers;
pub use tessera_tokenizers::*;
