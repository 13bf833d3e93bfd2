//! Multinomial logistic regression with an L2 penalty on sparse rows, solved to its optimum, with the strength chosen on held-out images.
//!
//! The objective is the mean cross-entropy plus `l2 / 2 |W|^2` without the intercepts, which is scikit-learn's with `C = 1 / (l2 images)`.
//! L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.5) minimises it in f64. Sums have a fixed order, so the result does not
//! depend on threads.

use std::collections::VecDeque;
use std::ops::Range;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::probe::{Evaluation, evaluate, held_out};

/// The optimum is reached if no derivative exceeds this part of `1 / classes`, to which the derivatives of a mean cross-entropy are
/// proportional. Rows have a mean squared norm of about 1.
const TOLERANCE: f64 = 1e-5;
/// Maximum number of steps.
const MOST_STEPS: usize = 2000;
/// Differences that L-BFGS keeps.
const KEPT: usize = 6;
/// Images whose residuals are in memory at once.
const BLOCK: usize = 4096;
/// Numbers per task of a dot product.
const PIECE: usize = 1 << 14;

/// Sparse rows, one per image.
#[derive(Clone, Debug)]
pub struct Rows {
    columns: usize,
    starts: Vec<usize>,
    cells: Vec<(u32, f32)>,
}

impl Rows {
    /// Creates a matrix without rows.
    pub fn new(columns: usize) -> Self {
        Self {
            columns,
            starts: vec![0],
            cells: Vec::new(),
        }
    }

    /// Adds a row: (column, value) with each column once.
    ///
    /// # Panics
    /// If a column is out of range.
    pub fn push(&mut self, cells: impl IntoIterator<Item = (u32, f32)>) {
        let first = self.cells.len();
        self.cells.extend(cells);
        let columns = self.columns;
        let inside = |(column, _): &(u32, f32)| (*column as usize) < columns;
        assert!(self.cells[first..].iter().all(inside), "{columns} columns");
        self.starts.push(self.cells.len());
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the mean squared norm of a row.
    pub fn mean_square(&self) -> f64 {
        let squares = self.cells.iter().map(|(_, v)| f64::from(*v).powi(2));
        squares.sum::<f64>() / self.len().max(1) as f64
    }

    /// Multiplies every value by `factor`.
    pub fn scale(&mut self, factor: f64) {
        for (_, value) in &mut self.cells {
            *value = (f64::from(*value) * factor) as f32;
        }
    }

    fn row(&self, at: usize) -> &[(u32, f32)] {
        &self.cells[self.starts[at]..self.starts[at + 1]]
    }

    fn select(&self, rows: &[usize]) -> Self {
        let mut out = Self::new(self.columns);
        rows.iter().for_each(|at| out.push(self.row(*at).to_vec()));
        out
    }
}

/// A classifier.
#[derive(Clone, Debug)]
pub struct Logistic {
    /// `[columns + 1, classes]`; the last row has the intercepts.
    weight: Vec<f64>,
    classes: usize,
    /// Largest derivative of the objective.
    pub largest_derivative: f64,
}

impl Logistic {
    fn zeros(columns: usize, classes: usize) -> Self {
        Self {
            weight: vec![0.0; (columns + 1) * classes],
            classes,
            largest_derivative: f64::INFINITY,
        }
    }

    /// Whether it is at the optimum.
    pub fn has_converged(&self) -> bool {
        self.largest_derivative <= TOLERANCE / self.classes as f64
    }

    /// Computes the accuracy on `rows`.
    pub fn evaluate(&self, rows: &Rows, labels: &[u32]) -> Evaluation {
        let scores = (0..rows.len()).into_par_iter().flat_map_iter(|at| {
            let mut scores = vec![0.0; self.classes];
            scores_of(&self.weight, rows.row(at), &mut scores);
            scores.into_iter().map(|score| score as f32)
        });
        evaluate(&scores.collect::<Vec<f32>>(), self.classes, labels)
    }

    /// Computes the mean cross-entropy on `rows`.
    fn loss(&self, rows: &Rows, labels: &[u32]) -> f64 {
        let losses = (0..rows.len()).into_par_iter().map(|at| {
            let mut scores = vec![0.0; self.classes];
            residual(&self.weight, rows.row(at), labels[at], &mut scores)
        });
        let losses: Vec<f64> = losses.collect();
        losses.iter().sum::<f64>() / losses.len().max(1) as f64
    }
}

/// What the held-out images say about a strength.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// The strength.
    pub l2: f64,
    /// Accuracy, percent.
    pub top1: f64,
    /// Mean cross-entropy.
    pub loss: f64,
    /// Largest derivative of the objective on the other images.
    pub largest_derivative: f64,
}

/// A classifier at the chosen strength.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The classifier, trained on all images.
    pub model: Logistic,
    /// Its strength.
    pub l2: f64,
    /// The strengths that were tried, strongest first.
    pub tried: Vec<HeldOut>,
}

/// Chooses the strength with the lowest cross-entropy on a tenth of the images (drawn by class), and trains on all images with it.
/// `strengths` are tried from the largest until the cross-entropy rises; a single one is not tried. `step` is called before every step; true interrupts.
///
/// # Errors
/// [`Error::Interrupted`]; [`Error::Data`] if no image can be held out.
pub fn choose(
    rows: &Rows,
    labels: &[u32],
    classes: usize,
    strengths: &[f64],
    step: &dyn Fn() -> bool,
) -> Result<Chosen> {
    if let [l2] = *strengths {
        let model = fit(
            rows,
            labels,
            l2,
            Logistic::zeros(rows.columns, classes),
            step,
        )?;
        let tried = Vec::new();
        return Ok(Chosen { model, l2, tried });
    }
    let [kept, held] = held_out(labels, 0);
    if held.is_empty() || kept.is_empty() {
        return Err(Error::Data(
            "no train image can be held out to choose the strength, because no class has two images".into(),
        ));
    }
    let of = |at: &[usize]| -> Vec<u32> { at.iter().map(|image| labels[*image]).collect() };
    let (kept, kept_labels) = (rows.select(&kept), of(&kept));
    let (held, held_labels) = (rows.select(&held), of(&held));
    let mut sorted = strengths.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let mut model = Logistic::zeros(rows.columns, classes);
    let (mut tried, mut best) = (Vec::<HeldOut>::new(), 0);
    for l2 in sorted {
        model = fit(&kept, &kept_labels, l2, model, step)?;
        let loss = model.loss(&held, &held_labels);
        let top1 = model.evaluate(&held, &held_labels).top1;
        tried.push(HeldOut {
            l2,
            top1,
            loss,
            largest_derivative: model.largest_derivative,
        });
        if loss > tried[best].loss {
            break;
        }
        best = tried.len() - 1;
    }
    let Some(l2) = tried.get(best).map(|one| one.l2) else {
        return Err(Error::Config("there is no strength to try".into()));
    };
    let model = fit(rows, labels, l2, model, step)?;
    Ok(Chosen { model, l2, tried })
}

/// Minimises the objective from `start`.
///
/// # Errors
/// [`Error::Interrupted`].
fn fit(
    rows: &Rows,
    labels: &[u32],
    l2: f64,
    start: Logistic,
    step: &dyn Fn() -> bool,
) -> Result<Logistic> {
    let objective = Objective::new(rows, labels, start.classes, l2);
    let mut at = objective.at(start.weight);
    let mut kept = VecDeque::new();
    for _ in 0..MOST_STEPS {
        if largest(&at.gradient) <= TOLERANCE / start.classes as f64 {
            break;
        }
        if step() {
            return Err(Error::Interrupted);
        }
        let Some(next) = objective.line_search(&at, &direction(&kept, &at.gradient)) else {
            break;
        };
        remember(&mut kept, &at, &next);
        at = next;
    }
    Ok(Logistic {
        largest_derivative: largest(&at.gradient),
        weight: at.weight,
        classes: start.classes,
    })
}

/// A point with its objective and gradient.
struct Point {
    weight: Vec<f64>,
    value: f64,
    gradient: Vec<f64>,
}

/// A difference of points and of gradients, and the reciprocal of their product.
type Difference = (Vec<f64>, Vec<f64>, f64);

fn remember(kept: &mut VecDeque<Difference>, from: &Point, to: &Point) {
    let less = |a: &[f64], b: &[f64]| -> Vec<f64> { a.iter().zip(b).map(|(a, b)| a - b).collect() };
    let moved = less(&to.weight, &from.weight);
    let bent = less(&to.gradient, &from.gradient);
    let product = dot(&moved, &bent);
    if product > 0.0 {
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back((moved, bent, 1.0 / product));
    }
}

/// Returns the direction of the next step (the two-loop recursion).
fn direction(kept: &VecDeque<Difference>, gradient: &[f64]) -> Vec<f64> {
    let mut direction: Vec<f64> = gradient.iter().map(|g| -g).collect();
    let mut parts = Vec::with_capacity(kept.len());
    for (moved, bent, scale) in kept.iter().rev() {
        let part = scale * dot(moved, &direction);
        add(&mut direction, -part, bent);
        parts.push(part);
    }
    let first = match kept.back() {
        Some((_, bent, scale)) => 1.0 / (scale * dot(bent, bent)),
        None => 1.0 / dot(gradient, gradient).sqrt().max(1.0),
    };
    direction.iter_mut().for_each(|d| *d *= first);
    for ((moved, bent, scale), part) in kept.iter().zip(parts.iter().rev()) {
        let more = part - scale * dot(bent, &direction);
        add(&mut direction, more, moved);
    }
    direction
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |most: f64, v| most.max(v.abs()))
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    let pieces = a.par_chunks(PIECE).zip(b.par_chunks(PIECE));
    let sums = pieces.map(|(a, b)| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>());
    sums.collect::<Vec<f64>>().iter().sum()
}

fn add(to: &mut [f64], factor: f64, from: &[f64]) {
    to.iter_mut()
        .zip(from)
        .for_each(|(to, from)| *to += factor * from);
}

/// Computes an image's scores.
fn scores_of(weight: &[f64], cells: &[(u32, f32)], scores: &mut [f64]) {
    let classes = scores.len();
    scores.copy_from_slice(&weight[weight.len() - classes..]);
    for (column, value) in cells {
        let line = &weight[*column as usize * classes..][..classes];
        add(scores, f64::from(*value), line);
    }
}

/// Computes an image's probabilities minus its label's indicator, and returns its cross-entropy.
fn residual(weight: &[f64], cells: &[(u32, f32)], label: u32, out: &mut [f64]) -> f64 {
    scores_of(weight, cells, out);
    let top = out.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let own = out[label as usize] - top;
    out.iter_mut()
        .for_each(|score| *score = (*score - top).exp());
    let total: f64 = out.iter().sum();
    out.iter_mut().for_each(|share| *share /= total);
    out[label as usize] -= 1.0;
    total.ln() - own
}

/// The cells of consecutive rows, column by column.
struct ByColumn {
    rows: Range<usize>,
    starts: Vec<u32>,
    cells: Vec<(u32, f32)>,
}

impl ByColumn {
    fn new(all: &Rows, rows: Range<usize>) -> Self {
        // Every cell advances its column's position by one, so the positions end as the starts.
        let mut starts = vec![0_u32; all.columns + 2];
        let cells = &all.cells[all.starts[rows.start]..all.starts[rows.end]];
        cells
            .iter()
            .for_each(|(column, _)| starts[*column as usize + 2] += 1);
        (2..starts.len()).for_each(|at| starts[at] += starts[at - 1]);
        let mut sorted = vec![(0, 0.0); cells.len()];
        for (row, at) in rows.clone().enumerate() {
            for (column, value) in all.row(at) {
                let place = &mut starts[*column as usize + 1];
                sorted[*place as usize] = (row as u32, *value);
                *place += 1;
            }
        }
        Self {
            rows,
            starts,
            cells: sorted,
        }
    }

    fn of(&self, column: usize) -> &[(u32, f32)] {
        &self.cells[self.starts[column] as usize..self.starts[column + 1] as usize]
    }
}

struct Objective<'a> {
    rows: &'a Rows,
    labels: &'a [u32],
    classes: usize,
    l2: f64,
    blocks: Vec<ByColumn>,
}

impl<'a> Objective<'a> {
    fn new(rows: &'a Rows, labels: &'a [u32], classes: usize, l2: f64) -> Self {
        let starts = (0..rows.len()).step_by(BLOCK);
        let blocks = starts.map(|start| ByColumn::new(rows, start..rows.len().min(start + BLOCK)));
        Self {
            blocks: blocks.collect(),
            rows,
            labels,
            classes,
            l2,
        }
    }

    /// Computes the objective and its gradient at `weight`.
    fn at(&self, weight: Vec<f64>) -> Point {
        let (classes, images) = (self.classes, self.rows.len() as f64);
        let mut gradient = vec![0.0; weight.len()];
        let mut value = 0.0;
        let mut residuals = Vec::new();
        for block in &self.blocks {
            residuals.resize(block.rows.len() * classes, 0.0);
            let each = residuals.par_chunks_exact_mut(classes).enumerate();
            let losses = each.map(|(at, out)| {
                let at = block.rows.start + at;
                residual(&weight, self.rows.row(at), self.labels[at], out)
            });
            value += losses.collect::<Vec<f64>>().iter().sum::<f64>();
            let lines = gradient.par_chunks_exact_mut(classes).enumerate();
            lines.for_each(|(column, line)| self.accumulate(block, column, &residuals, line));
        }
        value /= images;
        let penalised = self.rows.columns * classes;
        value += 0.5 * self.l2 * dot(&weight[..penalised], &weight[..penalised]);
        gradient.iter_mut().for_each(|g| *g /= images);
        add(&mut gradient[..penalised], self.l2, &weight[..penalised]);
        Point {
            weight,
            value,
            gradient,
        }
    }

    /// Adds a block's part of the derivatives of a column, or of the intercepts, which follow the last column.
    fn accumulate(&self, block: &ByColumn, column: usize, residuals: &[f64], line: &mut [f64]) {
        if column == self.rows.columns {
            let all = residuals.chunks_exact(self.classes);
            return all.for_each(|residual| add(line, 1.0, residual));
        }
        for (row, value) in block.of(column) {
            let residual = &residuals[*row as usize * self.classes..][..self.classes];
            add(line, f64::from(*value), residual);
        }
    }

    /// Returns the first point along `direction` that lowers the objective enough; `None` if rounding allows none.
    fn line_search(&self, from: &Point, direction: &[f64]) -> Option<Point> {
        const ENOUGH: f64 = 1e-4;
        const HALVINGS: i32 = 40;
        let slope = dot(&from.gradient, direction);
        for halvings in 0..HALVINGS {
            let step = 0.5_f64.powi(halvings);
            let mut weight = from.weight.clone();
            add(&mut weight, step, direction);
            let next = self.at(weight);
            if next.value <= from.value + ENOUGH * step * slope {
                return Some(next);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
