//! The part of the train split that becomes the val split of a dataset without one.

use std::collections::BTreeSet;

use tessera_models::rng::keyed_rng;
use tessera_tokenizers::Fingerprint;

use super::scan::Scan;

/// A draw of images of each class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HoldOut {
    /// Fraction of the images of each class, 0 to 1 (exclusive).
    pub part: f64,
    /// Seed of the draw.
    pub seed: u64,
}

impl HoldOut {
    /// Draws indices below `images`, the number of images of class `label`: at least one, and not all.
    pub fn draw(self, images: usize, label: u32) -> BTreeSet<usize> {
        let most = images.saturating_sub(1);
        let count = ((images as f64 * self.part).round() as usize).clamp(1.min(most), most);
        let mut rng = keyed_rng(self.seed, "hold out", 0, u64::from(label));
        let drawn = rand::seq::index::sample(&mut rng, images, count);
        drawn.into_iter().collect()
    }

    /// Adds the draw to the fingerprint: the order of the images does not show which are held out.
    pub fn mark(self, scan: &mut Scan) {
        let about = format!("hold_out 1 {} {}", self.part, self.seed);
        scan.fingerprint = Fingerprint::of(&[scan.fingerprint.0.as_bytes(), about.as_bytes()]);
    }
}
