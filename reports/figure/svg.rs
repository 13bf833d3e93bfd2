//! SVG elements as text. Numbers are written with two decimals, so that the same data gives the same bytes.

use std::fmt::Write;

use crate::text::isolated;

/// Classes that the style sheet of the page themes, with colours for paper.
const STYLE: &str = ".t-bg{fill:#fff}.t-ink{fill:#111}.t-dim{fill:#555}.t-axis{stroke:#333;fill:none}.t-grid{stroke:#ddd;fill:none}\
.t-band{fill:#999;fill-opacity:.25}.t-fit{stroke:#111;fill:none;stroke-width:1.5}.t-err{stroke:#777;fill:none}.t-leader{stroke:#999;stroke-width:.7}\
.t-mark{stroke:#111;fill:#fff;stroke-width:1.5}.t-mark-full{stroke:#111;fill:#111}.t-curve{fill:none;stroke-width:1.8}";

/// An SVG under construction.
pub struct Svg {
    width: f64,
    height: f64,
    body: String,
}

/// The point of a text at its position.
#[derive(Clone, Copy)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

impl Svg {
    /// Creates an empty drawing on a white background.
    pub fn new(width: f64, height: f64) -> Self {
        let mut svg = Self {
            width,
            height,
            body: String::new(),
        };
        svg.rect("t-bg", [0.0, 0.0, width, height], "");
        svg
    }

    /// Writes an element verbatim.
    pub fn raw(&mut self, element: &str) {
        self.body.push_str(element);
    }

    /// Draws a rectangle `[x, y, width, height]`; `more` are further attributes.
    pub fn rect(&mut self, class: &str, [x, y, w, h]: [f64; 4], more: &str) {
        let _ = write!(
            self.body,
            r#"<rect class="{class}" x="{x:.2}" y="{y:.2}" width="{w:.2}" height="{h:.2}"{more}/>"#
        );
    }

    /// Draws a straight line.
    pub fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let _ = write!(
            self.body,
            r#"<line class="{class}" x1="{:.2}" y1="{:.2}" x2="{:.2}" y2="{:.2}"/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    /// Draws a line through `points`; `more` are further attributes.
    pub fn path(&mut self, class: &str, points: &[(f64, f64)], closed: bool, more: &str) {
        let mut d = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let _ = write!(d, "{}{x:.2} {y:.2}", if at == 0 { 'M' } else { 'L' });
        }
        if closed {
            d.push('Z');
        }
        let _ = write!(self.body, r#"<path class="{class}" d="{d}"{more}/>"#);
    }

    /// Draws text of the given `size`.
    pub fn text(&mut self, class: &str, (x, y): (f64, f64), size: f64, anchor: Anchor, text: &str) {
        self.turned_text(class, (x, y), size, anchor, text, "");
    }

    /// Draws text rotated upwards.
    pub fn vertical_text(&mut self, class: &str, (x, y): (f64, f64), size: f64, text: &str) {
        let turn = format!(r#" transform="rotate(-90 {x:.2} {y:.2})""#);
        self.turned_text(class, (x, y), size, Anchor::Middle, text, &turn);
    }

    fn turned_text(
        &mut self,
        class: &str,
        (x, y): (f64, f64),
        size: f64,
        anchor: Anchor,
        text: &str,
        more: &str,
    ) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.body,
            r#"<text class="{class}" x="{x:.2}" y="{y:.2}" font-size="{size}" text-anchor="{anchor}"{more}>{}</text>"#,
            escaped(text)
        );
    }

    /// Returns the whole element.
    pub fn finish(self) -> String {
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" font-family="DejaVu Sans, sans-serif"><style>{STYLE}</style>{2}</svg>"#,
            self.width, self.height, self.body
        )
    }
}

/// Escapes text for elements and quoted attributes of XML and HTML, and isolates words from right to left.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in isolated(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML allows no other control characters.
            c if c.is_control() && c != '\t' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}
