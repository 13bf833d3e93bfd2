//! SHA-256 of files.

use std::io::Read;
use std::path::Path;

use ring::digest::{Context, SHA256};
use tessera_models::{ReadOn, files};

/// Returns the SHA-256 of a file in hexadecimal digits, as `sha256sum` prints it. Calls `before_block` for every MiB.
///
/// # Errors
/// If the file cannot be read, or an error of `before_block`.
pub fn sha256(
    path: &Path,
    before_block: impl Fn() -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let mut file = ReadOn(files::open(path)?);
    let mut digest = Context::new(&SHA256);
    let mut block = vec![0; 1 << 20];
    loop {
        before_block()?;
        match file.read(&mut block)? {
            0 => break,
            count => digest.update(&block[..count]),
        }
    }
    let digest = digest.finish();
    Ok(digest.as_ref().iter().map(|b| format!("{b:02x}")).collect())
}
