//! Draws tokenizations of the paper's toy model like its Figure 2: points in regions, coloured and framed by token.

use super::svg::{Anchor, Svg};

/// Colours of neighbouring tokens.
const COLOURS: [&str; 6] = [
    "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#999999",
];
/// Side of a point's tile.
const TILE: f64 = 22.0;
/// Rows of points of a region.
pub const ROWS: usize = 4;
/// Space between two panels, and around them.
const AIR: f64 = 36.0;
const TOP: f64 = 84.0;

/// The points of a region that are drawn, column by column.
#[derive(Clone, Debug)]
pub struct Tiles {
    /// Name of the region.
    pub name: String,
    /// Token of each point, a multiple of [`ROWS`] points, row by row.
    pub tokens: Vec<usize>,
}

impl Tiles {
    fn columns(&self) -> usize {
        self.tokens.len() / ROWS
    }
}

/// One tokenization.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Its name.
    pub title: String,
    /// Its points.
    pub regions: Vec<Tiles>,
    /// Lines below the points.
    pub lines: Vec<String>,
}

/// Returns the figure's SVG.
pub fn toy(title: &str, panels: &[Panel]) -> String {
    let width = |panel: &Panel| {
        let columns: usize = panel.regions.iter().map(Tiles::columns).sum();
        (columns as f64 * TILE + 10.0 * panel.regions.len() as f64).max(190.0)
    };
    let whole: f64 = panels.iter().map(|panel| width(panel) + AIR).sum();
    let lines = panels.iter().map(|panel| panel.lines.len()).max();
    let bottom = TOP + ROWS as f64 * TILE + 18.0;
    let height = bottom + 18.0 * lines.unwrap_or(0) as f64 + 12.0;
    let mut svg = Svg::new(whole + AIR, height);
    svg.text("t-ink", (12.0, 24.0), 14.0, Anchor::Start, title);
    let mut left = AIR;
    for panel in panels {
        svg.text(
            "t-ink",
            (left, TOP - 28.0),
            12.0,
            Anchor::Start,
            &panel.title,
        );
        points(&mut svg, panel, left);
        for (at, line) in panel.lines.iter().enumerate() {
            let y = bottom + 18.0 * (at as f64 + 0.5);
            svg.text("t-ink", (left, y), 10.0, Anchor::Start, line);
        }
        left += width(panel) + AIR;
    }
    svg.finish()
}

fn points(svg: &mut Svg, panel: &Panel, left: f64) {
    let mut x = left;
    for region in &panel.regions {
        let columns = region.columns();
        svg.text("t-dim", (x, TOP - 8.0), 8.0, Anchor::Start, &region.name);
        for (at, token) in region.tokens.iter().enumerate() {
            let (row, column) = (at / columns, at % columns);
            let place = (x + TILE * column as f64, TOP + TILE * row as f64);
            let fill = format!(r#" fill="{}""#, COLOURS[token % COLOURS.len()]);
            svg.rect("t-tile", [place.0, place.1, TILE, TILE], &fill);
            svg.raw(&format!(
                r#"<circle class="t-mark-full" cx="{:.2}" cy="{:.2}" r="2.5"/>"#,
                place.0 + TILE / 2.0,
                place.1 + TILE / 2.0
            ));
            let same = |other: Option<usize>| other.is_some_and(|at| region.tokens[at] == *token);
            // A frame goes around all neighbouring points of a token.
            if !same((column > 0).then(|| at - 1)) {
                svg.line("t-axis", place, (place.0, place.1 + TILE));
            }
            if !same((row > 0).then(|| at - columns)) {
                svg.line("t-axis", place, (place.0 + TILE, place.1));
            }
        }
        let (right, low) = (x + TILE * columns as f64, TOP + TILE * ROWS as f64);
        svg.line("t-axis", (right, TOP), (right, low));
        svg.line("t-axis", (x, low), (right, low));
        x = right + 10.0;
    }
}
