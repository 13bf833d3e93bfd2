//! A first suite for a folder of images: `bench init`, and `bench score FOLDER`.

use std::path::Path;

use serde_json::Value;
use tessera_reports::printable;
use tessera_tokenizers::Config;

use super::error::SuiteError;
use super::expand;
use crate::data::{DataError, look};
use crate::registry::Registry;

/// Tokenizers of a first suite, and what is done with them.
#[derive(Clone, Debug)]
pub struct Rows {
    /// Features that K-means groups, at least one.
    pub features: Vec<Feature>,
    /// Numbers of clusters, at least one.
    pub k: Vec<usize>,
    /// Whether models are trained for them.
    pub train: bool,
}

/// Features without fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Pixels.
    Pixel,
    /// Histograms of oriented gradients.
    Hog,
}

/// A first suite.
#[derive(Clone, Debug)]
pub struct Starter {
    /// What the folder holds, for the user.
    pub found: String,
    /// Name of the suite.
    pub name: String,
    /// The suite file.
    pub text: String,
}

/// Why there is no suite for a folder.
#[derive(Debug, thiserror::Error)]
pub enum StarterError {
    /// The folder holds no dataset.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Its dataset cannot be described.
    #[error(transparent)]
    Suite(#[from] SuiteError),
}

/// Looks at `folder` and writes a suite. Paths in it are those of `folder`.
///
/// # Errors
/// What was found in place of a dataset.
pub fn starter(folder: &Path, rows: &Rows, registry: &Registry) -> Result<Starter, StarterError> {
    if folder.to_str().is_none() {
        let message = "found a path that is not UTF-8, expected one that is, because suites are text; rename the folder";
        return Err(DataError::at(folder, message).into());
    }
    let look = look(folder)?;
    let spec = registry.dataset(&Config::from_value(look.dataset.clone()));
    let survey = spec.map_err(SuiteError::Config)?.survey()?;
    let no_val = survey.images[1] == Some(0);
    let images = match survey.images {
        [Some(train), Some(val)] if val > 0 => format!("{train} train and {val} val images"),
        [Some(train), _] => format!("{train} images"),
        [None, _] => "images".to_owned(),
    };
    let side = match look.side {
        Some(side) => format!(", about {side} pixels on the shorter side"),
        None => String::new(),
    };
    // A line break in a name would end the comment.
    let shown = folder.display().to_string().replace(['\n', '\t'], " ");
    let found = format!("{}: {images} in {}{side}", printable(&shown), look.layout);
    let whole = std::path::absolute(folder).unwrap_or_default();
    let name = whole.file_name().unwrap_or_default().to_string_lossy();
    let name = name.replace(
        |c: char| !(c.is_ascii_alphanumeric() || "-_.".contains(c)),
        "-",
    );
    // A hidden file, or an option of the next command.
    let name = match name.trim_matches(['.', '-']) {
        "" => "images".to_owned(),
        name => name.to_owned(),
    };
    // Of a class, at most half of the images are held out.
    let train = survey.images[0].map(|train| if no_val { train / 2 } else { train });
    let k = train.unwrap_or(NEIGHBOURS).clamp(1, NEIGHBOURS);
    let text = text(&name, &found, &look.dataset, (look.side, no_val, k), rows);
    Ok(Starter { found, name, text })
}

/// Returns image and patch size for images of a shorter side; ViTs usually see 224 pixels in patches of 16.
fn sizes(side: usize) -> (usize, usize) {
    match side {
        224.. => (224, 16),
        128.. => (128, 8),
        64.. => (side - side % 8, 8),
        _ => ((side - side % 4).max(8), 4),
    }
}

fn text(
    name: &str,
    found: &str,
    dataset: &Value,
    (side, no_val, neighbours): (Option<usize>, bool, usize),
    rows: &Rows,
) -> String {
    let (image, patch) = sizes(side.unwrap_or(224));
    let grid = image / patch;
    let dataset = expand::literal(dataset);
    let fields = dataset.as_object().into_iter().flatten();
    let fields: Vec<String> = fields
        .map(|(key, value)| format!("{key}: {value}"))
        .collect();
    let dataset = fields.join(", ");
    let (dataset, held) = match (no_val, rows.train) {
        (true, true) => (format!("{dataset}, hold_out: 0.1"), ""),
        (true, false) => (
            dataset,
            "\n# For training, hold out a tenth of each class: add `hold_out: 0.1` to the dataset.",
        ),
        (false, _) => (dataset, ""),
    };
    let training = recipe(rows.train, neighbours);
    let tokenizers: String = rows.features.iter().map(|f| row(*f, &rows.k)).collect();
    format!(
        r#"# {found}
# Check it with `bench validate`, score it with `bench score`. `bench validate --resolved` fills defaults in.
name: "{name}"{held}
dataset: {{{dataset}}}
# Pixels that the tokenizers and the model see, and the side of a patch: {grid}x{grid} patches.
image_size: {image}
patch_size: {patch}
tokenizers:
{tokenizers}  # A function in mine.py beside this file: it gets float32 [batch, 3, {image}, {image}] and returns integers [batch, {grid}, {grid}].
  # - {{name: Mine, kind: python, with: {{callable: "mine:tokenize", codebook_size: 512}}}}
# Other kinds: `bench list tokenizers`.
{training}"#
    )
}

/// Neighbours of k-NN if a suite states none.
const NEIGHBOURS: usize = 20;

/// Lines that train and evaluate a model for every row.
const RECIPE: &str = "baselines: [no-pretraining]
backbone: {variant: nano}
pretrain: {epochs: 20, batch: 64, base_lr: 4.0e-3}
knn: {}
linear_probe: {epochs: 300, batch: 512, base_lr: [0.1, 0.2, 0.4], pooling: mean, optimizer: adamw, augment: none}
";

/// Returns the recipe, as comments if nothing is trained.
fn recipe(train: bool, neighbours: usize) -> String {
    let recipe = match neighbours {
        NEIGHBOURS => RECIPE.to_owned(),
        k => RECIPE.replace("knn: {}", &format!("knn: {{k: {k}}}")),
    };
    let about = "model for every row";
    if train {
        return format!("# `bench run` trains and evaluates a {about}.\n{recipe}");
    }
    let lines: String = recipe.lines().map(|line| format!("# {line}\n")).collect();
    format!("# To train and evaluate a {about}, remove the # below and use `bench run`.\n{lines}")
}

fn row(feature: Feature, k: &[usize]) -> String {
    let (name, kind) = match feature {
        Feature::Pixel => ("Pixel", "pixels"),
        Feature::Hog => ("HOG", "hog"),
    };
    format!(
        "  - {{name: \"K-means {name}, K={{k}}\", kind: kmeans, with: {{features: {{kind: {kind}}}, epochs: 10}}, sweep: {{k: {k:?}}}}}\n"
    )
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    /// The suite had another name of the folder, which was then said not to exist.
    #[test]
    fn a_folder_whose_path_is_not_utf8_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(OsStr::from_bytes(b"\xff\xfe"));
        std::fs::create_dir_all(folder.join("ant")).unwrap();
        let rows = Rows {
            features: vec![Feature::Hog],
            k: vec![2],
            train: false,
        };
        let error = starter(&folder, &rows, &Registry::builtin()).unwrap_err();
        assert!(error.to_string().contains("not UTF-8"), "{error}");
    }
}
