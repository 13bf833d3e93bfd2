//! `bench tokenize`: a split's targets as `.npy`, with labels and file names in the same order.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use npyz::{NpyWriter, WriterBuilder};
use tessera_models::Targets;
use tessera_tokenizers::{Split, Tokenizer};

use super::stages::count::each_batch;
use super::stages::fit;
use super::{Context, Images, Mode, scan};
use crate::metrics::write_npy;
use crate::store::write_atomic;

/// What was written.
#[derive(Clone, Debug)]
pub struct TokenFiles {
    /// Images.
    pub images: usize,
    /// Patches per image.
    pub patches: usize,
    /// `NAME.labels.npy`, u32 `[images]`.
    pub labels: PathBuf,
    /// `NAME.files.txt`, one name per line.
    pub files: PathBuf,
}

/// Writes the targets of `split` under the evaluation transform by the suite's only row: ids u32 `[images, patches]`, or
/// values f32 `[images, patches, dim]`.
///
/// # Errors
/// When the row has no tokenizer, or as [`run`](super::run).
pub fn tokenize_split(cx: &Context<'_>, split: Split, out: &Path) -> anyhow::Result<TokenFiles> {
    let row = cx
        .suite
        .rows
        .first()
        .ok_or_else(|| anyhow!("the suite has no row"))?;
    if let Some(reason) = &row.skip {
        return Err(anyhow!("row {:?} is skipped: {reason}", row.name));
    }
    let images = scan(cx)?;
    let fitted = fit::fit(cx, Mode::Compute, &images, row)?.ok_or_else(|| {
        let name = &row.name;
        match row.after.first() {
            Some(other) => anyhow!(
                "row {name:?} needs the pretrained encoder of row {other:?}; make it with `bench run` and the same --store"
            ),
            None => anyhow!("row {name:?} has no tokenizer; choose another with --only"),
        }
    })?;
    let tokenizer = fitted.tokenizer.as_ref();
    let beside = sibling(out, &format!(".tmp-{}", std::process::id()))?;
    let written = write_targets(cx, &images, tokenizer, split, &beside);
    if let Err(error) = written {
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    let (labels, files) = (sibling(out, ".labels.npy")?, sibling(out, ".files.txt")?);
    let all = images.dataset.labels(split);
    write_npy(&labels, &[all.len()], all.iter().copied())?;
    let scanned = match split {
        Split::Train => &images.scan.train,
        Split::Val => &images.scan.val,
    };
    write_atomic(&files, (scanned.names.join("\n") + "\n").as_bytes())?;
    fs::rename(&beside, out).with_context(|| out.display().to_string())?;
    Ok(TokenFiles {
        images: all.len(),
        patches: tokenizer.grid().num_patches(),
        labels,
        files,
    })
}

/// `ids.npy` and `.labels.npy` give `ids.labels.npy`.
fn sibling(out: &Path, suffix: &str) -> anyhow::Result<PathBuf> {
    let stem = out
        .file_stem()
        .ok_or_else(|| anyhow!("--out {}: expected the name of a file", out.display()))?;
    let mut name = stem.to_os_string();
    name.push(suffix);
    Ok(out.with_file_name(name))
}

fn write_targets(
    cx: &Context<'_>,
    images: &Images,
    tokenizer: &dyn Tokenizer,
    split: Split,
    path: &Path,
) -> anyhow::Result<()> {
    let (count, patches) = (images.dataset.len(split), tokenizer.grid().num_patches());
    let target = tokenizer.target();
    match target {
        tessera_models::TargetSpec::Ids { .. } => stream(path, &[count, patches], |rows| {
            each_batch(cx, images, tokenizer, split, |_, targets| match targets {
                Targets::Ids(ids) => rows(ids.flatten_all()?.to_vec1::<u32>()?),
                Targets::Values(_) => Err(anyhow!("expected ids")),
            })
        }),
        tessera_models::TargetSpec::Values { dim } => {
            stream(path, &[count, patches, dim], |rows| {
                each_batch(cx, images, tokenizer, split, |_, targets| match targets {
                    Targets::Values(values) => rows(values.flatten_all()?.to_vec1::<f32>()?),
                    Targets::Ids(_) => Err(anyhow!("expected values")),
                })
            })
        }
    }
}

/// Takes rows of a file under way.
type Rows<'a, T> = &'a mut (dyn FnMut(Vec<T>) -> anyhow::Result<()> + Send);

/// Writes the rows that `work` hands on, on a thread of its own: a writer stays where it was made.
fn stream<T: npyz::AutoSerialize + Send>(
    path: &Path,
    shape: &[usize],
    work: impl FnOnce(Rows<'_, T>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (send, receive) = std::sync::mpsc::sync_channel::<Vec<T>>(4);
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || -> anyhow::Result<()> {
            let mut writer = open::<T>(path, shape)?;
            for rows in receive {
                writer.extend(rows)?;
            }
            Ok(writer.finish()?)
        });
        let mut refused = false;
        let mut hand_on = |rows| {
            refused = send.send(rows).is_err();
            match refused {
                true => Err(anyhow!("the file cannot be written")),
                false => Ok(()),
            }
        };
        let worked = work(&mut hand_on);
        drop(send);
        let written = writing.join().map_err(|_| anyhow!("the writer panicked"))?;
        match worked {
            Ok(()) => written,
            // The writer's own error says why it would take no more.
            Err(worked) if refused => written.and(Err(worked)),
            Err(worked) => Err(worked),
        }
    })
}

fn open<T: npyz::AutoSerialize>(
    path: &Path,
    shape: &[usize],
) -> anyhow::Result<NpyWriter<T, BufWriter<File>>> {
    let shape: Vec<u64> = shape.iter().map(|d| *d as u64).collect();
    let file = File::create(path).with_context(|| {
        format!(
            "{}: give a place that can be written with --out",
            path.display()
        )
    })?;
    Ok(npyz::WriteOptions::new()
        .default_dtype()
        .shape(&shape)
        .writer(BufWriter::new(file))
        .begin_nd()?)
}
