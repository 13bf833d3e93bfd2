//! Tokenizes a whole split for stages, batch by batch or into a file, and draws codebooks.

use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, anyhow};
use image::{ImageFormat, RgbImage};
use npyz::{NpyWriter, WriterBuilder};
use tessera_models::{TargetSpec, Targets};
use tessera_tokenizers::{Split, Tokenizer};

use super::context::{Context, Images};
use crate::data::ViewPlan;
use crate::data::targets::Walk;

/// Computes the targets of a whole split in scan order, as [`Walk::each_batch`].
///
/// # Errors
/// As for [`Walk::each_batch`].
pub fn each_batch(
    cx: &Context<'_>,
    images: &Images,
    tokenizer: &dyn Tokenizer,
    (split, plan): (Split, ViewPlan),
    take: impl FnMut(usize, Targets) -> anyhow::Result<()> + Send,
) -> anyhow::Result<()> {
    let (reporter, stop) = (cx.reporter, cx.stop);
    let walk = Walk {
        dataset: &images.dataset,
        split,
        plan,
        eval: cx.suite.file.eval_transform,
        interrupted: &|| stop.load(Ordering::Relaxed),
        progress: &|done, total| reporter.progress(done, total, "images"),
    };
    walk.each_batch(tokenizer, take)
}

/// Writes the targets of a split as `.npy`: ids u32 `[images, patches]`, values f32 `[images, patches, dim]`, or codes u32
/// `[images, patches, groups]`.
///
/// # Errors
/// As for [`each_batch`], and if the file cannot be written.
pub fn write_targets(
    cx: &Context<'_>,
    images: &Images,
    tokenizer: &dyn Tokenizer,
    (split, plan): (Split, ViewPlan),
    path: &Path,
) -> anyhow::Result<()> {
    let (count, patches) = (images.dataset.len(split), tokenizer.grid().num_patches());
    let target = tokenizer.target();
    let flat = [count, patches];
    let deep = [count, patches, target.per_patch()];
    let shape = match target {
        TargetSpec::Ids { .. } => &flat[..],
        _ => &deep,
    };
    let of = |take: &mut (dyn FnMut(Targets) -> anyhow::Result<()> + Send)| {
        each_batch(cx, images, tokenizer, (split, plan), |_, targets| {
            take(targets)
        })
    };
    match target.is_discrete() {
        true => stream(path, shape, |rows| {
            of(&mut |targets| match targets {
                Targets::Ids(ids) | Targets::Codes(ids, _) => {
                    rows(ids.flatten_all()?.to_vec1::<u32>()?)
                }
                Targets::Values(_) => Err(anyhow!("expected ids")),
            })
        }),
        false => stream(path, shape, |rows| {
            of(&mut |targets| match targets {
                Targets::Values(values) => rows(values.flatten_all()?.to_vec1::<f32>()?),
                _ => Err(anyhow!("expected values")),
            })
        }),
    }
}

/// Receives rows of a file.
type Rows<'a, T> = &'a mut (dyn FnMut(Vec<T>) -> anyhow::Result<()> + Send);

/// Writes the rows that `work` passes on, in a separate thread, because a writer must stay on the thread that opened it.
fn stream<T: npyz::AutoSerialize + Send>(
    path: &Path,
    shape: &[usize],
    work: impl FnOnce(Rows<'_, T>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (send, receive) = std::sync::mpsc::sync_channel::<Vec<T>>(4);
    std::thread::scope(|scope| {
        let write = move || -> anyhow::Result<()> {
            let mut writer = open::<T>(path, shape)?;
            for rows in receive {
                writer.extend(rows)?;
            }
            Ok(writer.finish()?)
        };
        let writing = scope.spawn(|| write().with_context(|| path.display().to_string()));
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
            // The writer's own error gives the reason.
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
    let file = File::create(path)?;
    Ok(npyz::WriteOptions::new()
        .default_dtype()
        .shape(&shape)
        .writer(BufWriter::new(file))
        .begin_nd()?)
}

/// Returns a PNG of a tokenizer's codebook, if it has a picture.
pub fn picture(tokenizer: &dyn Tokenizer) -> Option<Vec<u8>> {
    let picture = tokenizer.picture()?;
    let (width, height) = (picture.width as u32, picture.height as u32);
    let pixels = RgbImage::from_raw(width, height, picture.rgb.to_vec())?;
    let mut png = std::io::Cursor::new(Vec::new());
    pixels.write_to(&mut png, ImageFormat::Png).ok()?;
    Some(png.into_inner())
}
