//! Decoding and rendering of image files.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use tessera_tokenizers::{InputSpec, Split};

use super::case::{Request, median_seconds, unknown_preset};
use super::noise::SHARD;
use crate::data::{Dataset, EvalTransform, ViewPlan};

/// Side of the tensors in pixels after the evaluation transform.
pub(super) const PRESETS: &[&str] = &["eval-224"];

/// Number of decoded files, the same as in the scripts of the compared libraries.
const FILES: usize = 400;

/// Measures images per second from files to tensors under the evaluation transform.
pub(super) fn decode(request: &Request<'_>) -> anyhow::Result<f64> {
    let Some(side) = request
        .preset
        .strip_prefix("eval-")
        .and_then(|s| s.parse().ok())
        .filter(|side| (1..=1 << 14).contains(side))
    else {
        return Err(unknown_preset(request.preset, PRESETS));
    };
    let Some(folder) = &request.options.data else {
        anyhow::bail!("expected --data DIR, a folder of class folders of images");
    };
    let eval = EvalTransform {
        resize_shorter: side * 8 / 7,
        crop: side,
    };
    let dataset = Dataset::of_files(&files(folder)?)?;
    let all: Vec<usize> = (0..dataset.len(Split::Val)).collect();
    let input = InputSpec::imagenet(side);
    let one = |shard: &[usize]| -> anyhow::Result<()> {
        let view = dataset.view(Split::Val, shard, ViewPlan::Eval, eval)?;
        std::hint::black_box(view.as_view().render(&input)?);
        Ok(())
    };
    let seconds = median_seconds(|| all.par_chunks(SHARD).map(one).collect())?;
    Ok(all.len() as f64 / seconds)
}

/// Lists the first images in a folder of class folders.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    use anyhow::Context as _;
    let list = |folder: &Path| -> anyhow::Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let paths = entries.map(|entry| Ok(entry?.path()));
        let mut paths: Vec<PathBuf> = paths.collect::<std::io::Result<_>>()?;
        paths.sort_unstable();
        Ok(paths)
    };
    let mut files = Vec::new();
    for class in list(folder)?.into_iter().filter(|path| path.is_dir()) {
        files.extend(list(&class)?);
    }
    files.truncate(FILES);
    anyhow::ensure!(
        !files.is_empty(),
        "{}: found no images, expected class folders with images in them",
        folder.display()
    );
    Ok(files)
}
