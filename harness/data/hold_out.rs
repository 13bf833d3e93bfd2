//! The part of the train split that becomes the val split of a dataset without one.

use std::collections::BTreeSet;

use tessera_models::rng::keyed_rng;
use tessera_tokenizers::{Config, ConfigError, Fingerprint};

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
    /// Returns what the fields `hold_out` and `hold_out_seed` of a dataset state. Resolved suites have the seed 0 also without a draw.
    ///
    /// # Errors
    /// On another seed without a draw, which would have no effect.
    pub fn of_fields(
        with: &Config,
        part: Option<f64>,
        seed: u64,
    ) -> Result<Option<Self>, ConfigError> {
        if part.is_none() && seed != 0 {
            let message = format!(
                "found {seed} without `hold_out`, for which it is the seed; write `hold_out` too, or leave it out"
            );
            return Err(with.error("hold_out_seed", message));
        }
        Ok(part.map(|part| Self { part, seed }))
    }

    /// Draws indices below `images`, the number of images of class `label`: at least one, and not all.
    pub fn draw(self, images: usize, label: u32) -> BTreeSet<usize> {
        let most = images.saturating_sub(1);
        let count = ((images as f64 * self.part).round() as usize).clamp(1.min(most), most);
        let mut rng = keyed_rng(self.seed, "hold out", 0, u64::from(label));
        let drawn = rand::seq::index::sample(&mut rng, images, count);
        drawn.into_iter().collect()
    }

    /// Adds the draw to the fingerprint: the order of the images does not show which are held out. `has_broken`: images that do not decode took part
    /// in the draw and are not in the fingerprint, so the names of the held out ones are added too.
    pub fn mark(self, scan: &mut Scan, has_broken: bool) {
        let mut about = format!("hold_out 1 {} {}", self.part, self.seed);
        if has_broken {
            for name in scan.val.names.iter() {
                about.extend(["\0", name]);
            }
        }
        scan.fingerprint = Fingerprint::of(&[scan.fingerprint.0.as_bytes(), about.as_bytes()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_seed_of_no_draw_is_refused() {
        let with = Config::from_value(json!({}));
        let draw = |part, seed| HoldOut::of_fields(&with, part, seed);
        assert_eq!(draw(None, 0).unwrap(), None);
        assert_eq!(draw(Some(0.5), 3).unwrap().unwrap().seed, 3);
        let error = draw(None, 3).unwrap_err().to_string();
        assert!(
            error.contains("hold_out_seed") && error.contains("found 3 without `hold_out`"),
            "{error}"
        );
    }
}
