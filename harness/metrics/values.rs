//! Every metric from a table of counts.

use serde::{Deserialize, Serialize};

use super::sums::Sums;

/// The metrics of one table. Names and definitions: [`METRICS`](super::METRICS).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "METRICS defines every field")]
pub struct Values {
    pub tcas: f64,
    pub tcas_norm: f64,
    pub tcas_softmax: f64,
    pub tcas_sharp: f64,
    pub codebook_used: f64,
    pub perplexity: f64,
    pub mi: f64,
    /// `None` where all images have one class.
    pub pnmi: Option<f64>,
    /// `None` where all images have one class.
    pub nmi: Option<f64>,
    pub token_purity: f64,
    pub class_purity: f64,
    pub alpha: f64,
    pub eig_sq_sum: f64,
}

impl Values {
    /// The metrics of `table` (`[rows, classes]`, non-negative; rows without a count are left out).
    ///
    /// `sharp_t` is the temperature of `tcas_sharp`. An empty table gives the default.
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

    /// (name, value) in the order of [`METRICS`](super::METRICS).
    pub fn list(&self) -> [(&'static str, Option<f64>); 13] {
        [
            ("tcas", Some(self.tcas)),
            ("tcas_norm", Some(self.tcas_norm)),
            ("tcas_softmax", Some(self.tcas_softmax)),
            ("tcas_sharp", Some(self.tcas_sharp)),
            ("codebook_used", Some(self.codebook_used)),
            ("perplexity", Some(self.perplexity)),
            ("mi", Some(self.mi)),
            ("pnmi", self.pnmi),
            ("nmi", self.nmi),
            ("token_purity", Some(self.token_purity)),
            ("class_purity", Some(self.class_purity)),
            ("alpha", Some(self.alpha)),
            ("eig_sq_sum", Some(self.eig_sq_sum)),
        ]
    }
}
