//! `token-file`: ids from another program, one row per image in scan order.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use schemars::JsonSchema;
use serde::Deserialize;
use tessera_models::{TargetSpec, Targets, files};

use crate::config::Config;
use crate::contract::{Facts, Fingerprint, Grid, MOST_CODES, Needs, Tokenizer};
use crate::numpy;
use crate::registry::{BuildContext, TokenizerFactory};
use crate::view::{Sample, Split, View};
use crate::{Error, Result};

/// Factory of `token-file`.
pub struct TokenFileFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// .npy file with the ids of the train split: integers `[images, patches]` or `[images, rows, cols]` in scan order (`bench tokenize`
    /// writes the names of the images in that order).
    train: PathBuf,
    /// .npy file with the ids of the val split; only `bench tokenize --split val` uses it.
    val: Option<PathBuf>,
    /// Number of different ids.
    #[schemars(range(min = 1, max = MOST_CODES))]
    codebook_size: usize,
    /// Whether the ids were computed with labels (of any dataset); the report then adds a footnote to the row.
    #[serde(default)]
    saw_labels: bool,
}

impl TokenizerFactory for TokenFileFactory {
    fn kind(&self) -> &'static str {
        "token-file"
    }

    fn summary(&self) -> &'static str {
        "ids from .npy files of any program; for the evaluation view only"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Fields)
    }

    fn needs(&self) -> Needs {
        Needs::SampleIds
    }

    fn validate(&self, with: &Config, cx: &BuildContext<'_>) -> Result<()> {
        self.build(with, cx).map(drop)
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        let fields: Fields = with.parse()?;
        let read = |field: &str, path: &Path, split: usize| -> Result<Ids> {
            let ids = read(with, field, path, cx.grid)?;
            check(
                with,
                (field, &ids),
                fields.codebook_size,
                cx.images.map(|images| images[split]),
            )?;
            Ok(ids)
        };
        let train = read("train", &fields.train, 0)?;
        let val = fields
            .val
            .as_deref()
            .map(|path| read("val", path, 1))
            .transpose()?;
        let about = format!("token-file 1 {} {}", fields.codebook_size, cx.grid);
        let none = Vec::new();
        let bytes = |ids: &[u32]| {
            ids.iter()
                .flat_map(|id| id.to_le_bytes())
                .collect::<Vec<u8>>()
        };
        let val_bytes = bytes(val.as_ref().map_or(&none, |ids| &ids.values));
        let fingerprint = Fingerprint::of(&[about.as_bytes(), &bytes(&train.values), &val_bytes]);
        Ok(Box::new(TokenFile {
            train,
            val,
            grid: cx.grid,
            codebook_size: fields.codebook_size,
            saw_labels: fields.saw_labels,
            fingerprint,
        }))
    }
}

/// Ids of a split, `[images, patches]`.
struct Ids {
    path: PathBuf,
    images: usize,
    values: Vec<u32>,
}

fn read(with: &Config, field: &str, path: &Path, grid: Grid) -> Result<Ids> {
    let path = with.resolve_path(path);
    let file = match files::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(Error::Missing {
                at: with.error(field, format!("{} does not exist", path.display())),
                remedy: "write it with your program or with `bench tokenize`".into(),
            });
        }
        Err(error) => {
            return Err(Error::File {
                path,
                message: error.to_string(),
            });
        }
    };
    let refuse = |message: String| Error::File {
        path: path.clone(),
        message,
    };
    let npy = numpy::open(BufReader::new(file))
        .map_err(|e| refuse(format!("is not a .npy file: {e}")))?;
    let shape: Vec<usize> = npy.shape().iter().map(|d| *d as usize).collect();
    let fits = match shape[..] {
        [_, patches] => patches == grid.num_patches(),
        [_, rows, cols] => (rows, cols) == (grid.rows, grid.cols),
        _ => false,
    };
    if !fits {
        let patches = grid.num_patches();
        return Err(refuse(format!(
            "has shape {shape:?}, expected [images, {patches}] or [images, {}, {}]{}",
            grid.rows,
            grid.cols,
            remedy(&shape, patches)
        )));
    }
    if npy.order() != npyz::Order::C {
        return Err(refuse(
            "is in Fortran order; write it with numpy.ascontiguousarray".into(),
        ));
    }
    let values = numpy::integers(npy).map_err(refuse)?;
    Ok(Ids {
        images: shape[0],
        values,
        path,
    })
}

/// Returns the likely fix of a wrong shape.
fn remedy(shape: &[usize], patches: usize) -> &'static str {
    match *shape {
        [_, tokens] if tokens == patches + 1 => "; cut off the class token",
        [_, 1, _, _] | [_, _, _, 1] => "; remove the dimension of 1 (numpy.squeeze)",
        _ => "",
    }
}

fn check(
    with: &Config,
    (field, ids): (&str, &Ids),
    codebook_size: usize,
    images: Option<usize>,
) -> Result<()> {
    let patches = ids.values.len() / ids.images.max(1);
    if let Some(at) = ids
        .values
        .iter()
        .position(|id| *id as usize >= codebook_size)
    {
        let id = match ids.values[at] {
            u32::MAX => "an id below 0 or above 2^32 - 2".to_owned(),
            id => format!("id {id}"),
        };
        let message = format!(
            "{}: {id} of image {} is not in 0..{codebook_size} (codebook_size)",
            ids.path.display(),
            at / patches.max(1)
        );
        return Err(with.error(field, message).into());
    }
    match images {
        Some(images) if images != ids.images => {
            let message = format!(
                "{} has {} rows, the {field} split has {images} images; write one row per image in the order of `bench tokenize`'s .files.txt",
                ids.path.display(),
                ids.images
            );
            Err(with.error(field, message).into())
        }
        _ => Ok(()),
    }
}

struct TokenFile {
    train: Ids,
    val: Option<Ids>,
    grid: Grid,
    codebook_size: usize,
    saw_labels: bool,
    fingerprint: Fingerprint,
}

impl TokenFile {
    fn row(&self, sample: &Sample) -> Result<Vec<u32>> {
        let refuse = |message: &str| Error::Image {
            name: sample.id.index.to_string(),
            message: message.into(),
        };
        if !sample.is_eval_box {
            return Err(refuse(
                "a token file has ids of the evaluation view only; use `augment: fixed-view`",
            ));
        }
        let ids = match sample.id.split {
            Split::Train => &self.train,
            Split::Val => self
                .val
                .as_ref()
                .ok_or_else(|| refuse("the row has no `val` file"))?,
        };
        let patches = self.grid.num_patches();
        let start = sample.id.index * patches;
        let row = ids
            .values
            .get(start..start + patches)
            .ok_or_else(|| refuse("the token file has no row for this image"))?;
        let mut row = row.to_vec();
        if sample.flip {
            row.chunks_exact_mut(self.grid.cols)
                .for_each(<[u32]>::reverse);
        }
        Ok(row)
    }
}

impl Tokenizer for TokenFile {
    fn target(&self) -> TargetSpec {
        TargetSpec::Ids {
            codebook_size: self.codebook_size,
        }
    }

    fn grid(&self) -> Grid {
        self.grid
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let mut ids = Vec::with_capacity(view.batch() * self.grid.num_patches());
        for sample in view.samples() {
            ids.extend(self.row(sample)?);
        }
        let shape = (view.batch(), self.grid.num_patches());
        Ok(Targets::Ids(Tensor::from_vec(ids, shape, &Device::Cpu)?))
    }

    fn looks_up(&self) -> bool {
        true
    }

    fn facts(&self) -> Facts {
        Facts {
            saw_labels: self.saw_labels,
            ..Facts::default()
        }
    }
}
