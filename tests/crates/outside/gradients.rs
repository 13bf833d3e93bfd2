//! A dataset of generated images. The class is the direction in which an image becomes brighter.

use serde::Deserialize;
use tessera::schemars::{self, JsonSchema, Schema};
use tessera::{
    Config, ConfigError, DataError, DatasetFactory, DatasetSpec, Fingerprint, Image, PixelSource,
    Pixels, Scan, ScanContext, Split, SplitScan,
};

/// The classes; image `i` has class `i % 2`.
const CLASSES: [&str; 2] = ["right", "down"];

/// The documentation of the fields is the help text of `bench schema`.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Gradients {
    /// Number of train images.
    train: usize,
    /// Number of val images.
    val: usize,
    /// Side of an image in pixels.
    size: usize,
}

/// The stateless factory for the registry.
pub struct Factory;

impl DatasetFactory for Factory {
    fn kind(&self) -> &'static str {
        "gradients"
    }

    fn summary(&self) -> &'static str {
        "generated images that become brighter to the right or down"
    }

    fn schema(&self) -> Schema {
        schemars::schema_for!(Gradients)
    }

    fn parse(&self, with: &Config) -> Result<Box<dyn DatasetSpec>, ConfigError> {
        let gradients: Gradients = with.parse()?;
        if gradients.size < 2 {
            return Err(with.error(
                "size",
                format!("found {}, expected at least 2", gradients.size),
            ));
        }
        Ok(Box::new(gradients))
    }
}

impl DatasetSpec for Gradients {
    fn scan(&self, _: &ScanContext<'_>) -> Result<Scan, DataError> {
        let split = |count: usize| SplitScan {
            names: (0..count).map(|image| image.to_string()).collect(),
            labels: (0..count)
                .map(|image| (image % CLASSES.len()) as u32)
                .collect(),
            ..SplitScan::default()
        };
        // Increase the number when the same fields give other pixels.
        let about = format!("gradients 1 {self:?}");
        Ok(Scan::new(
            "gradients",
            CLASSES.map(String::from).to_vec(),
            [split(self.train), split(self.val)],
            Fingerprint::of(&[about.as_bytes()]),
        ))
    }

    fn open(&self, _: &Scan) -> Result<PixelSource, DataError> {
        Ok(PixelSource::Decoded(Box::new(*self)))
    }
}

impl Pixels for Gradients {
    fn image(&self, split: Split, index: usize) -> Result<Image, DataError> {
        // Val images have other slopes than train images.
        let slope = 1 + 2 * (index % 5) + usize::from(split == Split::Val);
        let shade = |at: usize| (at * slope * 16 / self.size) as u8;
        let pixels = (0..self.size * self.size).flat_map(|at| {
            let (row, column) = (at / self.size, at % self.size);
            [shade(if index % 2 == 0 { column } else { row }); 3]
        });
        Ok(Image {
            width: self.size,
            height: self.size,
            rgb: pixels.collect::<Vec<u8>>().into(),
        })
    }
}
