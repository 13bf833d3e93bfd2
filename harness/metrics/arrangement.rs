//! Where codes are: mutual information of a patch's code with its position, and with the codes of its left and its upper neighbour.
//!
//! The plug-in estimate grows with the number of cells even without any relation, so each has its mean over images whose patches are in
//! random order. That order keeps every image's codes, so the distance from it is due to their places alone.
//!
//! The ids are kept in a temporary file. Each table is counted in a pass of its own, so memory is that of one [`Counter`].

use std::io;
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use rayon::prelude::*;
use tessera_models::rng::keyed_rng;

use super::counter::{CountError, Counter};
use super::spill::Spill;
use super::table::{DENSE_CELLS, Table};
use super::uncertainty::{Estimate, deviation, mean};

/// Number of random orders.
const ORDERS: u64 = 4;
/// Passes over the ids.
pub const PASSES: u64 = RELATIONS.len() as u64 * (1 + ORDERS);
/// Approximate seconds of a pass per id, on two cores.
pub const SECONDS: f64 = 2e-8;
/// Codebooks above this have no pairs of neighbours: a range of the table would not fit into memory.
const MOST_CODES: usize = 1 << 17;
/// Approximate number of ids that are counted together.
const PENDING: usize = 1 << 17;

/// Returns the approximate bytes of the largest table for `codes` codes and `patches` positions, with those of the threads.
pub fn memory(codes: usize, patches: usize) -> usize {
    /// A range of a table that is not dense.
    const RANGE: usize = 40 << 20;
    let of = |columns: usize| match codes.saturating_mul(columns) {
        cells if cells as u64 <= DENSE_CELLS => 16 * cells,
        _ => RANGE,
    };
    of(codes).max(of(patches))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Position,
    Left,
    Upper,
}

const RELATIONS: [(&str, Relation); 3] = [
    ("mi_position", Relation::Position),
    ("mi_left", Relation::Left),
    ("mi_upper", Relation::Upper),
];

/// Returns the metrics' names, columns of `results.csv`.
pub fn names() -> impl Iterator<Item = &'static str> {
    RELATIONS.iter().map(|(name, _)| *name)
}

/// Collects ids, image by image.
pub struct Arrangement {
    rows: usize,
    cols: usize,
    codes: usize,
    scratch: PathBuf,
    ids: Spill,
    largest: Option<u32>,
}

impl Arrangement {
    /// Creates a collection of images of `rows` times `cols` patches with `codes` codes. Temporary files go to the folder `scratch`.
    pub fn new((rows, cols): (usize, usize), codes: usize, scratch: &Path) -> Self {
        Self {
            rows,
            cols,
            codes,
            scratch: scratch.to_owned(),
            ids: Spill::new(scratch, 1),
            largest: None,
        }
    }

    /// Adds ids `[images, rows * cols]`.
    ///
    /// # Errors
    /// If the temporary file cannot be written.
    pub fn add(&mut self, ids: &[u32]) -> io::Result<()> {
        self.largest = self.largest.max(ids.iter().copied().max());
        self.ids.push(0, ids)
    }

    /// Computes the metrics. A metric is `None` if the grid has no such neighbours or the codebook is too large.
    ///
    /// # Errors
    /// If a temporary file cannot be used; [`io::ErrorKind::Interrupted`] if `interrupted`, which every pass polls, returns true.
    pub fn estimates(
        mut self,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Vec<Estimate>, CountError> {
        let mut all = Vec::with_capacity(RELATIONS.len());
        for (name, relation) in RELATIONS {
            let mut values = Vec::new();
            for order in 0..=ORDERS {
                if interrupted() {
                    return Err(io::Error::from(io::ErrorKind::Interrupted).into());
                }
                // 0 is the patches' own order.
                let order = order.checked_sub(1);
                if let Some(mut table) = self.table(relation, order)? {
                    values.push(mutual_information(&mut table)?);
                }
            }
            let (own, others) = values.split_at(values.len().min(1));
            let others = Some(others).filter(|others| !others.is_empty());
            all.push(Estimate {
                metric: name.to_owned(),
                value: own.first().copied(),
                se: None,
                null_mean: others.map(mean),
                null_se: others.map(|v| deviation(v) / (v.len() as f64).sqrt()),
                group: None,
            });
        }
        Ok(all)
    }

    /// Counts code and position, or code and neighbour, with the patches in a random `order` or in their own.
    fn table(
        &mut self,
        relation: Relation,
        order: Option<u64>,
    ) -> Result<Option<Table>, CountError> {
        let patches = self.rows * self.cols;
        let (others, pairs) = match relation {
            Relation::Position => (patches, patches),
            Relation::Left => (self.codes, self.rows * self.cols.saturating_sub(1)),
            Relation::Upper => (self.codes, self.rows.saturating_sub(1) * self.cols),
        };
        let fits = relation == Relation::Position || self.codes <= MOST_CODES;
        if pairs == 0 || self.largest.is_none() || !fits {
            return Ok(None);
        }
        let mut counter = Counter::new(self.codes, others, &self.scratch);
        let (cols, mut images, mut pending) = (self.cols, 0, Vec::new());
        let mut failed = Ok(());
        let mut count = |pending: &mut Vec<u32>| {
            let whole = pending.len() / patches * patches;
            if let Some(order) = order {
                shuffle(&mut pending[..whole], patches, order, images);
            }
            images += (whole / patches) as u64;
            let (ids, labels) = related(&pending[..whole], patches, cols, relation);
            pending.drain(..whole);
            counter.add(&ids, &labels)
        };
        self.ids.each(0, |words| {
            pending.extend_from_slice(words);
            if pending.len() >= PENDING && failed.is_ok() {
                failed = count(&mut pending);
            }
        })?;
        failed?;
        count(&mut pending)?;
        Ok(Some(counter.finish()?))
    }
}

/// Puts the patches of each image into a random order; `first` is the index of the first image.
fn shuffle(ids: &mut [u32], patches: usize, order: u64, first: u64) {
    let images = ids.par_chunks_exact_mut(patches).enumerate();
    images.for_each(|(image, ids)| {
        ids.shuffle(&mut keyed_rng(
            0,
            "arrangement",
            order,
            first + image as u64,
        ));
    });
}

/// Returns code and partner of every pair of the images.
fn related(ids: &[u32], patches: usize, cols: usize, relation: Relation) -> (Vec<u32>, Vec<u32>) {
    let pairs = ids.par_chunks_exact(patches).flat_map_iter(|image| {
        image.iter().enumerate().filter_map(move |(at, id)| {
            let other = match relation {
                Relation::Position => at as u32,
                Relation::Left => image[at.checked_sub(1).filter(|_| at % cols != 0)?],
                Relation::Upper => image[at.checked_sub(cols)?],
            };
            Some((*id, other))
        })
    });
    pairs.unzip()
}

/// Computes the mutual information of the rows and the columns of a table, in nats.
fn mutual_information(table: &mut Table) -> io::Result<f64> {
    let mut columns = vec![0_u64; table.num_classes];
    table.each_row(|_, row| {
        row.iter()
            .for_each(|(column, n)| columns[*column as usize] += n);
        Ok(())
    })?;
    let total = columns.iter().sum::<u64>() as f64;
    let mut sum = 0.0;
    table.each_row(|_, row| {
        let own: u64 = row.iter().map(|(_, n)| n).sum();
        for (column, n) in row {
            let (n, expected) = (*n as f64, own as f64 * columns[*column as usize] as f64);
            sum += n * (n * total / expected).ln();
        }
        Ok(())
    })?;
    Ok((sum / total).max(0.0))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn fixture() -> Value {
        serde_json::from_str(include_str!("../../tests/fixtures/arrangement/numpy.json")).unwrap()
    }

    fn numbers(value: &Value) -> Vec<f64> {
        let list = value.as_array().unwrap();
        list.iter().map(|n| n.as_f64().unwrap()).collect()
    }

    fn estimates(ids: &[u32], grid: (usize, usize), codes: usize, batch: usize) -> Vec<Estimate> {
        let dir = tempfile::tempdir().unwrap();
        let mut all = Arrangement::new(grid, codes, dir.path());
        let images = ids.chunks(batch * grid.0 * grid.1);
        images.for_each(|ids| all.add(ids).unwrap());
        all.estimates(&|| false).unwrap()
    }

    /// NumPy counts every pair (`tests/fixtures/arrangement/make.py`).
    #[test]
    fn information_equals_numpy_and_chance_its_mean_over_random_orders() {
        let fixture = fixture();
        let ids: Vec<u32> = numbers(&fixture["ids"])
            .iter()
            .map(|id| *id as u32)
            .collect();
        let (grid, codes) = ((4, 5), 7);
        let found = estimates(&ids, grid, codes, 3);
        assert!(found.iter().map(|one| one.metric.as_str()).eq(names()));
        for one in &found {
            let expected = &fixture[&one.metric];
            let value = one.value.unwrap();
            assert!(
                (value - expected["value"].as_f64().unwrap()).abs() < 1e-12,
                "{one:?}"
            );
            let (mean, sd) = (&expected["null"], &expected["null_sd"]);
            let apart = (one.null_mean.unwrap() - mean.as_f64().unwrap()).abs();
            assert!(
                apart < 4.0 * sd.as_f64().unwrap() / 2.0,
                "{one:?}, {expected}"
            );
            assert!(one.null_se.unwrap() > 0.0);
        }
        // Batches do not matter, and neither does a codebook whose tables are not dense.
        assert_eq!(estimates(&ids, grid, codes, 40), found);
        let sparse = estimates(&ids, grid, 5000, 3);
        for (a, b) in sparse.iter().zip(&found) {
            assert!((a.value.unwrap() - b.value.unwrap()).abs() < 1e-12, "{a:?}");
        }
    }

    #[test]
    fn a_grid_without_neighbours_and_no_images_have_no_information() {
        let values =
            |found: Vec<Estimate>| found.into_iter().map(|one| one.value).collect::<Vec<_>>();
        let column = values(estimates(&[0, 1, 0, 1], (2, 1), 2, 1));
        assert!((column[0].unwrap() - 2.0_f64.ln()).abs() < 1e-12);
        assert_eq!(column[1], None);
        assert_eq!(column[2], Some(0.0));
        assert_eq!(values(estimates(&[], (2, 2), 2, 1)), [None; 3]);
        let many = values(estimates(&[0, 1, 0, 1], (2, 2), MOST_CODES + 1, 1));
        assert_eq!([many[1], many[2]], [None; 2]);
    }
}
