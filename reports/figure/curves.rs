//! Draws numbers over epochs, one line per row. Lines differ in dashes and have a name at the end, so colour is not needed.

use super::axis::{Axis, frame};
use super::labels::LETTER;
use super::scatter::{Titles, shortened};
use super::svg::{Anchor, Svg, escaped};

/// Least width and height.
const SIZE: (f64, f64) = (720.0, 400.0);
/// Right end of the plot, after which lines have their samples.
const PLOT: f64 = 500.0;
/// Height of a name.
const LINE: f64 = 13.0;
/// Baseline of the highest name, and distance of the lowest one from the bottom.
const ENDS: (f64, f64) = (47.0, 8.0);

/// Length of the sample of a line before its name: complete dashes.
const SWATCH: f64 = 28.0;

/// Left ends of the samples and of the names.
const LEFT: (f64, f64) = (PLOT + 8.0, PLOT + 12.0 + SWATCH);

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
    let height = SIZE.1.max(ENDS.0 + ENDS.1 + LINE * lines.len() as f64);
    let names: Vec<String> = lines.iter().map(|line| shortened(&line.name)).collect();
    let letters = names.iter().map(|name| name.chars().count()).max();
    let width = SIZE.0.max(LEFT.1 + LETTER * letters.unwrap_or(0) as f64);
    let mut svg = Svg::new(width, height);
    let all = || lines.iter().flat_map(|l| &l.points);
    let x = Axis::over(all().map(|p| p.0), (70.0, PLOT));
    let y = Axis::over(all().map(|p| p.1), (height - 56.0, 40.0));
    svg.text("t-ink", (70.0, 22.0), 14.0, Anchor::Start, titles.title);
    frame(&mut svg, &x, &y, (titles.x, titles.y));
    let mut places: Vec<(f64, usize)> = Vec::new();
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
        places.push((last.1 + 4.0, at));
    }
    apart(&mut places, height - ENDS.1);
    for (place, at) in places {
        svg.raw(&format!(
            r#"<line x1="{1:.2}" y1="{0:.2}" x2="{2:.2}" y2="{0:.2}" class="t-curve"{3}/>"#,
            place - 4.0,
            LEFT.0,
            LEFT.0 + SWATCH,
            stroke(at)
        ));
        svg.text("t-ink", (LEFT.1, place), 10.0, Anchor::Start, &names[at]);
    }
    svg.finish()
}

/// Sorts names by height and moves them apart, first down and then up from `bottom`.
fn apart(places: &mut [(f64, usize)], bottom: f64) {
    places.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut least = ENDS.0;
    for (place, _) in places.iter_mut() {
        *place = place.max(least);
        least = *place + LINE;
    }
    let mut most = bottom;
    for (place, _) in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - LINE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// Names below the picture, and the ends of long ones, were cut off without a word.
    #[test]
    fn every_name_is_in_the_picture_and_below_the_one_before() {
        for count in [1, 19, 26, 60] {
            let line = |at: usize| Curve {
                name: format!("row {at}{}", "w".repeat(if at == 3 { 99 } else { 0 })),
                points: vec![(0.0, 9.0), (1.0, if at == 0 { 9.0 } else { 0.0 })],
            };
            let titles = Titles {
                title: "loss",
                x: "epoch",
                y: "loss",
            };
            let svg = curves(&Vec::from_iter((0..count).map(line)), &titles);
            let after = |text: &str, name: &str| -> f64 {
                let value = text.split(name).nth(1).unwrap();
                value.split('"').next().unwrap().parse().unwrap()
            };
            let texts = svg.split("<text ").filter(|text| text.contains(">row "));
            let places: Vec<f64> = texts.map(|text| after(text, " y=\"")).collect();
            assert_eq!(places.len(), count);
            assert!(places.windows(2).all(|two| two[1] - two[0] > 12.9));
            let height = after(&svg, " height=\"");
            assert_eq!(height, if count < 27 { 400.0 } else { 835.0 });
            assert!(places[0] >= 40.0 && places[count - 1] <= height - 4.0);
            let width = after(&svg, " width=\"");
            assert_eq!(width, if count > 3 { 540.0 + 60.0 * 6.0 } else { 720.0 });
        }
    }

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
