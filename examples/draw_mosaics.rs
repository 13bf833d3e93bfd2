//! Draws mosaics for other programs and for the eye:
//! `cargo run --release --example draw_mosaics -- OUT_DIR SEED TRAIN VAL SIZE`
//! writes `train.npy`, `val.npy` (u8 `[images, size, size, 3]`), their labels (u32) and `sheet.png`.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use npyz::WriterBuilder;
use rayon::prelude::*;
use tessera::data::mosaics;
use tessera::{Image, Split};

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [out, seed, train, val, size] = args.as_slice() else {
        anyhow::bail!("expected OUT_DIR SEED TRAIN VAL SIZE, found {args:?}");
    };
    let out = PathBuf::from(out);
    std::fs::create_dir_all(&out)?;
    let (seed, size) = (seed.parse()?, size.parse()?);
    for (split, count) in [(Split::Train, train), (Split::Val, val)] {
        let images: Vec<Image> = (0..count.parse()?)
            .into_par_iter()
            .map(|index| mosaics::draw(seed, split, index, size))
            .collect();
        let shape = [images.len() as u64, size as u64, size as u64, 3];
        let pixels = images.iter().flat_map(|i| i.rgb.iter().copied());
        write(&out.join(format!("{}.npy", split.name())), &shape, pixels)?;
        let labels = (0..images.len()).map(mosaics::label);
        write(
            &out.join(format!("{}.labels.npy", split.name())),
            &[images.len() as u64],
            labels,
        )?;
    }
    sheet(&out.join("sheet.png"), seed)
}

fn write<T: npyz::AutoSerialize>(
    path: &Path,
    shape: &[u64],
    values: impl Iterator<Item = T>,
) -> Result<()> {
    let file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(shape)
        .writer(file)
        .begin_nd()?;
    writer.extend(values)?;
    Ok(writer.finish()?)
}

/// Ten classes below each other, eight images of each.
fn sheet(path: &Path, seed: u64) -> Result<()> {
    let side = 96;
    let mut sheet = image::RgbImage::new(8 * side, 10 * side);
    for index in 0..80 {
        let drawn = mosaics::draw(seed, Split::Train, index, side as usize);
        let tile = image::RgbImage::from_raw(side, side, drawn.rgb.into()).context("size")?;
        let (row, col) = (mosaics::label(index) as i64, (index / 10) as i64);
        image::imageops::replace(
            &mut sheet,
            &tile,
            col * i64::from(side),
            row * i64::from(side),
        );
    }
    Ok(sheet.save(path)?)
}
