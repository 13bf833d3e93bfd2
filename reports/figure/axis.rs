//! Two axes with round ticks, and the frame around a plot.

use super::svg::{Anchor, Svg};

/// Maps a range of numbers to a range of pixels.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// Creates an axis over `values` with a margin, from pixel `from` to pixel `to`.
    pub fn over(values: impl Iterator<Item = f64>, (from, to): (f64, f64)) -> Self {
        let (low, high) = values
            .filter(|v| v.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| {
                (l.min(v), h.max(v))
            });
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        let air = match high - low {
            0.0 => high.abs().max(1.0) * 0.05,
            span => span * 0.07,
        };
        Self {
            low: low - air,
            high: high + air,
            from,
            to,
        }
    }

    /// Returns the pixel of a number.
    pub fn at(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Removes the ticks.
    pub fn without_ticks(self) -> Self {
        Self {
            low: f64::NAN,
            ..self
        }
    }

    /// Returns evenly spaced numbers from one end to the other.
    pub fn steps(&self, count: usize) -> Vec<f64> {
        let step = (self.high - self.low) / count as f64;
        (0..=count).map(|i| self.low + step * i as f64).collect()
    }

    /// Returns ticks at 1, 2 or 5 times a power of ten, and the decimals that they need.
    pub fn ticks(&self, about: usize) -> (Vec<f64>, usize) {
        if !self.low.is_finite() {
            return (Vec::new(), 0);
        }
        let rough = (self.high - self.low) / about as f64;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|m| m * power)
            .into_iter()
            .find(|s| *s >= rough)
            .unwrap_or(power);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        ((first..=last).map(|i| i as f64 * step).collect(), decimals)
    }
}

/// Formats a number with a minus sign instead of a hyphen.
pub fn number(value: f64, decimals: usize) -> String {
    let value = if value == 0.0 { 0.0 } else { value };
    format!("{value:.decimals$}").replace('-', "\u{2212}")
}

/// Draws grid, ticks, axes and titles.
pub fn frame(svg: &mut Svg, x: &Axis, y: &Axis, (x_title, y_title): (&str, &str)) {
    let (left, right, bottom, top) = (x.from, x.to, y.from, y.to);
    let (ticks, decimals) = x.ticks(6);
    for tick in ticks {
        svg.line("t-grid", (x.at(tick), bottom), (x.at(tick), top));
        let place = (x.at(tick), bottom + 16.0);
        svg.text(
            "t-dim",
            place,
            11.0,
            Anchor::Middle,
            &number(tick, decimals),
        );
    }
    let (ticks, decimals) = y.ticks(6);
    for tick in ticks {
        svg.line("t-grid", (left, y.at(tick)), (right, y.at(tick)));
        let place = (left - 6.0, y.at(tick) + 4.0);
        svg.text("t-dim", place, 11.0, Anchor::End, &number(tick, decimals));
    }
    svg.path(
        "t-axis",
        &[(left, top), (left, bottom), (right, bottom)],
        false,
        "",
    );
    let middle = ((left + right) / 2.0, bottom + 36.0);
    svg.text("t-ink", middle, 12.0, Anchor::Middle, x_title);
    svg.vertical_text("t-ink", (left - 42.0, (top + bottom) / 2.0), 12.0, y_title);
}
