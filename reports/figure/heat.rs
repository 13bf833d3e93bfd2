//! Draws a heat map of rows and columns, with the number in each cell.

use super::svg::{Anchor, Svg, escaped};

const CELL: (f64, f64) = (46.0, 22.0);
const LEFT: f64 = 230.0;
const TOP: f64 = 120.0;

/// Returns the figure's SVG. `values[row][column]` are in percent; darker is higher.
pub fn heat(title: &str, rows: &[String], columns: &[String], values: &[Vec<f64>]) -> String {
    let width = LEFT + CELL.0 * columns.len() as f64 + 20.0;
    let height = TOP + CELL.1 * rows.len() as f64 + 16.0;
    let mut svg = Svg::new(width.max(480.0), height);
    svg.text("t-ink", (12.0, 22.0), 14.0, Anchor::Start, title);
    for (at, name) in columns.iter().enumerate() {
        let place = (LEFT + CELL.0 * (at as f64 + 0.6), TOP - 8.0);
        let turn = format!(
            r#"<text class="t-ink" x="{0:.2}" y="{1:.2}" font-size="10" transform="rotate(-45 {0:.2} {1:.2})">{2}</text>"#,
            place.0,
            place.1,
            escaped(&shortened(name, 16))
        );
        svg.raw(&turn);
    }
    for (r, (name, line)) in rows.iter().zip(values).enumerate() {
        let y = TOP + CELL.1 * r as f64;
        svg.text(
            "t-ink",
            (LEFT - 8.0, y + 15.0),
            10.0,
            Anchor::End,
            &shortened(name, 36),
        );
        for (c, value) in line.iter().enumerate() {
            let x = LEFT + CELL.0 * c as f64;
            // Cells are white to dark grey-blue; numbers on dark cells are white.
            let part = (value / 100.0).clamp(0.0, 1.0);
            let shade = |light: f64, dark: f64| (light + (dark - light) * part) as u8;
            let fill = format!(
                r##" fill="#{:02x}{:02x}{:02x}" data-value="{value:.1}""##,
                shade(255.0, 12.0),
                shade(255.0, 44.0),
                shade(255.0, 84.0)
            );
            svg.rect("t-heat", [x, y, CELL.0 - 1.0, CELL.1 - 1.0], &fill);
            let ink = if part > 0.5 { "#fff" } else { "#111" };
            svg.raw(&format!(
                r#"<text x="{:.2}" y="{:.2}" font-size="10" text-anchor="middle" fill="{ink}">{value:.0}</text>"#,
                x + CELL.0 / 2.0,
                y + 14.5
            ));
        }
    }
    svg.finish()
}

fn shortened(text: &str, most: usize) -> String {
    match text.chars().count() > most {
        true => text.chars().take(most - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}
