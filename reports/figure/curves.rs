//! Draws numbers over epochs, one line per row. Lines differ in dashes and have a name at the end, so colour is not needed.

use super::axis::{Axis, frame};
use super::scatter::Titles;
use super::svg::{Anchor, Svg, escaped};

const SIZE: (f64, f64) = (720.0, 400.0);
/// Width of the names on the right.
const NAMES: f64 = 220.0;

/// Length of the sample of a line before its name: complete dashes.
const SWATCH: f64 = 28.0;

/// Colours that also differ in lightness (Okabe and Ito).
const COLOURS: [&str; 8] = [
    "#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7A7A7A",
];
const DASHES: [&str; 4] = ["", "6 3", "2 2", "8 3 2 3"];

/// Returns the colour and dashes of the line `at` as attributes, which differ for the first 32 lines.
fn stroke(at: usize) -> String {
    // The dashes shift by one with every round of colours. Otherwise pairs repeat after one round.
    let dashes = DASHES[(at + at / COLOURS.len()) % DASHES.len()];
    let dashed = match dashes {
        "" => String::new(),
        dashes => format!(r#" stroke-dasharray="{dashes}""#),
    };
    format!(r#" stroke="{}"{dashed}"#, COLOURS[at % COLOURS.len()])
}

/// One line.
#[derive(Clone, Debug)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// (x, y), by x.
    pub points: Vec<(f64, f64)>,
}

/// Returns the figure's SVG.
pub fn curves(lines: &[Curve], titles: &Titles<'_>) -> String {
    let mut svg = Svg::new(SIZE.0, SIZE.1);
    let all = || lines.iter().flat_map(|l| &l.points);
    let x = Axis::over(all().map(|p| p.0), (70.0, SIZE.0 - NAMES));
    let y = Axis::over(all().map(|p| p.1), (SIZE.1 - 56.0, 40.0));
    svg.text("t-ink", (70.0, 22.0), 14.0, Anchor::Start, titles.title);
    frame(&mut svg, &x, &y, (titles.x, titles.y));
    let mut names: Vec<(f64, usize)> = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let points: Vec<(f64, f64)> = line
            .points
            .iter()
            .filter(|p| p.1.is_finite())
            .map(|p| (x.at(p.0), y.at(p.1)))
            .collect();
        let Some(last) = points.last() else { continue };
        let (stroke, name) = (stroke(at), escaped(&line.name));
        let more = format!(r#"{stroke} data-name="{name}""#);
        svg.path("t-curve", &points, false, &more);
        names.push((last.1, at));
    }
    // Sorts names by height and moves them apart.
    names.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut below = 34.0_f64;
    for (wanted, at) in names {
        let place = (wanted + 4.0).max(below + 13.0);
        below = place;
        let left = SIZE.0 - NAMES + 8.0;
        svg.raw(&format!(
            r#"<line x1="{left:.2}" y1="{0:.2}" x2="{1:.2}" y2="{0:.2}" class="t-curve"{2}/>"#,
            place - 4.0,
            left + SWATCH,
            stroke(at)
        ));
        svg.text(
            "t-ink",
            (left + SWATCH + 4.0, place),
            10.0,
            Anchor::Start,
            &lines[at].name,
        );
    }
    svg.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn lines_differ_and_their_samples_equal_them() {
        let all: HashSet<String> = (0..32).map(stroke).collect();
        assert_eq!(all.len(), 32);
        let lines: Vec<Curve> = (0..12)
            .map(|at| Curve {
                name: format!("row {at}"),
                points: vec![(0.0, 1.0), (1.0, at as f64)],
            })
            .collect();
        let titles = Titles {
            title: "loss",
            x: "epoch",
            y: "loss",
        };
        let svg = curves(&lines, &titles);
        for at in 0..12 {
            let count = svg.matches(&format!("{} data-name", stroke(at))).count();
            let named = format!("class=\"t-curve\"{}/>", stroke(at));
            assert_eq!((count, svg.matches(&named).count()), (1, 1), "{at}");
        }
    }
}
