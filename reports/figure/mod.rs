//! Figures as SVG. [`Figure::svg`] has text and classes, for the page, which themes it; [`Figure::files`] has the letters as
//! outlines and a PNG beside it, which look the same on every machine.

mod axis;
mod curves;
mod forest;
mod heat;
mod outlines;
mod scatter;
mod svg;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::error::{Error, Result};

pub use curves::{Curve, curves};
pub use forest::{Effect, forest};
pub use heat::heat;
pub use scatter::{Point, Titles, scatter, words};
pub use svg::escaped;

/// A drawn figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// File name without extension.
    pub name: String,
    /// What it shows, in words.
    pub caption: String,
    /// SVG with text, as it stands in the page.
    pub svg: String,
}

/// A figure as files.
pub struct Files {
    /// SVG, letters as outlines.
    pub svg: String,
    /// PNG, two pixels per unit.
    pub png: Vec<u8>,
}

/// Pixels of the PNG per unit of the SVG.
const SCALE: f32 = 2.0;

impl Figure {
    /// The figure with its font drawn in.
    ///
    /// # Errors
    /// [`Error::Figure`]: a bug, as the SVG is our own.
    pub fn files(&self) -> Result<Files> {
        let failed = |message: String| Error::Figure {
            name: self.name.clone(),
            message,
        };
        let svg = outlines::outlined(&self.svg).map_err(failed)?;
        let tree = Tree::from_str(&svg, &Options::default()).map_err(|e| failed(e.to_string()))?;
        let size = tree.size();
        let side = |length: f32| (length * SCALE).ceil() as u32;
        let mut pixels = Pixmap::new(side(size.width()), side(size.height()))
            .ok_or_else(|| failed("it has no area".into()))?;
        resvg::render(
            &tree,
            Transform::from_scale(SCALE, SCALE),
            &mut pixels.as_mut(),
        );
        Ok(Files {
            svg,
            png: pixels.encode_png().map_err(|e| failed(e.to_string()))?,
        })
    }
}

/// The figure `name` of `figures` for the page; nothing where there is no such figure.
pub fn html(figures: &[Figure], name: &str, hidden: bool) -> String {
    let Some(figure) = figures.iter().find(|f| f.name == name) else {
        return String::new();
    };
    format!(
        "<figure id=\"fig-{}\"{}>{}<figcaption>{}</figcaption></figure>",
        escaped(name),
        if hidden { " hidden" } else { "" },
        figure.svg,
        escaped(&figure.caption)
    )
}

#[cfg(test)]
mod tests;
