//! Converts text to outlines: one font, from left to right, with the font's kerning.

use std::fmt::Write;

use resvg::usvg::roxmltree::{Document, Node};
use ttf_parser::gpos::{PairAdjustment, PositioningSubtable};
use ttf_parser::{Face, GlyphId, OutlineBuilder};

use crate::text::ISOLATES;

/// DejaVu Sans, a subset.
const FONT: &[u8] = include_bytes!("../fonts/DejaVuSans.ttf");

/// Replaces every text of `svg` by a path.
pub fn outlined(svg: &str) -> Result<String, String> {
    let face = Face::parse(FONT, 0).map_err(|e| e.to_string())?;
    let document = Document::parse(svg).map_err(|e| e.to_string())?;
    let (mut out, mut end) = (String::new(), 0);
    for text in document.descendants().filter(|n| n.has_tag_name("text")) {
        let range = text.range();
        out.push_str(&svg[end..range.start]);
        out.push_str(&path(&face, text));
        end = range.end;
    }
    out.push_str(&svg[end..]);
    Ok(out)
}

/// Returns the path of a `<text>` of [`Svg`](super::svg::Svg), in the font's units below a transform.
fn path(face: &Face<'_>, text: Node<'_, '_>) -> String {
    let line = Line::new(face, text.text().unwrap_or_default());
    let value = |name| text.attribute(name).unwrap_or_default();
    let scale = value("font-size").parse().unwrap_or(0.0) / f64::from(face.units_per_em());
    let left = match value("text-anchor") {
        "middle" => -line.width / 2.0,
        "end" => -line.width,
        _ => 0.0,
    };
    let paint: String = ["class", "fill"]
        .iter()
        .filter_map(|name| Some(format!(" {name}=\"{}\"", text.attribute(*name)?)))
        .collect();
    format!(
        r#"<path{paint} transform="{} translate({} {}) scale({scale} -{scale}) translate({left})" d="{}"/>"#,
        value("transform"),
        value("x"),
        value("y"),
        line.outline
    )
}

/// A line of text in the font's units, the y axis upwards.
#[derive(Default)]
struct Line {
    outline: String,
    width: f32,
}

impl Line {
    /// Missing characters become the font's box for them.
    fn new(face: &Face<'_>, text: &str) -> Self {
        let mut line = Self::default();
        let mut last = None;
        for c in text.chars().filter(|c| !ISOLATES.contains(c)) {
            let glyph = face.glyph_index(c).unwrap_or_default();
            line.width += last
                .and_then(|last| kerning(face, last, glyph))
                .unwrap_or(0.0);
            face.outline_glyph(glyph, &mut line);
            line.width += f32::from(face.glyph_hor_advance(glyph).unwrap_or_default());
            last = Some(glyph);
        }
        line
    }

    fn draw<const N: usize>(&mut self, command: char, points: [(f32, f32); N]) {
        self.outline.push(command);
        for (x, y) in points {
            let _ = write!(self.outline, "{} {y} ", self.width + x);
        }
    }
}

impl OutlineBuilder for Line {
    fn move_to(&mut self, x: f32, y: f32) {
        self.draw('M', [(x, y)]);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.draw('L', [(x, y)]);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.draw('Q', [(x1, y1), (x, y)]);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.draw('C', [(x1, y1), (x2, y2), (x, y)]);
    }

    fn close(&mut self) {
        self.outline.push('Z');
    }
}

/// Returns the kerning between two letters. The font has one table for it, over classes of letters.
fn kerning(face: &Face<'_>, left: GlyphId, right: GlyphId) -> Option<f32> {
    let lookup = face.tables().gpos?.lookups.get(0)?;
    let PositioningSubtable::Pair(PairAdjustment::Format2 {
        coverage,
        classes,
        matrix,
    }) = lookup.subtables.get(0)?
    else {
        return None;
    };
    coverage.get(left)?;
    let (first, _) = matrix.get((classes.0.get(left), classes.1.get(right)))?;
    Some(first.x_advance.into())
}
