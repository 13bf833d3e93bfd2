//! `token-file`: ids from another program, one row per image in scan order.

use std::io::{self, BufReader, Read as _};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use tessera_models::{TargetSpec, Targets, files};

use crate::codes;
use crate::config::Config;
use crate::contract::{Facts, Fingerprint, Grid, MOST_CODES, MOST_GROUPS, Needs, Tokenizer};
use crate::numpy;
use crate::registry::{BuildContext, TokenizerFactory};
use crate::view::{Sample, Split, View};
use crate::{Error, Result};

/// Factory of `token-file`.
pub struct TokenFileFactory;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fields {
    /// .npy file with the ids of the train split: integers `[images, patches]` or `[images, rows, cols]` in scan order. `bench tokenize`
    /// writes the names of the images in that order into `NAME.files.txt` and their labels into `NAME.labels.npy`; both are compared with the images if they lie beside `NAME.npy`. With `groups`, codes `[images, patches, groups]` or `[images, rows, cols, groups]`.
    train: PathBuf,
    /// .npy file with the ids of the val split; only `bench tokenize --split val` uses it.
    val: Option<PathBuf>,
    /// Number of different ids. Either this or `groups` is required.
    #[schemars(range(min = 1, max = MOST_CODES))]
    codebook_size: Option<usize>,
    /// Number of codes of each group, if every patch has a code of each of several codebooks.
    #[schemars(length(min = 1, max = MOST_GROUPS), inner(range(min = 1, max = MOST_CODES)))]
    groups: Option<Vec<usize>>,
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

    fn has_val(&self, with: &Config) -> bool {
        with.get("val").is_some_and(|val| !val.value().is_null())
    }

    fn build(&self, with: &Config, cx: &BuildContext<'_>) -> Result<Box<dyn Tokenizer>> {
        let absent = [(String::new(), vec!["codebook_size".to_owned()])];
        let is_absent = ["codebook_size", "groups"]
            .iter()
            .all(|key| with.get(key).is_none());
        let fields: Fields = with.parse_with(if is_absent { &absent } else { &[] })?;
        let target = codes::required(with, fields.codebook_size, fields.groups.as_deref())?;
        let read = |field: &str, path: &Path, split: Split| -> Result<Ids> {
            let ids = read(with, field, path, (cx.grid, target))?;
            check(
                with,
                (field, &ids),
                (cx.grid, target),
                cx.images.map(|images| images[split as usize]),
            )?;
            if let (Some(names), Some(name)) = (&ids.names, cx.names) {
                let compared = check_names(names, ids.images, |index| name(split, index));
                let path = names_beside(&ids.path);
                compared.map_err(|(line, message)| {
                    let message = format!("{}:{line}: {message}", path.display());
                    with.error(field, message)
                })?;
            }
            if let Some(label) = cx.order {
                check_labels(&ids, |index| label(split, index))
                    .map_err(|message| with.error(field, message))?;
            }
            Ok(ids)
        };
        let train = read("train", &fields.train, Split::Train)?;
        let val = fields
            .val
            .as_deref()
            .map(|path| read("val", path, Split::Val))
            .transpose()?;
        let about = match target {
            TargetSpec::Ids { codebook_size } => {
                format!("token-file 1 {codebook_size} {}", cx.grid)
            }
            _ => format!("token-file 1 {target:?} {}", cx.grid),
        };
        let none = Vec::new();
        let bytes = |ids: &[u32]| {
            ids.iter()
                .flat_map(|id| id.to_le_bytes())
                .collect::<Vec<u8>>()
        };
        let val_bytes = bytes(val.as_ref().map_or(&none, |ids| &ids.values));
        // Names are compared and change no id, so they are no part of it.
        let fingerprint = Fingerprint::of(&[about.as_bytes(), &bytes(&train.values), &val_bytes]);
        Ok(Box::new(TokenFile {
            train,
            val,
            grid: cx.grid,
            target,
            saw_labels: fields.saw_labels,
            fingerprint,
        }))
    }
}

/// Ids of a split, `[images, patches]`, or codes `[images, patches, groups]`.
struct Ids {
    path: PathBuf,
    images: usize,
    values: Vec<u32>,
    /// Text of the file with the names of the images, if there is one.
    names: Option<String>,
}

fn read(
    with: &Config,
    field: &str,
    path: &Path,
    (grid, target): (Grid, TargetSpec),
) -> Result<Ids> {
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
    let npy = numpy::open(BufReader::new(file)).map_err(|e| {
        refuse(match e.kind() {
            io::ErrorKind::InvalidData => format!("is not a .npy file: it {e}"),
            _ => e.to_string(),
        })
    })?;
    let shape: Vec<usize> = npy.shape().iter().map(|d| *d as usize).collect();
    check_shape(&shape, grid, target).map_err(refuse)?;
    if npy.order() != npyz::Order::C {
        return Err(refuse(
            "is in Fortran order; write it with numpy.ascontiguousarray".into(),
        ));
    }
    let values = numpy::integers(npy).map_err(refuse)?;
    let beside = names_beside(&path);
    let names = names(&beside).map_err(|error| Error::File {
        path: beside,
        message: error.to_string(),
    })?;
    Ok(Ids {
        images: shape[0],
        values,
        path,
        names,
    })
}

/// What to do about a file beside the ids that names other images or another order.
const REMEDY: &str = "bring the ids and this file into the order of `bench tokenize`, or remove this file if it belongs to other ids";

/// Returns `ids.files.txt` for `ids.npy`. `bench tokenize` writes it: the names of the images in the order of the ids, one a line.
fn names_beside(path: &Path) -> PathBuf {
    path.with_extension("files.txt")
}

/// Returns the text of a file of names, without a byte order mark; `None` if there is no file.
fn names(path: &Path) -> io::Result<Option<String>> {
    let Some(mut file) = files::open_optional(path)? else {
        return Ok(None);
    };
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(Some(text.trim_start_matches('\u{feff}').to_owned()))
}

/// Compares `ids.labels.npy` with the labels of the images, if it lies beside `ids.npy`. `bench tokenize` writes it.
fn check_labels(ids: &Ids, label: impl Fn(usize) -> u32) -> Result<(), String> {
    let path = ids.path.with_extension("labels.npy");
    let refuse = |message: String| format!("{}: {message}; {REMEDY}", path.display());
    let Some(file) = files::open_optional(&path).map_err(|e| refuse(e.to_string()))? else {
        return Ok(());
    };
    let npy = numpy::open(BufReader::new(file)).map_err(|e| refuse(e.to_string()))?;
    let labels = numpy::integers(npy).map_err(&refuse)?;
    if labels.len() != ids.images {
        let found = labels.len();
        return Err(refuse(format!(
            "found {found} labels, expected {}, one per image",
            ids.images
        )));
    }
    let other = (0..ids.images).find(|index| labels[*index] != label(*index));
    other.map_or(Ok(()), |index| {
        let found = match labels[index] {
            u32::MAX => "a label below 0 or above 2^32 - 2".to_owned(),
            found => format!("label {found}"),
        };
        Err(refuse(format!(
            "found {found} of image {index}, expected {}, so the ids are in another order or of other images",
            label(index)
        )))
    })
}

/// Checks that `text` has the names of `images` images, one a line. Returns the number of the wrong line with the message.
fn check_names(
    text: &str,
    images: usize,
    name: impl Fn(usize) -> String,
) -> Result<(), (usize, String)> {
    let mut lines = text.lines();
    for index in 0..images {
        let (expected, found) = (name(index), lines.next());
        if found != Some(&expected) {
            let found = found.map_or("no line".into(), |found| format!("{found:?}"));
            return Err((
                index + 1,
                format!("found {found}, expected {expected:?}, the image of this row; {REMEDY}"),
            ));
        }
    }
    match lines.next() {
        Some(found) => Err((
            images + 1,
            format!("found {found:?}, expected no line after {images} images; {REMEDY}"),
        )),
        None => Ok(()),
    }
}

fn check_shape(shape: &[usize], grid: Grid, target: TargetSpec) -> Result<(), String> {
    let (own, last) = match (target.groups(), shape) {
        (None, own) => (own, String::new()),
        (Some(groups), [own @ .., last]) if *last == groups.count() => (own, format!(", {last}")),
        (Some(groups), _) => (&[][..], format!(", {}", groups.count())),
    };
    let fits = match *own {
        [_, patches] => patches == grid.num_patches(),
        [_, rows, cols] => (rows, cols) == (grid.rows, grid.cols),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let (patches, Grid { rows, cols }) = (grid.num_patches(), grid);
    let remedy = remedy(shape, patches, target);
    Err(format!(
        "has shape {shape:?}, expected [images, {patches}{last}] or [images, {rows}, {cols}{last}]{remedy}"
    ))
}

/// Returns the likely fix of a wrong shape.
fn remedy(shape: &[usize], patches: usize, target: TargetSpec) -> &'static str {
    match *shape {
        [_, found] if found == patches && target.groups().is_some() => {
            "; write `codebook_size` in place of `groups` for one id per patch"
        }
        [_, found, _] if found == patches && target.groups().is_none() => {
            "; for codes of several codebooks write `groups: [..]`, the number of codes of each, in place of `codebook_size`"
        }
        [_, tokens] | [_, tokens, _] if tokens == patches + 1 => "; cut off the class token",
        [_, rows, cols, _] if rows * cols == patches && target.groups().is_none() => {
            "; for codes of several codebooks write `groups: [..]`, the number of codes of each, in place of `codebook_size`"
        }
        [_, 1, _, _] | [_, _, _, 1] if target.groups().is_none() => {
            "; remove the dimension of 1 (numpy.squeeze)"
        }
        _ => "",
    }
}

fn check(
    with: &Config,
    (field, ids): (&str, &Ids),
    (grid, target): (Grid, TargetSpec),
    images: Option<usize>,
) -> Result<()> {
    let each = grid.num_patches() * target.per_patch();
    if let Some(outside) = codes::outside(target, &ids.values) {
        let message = format!(
            "{}: {outside} of image {} is not in 0..{} ({})",
            ids.path.display(),
            outside.at / each.max(1),
            outside.size,
            outside.field()
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
    target: TargetSpec,
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
        let per_patch = self.target.per_patch();
        let each = self.grid.num_patches() * per_patch;
        let start = sample.id.index * each;
        let row = ids
            .values
            .get(start..start + each)
            .ok_or_else(|| refuse("the token file has no row for this image"))?;
        let mut row = row.to_vec();
        if sample.flip {
            mirror(&mut row, self.grid.cols, per_patch);
        }
        Ok(row)
    }
}

/// Mirrors the lines of an image of `cols` patches with `per_patch` codes each.
fn mirror(codes: &mut [u32], cols: usize, per_patch: usize) {
    for line in codes.chunks_exact_mut(cols * per_patch) {
        line.reverse();
        line.chunks_exact_mut(per_patch).for_each(<[u32]>::reverse);
    }
}

impl Tokenizer for TokenFile {
    fn target(&self) -> TargetSpec {
        self.target
    }

    fn grid(&self) -> Grid {
        self.grid
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let each = self.grid.num_patches() * self.target.per_patch();
        let mut ids = Vec::with_capacity(view.batch() * each);
        for sample in view.samples() {
            ids.extend(self.row(sample)?);
        }
        let (images, patches) = (view.batch(), self.grid.num_patches());
        Ok(codes::targets(self.target, ids, (images, patches))?)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tessera_models::Groups;

    #[test]
    fn mirroring_moves_patches_and_keeps_the_order_of_their_groups() {
        let mut codes: Vec<u32> = (0..12).collect();
        mirror(&mut codes, 3, 2);
        assert_eq!(codes, [4, 5, 2, 3, 0, 1, 10, 11, 8, 9, 6, 7]);
        let mut ids: Vec<u32> = (0..6).collect();
        mirror(&mut ids, 3, 1);
        assert_eq!(ids, [2, 1, 0, 5, 4, 3]);
    }

    #[test]
    fn names_are_those_of_the_images_in_order() {
        let check = |text: &str| check_names(text, 2, |at| ["a.png", "b.png"][at].to_owned());
        for same in ["a.png\nb.png\n", "a.png\r\nb.png"] {
            check(same).unwrap();
        }
        for (text, at, found) in [
            ("b.png\na.png\n", 1, "found \"b.png\", expected \"a.png\""),
            ("a.png\n", 2, "found no line"),
            ("a.png\nb.png\nc.png\n", 3, "found \"c.png\""),
        ] {
            let (line, message) = check(text).unwrap_err();
            assert_eq!(line, at, "{message}");
            assert!(message.contains(found), "{message}");
        }
    }

    #[test]
    fn a_shape_fits_ids_or_codes() {
        let grid = Grid { rows: 2, cols: 3 };
        let ids = TargetSpec::Ids { codebook_size: 9 };
        let codes = TargetSpec::Codes {
            groups: Groups::new(&[4, 5]).unwrap(),
        };
        let check = |shape: &[usize], target| check_shape(shape, grid, target);
        for (shape, target) in [
            (&[9, 6][..], ids),
            (&[9, 2, 3], ids),
            (&[9, 6, 2], codes),
            (&[9, 2, 3, 2], codes),
        ] {
            check(shape, target).unwrap();
        }
        for (shape, target, remedy) in [
            (&[9, 6][..], codes, "write `codebook_size`"),
            (&[9, 2, 3], codes, "[images, 6, 2]"),
            (&[9, 6, 3], codes, "[images, 2, 3, 2]"),
            (&[9, 6, 2], ids, "write `groups: [..]`"),
            (&[9, 7, 2], codes, "cut off the class token"),
            (&[9], ids, "[images, 6]"),
            (&[], codes, "[images, 6, 2]"),
        ] {
            let message = check(shape, target).unwrap_err();
            assert!(message.contains(remedy), "{message}");
        }
    }
}
