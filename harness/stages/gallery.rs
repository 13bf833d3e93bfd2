//! `gallery`: draws pictures of a row's tokens for the report's page: patches of the most and the least class-aligned
//! tokens, and token maps of images.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use anyhow::{Context as _, bail};
use image::{RgbImage, imageops};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tessera_tokenizers::{InputSpec, Split, Tokenizer};

use super::common::context::{Context, Images, StageError};
use super::common::rates::{Cost, Rates};
use super::common::stage::{Artifact, Inputs, Stage};
use super::count::joint;
use crate::data::ViewPlan;
use crate::data::targets::BATCH;
use crate::folder::layout::{GALLERY, MAPS, PATCHES as PATCHES_PICTURE};
use crate::metrics::Counts;
use crate::store::Workspace;
use crate::suite::Row;

/// Name of the stage.
pub const NAME: &str = "gallery";
const VERSION: u32 = 1;
/// Number of most aligned tokens, and of least aligned ones.
const TOKENS: usize = 6;
/// Patches per token.
const PATCHES: usize = 12;
/// Number of images with a map.
const MAPPED: usize = 6;
/// Minimum patches of a token, because fewer say nothing about its classes.
const FEW: u64 = 24;

/// Contents of the pictures.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Gallery {
    /// Side of a cell of `gallery.png`, pixels.
    pub patch: usize,
    /// Cells per token.
    pub columns: usize,
    /// The token of each row.
    pub tokens: Vec<Token>,
    /// Side of an image of `maps.png`, pixels.
    pub side: usize,
    /// Patches along a side.
    pub grid: usize,
    /// For each image: its label and the token of every patch.
    pub maps: Vec<(u32, Vec<u32>)>,
}

/// A token in the gallery.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Number of its patches in the train split.
    pub patches: u64,
    /// Its most frequent class.
    pub class: u32,
    /// Fraction of its patches in images of that class.
    pub share: f64,
}

/// The gallery of a row with ids.
pub struct Pictures<'a> {
    /// The row.
    pub row: &'a Row,
}

impl Stage for Pictures<'_> {
    fn name(&self) -> &'static str {
        NAME
    }

    fn is_optional(&self) -> bool {
        true
    }

    fn needs(&self) -> Vec<Artifact<'_>> {
        let row = &self.row.name;
        vec![Artifact::Tokenizer(row, 0), Artifact::Counts(row, 0)]
    }

    fn provenance(&self, on: &Inputs<'_>) -> Result<Value, StageError> {
        Ok(json!({"version": VERSION, "count": on.counts()?.key}))
    }

    fn cost(&self, rates: &Rates<'_>) -> anyhow::Result<Cost> {
        // PNG stores about nine tenths of these bytes, and gallery.json four characters per id.
        const PNG: f64 = 0.9;
        let vit = &rates.vit;
        let tokens = rates.codes(self.row).unwrap_or(0).min(2 * TOKENS);
        let maps = MAPPED.min(rates.images.scan.classes.len());
        let patches = (tokens * PATCHES * 3 * vit.patch_size.pow(2)) as f64;
        let shown = (maps * 3 * vit.image_size.pow(2)) as f64;
        let text = (60 * tokens + 4 * maps * vit.num_patches()) as f64;
        let files = PNG * (patches + shown) + text;
        // One thread tokenizes, and the measured rates are those of all threads.
        let images = ((tokens * PATCHES + maps) as f64).min(rates.counts()[0]);
        let each = rates.tokenize(self.row) + rates.render;
        Ok(Cost {
            seconds: rates.decoding(images) + images * each * rates.cx.threads as f64,
            memory: rates.base()
                + rates.tokenizer_memory(self.row)
                + rates.held.by_one(BATCH, images)
                + images * (3 * vit.image_size.pow(2)) as f64,
            disk: rates.disk(files, files, rates.cells(0)),
        })
    }

    fn run(&self, on: &Inputs<'_>, work: &Workspace<'_>) -> anyhow::Result<Value> {
        let Some(counts) = joint(on.counts()?)? else {
            bail!("there are too many joint codes to draw");
        };
        let drawing = Drawing {
            cx: on.cx,
            images: on.images,
            tokenizer: on.tokenizer()?.as_ref(),
        };
        let gallery = drawing.draw(&counts, work.out)?;
        std::fs::write(work.out.join(GALLERY), serde_json::to_vec(&gallery)?)?;
        Ok(json!({"tokens": gallery.tokens.len()}))
    }

    fn outputs(&self) -> &'static [&'static str] {
        &[GALLERY, PATCHES_PICTURE, MAPS]
    }
}

/// Selects tokens by the share of their most frequent class: the highest ones, then the lowest ones.
fn selected(counts: &Counts) -> io::Result<Vec<Token>> {
    let mut tokens = Vec::new();
    counts.table()?.each_row(|id, row| {
        let most = row.iter().max_by_key(|(c, n)| (*n, Reverse(*c)));
        if let Some((class, most)) = most {
            let patches: u64 = row.iter().map(|(_, n)| n).sum();
            tokens.push(Token {
                id,
                patches,
                class: *class,
                share: *most as f64 / patches as f64,
            });
        }
        Ok(())
    })?;
    if tokens.iter().filter(|t| t.patches >= FEW).count() >= 2 * TOKENS {
        tokens.retain(|t| t.patches >= FEW);
    }
    tokens.sort_by(|a, b| b.share.total_cmp(&a.share).then(a.id.cmp(&b.id)));
    if tokens.len() > 2 * TOKENS {
        tokens.drain(TOKENS..tokens.len() - TOKENS);
    }
    Ok(tokens)
}

/// Returns up to [`PATCHES`] images with each token, spread over the split. Reads the images twice, first to count them, so that no
/// list of all is in memory.
fn images_of(counts: &Counts, tokens: &[Token]) -> io::Result<Vec<Vec<usize>>> {
    let row_of: BTreeMap<u32, usize> = tokens.iter().map(|t| t.id).zip(0..).collect();
    let mut all = vec![0; tokens.len()];
    counts.each_pair(|_, token, _| {
        row_of
            .get(&token)
            .into_iter()
            .for_each(|row| all[*row] += 1);
        Ok(())
    })?;
    let mut read = vec![0; tokens.len()];
    let mut images = vec![Vec::new(); tokens.len()];
    counts.each_pair(|image, token, _| {
        if let Some(&row) = row_of.get(&token) {
            let shown = all[row].min(PATCHES);
            let next = images[row].len();
            if next < shown && read[row] == next * all[row] / shown {
                images[row].push(image as usize);
            }
            read[row] += 1;
        }
        Ok(())
    })?;
    Ok(images)
}

/// Returns the first image of each class, for the maps.
fn sampled(labels: &[u32]) -> Vec<usize> {
    let mut first: BTreeMap<u32, usize> = BTreeMap::new();
    for (index, label) in labels.iter().enumerate() {
        first.entry(*label).or_insert(index);
    }
    first.into_values().take(MAPPED).collect()
}

/// The evaluation view of an image, and its tokens.
struct Tokenized {
    pixels: RgbImage,
    ids: Vec<u32>,
}

struct Drawing<'a> {
    cx: &'a Context<'a>,
    images: &'a Images,
    tokenizer: &'a dyn Tokenizer,
}

impl Drawing<'_> {
    fn draw(&self, counts: &Counts, out: &Path) -> anyhow::Result<Gallery> {
        let file = &self.cx.suite.file;
        let (side, patch) = (file.image_size, file.patch_size);
        let grid = side / patch;
        let tokens = selected(counts)?;
        let of_tokens = images_of(counts, &tokens)?;
        let samples = sampled(&counts.labels);
        let wanted: BTreeSet<usize> = of_tokens
            .iter()
            .flatten()
            .chain(&samples)
            .copied()
            .collect();
        let tokenized = self.tokenize(&wanted)?;
        let size = |width: usize, height: usize| RgbImage::new(width as u32, height as u32);
        let mut picture = size(PATCHES * patch, (tokens.len() * patch).max(1));
        for (row, (token, images)) in tokens.iter().zip(&of_tokens).enumerate() {
            for (column, image) in images.iter().enumerate() {
                let of = &tokenized[image];
                let at = of.ids.iter().position(|id| *id == token.id);
                let at = at
                    .with_context(|| format!("token {} is missing from image {image}", token.id))?;
                let [x, y, side] = [at % grid * patch, at / grid * patch, patch].map(|n| n as u32);
                let cut = imageops::crop_imm(&of.pixels, x, y, side, side).to_image();
                let (x, y) = (column * patch, row * patch);
                imageops::replace(&mut picture, &cut, x as i64, y as i64);
            }
        }
        picture.save(out.join(PATCHES_PICTURE))?;
        let mut maps = size((samples.len() * side).max(1), side);
        for (column, image) in samples.iter().enumerate() {
            let x = (column * side) as i64;
            imageops::replace(&mut maps, &tokenized[image].pixels, x, 0);
        }
        maps.save(out.join(MAPS))?;
        let ids = samples
            .iter()
            .map(|image| (counts.labels[*image], tokenized[image].ids.clone()));
        Ok(Gallery {
            patch,
            columns: PATCHES,
            maps: ids.collect(),
            tokens,
            side,
            grid,
        })
    }

    /// Renders the evaluation view of the images `wanted` and computes their ids.
    fn tokenize(&self, wanted: &BTreeSet<usize>) -> anyhow::Result<BTreeMap<usize, Tokenized>> {
        let file = &self.cx.suite.file;
        let side = file.image_size;
        let plain = InputSpec {
            side,
            mean: [0.0; 3],
            std: [1.0; 3],
        };
        let all: Vec<usize> = wanted.iter().copied().collect();
        let mut tokenized = BTreeMap::new();
        for indices in all.chunks(BATCH) {
            let dataset = &self.images.dataset;
            let view = dataset.view(Split::Train, indices, ViewPlan::Eval, file.eval_transform)?;
            let ids = self.tokenizer.tokenize(&view.as_view())?.ids()?;
            let pixels = view.as_view().render(&plain)?;
            for (at, index) in indices.iter().enumerate() {
                let planes: Vec<f32> = pixels.get(at)?.flatten_all()?.to_vec1()?;
                let byte = |c: usize, i: usize| (planes[c * side * side + i] * 255.0).round() as u8;
                let rgb: Vec<u8> = (0..side * side)
                    .flat_map(|i| [0, 1, 2].map(|c| byte(c, i)))
                    .collect();
                let pixels = RgbImage::from_raw(side as u32, side as u32, rgb);
                let image = Tokenized {
                    pixels: pixels.context("an image of another size")?,
                    ids: ids.get(at)?.to_vec1()?,
                };
                tokenized.insert(*index, image);
            }
        }
        self.tokenizer.check_unchanged()?;
        Ok(tokenized)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::CountsWriter;

    fn counted(dir: &Path, size: (usize, usize), images: &[(u32, Vec<u32>)]) -> Counts {
        let mut counts = CountsWriter::create(dir, dir, size, None).unwrap();
        for (label, ids) in images {
            counts.add(ids, &[*label]).unwrap();
        }
        counts.finish().unwrap()
    }

    #[test]
    fn the_most_and_least_aligned_tokens_are_selected() {
        // Token t: t + 20 patches in class 0, 20 in class 1, over two images.
        let images: Vec<(u32, Vec<u32>)> = (0..20)
            .flat_map(|t| [(0, vec![t; t as usize + 20]), (1, vec![t; 20])])
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let counts = counted(dir.path(), (20, 2), &images);
        let tokens = selected(&counts).unwrap();
        let ids: Vec<u32> = tokens.iter().map(|t| t.id).collect();
        assert_eq!(ids, [19, 18, 17, 16, 15, 14, 5, 4, 3, 2, 1, 0]);
        assert_eq!((tokens[0].class, tokens[0].patches), (0, 59));
        assert_eq!(images_of(&counts, &tokens).unwrap()[8], [6, 7]);
        assert_eq!(sampled(&counts.labels), [0, 1]);
    }

    #[test]
    fn images_are_spread_over_the_split() {
        let dir = tempfile::tempdir().unwrap();
        let counts = counted(dir.path(), (1, 1), &vec![(0, vec![0]); 120]);
        let tokens = selected(&counts).unwrap();
        let shown = &images_of(&counts, &tokens).unwrap()[0];
        assert_eq!((shown.len(), shown[0], shown[11]), (12, 0, 110));
    }
}
