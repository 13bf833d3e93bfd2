use super::*;
use crate::correlation::fit;
use crate::paper;

fn figure() -> Figure {
    let rows = paper::rows(7);
    let points: Vec<Point> = rows
        .iter()
        .filter_map(|row| {
            Some(Point {
                label: row.label(),
                kind: "kmeans".into(),
                x: row.tcas?,
                y: row.lp_acc?,
                x_se: None,
                y_sd: Some(0.5),
                left_out: None,
            })
        })
        .collect();
    let pairs: Vec<(f64, f64)> = points.iter().map(|p| (p.x, p.y)).collect();
    let titles = Titles {
        title: "Table 7",
        x: "TCAS",
        y: "LP",
    };
    Figure {
        name: "tcas-lp".into(),
        caption: String::new(),
        svg: scatter(&points, fit(&pairs).as_ref(), &titles),
    }
}

#[test]
fn a_scatter_has_every_point_and_its_fit() {
    let svg = figure().svg;
    assert_eq!(svg.matches("t-point").count(), 16);
    assert!(
        svg.contains("r = \u{2212}0.92 [") && svg.contains("r² = 0.85"),
        "{svg}"
    );
}

#[test]
fn files_have_outlines_instead_of_text_and_the_same_bytes_twice() {
    let (one, two) = (figure().files().unwrap(), figure().files().unwrap());
    assert!(!one.svg.contains("<text") && one.svg.contains("<path"));
    assert!(one.png.starts_with(b"\x89PNG"));
    assert_eq!(one.svg, two.svg);
    assert!(one.png == two.png);
}

#[test]
fn names_are_escaped() {
    let name = "<script>alert(\"x\")</script> & 'y'";
    let point = Point {
        label: name.into(),
        kind: "kmeans".into(),
        x: 0.5,
        y: 50.0,
        x_se: Some(0.1),
        y_sd: None,
        left_out: None,
    };
    let titles = Titles {
        title: name,
        x: name,
        y: name,
    };
    let curve = Curve {
        name: name.into(),
        points: vec![(0.0, 1.0), (1.0, f64::NAN), (2.0, 0.5)],
    };
    let names = [name.to_owned()];
    for svg in [
        scatter(&[point], None, &titles),
        curves(&[curve], &titles),
        heat(name, &names, &names, &[vec![12.0]]),
    ] {
        assert!(!svg.contains("<script>") && !svg.contains("NaN"), "{svg}");
        let figure = Figure {
            name: "x".into(),
            caption: String::new(),
            svg,
        };
        figure.files().unwrap();
    }
}

/// Returns the left and right edge of a text drawn at `x` = 100, with 100 of the font's units per pixel.
fn edges(text: &str, anchor: &str) -> (f32, f32) {
    let text =
        format!(r#"<text x="100" y="50" font-size="20.48" text-anchor="{anchor}">{text}</text>"#);
    let svg =
        format!(r#"<svg xmlns="http://www.w3.org/2000/svg" width="300" height="90">{text}</svg>"#);
    let outlined = outlines::outlined(&svg).unwrap();
    let tree = Tree::from_str(&outlined, &Options::default()).unwrap();
    let bounds = tree.root().abs_bounding_box();
    (bounds.left(), bounds.right())
}

/// In the font's tables, H and I are 1540 and 604 units wide with 201 of space on both sides, A and V 1401 with 16 and 17. The kerning
/// of A and V is -131.
#[test]
fn texts_have_the_widths_of_the_font_and_respect_their_anchor() {
    for (text, anchor, left, right) in [
        ("HI", "start", 102.01, 119.43),
        ("HI", "end", 80.57, 97.99),
        ("HIH", "middle", 100.0 - 16.41, 100.0 + 16.41),
        ("AV", "start", 100.16, 126.54),
    ] {
        let found = edges(text, anchor);
        let off = (found.0 - left).abs().max((found.1 - right).abs());
        assert!(off < 0.01, "{text} {anchor}: {found:?}");
    }
    assert_eq!(
        edges("\u{4e2d}", "start"),
        edges("\u{10ffff}", "start"),
        "the font's box for missing characters"
    );
}
