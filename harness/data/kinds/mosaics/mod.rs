//! Mosaics: images generated from a seed, the built-in dataset.
//!
//! The class is a *texture* (stripes, checkers, rings, ...) that fills one object. The object's position, size, shape,
//! rotation, colours and contrast, shapes behind and in front of it, and noise are nuisance variables. The class can therefore
//! be recognised from local structure, but hardly from raw pixels.
//!
//! Only exactly rounded arithmetic (`+ - * / sqrt floor`) is used, so a seed gives the same bytes on every machine.

mod texture;

use rand::Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tessera_models::rng::keyed_rng;
use tessera_tokenizers::view::MOST_PIXELS;
use tessera_tokenizers::{Config, ConfigError, Fingerprint, Image, Split, schemars};

use crate::data::contract::{
    DatasetFactory, DatasetSpec, PixelSource, Pixels, ScanContext, Survey,
};
use crate::data::error::DataError;
use crate::data::scan::{Scan, SplitScan};
use texture::{Frame, Texture};

/// Factory of the dataset kind `mosaics`.
pub struct Factory;

impl DatasetFactory for Factory {
    fn kind(&self) -> &'static str {
        "mosaics"
    }

    fn summary(&self) -> &'static str {
        "images drawn by this program from a seed: ten textures on objects; nothing to download"
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(Mosaics)
    }

    fn parse(&self, with: &Config) -> Result<Box<dyn DatasetSpec>, ConfigError> {
        let mosaics: Mosaics = with.parse()?;
        Ok(Box::new(mosaics))
    }
}

/// Their names and labels are in memory.
const MOST_IMAGES: usize = 1 << 24;

/// Images generated from a seed.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mosaics {
    /// Seed of the images.
    #[serde(default)]
    #[schemars(range(min = 0, max = u64::MAX))]
    pub seed: u64,
    /// Number of train images, at least one of each of the ten classes.
    #[schemars(range(min = 10, max = MOST_IMAGES))]
    pub train: usize,
    /// Number of val images.
    #[schemars(range(min = 1, max = MOST_IMAGES))]
    pub val: usize,
    /// Side of an image, pixels.
    #[schemars(range(min = 8, max = MOST_PIXELS))]
    pub size: usize,
}

impl DatasetSpec for Mosaics {
    fn scan(&self, _: &ScanContext<'_>) -> Result<Scan, DataError> {
        let Self {
            seed,
            train,
            val,
            size,
        } = self;
        let split = |count: usize| SplitScan {
            names: (0..count).map(|i| i.to_string()).collect(),
            labels: (0..count).map(label).collect(),
            ..SplitScan::default()
        };
        let about =
            format!("mosaics version {VERSION} seed {seed} train {train} val {val} size {size}");
        Ok(Scan::new(
            "mosaics",
            CLASSES.map(String::from).to_vec(),
            [split(*train), split(*val)],
            Fingerprint::of(&[about.as_bytes()]),
        ))
    }

    fn survey(&self) -> Result<Survey, DataError> {
        Ok(Survey {
            images: [Some(self.train), Some(self.val)],
            ..Survey::default()
        })
    }

    fn open(&self, _: &Scan) -> Result<PixelSource, DataError> {
        Ok(PixelSource::Decoded(Box::new(self.clone())))
    }
}

impl Pixels for Mosaics {
    fn image(&self, split: Split, index: usize) -> Result<Image, DataError> {
        Ok(draw(self.seed, split, index, self.size))
    }
}

/// Version of the images. Increase it when a pixel of any image changes.
pub const VERSION: u32 = 1;

/// Names of the classes, indexed by label.
pub const CLASSES: [&str; 10] = [
    "level", "upright", "slanted", "crosses", "checkers", "diamonds", "dots", "rings", "bricks",
    "cells",
];

/// Returns the label of image `index` of any split. Labels cycle through the classes.
pub fn label(index: usize) -> u32 {
    (index % CLASSES.len()) as u32
}

/// Generates image `index` of a split with `size` by `size` pixels.
///
/// This is a pure function. The scene depends on (seed, split, index), and `size` is only its resolution.
pub fn draw(seed: u64, split: Split, index: usize, size: usize) -> Image {
    let mut rng = keyed_rng(seed, &format!("mosaic-{}", split.name()), 0, index as u64);
    let scene = Scene::draw(label(index), &mut rng);
    let mut rgb = Vec::with_capacity(size * size * 3);
    for row in 0..size {
        for col in 0..size {
            let color = scene.pixel(row, col, size);
            let grain = (rng.random::<f32>() - 0.5) * scene.noise;
            rgb.extend(color.map(|c| ((c + grain).clamp(0.0, 1.0) * 255.0 + 0.5) as u8));
        }
    }
    Image {
        width: size,
        height: size,
        rgb: rgb.into(),
    }
}

type Color = [f32; 3];

/// Everything about an image except its resolution. Coordinates are in 0..1.
struct Scene {
    corners: [Color; 4],
    behind: Vec<Shape>,
    object: Shape,
    texture: Texture,
    light: Color,
    before: Vec<Shape>,
    noise: f32,
}

impl Scene {
    fn draw(label: u32, rng: &mut impl Rng) -> Self {
        let corners = [color(rng), color(rng), color(rng), color(rng)];
        let behind = (0..rng.random_range(2..5))
            .map(|_| Shape::clutter(rng, 0.08..0.25))
            .collect();
        let object = Shape::object(rng);
        let texture = Texture::draw(label, Frame::draw(object.center, rng), rng);
        let before = (0..rng.random_range(0..3))
            .map(|_| Shape::clutter(rng, 0.03..0.09))
            .collect();
        Self {
            corners,
            behind,
            light: contrasting(object.color, rng),
            object,
            texture,
            before,
            noise: rng.random_range(0.02..0.12),
        }
    }

    /// Returns the mean of 2x2 points of a pixel.
    fn pixel(&self, row: usize, col: usize, size: usize) -> Color {
        let step = 1.0 / size as f32;
        let mut sum = [0.0; 3];
        for (dy, dx) in [(0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)] {
            let at = [(col as f32 + dx) * step, (row as f32 + dy) * step];
            let color = self.at(at);
            for (sum, color) in sum.iter_mut().zip(color) {
                *sum += 0.25 * color;
            }
        }
        sum
    }

    fn at(&self, at: [f32; 2]) -> Color {
        if let Some(shape) = self.before.iter().find(|s| s.contains(at)) {
            return shape.color;
        }
        if self.object.contains(at) {
            return if self.texture.is_light(at) {
                self.light
            } else {
                self.object.color
            };
        }
        if let Some(shape) = self.behind.iter().find(|s| s.contains(at)) {
            return shape.color;
        }
        let [x, y] = at;
        let mix = |c: usize| {
            let top = self.corners[0][c] * (1.0 - x) + self.corners[1][c] * x;
            let bottom = self.corners[2][c] * (1.0 - x) + self.corners[3][c] * x;
            top * (1.0 - y) + bottom * y
        };
        [mix(0), mix(1), mix(2)]
    }
}

/// A rotated ellipse or rectangle.
struct Shape {
    center: [f32; 2],
    half: [f32; 2],
    turn: [f32; 2],
    round: bool,
    color: Color,
}

impl Shape {
    fn object(rng: &mut impl Rng) -> Self {
        let side = rng.random_range(0.36..0.5_f32);
        Self {
            center: [rng.random_range(0.35..0.65), rng.random_range(0.35..0.65)],
            half: [side, side * rng.random_range(0.75..1.0_f32)],
            turn: texture::direction(rng),
            round: rng.random(),
            color: color(rng),
        }
    }

    fn clutter(rng: &mut impl Rng, size: std::ops::Range<f32>) -> Self {
        Self {
            center: [rng.random(), rng.random()],
            half: [rng.random_range(size.clone()), rng.random_range(size)],
            turn: texture::direction(rng),
            round: rng.random(),
            color: color(rng),
        }
    }

    fn contains(&self, at: [f32; 2]) -> bool {
        let [x, y] = texture::turned(at, self.center, self.turn);
        let (x, y) = (x / self.half[0], y / self.half[1]);
        if self.round {
            x * x + y * y <= 1.0
        } else {
            x.abs() <= 0.9 && y.abs() <= 0.9
        }
    }
}

/// Draws a grey with a tint.
fn color(rng: &mut impl Rng) -> Color {
    let grey = rng.random_range(0.1..0.9_f32);
    [0; 3].map(|_| (grey + rng.random_range(-0.2..0.2_f32)).clamp(0.0, 1.0))
}

/// Draws a colour that differs from `from` by 0.35 to 0.8 in the mean of the channels, in a direction that stays in range.
fn contrasting(from: Color, rng: &mut impl Rng) -> Color {
    let mean = (from[0] + from[1] + from[2]) / 3.0;
    let contrast = rng.random_range(0.35..0.8_f32);
    let up = if mean + contrast > 1.0 {
        false
    } else if mean < contrast {
        true
    } else {
        rng.random()
    };
    let shift = if up { contrast } else { -contrast };
    let tint = [
        rng.random_range(-0.1..0.1_f32),
        rng.random_range(-0.1..0.1),
        rng.random_range(-0.1..0.1),
    ];
    [
        from[0] + shift + tint[0],
        from[1] + shift + tint[1],
        from[2] + shift + tint[2],
    ]
    .map(|c| c.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_the_same_everywhere() {
        let mut hasher = blake3::Hasher::new();
        for (index, size) in [(0, 32), (3, 32), (8, 64), (9, 37)] {
            hasher.update(&draw(0, Split::Train, index, size).rgb);
        }
        // Changing this digest requires a new VERSION.
        let digest = hasher.finalize().to_hex().to_string();
        assert_eq!(&digest[..16], "57cbb983fc7aa677", "{digest}");
    }

    #[test]
    fn seeds_splits_and_indices_differ() {
        let base = draw(0, Split::Train, 10, 32);
        assert_eq!(base, draw(0, Split::Train, 10, 32));
        for other in [
            draw(1, Split::Train, 10, 32),
            draw(0, Split::Val, 10, 32),
            draw(0, Split::Train, 20, 32),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn any_size_shows_the_same_scene() {
        let (small, large) = (draw(0, Split::Val, 4, 32), draw(0, Split::Val, 4, 128));
        assert_eq!(large.rgb.len(), 128 * 128 * 3);
        let mean = |image: &Image| {
            image.rgb.iter().map(|&b| f64::from(b)).sum::<f64>() / image.rgb.len() as f64
        };
        assert!((mean(&small) - mean(&large)).abs() < 4.0);
    }

    #[test]
    fn classes_are_balanced() {
        let counts = (0..1000).fold([0; 10], |mut counts, i| {
            counts[label(i) as usize] += 1;
            counts
        });
        assert_eq!(counts, [100; 10]);
    }
}
