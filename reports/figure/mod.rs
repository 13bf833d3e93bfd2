//! Figures as SVG. [`Figure::svg`] has text and classes, which the page themes. [`Figure::files`] returns an SVG with outlines instead
//! of letters and a PNG, which look the same on every machine.

mod axis;
mod curves;
mod forest;
mod heat;
mod labels;
mod outlines;
mod scatter;
mod svg;
mod toy;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::error::{Error, Result};

pub use curves::{Curve, curves};
pub use forest::{Effect, forest};
pub use heat::heat;
pub use scatter::{LeftOut, Point, Titles, fitted, scatter, words};
pub use svg::escaped;
pub use toy::{Panel, ROWS as TILE_ROWS, Tiles, toy};

/// A drawn figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// File name without extension.
    pub name: String,
    /// Caption.
    pub caption: String,
    /// SVG with text, for the page.
    pub svg: String,
}

/// A figure as files.
pub struct Files {
    /// SVG with outlines instead of letters.
    pub svg: String,
    /// PNG, two pixels per unit.
    pub png: Vec<u8>,
}

/// Pixels of the PNG per unit of the SVG.
const SCALE: f32 = 2.0;

impl Figure {
    /// Renders the figure with its font as outlines.
    ///
    /// # Errors
    /// [`Error::Figure`], a bug, because the SVG is our own.
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

/// Returns the figure `name` of `figures` as HTML for the page; empty if there is no such figure.
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
