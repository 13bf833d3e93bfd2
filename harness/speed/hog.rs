//! HOG features.

use rayon::prelude::*;
use tessera_tokenizers::{Config, Grid, ViewBuf};

use super::case::{Request, median_seconds, unknown_preset};
use super::noise::{IMAGES, noises, with_build};

/// Sides of the images in pixels.
pub(super) const PRESETS: &[&str] = &["224"];

/// Measures HOG in images per second, including rendering.
pub(super) fn hog(request: &Request<'_>) -> anyhow::Result<f64> {
    let Some(side) = request
        .preset
        .parse::<usize>()
        .ok()
        .filter(|s| s.is_multiple_of(16) && *s > 0)
    else {
        return Err(unknown_preset(request.preset, PRESETS));
    };
    let grid = Grid {
        rows: side / 16,
        cols: side / 16,
    };
    let with = Config::from_value(serde_json::json!({"kind": "hog"}));
    let hog = with_build(request.registry, (side, grid), |build| {
        request.registry.build_features(&with, build)
    })?;
    let views = noises(side);
    if let (Some(device), Some(hog)) = (request.launcher()?, hog.on_device()) {
        let all = ViewBuf(views.into_iter().flat_map(|view| view.0).collect());
        let seconds = median_seconds(|| {
            std::hint::black_box(hog.extract(&device, &all.as_view())?);
            Ok(device.wait()?)
        })?;
        return Ok(IMAGES as f64 / seconds);
    }
    let seconds = median_seconds(|| {
        let all = views
            .par_iter()
            .map(|view| hog.extract(&view.as_view()).map(drop));
        Ok(all.collect::<Result<(), _>>()?)
    })?;
    Ok(IMAGES as f64 / seconds)
}
