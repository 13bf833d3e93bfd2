//! Draws a scatter plot of accuracy over a metric: marks, labels, the least-squares line and its band.

use super::axis::{Axis, frame};
use super::labels::place;
use super::svg::{Anchor, Svg, escaped};
use crate::correlation::{Fit, band};
use crate::number::signed;

const SIZE: (f64, f64) = (620.0, 440.0);
/// Maximum letters of a name in the plot.
const LONGEST: usize = 60;

/// A tokenizer.
#[derive(Clone, Debug)]
pub struct Point {
    /// Its name.
    pub label: String,
    /// Its kind, which determines its mark.
    pub kind: String,
    /// The metric.
    pub x: f64,
    /// The accuracy, percent.
    pub y: f64,
    /// Standard error of the metric.
    pub x_se: Option<f64>,
    /// Standard deviation of the accuracy over seeds.
    pub y_sd: Option<f64>,
    /// Why it is not in the fit, if it is not; it is then drawn dashed.
    pub left_out: Option<LeftOut>,
}

/// Why a tokenizer is drawn but not in a fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeftOut {
    /// It saw labels.
    Labels,
    /// It has another recipe than the points in the fit, or an earlier row is the same tokenizer.
    Apart,
}

/// The title of a plot and the labels of its axes.
pub struct Titles<'a> {
    /// Title above the plot.
    pub title: &'a str,
    /// Label of the x axis.
    pub x: &'a str,
    /// Label of the y axis.
    pub y: &'a str,
}

/// Returns the figure's SVG.
pub fn scatter(points: &[Point], fit: Option<&Fit>, titles: &Titles<'_>) -> String {
    let mut svg = Svg::new(SIZE.0, SIZE.1);
    let around = |v: f64, e: Option<f64>| [v - e.unwrap_or(0.0), v + e.unwrap_or(0.0)];
    let xs = points.iter().flat_map(|p| around(p.x, p.x_se));
    let ys = points.iter().flat_map(|p| around(p.y, p.y_sd));
    let x = Axis::over(xs, (70.0, SIZE.0 - 20.0));
    let y = Axis::over(ys, (SIZE.1 - 56.0, 56.0));
    svg.text("t-ink", (70.0, 22.0), 14.0, Anchor::Start, titles.title);
    frame(&mut svg, &x, &y, (titles.x, titles.y));
    if let Some(fit) = fit {
        line(&mut svg, points, fit, (&x, &y));
        svg.text("t-dim", (70.0, 42.0), 11.0, Anchor::Start, &words(fit));
    }
    points.iter().for_each(|p| mark(&mut svg, p, (&x, &y)));
    let marks = points.iter().map(|p| (x.at(p.x), y.at(p.y))).collect();
    let names: Vec<String> = points.iter().map(|p| shortened(&p.label)).collect();
    let places = place(marks, &names, (72.0, 46.0), (SIZE.0 - 4.0, SIZE.1 - 58.0));
    let unnamed = places.iter().filter(|place| place.is_none()).count();
    if unnamed > 0 {
        let said = format!(
            "{unnamed} of {} names have no free place; results.csv has all",
            points.len()
        );
        svg.text(
            "t-dim",
            (SIZE.0 - 4.0, SIZE.1 - 4.0),
            9.0,
            Anchor::End,
            &said,
        );
    }
    for (name, place) in names.iter().zip(places) {
        let Some(place) = place else { continue };
        if let Some((from, to)) = place.line {
            svg.line("t-leader", from, to);
        }
        svg.text("t-ink", place.at, 10.0, place.anchor, name);
    }
    svg.finish()
}

/// Returns x and y of the points in the fit.
pub fn fitted(points: &[Point]) -> Vec<(f64, f64)> {
    let fitted = points.iter().filter(|point| point.left_out.is_none());
    fitted.map(|point| (point.x, point.y)).collect()
}

/// Returns the coefficients of a fit as a line of text.
pub fn words(fit: &Fit) -> String {
    let interval = fit.r_interval.map_or(String::new(), |(low, high)| {
        format!(" [{}, {}]", signed(low, 2), signed(high, 2))
    });
    format!(
        "n = {}, r = {}{interval}, r² = {}, Spearman ρ = {}, Kendall τ = {}",
        fit.n,
        signed(fit.r, 2),
        signed(fit.r2, 2),
        signed(fit.spearman, 2),
        signed(fit.kendall, 2),
    )
}

fn line(svg: &mut Svg, points: &[Point], fit: &Fit, (x, y): (&Axis, &Axis)) {
    let xs = x.steps(40);
    let pairs = fitted(points);
    // The frame clips the band.
    let (top, bottom) = (56.0, SIZE.1 - 56.0);
    let place = |x_at: f64, v: f64| (x.at(x_at), y.at(v).clamp(top, bottom));
    if fit.r_interval.is_some() {
        let ends = band(&pairs, &xs);
        let upper = xs.iter().zip(&ends).map(|(at, e)| place(*at, e.1));
        let lower = xs.iter().zip(&ends).rev().map(|(at, e)| place(*at, e.0));
        let outline: Vec<(f64, f64)> = upper.chain(lower).collect();
        svg.path("t-band", &outline, true, "");
    }
    let inside = |at: &&f64| (top..=bottom).contains(&y.at(fit.slope * **at + fit.intercept));
    let fitted: Vec<(f64, f64)> = xs
        .iter()
        .filter(inside)
        .map(|at| place(*at, fit.slope * at + fit.intercept))
        .collect();
    svg.path("t-fit", &fitted, false, "");
}

/// Draws error bars and a mark by kind: a circle for K-means, a square for ONNX ids, a diamond for all others.
fn mark(svg: &mut Svg, point: &Point, (x, y): (&Axis, &Axis)) {
    let (cx, cy) = (x.at(point.x), y.at(point.y));
    if let Some(se) = point.x_se {
        svg.line("t-err", (x.at(point.x - se), cy), (x.at(point.x + se), cy));
    }
    if let Some(sd) = point.y_sd {
        svg.line("t-err", (cx, y.at(point.y - sd)), (cx, y.at(point.y + sd)));
    }
    let shape = match point.kind.as_str() {
        "kmeans" => format!(r#"<circle cx="{cx:.2}" cy="{cy:.2}" r="4.5"/>"#),
        "onnx-ids" => format!(
            r#"<rect x="{:.2}" y="{:.2}" width="8" height="8"/>"#,
            cx - 4.0,
            cy - 4.0
        ),
        _ => format!(
            r#"<path d="M{cx:.2} {:.2}L{:.2} {cy:.2}L{cx:.2} {:.2}L{:.2} {cy:.2}Z"/>"#,
            cy - 5.5,
            cx + 5.5,
            cy + 5.5,
            cx - 5.5
        ),
    };
    let name = escaped(&point.label);
    let (dashes, remark) = match point.left_out {
        None => ("", ""),
        Some(_) => (r#" stroke-dasharray="2 1.5""#, ", not in the fit"),
    };
    let about = format!("{name}: {:.3}, {:.1} %{remark}", point.x, point.y);
    svg.raw(&format!(
        r#"<g class="t-mark t-point"{dashes} tabindex="0" data-name="{name}"><title>{about}</title>{shape}</g>"#
    ));
}

/// Cuts a name of more than [`LONGEST`] letters. What is drawn has all of it as `data-name`.
pub(super) fn shortened(name: &str) -> String {
    match name.chars().count() > LONGEST {
        true => name.chars().take(LONGEST - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}
