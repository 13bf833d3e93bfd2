//! The exact model against NumPy's (`tests/fixtures/theory/toy.py`), and every printed formula against the exact model.

use serde_json::Value;

use super::printed::*;
use super::*;

/// Asserts equality up to rounding.
#[track_caller]
fn close(found: f64, expected: f64) {
    let error = (found - expected).abs();
    let scale = expected.abs().max(1e-300);
    assert!(error <= 1e-9 * scale || error < 1e-14, "{found} {expected}");
}

/// Returns spaces of two classes of different sizes.
fn two_classes() -> Vec<Space> {
    let sizes = [(200, 10), (20, 4), (1_000_000, 2_000), (12, 0)];
    sizes.map(|(n, m)| Space::new(2, n, m).unwrap()).to_vec()
}

/// Returns spaces of three and more classes.
fn many_classes() -> Vec<Space> {
    let sizes = [(3, 300, 6), (4, 40, 2), (5, 1_000_000, 1_000)];
    sizes.map(|(s, n, m)| Space::new(s, n, m).unwrap()).to_vec()
}

/// Returns the slope of a bound at `t = 0`, for large sets.
fn slope(classes: usize, of: impl Fn(&Space) -> Partition) -> f64 {
    let space = Space::new(classes, 100_000_000, 200).unwrap();
    (exact(&space, &of(&space)).bound() - classes as f64) / space.t()
}

fn mae(space: &Space) -> Found {
    exact(space, &space.mae_like())
}

fn class(space: &Space) -> Found {
    exact(space, &space.class_wise().unwrap())
}

fn cross(space: &Space) -> Found {
    exact(space, &space.cross_class(2).unwrap())
}

#[test]
fn the_graph_equals_that_of_numpy_by_regions_and_by_points() {
    let cases = include_str!("../../tests/fixtures/theory/toy.json");
    let cases: Vec<Value> = serde_json::from_str(cases).unwrap();
    assert_eq!(cases.len(), 24);
    for case in cases {
        let number = |key: &str| case[key].as_f64().unwrap();
        let size = |key: &str| case[key].as_u64().unwrap();
        let classes = size("classes") as usize;
        let space = Space::new(classes, size("points"), size("overlap")).unwrap();
        let partition = match case["name"].as_str().unwrap() {
            "MAE-like" => space.mae_like(),
            "class-wise" => space.class_wise().unwrap(),
            "cross-class" => space.cross_class(2).unwrap(),
            _ => space
                .partition(case["partition"].as_str().unwrap())
                .unwrap(),
        };
        let both = [
            exact(&space, &partition),
            by_points(&space, &partition).unwrap(),
        ];
        for found in both {
            close(found.intra, number("intra"));
            close(found.inter, number("inter"));
            close(found.eig_sq_sum, number("eig_sq_sum"));
            close(found.alpha, number("alpha"));
        }
    }
}

#[test]
fn equation_5_has_the_weights_but_not_the_bound() {
    for space in two_classes() {
        let [intra, inter, _] = equation_5(&space);
        close(intra, mae(&space).intra);
        close(inter, mae(&space).inter);
    }
    assert!(
        (slope(2, Space::mae_like) + 11.0 / 4.0).abs() < 1e-4,
        "printed: -15/4"
    );
}

#[test]
fn equation_6_has_half_of_the_inter_class_weight_and_another_bound() {
    for space in two_classes() {
        let [intra, inter, _] = equation_6(&space);
        close(intra, class(&space).intra);
        close(2.0 * inter, class(&space).inter);
    }
    let slope = slope(2, |space| space.class_wise().unwrap());
    assert!((slope + 7.0 / 2.0).abs() < 1e-4, "printed: -9/2");
}

#[test]
fn equation_7_has_the_weights_and_a_bound_with_twice_the_constant() {
    for space in two_classes() {
        let [intra, inter, _] = equation_7(&space);
        close(intra, cross(&space).intra);
        close(inter, cross(&space).inter);
        let t = space.t();
        close(cross(&space).bound(), 1.0 + C3 * (1.0 - t).powi(2) / 2.0);
    }
    let none = Space::new(2, 100, 0).unwrap();
    close(cross(&none).bound(), 9.0 / 4.0);
    let found = cross(&none);
    close(
        equation_7(&none)[2],
        found.eig_sq_sum + 2.0 * C3 * found.alpha,
    );
}

/// The sum of squares by equation 17 and the labelling error by equation 18, both as printed, for tokens `(copies, n_1, n_2, n_3)`.
fn equations_17_and_18(space: &Space, tokens: &[[f64; 4]]) -> (f64, f64) {
    let (n, m) = (space.points as f64, space.overlap as f64);
    let sum = |term: fn(f64, f64, f64) -> f64| -> f64 {
        let each = |[copies, a, b, c]: &[f64; 4]| copies * term(*a, *b, *c) / (a + b + 2.0 * c);
        tokens.iter().filter(|token| token[0] > 0.0).map(each).sum()
    };
    let both = sum(|a, b, c| (a + c) * (b + c));
    let own = sum(|a, _, c| (a + c).powi(2)).powi(2) + sum(|_, b, c| (b + c).powi(2)).powi(2);
    let shared = sum(|a, _, c| (a + c) * (a + 2.0 * c)).powi(2)
        + sum(|_, b, c| (b + c) * (b + 2.0 * c)).powi(2);
    let square = (n - m).powi(2) / n.powi(4) * (own + 2.0 * both.powi(2))
        + (n - m) * m / (2.0 * n.powi(4)) * shared
        + (m / n).powi(2);
    (square, (n - m).powi(2) / n.powi(3) * both)
}

fn mae_tokens(space: &Space) -> [[f64; 4]; 3] {
    let (n, m) = (space.points as f64, space.overlap as f64);
    [
        [n - m, 1.0, 0.0, 0.0],
        [n - m, 0.0, 1.0, 0.0],
        [m, 0.0, 0.0, 1.0],
    ]
}

fn class_tokens(space: &Space) -> [[f64; 4]; 2] {
    let (n, m) = (space.points as f64, space.overlap as f64);
    [[1.0, n - m, 0.0, m / 2.0], [1.0, 0.0, n - m, m / 2.0]]
}

#[test]
fn equation_20_is_equation_17_as_printed_and_lacks_half_of_the_shared_blocks() {
    for space in two_classes() {
        let (square, alpha) = equations_17_and_18(&space, &mae_tokens(&space));
        close(equation_20(&space), square + C3 * alpha);
        let (t, found) = (space.t(), mae(&space));
        close(found.alpha, alpha);
        close(found.eig_sq_sum, 1.0 + (1.0 - t).powi(4));
        close(found.bound(), equation_20(&space) + t * (1.0 - t));
    }
}

#[test]
fn equation_21_has_the_weights_of_mae_like_tokens() {
    for space in two_classes() {
        let [intra, inter] = equation_21(&space);
        close(intra, mae(&space).intra);
        close(inter, mae(&space).inter);
    }
}

#[test]
fn equation_22_is_neither_the_bound_nor_equation_17_beyond_the_first_order() {
    for space in two_classes() {
        let (t, found) = (space.t(), class(&space));
        let (square, alpha) = equations_17_and_18(&space, &class_tokens(&space));
        close(found.alpha, alpha);
        close(found.eig_sq_sum, 1.0 + (1.0 - t).powi(6));
        let of_17 = [
            2.0,
            -7.0,
            15.0,
            -71.0 / 4.0,
            53.0 / 4.0,
            -21.0 / 4.0,
            3.0 / 4.0,
        ];
        close(
            square,
            of_17.iter().rev().fold(0.0, |sum, term| sum * t + term),
        );
        let off = equation_22(&space) - (square + C3 * alpha);
        let second = t * t * (1.0 - 7.0 / 4.0 * t + 5.0 / 4.0 * t * t);
        assert!((off - second).abs() <= t.powi(5), "{off} {second}");
        // The exact bound and equation 22 differ in the first order.
        let first = found.bound() - equation_22(&space);
        assert!((first - t).abs() <= 2.0 * t * t, "{first}");
    }
}

#[test]
fn equation_23_has_half_of_the_inter_class_weight() {
    for space in two_classes() {
        let [intra, inter] = equation_23(&space);
        close(intra, class(&space).intra);
        close(2.0 * inter, class(&space).inter);
    }
}

#[test]
fn equation_24_is_equation_17_as_printed_and_its_last_line_has_another_constant() {
    for space in two_classes() {
        let (n, m) = (space.points as f64, space.overlap as f64);
        let part = [2.0, (n - m) / 2.0, (n - m) / 2.0, m / 2.0];
        let (square, alpha) = equations_17_and_18(&space, &[part]);
        close(equation_24(&space, C3), square + C3 * alpha);
        close(cross(&space).alpha, alpha);
        close(cross(&space).eig_sq_sum, 1.0);
        let t = space.t();
        let third = 7.0 / 2.0 - 27.0 / 4.0 * t + 15.0 / 4.0 * t * t;
        // Its t^2 term is 15/4, that of the second line 19/4.
        let off = equation_24(&space, 5.0) - third;
        assert!((off - t * t).abs() <= t.powi(3), "{off}");
        assert!((equation_24(&space, C3) - third).abs() > 0.5);
    }
}

#[test]
fn equation_25_has_the_weights_of_cross_class_tokens() {
    for space in two_classes() {
        let [intra, inter] = equation_25(&space);
        close(intra, cross(&space).intra);
        close(inter, cross(&space).inter);
    }
}

#[test]
fn equation_26_holds_for_every_tokenization_and_others_are_refused() {
    for space in two_classes().into_iter().chain(many_classes()) {
        let regions = space.regions();
        let own = space.points - (space.classes as u64 - 1) * space.overlap;
        for partition in [
            space.mae_like(),
            space.class_wise().unwrap(),
            space.cross_class(2).unwrap(),
        ] {
            for (at, region) in regions.iter().enumerate() {
                let of = |token: &Token| token.copies * token.members[at];
                let sum: u64 = partition.tokens.iter().map(of).sum();
                let expected = if region.other.is_some() {
                    space.overlap
                } else {
                    own
                };
                assert_eq!((sum, region.size), (expected, expected));
            }
        }
        let s = space.classes as u64;
        assert_eq!(
            space.size(),
            s * space.points - space.overlap * s * (s - 1) / 2
        );
    }
    let space = Space::new(2, 20, 4).unwrap();
    assert_eq!(
        space.partition("16,0,2; 0,16,2").unwrap(),
        Partition {
            name: "given".into(),
            ..space.class_wise().unwrap()
        }
    );
    for (wrong, part) in [
        (
            "16,0,2; 0,15,2",
            "found 15 points of P2 only in all tokens, expected 16",
        ),
        (
            "16,16; 0,0,4",
            "found the token \"16,16\", expected 3 numbers",
        ),
        ("16,16,4;", "found \"\", expected a number of points"),
        ("16,16,4; 0,0,0", "that are not all 0"),
        ("16,16,-4", "found \"-4\""),
    ] {
        let error = space.partition(wrong).unwrap_err();
        assert!(error.contains(part), "{wrong}: {error}");
    }
}

#[test]
fn equation_27_has_the_weights_but_not_the_bound() {
    for space in two_classes().into_iter().chain(many_classes()) {
        let [intra, inter, _] = equation_27(&space);
        close(intra, mae(&space).intra);
        close(inter, mae(&space).inter);
    }
    for classes in 2..6 {
        let s = classes as f64;
        let expected = -(s - 1.0) * (2.0 * s - 5.0 / 4.0);
        let found = slope(classes, Space::mae_like);
        assert!(
            (found - expected).abs() < 1e-3,
            "{classes}: {found} {expected}"
        );
    }
}

#[test]
fn equation_28_has_half_of_the_weights_lacks_a_term_and_another_bound() {
    for space in two_classes().into_iter().chain(many_classes()) {
        let [intra, inter, _] = equation_28(&space);
        let (s, n, m) = (
            space.classes as f64,
            space.points as f64,
            space.overlap as f64,
        );
        close(2.0 * intra, class(&space).intra);
        let lacking = (s - 2.0) * m * m / 4.0 / (s * n.powi(4));
        close(2.0 * inter + lacking, class(&space).inter);
    }
    for classes in 2..6 {
        let s = classes as f64;
        let expected = -(s - 1.0) * (3.0 * s - 5.0 / 2.0);
        let found = slope(classes, |space| space.class_wise().unwrap());
        assert!(
            (found - expected).abs() < 1e-3,
            "{classes}: {found} {expected}"
        );
    }
}

#[test]
fn equation_29_holds_for_two_classes_except_the_bound() {
    for space in two_classes().into_iter().chain(many_classes()) {
        let [weight, _, _] = equation_29(&space);
        let (s, n) = (space.classes as f64, space.points as f64);
        close(cross(&space).intra, 1.0 / (s * n).powi(2));
        close(cross(&space).inter, 1.0 / (s * n).powi(2));
        close(weight * 2.0 / s, cross(&space).intra);
    }
    for classes in 2..6 {
        let space = Space::new(classes, 100, 0).unwrap();
        let (s, found) = (classes as f64, cross(&space));
        close(found.bound(), 1.0 + C3 * (1.0 - 1.0 / s));
        let printed = equation_29(&space)[2];
        let with_5 = found.eig_sq_sum + 5.0 * found.alpha;
        assert_eq!((printed - with_5).abs() < 1e-12, classes == 2, "{printed}");
    }
}

#[test]
fn class_wise_tokens_have_the_lower_intra_and_the_higher_inter_class_weight() {
    let space = Space::new(2, 200, 10).unwrap();
    let (mae, class, cross) = (mae(&space), class(&space), cross(&space));
    assert!(class.intra < mae.intra && class.intra > 0.97 * mae.intra);
    assert!((class.inter / mae.inter - 2.0).abs() < 0.06);
    let bounds = [class, mae, cross].map(|found| (found.bound() * 1e4).round());
    assert_eq!(bounds, [18451.0, 18709.0, 21281.0]);
}

#[test]
fn the_order_of_the_bounds_and_theorem_1_need_two_classes() {
    for classes in 2..8 {
        let space = Space::new(classes, 10_000, 2).unwrap();
        let (mae, class, cross) = (mae(&space), class(&space), cross(&space));
        assert!(class.bound() < mae.bound());
        assert_eq!(class.bound() < cross.bound(), classes == 2);
        // Theorem 1's assumption: no shared points.
        let apart = Space::new(classes, 10, 0).unwrap();
        let label = exact(&apart, &apart.class_wise().unwrap());
        let one = exact(&apart, &apart.cross_class(1).unwrap());
        assert_eq!(
            (label.eig_sq_sum.round(), label.alpha),
            (classes as f64, 0.0)
        );
        assert_eq!(label.bound() < one.bound(), classes == 2);
        for (c3, optimal) in [(0.99, false), (1.01, true)] {
            let c3 = c3 * classes as f64;
            let bound = |found: &Found| found.eig_sq_sum + c3 * found.alpha;
            assert_eq!(bound(&label) < bound(&one), optimal);
        }
    }
}

#[test]
fn wrong_sizes_are_refused_with_what_is_expected() {
    let said = |found: Result<Space, String>| found.unwrap_err();
    assert!(said(Space::new(1, 10, 0)).contains("--classes: found 1, expected 2 to 32"));
    assert!(said(Space::new(2, 0, 0)).contains("--points: found 0"));
    assert!(said(Space::new(3, 9, 5)).contains("--overlap: found 5, expected at most 4"));
    let odd = Space::new(2, 10, 3).unwrap();
    assert!(
        odd.class_wise()
            .unwrap_err()
            .contains("expected an even number")
    );
    assert!(
        odd.cross_class(2)
            .unwrap_err()
            .contains("the 7 points in P1 only")
    );
    assert!(odd.cross_class(0).is_err());
}

#[test]
fn every_formula_without_a_remark_is_exact() {
    for space in two_classes().into_iter().chain(many_classes()) {
        for row in printed(&space) {
            let found = match row.tokens {
                "MAE-like" => mae(&space),
                "class-wise" => class(&space),
                _ => cross(&space),
            };
            let exact = match row.quantity {
                Quantity::Intra => found.intra,
                Quantity::Inter => found.inter,
                Quantity::Bound => found.bound(),
            };
            if row.remark.is_empty() {
                close(row.value, exact);
            } else if space.overlap > 0 {
                assert!((row.value / exact - 1.0).abs() > 1e-6, "{row:?} {exact}");
            }
        }
    }
}

/// Returns the columns `keys` of the row of a paper's table that contains all of `parts`.
fn cells(table: &str, parts: &[&str], keys: [&str; 2]) -> [f64; 2] {
    let mut lines = table.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let row = lines.find(|line| parts.iter().all(|part| line.contains(part)));
    let row: Vec<&str> = row.unwrap().split(',').collect();
    keys.map(|key| {
        let at = header.iter().position(|name| *name == key);
        row[at.unwrap()].parse().unwrap()
    })
}

#[test]
fn the_contradictions_are_in_the_tables() {
    let table = |number: u32| {
        let path = format!("reports/paper/table{number}.csv");
        std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
            .unwrap()
    };
    let accuracies = |number, parts: &[&str]| cells(&table(number), parts, ["lp_acc", "ft_acc"]);
    assert_eq!(accuracies(1, &["Perceptual"]), [53.2, 83.6]);
    assert_eq!(
        accuracies(3, &["ImageNet-100", "ViT-S", "PeCo"]),
        [53.2, 83.6]
    );
    assert_eq!(accuracies(7, &["Perceptual"]), [50.3, 83.1]);
    assert_eq!(accuracies(1, &["dVAE"]), [41.2, 80.2]);
    assert_eq!(accuracies(7, &["dVAE"]), [41.2, 80.2]);
    assert_eq!(
        accuracies(3, &["ImageNet-100", "ViT-S", "BEiT"]),
        [43.2, 81.0]
    );
    let [dino, _] = accuracies(3, &["ImageNet-100", "ViT-S", "continuous"]);
    assert_eq!(dino, 57.1);
    // The largest entry of a softmax over 100 numbers of 0 and one of 1 is 0.0267.
    let most = 1_f64.exp() / (99.0 + 1_f64.exp());
    let least = (1.0 - most * most - 99.0 * ((1.0 - most) / 99.0).powi(2)).powi(2);
    assert!((0.97..0.99).contains(&least), "{least}");
}
