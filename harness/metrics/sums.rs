//! Computes every training-free metric from the rows of `R`, one by one, in memory of classes x classes for any codebook.
//!
//! A softmax row has the same value in every class without patches. It is this constant plus a sparse remainder, so its outer
//! product costs as much as that of the sparse row. `sum_{i,i'} C_ii'^2 = |P^T P|_F^2` needs no matrix over tokens.

use tessera_kernels::simd::vectorized;

/// Version of the metrics in the key of their stage. Increase it when a metric is added or computed differently.
pub const VERSION: u32 = 4;

/// Defines a struct of metrics and a list of them by name.
macro_rules! metrics {
    ($(#[$about:meta])* $values:ident { $($(#[$doc:meta])* $name:ident: $type:ty,)* }) => {
        $(#[$about])*
        pub struct $values {
            $($(#[$doc])* pub $name: $type,)*
        }

        impl $values {
            /// Returns (name, value) pairs; `None` if a metric is undefined.
            pub fn list(&self) -> Vec<(&'static str, Option<f64>)> {
                vec![$((stringify!($name), self.$name.into()),)*]
            }
        }
    };
}

metrics! {
/// The metrics of one table of counts, in the order of `metrics.csv`. Each is a column of `results.csv`, which defines it
/// (`bench list metrics`).
#[derive(Clone, Debug, Default, PartialEq)]
#[expect(missing_docs, reason = "the columns of results.csv define every field")]
Values {
    tcas: f64,
    tcas_norm: f64,
    tcas_softmax: f64,
    tcas_sharp: f64,
    codebook_used: f64,
    perplexity: f64,
    mi: f64,
    /// `None` if all images have the same class.
    pnmi: Option<f64>,
    /// `None` if all images have the same class.
    nmi: Option<f64>,
    token_purity: f64,
    class_purity: f64,
    alpha: f64,
    eig_sq_sum: f64,
    bound: f64,
}
}

impl Values {
    /// Computes the metrics of `table` (`[rows, classes]`, non-negative; empty rows are ignored).
    ///
    /// `sharp_t` is the temperature of `tcas_sharp`. An empty table returns the default.
    pub fn of(table: &[f64], classes: usize, sharp_t: f64) -> Self {
        let mut class_sums = vec![0.0; classes];
        for row in table.chunks_exact(classes) {
            class_sums
                .iter_mut()
                .zip(row)
                .for_each(|(sum, v)| *sum += v);
        }
        let mut sums = Sums::new(class_sums, sharp_t);
        let mut cells = Vec::with_capacity(classes);
        for row in table.chunks_exact(classes) {
            cells.clear();
            let found = (0..).zip(row).filter(|(_, v)| **v > 0.0);
            cells.extend(found.map(|(class, v)| (class, *v)));
            sums.add_row(&cells);
        }
        sums.values()
    }
}

/// Values of a row per class: the probability; the remainders of the plain and the sharpened softmax above the constant; and the
/// probability times the square root of the row's sum, whose outer products form the class graph.
type Lanes = [f64; 4];
/// Number of lanes to which equation 8 applies: the probability and both softmaxes.
const FORMS: usize = 3;

/// Sums over rows.
pub(super) struct Sums {
    sharp_t: f64,
    n: f64,
    class_sums: Vec<f64>,
    class_most: Vec<f64>,
    rows: usize,
    token_entropy: f64,
    mi: f64,
    most: f64,
    /// `sum_i p(i) |P_i|^2`.
    same_class: f64,
    by_norm: f64,
    diagonal: [f64; FORMS],
    /// `sum_i C_ii^2`, which the sum over pairs excludes.
    own: [f64; FORMS],
    /// Sum of squares of the rows' constants.
    constants: Lanes,
    /// Sum of the row's constant times its remainder, per class.
    cross: Vec<Lanes>,
    gram: Gram,
    row: Vec<(u32, Lanes)>,
}

impl Sums {
    /// Creates sums without rows. `class_sums` is the number of patches of each class over all rows to be added.
    pub(super) fn new(class_sums: Vec<f64>, sharp_t: f64) -> Self {
        let classes = class_sums.len();
        Self {
            sharp_t,
            n: class_sums.iter().sum(),
            class_most: vec![0.0; classes],
            rows: 0,
            token_entropy: 0.0,
            mi: 0.0,
            most: 0.0,
            same_class: 0.0,
            by_norm: 0.0,
            diagonal: [0.0; FORMS],
            own: [0.0; FORMS],
            constants: [0.0; 4],
            cross: vec![[0.0; 4]; classes],
            gram: Gram::new(classes),
            row: Vec::new(),
            class_sums,
        }
    }

    /// Returns the size in bytes of the sums over `classes` classes.
    pub(super) fn bytes(classes: usize) -> usize {
        size_of::<Lanes>() * (classes + BLOCK) * classes.next_multiple_of(WIDE)
    }

    /// Adds a row: (class, patches) with ascending classes and patches above zero.
    pub(super) fn add_row(&mut self, cells: &[(u32, f64)]) {
        let sum: f64 = cells.iter().map(|(_, v)| v).sum();
        if sum <= 0.0 {
            return;
        }
        let (n, share) = (self.n, sum / self.n);
        self.rows += 1;
        self.token_entropy -= share * share.ln();
        for (class, v) in cells {
            let class = *class as usize;
            self.mi += v / n * (v * n / (sum * self.class_sums[class])).ln();
            self.class_most[class] = self.class_most[class].max(*v);
        }
        let most = cells.iter().fold(0.0, |most: f64, (_, v)| most.max(*v));
        self.most += most;
        let constants = self.spread(cells, sum, most / sum);
        let mut squares = constants.map(|b| b * b * (self.cross.len() - cells.len()) as f64);
        for (class, x) in &self.row {
            let cross = &mut self.cross[*class as usize];
            for lane in 0..FORMS {
                squares[lane] += (constants[lane] + x[lane]).powi(2);
                cross[lane] += constants[lane] * x[lane];
            }
        }
        for lane in 0..FORMS {
            self.constants[lane] += constants[lane] * constants[lane];
            self.diagonal[lane] += (1.0 - squares[lane]).powi(2);
            self.own[lane] += squares[lane] * squares[lane];
        }
        self.by_norm += (1.0 - squares[0].sqrt()).powi(2);
        self.same_class += share * squares[0];
        self.gram.add(&self.row);
    }

    /// Sets `row` and returns the constants. `top` is the largest probability.
    fn spread(&mut self, cells: &[(u32, f64)], sum: f64, top: f64) -> Lanes {
        let empty = (self.cross.len() - cells.len()) as f64;
        let [plain, sharp] = [1.0, self.sharp_t].map(|t| ((-top / t).exp(), t));
        let root = sum.sqrt();
        let mut totals = [empty * plain.0, empty * sharp.0];
        self.row.clear();
        for (class, v) in cells {
            let p = v / sum;
            let [a, b] = [plain.1, sharp.1].map(|t| ((p - top) / t).exp());
            totals[0] += a;
            totals[1] += b;
            self.row
                .push((*class, [p, a - plain.0, b - sharp.0, p * root]));
        }
        for (_, x) in &mut self.row {
            x[1] /= totals[0];
            x[2] /= totals[1];
        }
        [0.0, plain.0 / totals[0], sharp.0 / totals[1], 0.0]
    }

    /// Returns the metrics of all rows; the default if there are none.
    pub(super) fn values(mut self) -> Values {
        if self.rows == 0 {
            return Values::default();
        }
        self.gram.flush();
        let (n, l1) = (self.n, self.rows as f64);
        let pairs = |lane: usize| (self.norm(lane) - self.own[lane]).max(0.0) / (l1 * l1);
        let form = |lane: usize| self.diagonal[lane] / l1 + pairs(lane);
        let class_entropy = entropy(&self.class_sums, n);
        let has_classes = class_entropy > 0.0;
        // Rounding leaves no number outside its range.
        let mi = self.mi.min(class_entropy).min(self.token_entropy).max(0.0);
        let alpha = (1.0 - self.same_class).max(0.0);
        let eig_sq_sum = self.eig_sq_sum();
        Values {
            tcas: form(0),
            tcas_norm: self.by_norm / l1 + pairs(0),
            tcas_softmax: form(1),
            tcas_sharp: form(2),
            codebook_used: l1,
            perplexity: self.token_entropy.exp(),
            mi,
            pnmi: has_classes.then(|| mi / class_entropy),
            nmi: has_classes.then(|| 2.0 * mi / (self.token_entropy + class_entropy)),
            token_purity: self.most / n,
            class_purity: self.class_most.iter().sum::<f64>() / n,
            alpha,
            eig_sq_sum,
            bound: eig_sq_sum + 2.5 * alpha,
        }
    }

    /// Returns `|P^T P|_F^2` of a lane from constants, cross terms and products of the remainders.
    fn norm(&self, lane: usize) -> f64 {
        let full = |a: usize, b: usize, x: &Lanes| {
            self.constants[lane] + self.cross[a][lane] + self.cross[b][lane] + x[lane]
        };
        self.gram.sum(|a, b, x| full(a, b, x).powi(2))
    }

    /// Returns the squared Frobenius norm of `D^-1/2 W D^-1/2` with `W = sum_i p(i) P_i P_i^T`; the degrees are the class shares.
    fn eig_sq_sum(&self) -> f64 {
        let degree = |class: usize| self.class_sums[class];
        self.gram.sum(|a, b, x| match x[3] > 0.0 {
            true => x[3] * x[3] / (degree(a) * degree(b)),
            false => 0.0,
        })
    }
}

fn entropy(counts: &[f64], n: f64) -> f64 {
    let terms = counts.iter().filter(|c| **c > 0.0);
    -terms.map(|c| c / n * (c / n).ln()).sum::<f64>()
}

/// Rows that are multiplied together.
const BLOCK: usize = 16;
/// Tile of the kernel: `TALL` classes by `WIDE` classes.
const TALL: usize = 2;
const WIDE: usize = 4;

/// Upper triangle of `sum x x^T` per lane. Sparse rows are added directly, dense rows in blocks.
struct Gram {
    classes: usize,
    /// Number of classes with padding: the length of a line of `upper` and `block`.
    stride: usize,
    upper: Vec<Lanes>,
    block: Vec<Lanes>,
    filled: usize,
}

impl Gram {
    fn new(classes: usize) -> Self {
        let stride = classes.next_multiple_of(WIDE);
        Self {
            classes,
            stride,
            upper: vec![[0.0; 4]; stride * stride],
            block: Vec::new(),
            filled: 0,
        }
    }

    fn add(&mut self, row: &[(u32, Lanes)]) {
        if row.len() * 2 < self.classes {
            for (at, (a, x)) in row.iter().enumerate() {
                let line = &mut self.upper[*a as usize * self.stride..][..self.stride];
                for (b, y) in &row[at..] {
                    let sums = &mut line[*b as usize];
                    (0..4).for_each(|lane| sums[lane] += x[lane] * y[lane]);
                }
            }
            return;
        }
        self.block.resize(BLOCK * self.stride, [0.0; 4]);
        let line = &mut self.block[self.filled * self.stride..][..self.stride];
        line.fill([0.0; 4]);
        row.iter().for_each(|(class, x)| line[*class as usize] = *x);
        self.filled += 1;
        if self.filled == BLOCK {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let block = &self.block[..self.filled * self.stride];
        // Without the attribute, the closure would be a separate function, compiled for the baseline.
        vectorized(
            #[inline(always)]
            || add_block(&mut self.upper, block, self.stride),
        );
        self.filled = 0;
    }

    /// Returns the sum of `term(a, b, sums)` over all pairs of classes. `term` must be symmetric.
    fn sum(&self, term: impl Fn(usize, usize, &Lanes) -> f64) -> f64 {
        let mut total = 0.0;
        for a in 0..self.classes {
            let line = &self.upper[a * self.stride..][..self.classes];
            let beyond = (a + 1..self.classes).map(|b| term(a, b, &line[b]));
            total += term(a, a, &line[a]) + 2.0 * beyond.sum::<f64>();
        }
        total
    }
}

/// Adds `x x^T` of every row of `block`. Diagonal tiles also write below the diagonal, which is never read.
#[inline(always)]
fn add_block(upper: &mut [Lanes], block: &[Lanes], stride: usize) {
    for a in (0..stride).step_by(TALL) {
        for b in (a / WIDE * WIDE..stride).step_by(WIDE) {
            let mut tile = [[[0.0; 4]; WIDE]; TALL];
            for row in block.chunks_exact(stride) {
                let (x, y) = (&row[a..a + TALL], &row[b..b + WIDE]);
                for (line, x) in tile.iter_mut().zip(x) {
                    for (sums, y) in line.iter_mut().zip(y) {
                        (0..4).for_each(|lane| sums[lane] += x[lane] * y[lane]);
                    }
                }
            }
            for (at, line) in tile.iter().enumerate() {
                let place = &mut upper[(a + at) * stride + b..][..WIDE];
                for (sums, more) in place.iter_mut().zip(line) {
                    (0..4).for_each(|lane| sums[lane] += more[lane]);
                }
            }
        }
    }
}
