//! Draws coefficients with intervals, one line each.

use super::axis::{Axis, frame, number};
use super::scatter::Titles;
use super::svg::{Anchor, Svg};

const LEFT: f64 = 190.0;
const LINE: f64 = 24.0;

/// A coefficient.
#[derive(Clone, Debug)]
pub struct Effect {
    /// Name of the metric.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Its interval, if there is one.
    pub interval: Option<(f64, f64)>,
}

/// Returns the figure's SVG, from -1 to 1.
pub fn forest(effects: &[Effect], titles: &Titles<'_>) -> String {
    let height = 100.0 + LINE * effects.len() as f64;
    let mut svg = Svg::new(640.0, height);
    let x = Axis::over([-1.0, 1.0].into_iter(), (LEFT, 580.0));
    let bottom = height - 56.0;
    let y = Axis::over([0.0].into_iter(), (bottom, 40.0));
    svg.text("t-ink", (12.0, 22.0), 14.0, Anchor::Start, titles.title);
    frame(&mut svg, &x, &y.without_ticks(), (titles.x, ""));
    svg.line("t-axis", (x.at(0.0), 40.0), (x.at(0.0), bottom));
    for (at, effect) in effects.iter().enumerate() {
        let middle = 40.0 + LINE * (at as f64 + 0.6);
        svg.text(
            "t-ink",
            (LEFT - 10.0, middle + 4.0),
            11.0,
            Anchor::End,
            &effect.name,
        );
        if let Some((low, high)) = effect.interval {
            svg.line("t-fit", (x.at(low), middle), (x.at(high), middle));
        }
        svg.raw(&format!(
            r#"<circle class="t-mark-full" cx="{:.2}" cy="{middle:.2}" r="4"/>"#,
            x.at(effect.value)
        ));
        let value = number(effect.value, 2);
        svg.text("t-dim", (588.0, middle + 4.0), 11.0, Anchor::Start, &value);
    }
    svg.finish()
}
