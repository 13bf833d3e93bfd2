//! `bench tokenize`: writes a split's targets as `.npy`, with labels and file names in the same order.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use tessera_models::files;
use tessera_tokenizers::{Split, Tokenizer};

use super::room::check_memory;
use super::{Depth, scanned};
use crate::data::ViewPlan;
use crate::npy;
use crate::plan::graph::{Graph, Node};
use crate::plan::walk::{Mode, Walk, Watch};
use crate::stages::common::context::Context;
use crate::stages::common::stage::{Artifact, Done, Product};
use crate::stages::common::targets::write_targets;
use crate::store::{self, write_atomic};
use crate::suite::Row;

/// The written files.
#[derive(Clone, Debug)]
pub struct TokenFiles {
    /// Number of images.
    pub images: usize,
    /// Patches per image.
    pub patches: usize,
    /// `NAME.labels.npy`, u32 `[images]`.
    pub labels: PathBuf,
    /// `NAME.files.txt`, one name per line.
    pub files: PathBuf,
}

/// Writes the targets of `split` under the evaluation transform for the suite's only row: ids u32 `[images, patches]`, or
/// values f32 `[images, patches, dim]`.
///
/// # Errors
/// If the row has no tokenizer, if a pipe or a device is at the place of a file, and as for [`run`](super::run).
pub fn tokenize_split(cx: &Context<'_>, split: Split, out: &Path) -> anyhow::Result<TokenFiles> {
    let row = cx
        .suite
        .rows
        .first()
        .ok_or_else(|| anyhow!("the suite has no row"))?;
    if let Some(reason) = &row.skip {
        return Err(anyhow!("row {:?} is skipped: {reason}", row.name));
    }
    let places = Places::of(out)?;
    refuse_other(&places)?;
    let beside = files::beside(&places.out);
    store::sweep(beside.parent().unwrap_or(out));
    // Before any work, because a tokenizer may run for hours.
    let created = match places.out.is_dir() {
        true => Err(std::io::ErrorKind::IsADirectory.into()),
        false => fs::write(&beside, b""),
    };
    let remedy = "choose a writable file with --out";
    created.with_context(|| format!("{}: {remedy}", places.out.display()))?;
    let written = write_row(cx, row, (split, &places), &beside);
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

/// The regular files to write, at the end of links.
struct Places {
    out: PathBuf,
    labels: PathBuf,
    names: PathBuf,
}

impl Places {
    /// Returns the places of `out` and of the files that are named after it.
    ///
    /// # Errors
    /// The file with a pipe or a device at its place, and the remedy: three files cannot go into one pipe.
    fn of(out: &Path) -> anyhow::Result<Self> {
        let place = |path: &Path| {
            let remedy =
                "name a regular file with --out, because labels and names are written beside it";
            let found = files::output_file(path);
            found.map_err(|error| anyhow!("{}: {error}; {remedy}", path.display()))
        };
        Ok(Self {
            out: place(out)?,
            labels: place(&sibling(out, ".labels.npy")?)?,
            names: place(&sibling(out, ".files.txt")?)?,
        })
    }
}

/// Refuses to replace a file that is no `.npy` file, and names that no earlier call has written.
///
/// # Errors
/// The file, and the remedy.
fn refuse_other(Places { out, labels, names }: &Places) -> anyhow::Result<()> {
    const MAGIC: &[u8] = b"\x93NUMPY";
    let is_other = |path: &Path| {
        let bytes = files::open(path).and_then(|file| {
            let mut first = Vec::new();
            file.take(MAGIC.len() as u64).read_to_end(&mut first)?;
            Ok(first)
        });
        bytes.is_ok_and(|first| !first.is_empty() && first != MAGIC)
    };
    let written = |path: &Path| path.exists() && !is_other(path);
    let others = [out, labels].into_iter().find(|path| is_other(path));
    // A call that ended early leaves labels and names.
    let alone = names.exists() && !written(out) && !written(labels);
    match others.or(alone.then_some(names)) {
        None => Ok(()),
        Some(other) => bail!(
            "{}: a file is there that may be of another program; name another file with --out, or move this one",
            other.display()
        ),
    }
}

/// Writes the targets to `beside`, then the labels and names next to `out`, and renames `beside` to `out`.
fn write_row(
    cx: &Context<'_>,
    row: &Row,
    (split, places): (Split, &Places),
    beside: &Path,
) -> anyhow::Result<TokenFiles> {
    let images = scanned(cx)?;
    if images.dataset.len(split) == 0 {
        bail!(
            "--split {}: found no images in this split of {}; expected the other split, or images in it",
            split.name(),
            cx.suite.path.display()
        );
    }
    let graph = Graph::of(cx)?;
    let is_tokenizer = |node: &Node<'_>| {
        let wanted = Depth::Score.covers(node) && node.row.name == row.name;
        wanted && matches!(node.stage.gives(), Some(Artifact::Tokenizer(_, 0)))
    };
    let mut walk = Walk::new(cx, &images, &graph, is_tokenizer);
    let mut found = Found {
        row: &row.name,
        tokenizer: None,
    };
    walk.pass(Mode::Inputs, &mut found)?;
    if found.tokenizer.is_none() {
        check_memory(&walk, cx, &images, false)?;
    }
    walk.attach_decoded()?;
    if found.tokenizer.is_none() {
        walk.pass(Mode::Compute, &mut found)?;
    }
    let tokenizer = found.tokenizer.ok_or_else(|| {
        let name = &row.name;
        match row.after.is_empty() {
            false => anyhow!(
                "row {name:?} needs the pretrained encoder of {}; compute it with `bench run` and the same --store",
                Vec::from_iter(row.after.iter().map(|name| format!("row {name:?}"))).join(" and ")
            ),
            true => anyhow!("row {name:?} has no tokenizer; choose another with --only"),
        }
    })?;
    let tokenizer = tokenizer.as_ref();
    write_targets(cx, &images, tokenizer, (split, ViewPlan::Eval), beside)?;
    let Places { out, labels, names } = places;
    let all = images.dataset.labels(split);
    let written = npy::replace(labels, &[all.len()], all.iter().copied());
    written.with_context(|| labels.display().to_string())?;
    let lines = (0..all.len()).map(|index| images.scan.line(split, index) + "\n");
    let lines: String = lines.collect();
    write_atomic(names, lines.as_bytes())?;
    fs::rename(beside, out).with_context(|| out.display().to_string())?;
    Ok(TokenFiles {
        images: all.len(),
        patches: tokenizer.grid().num_patches(),
        labels: labels.clone(),
        files: names.clone(),
    })
}

/// Takes the tokenizer of one row from a walk, which also builds those of the rows that it needs.
struct Found<'a> {
    row: &'a str,
    tokenizer: Option<Arc<dyn Tokenizer>>,
}

impl Watch for Found<'_> {
    fn done(&mut self, node: &Node<'_>, done: &Done<'_>) -> anyhow::Result<()> {
        if let Product::Tokenizer(tokenizer) = &done.product
            && node.row.name == self.row
        {
            self.tokenizer = Some(Arc::clone(tokenizer));
        }
        Ok(())
    }

    fn failed(&mut self, _: &Node<'_>, error: &str) -> anyhow::Result<()> {
        Err(anyhow!("{error}"))
    }
}

/// Returns `ids.labels.npy` for `ids.npy` and `.labels.npy`.
fn sibling(out: &Path, suffix: &str) -> anyhow::Result<PathBuf> {
    let stem = out
        .file_stem()
        .ok_or_else(|| anyhow!("--out {}: expected the name of a file", out.display()))?;
    let mut name = stem.to_os_string();
    name.push(suffix);
    Ok(out.with_file_name(name))
}
