//! Counting tokens per class, exactly, and keeping each image's tokens for the uncertainty.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::Path;

use npyz::WriterBuilder;

/// The tokens of every image of a split, as sparse counts, with the image's label.
///
/// `R` is derived from it, so any metric can be added later without touching the images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Size of the codebook.
    pub codebook_size: usize,
    /// Number of classes.
    pub num_classes: usize,
    /// Label of each image.
    pub labels: Vec<u32>,
    /// Where each image's pairs begin; one more than there are images.
    starts: Vec<usize>,
    /// (token, patches), tokens ascending within an image.
    pairs: Vec<(u32, u32)>,
}

impl Counts {
    /// No images yet.
    pub fn new(codebook_size: usize, num_classes: usize) -> Self {
        Self {
            codebook_size,
            num_classes,
            labels: Vec::new(),
            starts: vec![0],
            pairs: Vec::new(),
        }
    }

    /// Adds an image: its label and the id of each patch.
    pub fn add_image(&mut self, label: u32, ids: &[u32]) {
        let mut sorted = ids.to_vec();
        sorted.sort_unstable();
        self.pairs.extend(
            sorted
                .chunk_by(|a, b| a == b)
                .map(|run| (run[0], run.len() as u32)),
        );
        self.starts.push(self.pairs.len());
        self.labels.push(label);
    }

    /// Number of images.
    pub fn num_images(&self) -> usize {
        self.labels.len()
    }

    /// (token, patches) of image `index`.
    pub fn image(&self, index: usize) -> &[(u32, u32)] {
        &self.pairs[self.starts[index]..self.starts[index + 1]]
    }

    /// Used tokens in ascending order; metrics need only their rows.
    pub fn used_tokens(&self) -> Vec<u32> {
        let mut seen = vec![false; self.codebook_size];
        self.pairs
            .iter()
            .for_each(|(token, _)| seen[*token as usize] = true);
        (0..self.codebook_size as u32)
            .filter(|t| seen[*t as usize])
            .collect()
    }

    /// `R` over all tokens, `[codebook_size, num_classes]`.
    pub fn table(&self) -> Vec<u64> {
        let mut table = vec![0; self.codebook_size * self.num_classes];
        for (index, label) in self.labels.iter().enumerate() {
            for (token, count) in self.image(index) {
                table[*token as usize * self.num_classes + *label as usize] += u64::from(*count);
            }
        }
        table
    }

    /// Writes `counts.npy` (`R`, u64 `[codebook_size, num_classes]`), and `images.npy` (i64 `[pairs, 3]`: image, token, patches)
    /// with `images.labels.npy`, into the folder `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn save(&self, dir: &Path) -> std::io::Result<()> {
        write(
            &dir.join("counts.npy"),
            &[self.codebook_size, self.num_classes],
            self.table(),
        )?;
        let triples = (0..self.num_images()).flat_map(|i| {
            self.image(i)
                .iter()
                .flat_map(move |(token, count)| [i as i64, i64::from(*token), i64::from(*count)])
        });
        write(&dir.join("images.npy"), &[self.pairs.len(), 3], triples)?;
        write(
            &dir.join("images.labels.npy"),
            &[self.labels.len()],
            self.labels.iter().copied(),
        )
    }

    /// What [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// When a file is absent or is not what `save` writes.
    pub fn load(dir: &Path) -> std::io::Result<Self> {
        let bad = |what: &str| {
            std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!("{}: {what}", dir.display()),
            )
        };
        let table = npyz::NpyFile::new(BufReader::new(File::open(dir.join("counts.npy"))?))?;
        let &[codes, classes] = table.shape() else {
            return Err(bad("counts.npy is not a matrix"));
        };
        let mut counts = Self::new(codes as usize, classes as usize);
        let labels: Vec<u32> =
            npyz::NpyFile::new(BufReader::new(File::open(dir.join("images.labels.npy"))?))?
                .into_vec()?;
        let triples: Vec<i64> =
            npyz::NpyFile::new(BufReader::new(File::open(dir.join("images.npy"))?))?.into_vec()?;
        let mut triples = triples.chunks_exact(3).peekable();
        for (index, label) in labels.into_iter().enumerate() {
            while let Some(triple) = triples.next_if(|t| t[0] == index as i64) {
                counts.pairs.push((triple[1] as u32, triple[2] as u32));
            }
            counts.starts.push(counts.pairs.len());
            counts.labels.push(label);
        }
        Ok(counts)
    }
}

/// Writes a .npy file of `shape`.
pub(crate) fn write<T: npyz::AutoSerialize>(
    path: &Path,
    shape: &[usize],
    values: impl IntoIterator<Item = T>,
) -> std::io::Result<()> {
    let shape: Vec<u64> = shape.iter().map(|d| *d as u64).collect();
    let file = BufWriter::new(File::create(path)?);
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(&shape)
        .writer(file)
        .begin_nd()?;
    writer.extend(values)?;
    writer.finish()
}
