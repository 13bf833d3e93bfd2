//! `bench theory`: the paper's toy model, computed exactly, beside the printed formulas.

use std::path::Path;

use serde::Serialize;
use tessera_reports::figure::{Figure, Panel, TILE_ROWS, Tiles, toy};
use tessera_reports::{Grid, to_csv};

use super::args::TheoryOptions;
use super::failure::Failure;
use crate::folder::write;
use crate::store::write_atomic;
use crate::theory::{
    C3, CONTRADICTIONS, Found, MISPRINTS, MOST_POINTS, Partition, Printed, Quantity, Space,
    by_points, exact, printed,
};

/// Largest relative difference of two computations of a number that counts as rounding.
const ROUNDING: f64 = 1e-9;
/// Maximum classes of a figure.
const DRAWN: usize = 4;
/// Columns of points of a region in the figure: of one class, and shared.
const COLUMNS: [usize; 2] = [4, 2];

pub fn theory(options: &TheoryOptions) -> Result<(), Failure> {
    let space = Space::new(options.classes, options.points, options.overlap)?;
    let mut partitions = vec![
        space.mae_like(),
        space.class_wise()?,
        space.cross_class(options.tokens)?,
    ];
    if let Some(text) = &options.partition {
        partitions.push(space.partition(text)?);
    }
    let all: Vec<(&Partition, Found)> = (partitions.iter())
        .map(|partition| (partition, exact(&space, partition)))
        .collect();
    let checked = checked(&space, &all)?;
    tell!(
        "Toy model (paper, section 2.2, appendices B and C): {} classes of {} points, every two share {}; {} points, t = m/n = {}.\n",
        space.classes,
        space.points,
        space.overlap,
        space.size(),
        space.t()
    )?;
    tell!("{}", numbers(&all))?;
    tell!(
        "bound = sum of lambda^2 + {C3} alpha (equation 3 with c_2 / c_1 = 5/2, as in appendix B)."
    )?;
    tell!("Order of the bounds: {}.", order(&all))?;
    tell!("{checked}\n")?;
    let formulas = printed(&space);
    tell!(
        "Printed formulas at these sizes:\n{}",
        compared(&formulas, &all)
    )?;
    tell!("Where the paper differs from its own definitions:")?;
    for line in MISPRINTS {
        tell!("- {line}")?;
    }
    tell!("\nWhere its tables and text contradict one another:")?;
    for line in CONTRADICTIONS {
        tell!("- {line}")?;
    }
    match &options.out {
        Some(folder) => write_files(folder, &space, &all, &formulas),
        None => Ok(()),
    }
}

/// Compares every number with the graph over all points, and says what was compared.
fn checked(space: &Space, all: &[(&Partition, Found)]) -> Result<String, String> {
    let mut largest = 0.0_f64;
    for (partition, found) in all {
        let Some(points) = by_points(space, partition) else {
            return Ok(format!(
                "Computed over regions of equal points; {} points are too many for the graph over all of them (at most {MOST_POINTS}).",
                space.size()
            ));
        };
        for (sum, point) in values(found).into_iter().zip(values(&points)) {
            largest = largest.max((sum - point).abs() / point.abs().max(f64::MIN_POSITIVE));
        }
    }
    match largest < ROUNDING {
        true => Ok("Every number equals that of the graph over all pairs of points.".into()),
        false => Err(format!(
            "the sums over regions and over points differ by {largest:e} (relative), expected rounding only; please report it"
        )),
    }
}

fn values(found: &Found) -> [f64; 4] {
    [found.intra, found.inter, found.eig_sq_sum, found.alpha]
}

fn numbers(all: &[(&Partition, Found)]) -> String {
    let mut grid = Grid::new(&[
        "tokens",
        "number",
        "intra weight",
        "inter weight",
        "sum of lambda^2",
        "alpha",
        "bound",
    ]);
    for (partition, found) in all {
        grid.rows.push(vec![
            partition.name.clone(),
            partition.count().to_string(),
            format!("{:.5e}", found.intra),
            format!("{:.5e}", found.inter),
            format!("{:.4}", found.eig_sq_sum),
            format!("{:.4}", found.alpha),
            format!("{:.4}", found.bound()),
        ]);
    }
    grid.text()
}

/// Returns the names by bound, smallest first, with `=` between equal bounds.
fn order(all: &[(&Partition, Found)]) -> String {
    let mut sorted: Vec<&(&Partition, Found)> = all.iter().collect();
    sorted.sort_by(|a, b| a.1.bound().total_cmp(&b.1.bound()));
    let mut said = String::new();
    let mut before = None;
    for (partition, found) in sorted {
        let bound = found.bound();
        said += match before {
            None => "",
            Some(before) if are_equal(before, bound) => " = ",
            Some(_) => " < ",
        };
        said += &partition.name;
        before = Some(bound);
    }
    said
}

/// Returns whether two numbers differ by rounding only.
fn are_equal(a: f64, b: f64) -> bool {
    (a - b).abs() <= ROUNDING * a.abs().max(b.abs())
}

fn of(quantity: Quantity, found: &Found) -> f64 {
    match quantity {
        Quantity::Intra => found.intra,
        Quantity::Inter => found.inter,
        Quantity::Bound => found.bound(),
    }
}

/// A row of `printed.csv`: a formula of the paper at the sizes of the call.
#[derive(Serialize)]
struct Row<'a> {
    equation: &'a str,
    tokens: &'a str,
    quantity: &'static str,
    printed: f64,
    exact: f64,
    remark: &'a str,
}

fn rows<'a>(formulas: &'a [Printed], all: &[(&Partition, Found)]) -> Vec<Row<'a>> {
    let row = |formula: &'a Printed| {
        let (_, found) = (all.iter()).find(|(partition, _)| partition.name == formula.tokens)?;
        let exact = of(formula.quantity, found);
        Some(Row {
            equation: formula.equation,
            tokens: formula.tokens,
            quantity: match formula.quantity {
                Quantity::Intra => "intra weight",
                Quantity::Inter => "inter weight",
                Quantity::Bound => "bound",
            },
            printed: formula.value,
            exact,
            // At some sizes, as without shared points, the formula gives the exact number all the same.
            remark: match are_equal(formula.value, exact) {
                true => "",
                false => formula.remark,
            },
        })
    };
    formulas.iter().filter_map(row).collect()
}

fn compared(formulas: &[Printed], all: &[(&Partition, Found)]) -> String {
    let mut grid = Grid::new(&["equation", "tokens", "number", "printed", "exact"]);
    let mut remarks = vec![""];
    for row in rows(formulas, all) {
        let number = |value: f64| match row.quantity {
            "bound" => format!("{value:.4}"),
            _ => format!("{value:.5e}"),
        };
        grid.rows.push(vec![
            row.equation.to_owned(),
            row.tokens.to_owned(),
            row.quantity.to_owned(),
            number(row.printed),
            number(row.exact),
        ]);
        remarks.push(match row.remark {
            "" => "exact",
            remark => remark,
        });
    }
    let text = grid.text();
    let lines = text.lines().zip(remarks);
    lines
        .map(|(line, remark)| format!("{line}  {remark}\n"))
        .collect()
}

/// A row of `theory.csv`: a tokenization.
#[derive(Serialize)]
struct Line<'a> {
    classes: usize,
    points: u64,
    overlap: u64,
    tokenization: &'a str,
    tokens: u64,
    intra_weight: f64,
    inter_weight: f64,
    eig_sq_sum: f64,
    alpha: f64,
    bound: f64,
}

fn write_files(
    folder: &Path,
    space: &Space,
    all: &[(&Partition, Found)],
    formulas: &[Printed],
) -> Result<(), Failure> {
    let lines = all.iter().map(|(partition, found)| Line {
        classes: space.classes,
        points: space.points,
        overlap: space.overlap,
        tokenization: &partition.name,
        tokens: partition.count(),
        intra_weight: found.intra,
        inter_weight: found.inter,
        eig_sq_sum: found.eig_sq_sum,
        alpha: found.alpha,
        bound: found.bound(),
    });
    let lines: Vec<Line<'_>> = lines.collect();
    let figures = match space.classes <= DRAWN {
        true => vec![figure(space, all)],
        false => Vec::new(),
    };
    let mut paths = write::write_figures(folder, &figures)?;
    for (name, text) in [
        ("theory.csv", to_csv(&lines)?),
        ("printed.csv", to_csv(&rows(formulas, all))?),
    ] {
        write_atomic(&folder.join(name), text.as_bytes())?;
        paths.push(folder.join(name));
    }
    for path in paths {
        put!("{}", path.display())?;
    }
    Ok(())
}

fn figure(space: &Space, all: &[(&Partition, Found)]) -> Figure {
    let panel = |(partition, found): &(&Partition, Found)| Panel {
        title: format!("{} ({} tokens)", partition.name, partition.count()),
        regions: tiles(space, partition),
        lines: vec![
            format!("intra-class weight {:.3e}", found.intra),
            format!("inter-class weight {:.3e}", found.inter),
            format!("sum of squared eigenvalues {:.4}", found.eig_sq_sum),
            format!("alpha {:.4}", found.alpha),
            format!("bound {:.4}", found.bound()),
        ],
    };
    let panels: Vec<Panel> = all.iter().map(panel).collect();
    let title = format!(
        "Toy model: {} classes of {} points, every two share {}",
        space.classes, space.points, space.overlap
    );
    Figure {
        name: "theory".into(),
        caption: "Colours and frames are tokens. Each region is drawn with the same number of points, whatever its size.".into(),
        svg: toy(&title, &panels),
    }
}

/// Draws a few points of each region, in the proportions of its tokens. For two classes, the shared points are in the middle.
fn tiles(space: &Space, partition: &Partition) -> Vec<Tiles> {
    let regions = space.regions();
    let mut order: Vec<usize> = (0..regions.len()).collect();
    if space.classes == 2 {
        order.swap(1, 2);
    }
    let drawn = order.into_iter().filter(|at| regions[*at].size > 0);
    // Drawn tokens are numbered in order, so that neighbours have different colours.
    let mut numbers: Vec<usize> = Vec::new();
    let mut number = |token: usize| {
        let known = numbers.iter().position(|other| *other == token);
        known.unwrap_or_else(|| {
            numbers.push(token);
            numbers.len() - 1
        })
    };
    let of_region = |at: usize| {
        let region = &regions[at];
        let count = TILE_ROWS * COLUMNS[usize::from(region.other.is_some())];
        let token = |point: usize| {
            let place = (point as f64 + 0.5) / count as f64 * region.size as f64;
            number(token_at(partition, at, place as u64))
        };
        Tiles {
            name: region.name(),
            tokens: (0..count).map(token).collect(),
        }
    };
    drawn.map(of_region).collect()
}

/// Returns the token of a point of a region, if its points are in the order of their tokens.
fn token_at(partition: &Partition, region: usize, point: u64) -> usize {
    let (mut before, mut first) = (0, 0);
    for token in &partition.tokens {
        let members = token.members[region];
        if members > 0 && point < before + members * token.copies {
            return (first + (point - before) / members) as usize;
        }
        before += members * token.copies;
        first += token.copies;
    }
    first as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(space: &Space) -> Vec<Partition> {
        let class = space.class_wise().unwrap();
        vec![space.mae_like(), class, space.cross_class(2).unwrap()]
    }

    #[test]
    fn files_have_every_tokenization_and_formula_and_the_figure_up_to_four_classes() {
        for classes in [2, 3, 5] {
            let space = Space::new(classes, 40, 4).unwrap();
            let partitions = all(&space);
            let found = partitions.iter().map(|p| (p, exact(&space, p)));
            let found: Vec<(&Partition, Found)> = found.collect();
            let said = checked(&space, &found).unwrap();
            assert!(said.contains("all pairs of points"), "{said}");
            let dir = tempfile::tempdir().unwrap();
            let formulas = printed(&space);
            write_files(dir.path(), &space, &found, &formulas).unwrap();
            let lines = |name: &str| {
                let text = std::fs::read_to_string(dir.path().join(name)).unwrap();
                text.lines().count()
            };
            assert_eq!(lines("theory.csv"), 4);
            assert_eq!(lines("printed.csv"), 1 + formulas.len());
            assert_eq!(dir.path().join("theory.svg").exists(), classes <= DRAWN);
        }
    }

    #[test]
    fn equal_numbers_are_called_equal() {
        let space = Space::new(2, 10, 0).unwrap();
        let mut partitions = all(&space);
        partitions.push(space.partition("10,0,0; 0,10,0").unwrap());
        let found = Vec::from_iter(partitions.iter().map(|p| (p, exact(&space, p))));
        // Only the tokens across classes have a larger bound.
        let (said, cross) = (order(&found), &partitions[2].name);
        assert!(said.ends_with(&format!(" < {cross}")), "{said}");
        let marks = [" = ", " < "].map(|mark| said.matches(mark).count());
        assert_eq!(marks, [2, 1], "{said}");
        for row in rows(&printed(&space), &found) {
            assert_eq!(row.remark.is_empty(), are_equal(row.printed, row.exact));
        }
        let other = Space::new(2, 20, 4).unwrap();
        let partitions = all(&other);
        let found = Vec::from_iter(partitions.iter().map(|p| (p, exact(&other, p))));
        assert!(!order(&found).contains('='), "{}", order(&found));
    }

    #[test]
    fn the_figure_has_the_tokens_of_the_points() {
        let space = Space::new(2, 20, 4).unwrap();
        let tokens = |partition: &Partition| -> Vec<Vec<usize>> {
            let tiles = tiles(&space, partition);
            tiles.into_iter().map(|region| region.tokens).collect()
        };
        let [mae, class, cross] = &all(&space)[..] else {
            panic!("three tokenizations");
        };
        let regions = |of: [(usize, usize); 3]| {
            let half = |(a, b), n: usize| [vec![a; n / 2], vec![b; n / 2]].concat();
            [half(of[0], 16), half(of[1], 8), half(of[2], 16)].to_vec()
        };
        assert_eq!(tokens(class), regions([(0, 0), (0, 1), (1, 1)]));
        assert_eq!(tokens(cross), regions([(0, 1), (0, 1), (0, 1)]));
        // 16 points of 16 are drawn once; the 4 shared points twice each.
        let mae = tokens(mae);
        assert_eq!(mae[0], (0..16).collect::<Vec<_>>());
        assert_eq!(mae[1], [16, 16, 17, 17, 18, 18, 19, 19]);
        assert_eq!(mae[2], (20..36).collect::<Vec<_>>());
    }
}
