use super::*;

fn number(mean: f64, sd: Option<f64>) -> Cell {
    Cell::Number {
        mean,
        sd,
        whole: true,
        decimals: 1,
    }
}

fn directed(title: &str, name: &str, better: Better) -> Header {
    Header {
        better,
        ..Header::new(title, name)
    }
}

fn table() -> Table {
    let mut table = Table::new(vec![
        Header::new("Tokenizer", "tokenizer"),
        directed("LP acc.", "lp_acc", Better::Higher),
        directed("TCAS", "tcas", Better::Lower),
        Header::new("nothing", "nothing"),
        Header {
            hidden: true,
            ..Header::new("", "p")
        },
    ]);
    let line = |name: &str, lp, tcas| {
        vec![
            Cell::text(name),
            lp,
            number(tcas, None),
            Cell::Empty,
            Cell::exact(Some(0.25)),
        ]
    };
    let mut push = |setting: &str, ranked, cells| {
        table.lines.push(Line {
            setting: setting.into(),
            ranked,
            cells,
        });
    };
    push("a", true, line("50% & _x_", number(52.0, Some(1.0)), 0.7));
    push("a", true, line("HOG", number(49.4, Some(0.8)), 0.2));
    push("b", true, line("<script>", number(90.0, Some(0.1)), 0.1));
    table
}

#[test]
fn the_best_beyond_the_errors_is_bold_and_empty_columns_are_left_out() {
    let markdown = table().markdown();
    let lines: Vec<&str> = markdown.lines().collect();
    assert_eq!(lines[0], "| Tokenizer   |      LP acc. ↑ | TCAS ↓ |");
    // 2.6 ahead with errors of 1.0 and 0.8, which are 1.28 together. The third is alone in its setting, and TCAS has no errors.
    assert_eq!(lines[2], "| 50% & \\_x\\_ | **52.0 ± 1.0** |    0.7 |");
    assert_eq!(lines[3], "| HOG         |     49.4 ± 0.8 |    0.2 |");
    assert_eq!(lines[4], "| &lt;script> |     90.0 ± 0.1 |    0.1 |");
    let mut closer = table();
    closer.lines[1].cells[1] = number(49.5, Some(0.8));
    assert!(!closer.markdown().contains("**") && closer.note().is_none());
    // An error that is unknown, or leaves something out, of this number or of the other.
    let once = |mean| Cell::Number {
        mean,
        sd: Some(0.1),
        whole: false,
        decimals: 1,
    };
    for (line, cell) in [(1, number(49.4, None)), (1, once(49.4)), (0, once(52.0))] {
        let mut table = table();
        table.lines[line].cells[1] = cell;
        assert!(!table.markdown().contains("**"), "{}", table.markdown());
    }
}

#[test]
fn rows_that_saw_labels_are_not_the_best() {
    let mut table = table();
    table.lines[1].ranked = false;
    // The other row is alone then.
    assert!(!table.markdown().contains("**") && table.note().is_none());
    table.lines[2].setting = "a".into();
    let markdown = table.markdown();
    assert!(
        markdown.contains("**90.0 ± 0.1**") && !markdown.contains("**52.0"),
        "{markdown}"
    );
    assert!(
        table
            .note()
            .unwrap()
            .contains("of the rows built without labels")
    );
}

#[test]
fn a_difference_that_is_not_zero_does_not_print_as_zero() {
    let delta = |value| Cell::Delta {
        value,
        marked: true,
    };
    assert_eq!(number(-0.04, Some(0.12)).pretty(), "0.0 ± 0.1");
    assert_eq!(number(-0.06, None).pretty(), "-0.1");
    assert_eq!(delta(11.0).pretty(), "+11.0*");
    assert_eq!(delta(-0.02).pretty(), "-0.020*");
    assert_eq!(delta(0.7 - 0.4 - 0.3).pretty(), "0.0*");
}

#[test]
fn csv_has_all_columns_and_digits() {
    let expected = "tokenizer,lp_acc,lp_acc_sd,tcas,nothing,p\n50% & _x_,52,1,0.7,,0.25\nHOG,49.4,0.8,0.2,,0.25\n<script>,90,0.1,0.1,,0.25\n";
    assert_eq!(table().csv().unwrap(), expected);
}

#[test]
fn latex_is_escaped_and_ruled() {
    let latex = table().latex(1, "A & Δ B", &["p < 0.05 in “x_y”".into()]);
    for part in [
        r"\caption{A \& $\Delta$ B}",
        r"\begin{tabular}{lrr}",
        r"LP acc. $\uparrow$ & TCAS $\downarrow$ \\",
        r"50\% \& \_x\_ & \textbf{52.0 $\pm$ 1.0} & 0.7 \\",
        "\\midrule\n$<$script$>$ & 90.0 $\\pm$ 0.1 & 0.1",
        r"p $<$ 0.05 in ``x\_y''",
    ] {
        assert!(latex.contains(part), "{part} in {latex}");
    }
}
