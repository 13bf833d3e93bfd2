//! Text from users in the document, in figures and in the data of the script.

use super::*;

#[test]
fn text_from_users_is_escaped() {
    let evil = "<script>alert(1)</script>\"'&";
    let records = [record(evil, 0, 50.0)];
    let card = card_of(evil, &[1, 2, 3, 4, 0, 0], 3);
    let of = Page {
        data: FigureData {
            classes: vec![evil.into(), "</script>".into(), "<!--".into()],
            ..FigureData::default()
        },
        cards: vec![card],
        notes: vec![evil.into()],
        suite: evil.into(),
        ..Page::default()
    };
    let html = page(&records, &of);
    assert!(!html.contains("<script>alert"), "{html}");
    // Exactly two elements end: the data and the script.
    assert_eq!(html.matches("</script>").count(), 2);
    assert!(html.contains("\\u003c/script\\u003e"));
}

/// A browser would show the numbers after such a name in the other order.
#[test]
fn names_from_right_to_left_move_no_numbers() {
    let (name, reversing) = ("K \u{5e9}\u{5dc}", "\u{202e}live");
    let records = [record(name, 0, 50.0), record(reversing, 0, 40.0)];
    let title = "A";
    let svg = format!("<svg><title>{}: 0.467, 81.2 %</title></svg>", escaped(name));
    let figure = Figure {
        name: "curves-pretrain".into(),
        caption: format!("{name} (−0.001 ± 0.023)"),
        svg,
    };
    let of = Page {
        figures: vec![figure],
        suite: reversing.into(),
        notes: vec![format!("{title}: {name} (−0.008 ± 0.023)")],
        cards: vec![card_of(name, &[1, 2, 3, 4, 0, 0], 3)],
        ..Page::default()
    };
    let html = page(&records, &of);
    let isolated = "K \u{2068}\u{5e9}\u{5dc}\u{2069}";
    for part in [
        format!("<strong>{isolated}</strong> with 50.0 %"),
        format!("{isolated}: 0.467, 81.2 %"),
        format!("A: {isolated} (−0.008 ± 0.023)"),
        format!("{isolated} (−0.001 ± 0.023)"),
        format!("\"name\":\"{isolated}\""),
        "The next, \\u{202e}live,".to_owned(),
    ] {
        assert!(html.contains(&part), "{part}: {html}");
    }
    assert!(!html.contains('\u{202e}'));
    assert_eq!(
        html.matches('\u{5e9}').count(),
        html.matches(isolated).count()
    );
}
