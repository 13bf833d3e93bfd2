//! The arguments of `bench fetch`.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::data::Fetched;

/// Options of `fetch`.
#[derive(Debug, Args)]
pub struct FetchOptions {
    /// The dataset; without it, list all [folder: $TESSERA_DATA or tessera/data in the user's cache]
    #[arg(value_parser = PossibleValuesParser::new(Fetched::ALL.map(Fetched::name))
        .try_map(|name| Fetched::named(&name).ok_or("no such dataset")))]
    pub dataset: Option<Fetched>,
    /// Another address of the archive, or its path, for a machine without network; its checksum must be the official one
    #[arg(long, value_name = "URL|FILE", requires = "dataset")]
    pub from: Option<String>,
    /// The SHA-256 that the archive of --from must have in place of the official one
    #[arg(long, value_name = "HEX", requires = "from")]
    pub sha256: Option<String>,
}
