//! The paper's printed numbers (`paper/*.csv`), matched with rows of a suite by name.
//!
//! Tables show them only for the suites that repeat the paper's settings on ImageNet, and never as a difference, because no
//! public implementation shows which form of TCAS the paper computed.

use serde::Deserialize;

use crate::column::{Measured, from_csv};
use crate::columns::Record;

/// Suites that repeat the paper's settings, with the name of the dataset in the paper.
const SUITES: &[(&str, &str)] = &[
    ("imagenet100", "ImageNet-100"),
    ("ablation-k", "ImageNet-100"),
    ("ablation-epochs", "ImageNet-100"),
    ("imagenet1k", "ImageNet-1K"),
];

/// Temperature of the `tcas_sharp` that is closest to the paper's TCAS column (docs/metrics.md). No other reading of equation 8 comes near it.
pub const CLOSEST_T: f64 = 0.0025;

/// Returns the closest reading of the paper's TCAS, in suites on its dataset.
pub fn closest_reading(record: &Record) -> Option<f64> {
    let (_, dataset) = SUITES.iter().find(|(suite, _)| *suite == record.suite)?;
    let reading = *dataset == "ImageNet-100" && record.tcas_sharp_t == Some(CLOSEST_T);
    record.tcas_sharp.filter(|_| reading)
}

/// The paper's files by table.
const FILES: &[&str] = &[
    include_str!("paper/table1.csv"),
    include_str!("paper/table2.csv"),
    include_str!("paper/table3.csv"),
    include_str!("paper/table4.csv"),
    include_str!("paper/table5.csv"),
    include_str!("paper/table6.csv"),
    include_str!("paper/table7.csv"),
];

/// A row of any of the files.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PaperRow {
    #[serde(alias = "tokenizer")]
    method: String,
    k: Option<usize>,
    kmeans_epochs: Option<usize>,
    dataset: Option<String>,
    backbone: Option<String>,
    epochs: Option<usize>,
    /// TCAS.
    pub tcas: Option<f64>,
    /// Linear probing accuracy, percent.
    pub lp_acc: Option<f64>,
    /// Fine-tuning accuracy, percent.
    pub ft_acc: Option<f64>,
}

impl Measured for PaperRow {}

impl PaperRow {
    /// Returns whether the paper proposes the tokenizer.
    pub fn is_kmeans(&self) -> bool {
        self.method.starts_with("ClusterMIM")
    }

    /// Returns the paper's name and K of the row.
    pub fn label(&self) -> String {
        match self.k {
            Some(k) => format!("{}, K={k}", self.method),
            None => self.method.clone(),
        }
    }
}

/// Returns the rows of the paper's table.
pub fn rows(table: u32) -> Vec<PaperRow> {
    let file = (table as usize).checked_sub(1).and_then(|at| FILES.get(at));
    file.and_then(|text| from_csv(text, "the paper's table").ok())
        .unwrap_or_default()
}

/// Returns the row of the paper's table for `record`'s row.
pub fn printed(table: u32, record: &Record) -> Option<PaperRow> {
    let (_, dataset) = SUITES.iter().find(|(suite, _)| *suite == record.suite)?;
    let is_row = |row: &PaperRow| is_row(row, table, record, dataset);
    rows(table).into_iter().find(is_row)
}

fn is_row(row: &PaperRow, table: u32, record: &Record, dataset: &str) -> bool {
    // Tables without these columns are for ImageNet-100 with ViT-S, except the table on longer training.
    let (its_dataset, its_backbone) = match table {
        6 => ("ImageNet-1K", "ViT-B"),
        _ => (
            row.dataset.as_deref().unwrap_or("ImageNet-100"),
            row.backbone.as_deref().unwrap_or("ViT-S"),
        ),
    };
    let setting = its_dataset == dataset && its_backbone == format!("ViT-{}", record.backbone);
    let trained = row.epochs.is_none_or(|e| record.pretrain_epochs == Some(e));
    setting && trained && is_same(row, record, dataset)
}

/// Names that the paper uses in different tables for the same tokenizer.
const NAMES: &[(&str, &str)] = &[
    ("mae", "identity function (mae)"),
    ("beit", "dvae"),
    ("peco", "perceptual tokenizer"),
    ("maskfeat hog ver.", "maskfeat (hog targets)"),
    ("maskfeat continuous ver.", "maskfeat (dino targets)"),
    ("k-means", "k-means pixel"),
];

/// Returns whether name and size, and for K-means the passes, of the paper's row equal those of the record.
fn is_same(row: &PaperRow, record: &Record, dataset: &str) -> bool {
    let plain = |text: &str| {
        let text = text
            .to_lowercase()
            .replace("(ours)", "")
            .replace("clustermim", "k-means");
        let cut = text.find(", k=").map_or(text.len(), |at| at);
        let text = text[..cut].trim();
        let named = NAMES.iter().find(|(name, _)| *name == text);
        named.map_or(text, |(_, name)| name).to_owned()
    };
    let paper = plain(&row.method);
    // "VQGAN K=1024" in Table 2 has no comma before the size.
    let (paper, size) = match paper.split_once(" k=") {
        Some((name, size)) => (name.to_owned(), size.parse().ok()),
        None => (paper, row.k),
    };
    if paper != plain(&record.tokenizer) {
        return false;
    }
    if !paper.starts_with("k-means") {
        return size.is_none_or(|k| record.codebook_size == Some(k));
    }
    // Defaults of the paper: 50 clusters on pixels, 100 on features; 100 passes, 10 on ImageNet-1K.
    let size = size.unwrap_or(if paper == "k-means pixel" { 50 } else { 100 });
    let passes = if dataset == "ImageNet-1K" { 10 } else { 100 };
    record.codebook_size == Some(size)
        && record.kmeans_epochs == Some(row.kmeans_epochs.unwrap_or(passes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, k: Option<usize>, epochs: Option<usize>) -> Record {
        Record {
            suite: "imagenet100".into(),
            tokenizer: name.into(),
            backbone: "S".into(),
            codebook_size: k,
            kmeans_epochs: epochs,
            ..Record::default()
        }
    }

    fn lp(table: u32, record: &Record) -> Option<f64> {
        printed(table, record)?.lp_acc
    }

    #[test]
    fn rows_are_found_by_name_and_fit() {
        let pixel = |k, epochs| record(&format!("K-means Pixel, K={k}"), Some(k), Some(epochs));
        let identity = record("Identity function (MAE)", None, None);
        assert_eq!(lp(1, &identity), Some(45.9));
        assert_eq!(lp(3, &identity), Some(45.9));
        assert_eq!(lp(1, &pixel(50, 100)), Some(52.7));
        assert_eq!(lp(1, &pixel(100, 100)), None);
        assert_eq!(printed(7, &pixel(200, 100)).unwrap().tcas, Some(0.49));
        assert!(printed(7, &pixel(200, 7)).is_none());
        let dino = |k| record(&format!("K-means DINO, K={k}"), Some(k), Some(100));
        assert_eq!(lp(7, &dino(100)), Some(59.7));
        assert_eq!(
            (lp(4, &dino(1000)), lp(4, &pixel(1000, 100))),
            (Some(56.9), Some(50.6))
        );
        assert_eq!(
            (lp(5, &pixel(50, 1)), lp(5, &pixel(50, 10))),
            (Some(47.2), Some(52.5))
        );
        assert_eq!(lp(5, &pixel(100, 1)), None);
    }

    #[test]
    fn settings_must_be_the_papers() {
        let quickstart = Record {
            suite: "quickstart".into(),
            ..record("dVAE", None, None)
        };
        assert!(printed(1, &quickstart).is_none());
        let base = |suite: &str, epochs| Record {
            suite: suite.into(),
            backbone: "B".into(),
            pretrain_epochs: Some(epochs),
            ..record("Identity function (MAE)", None, None)
        };
        assert_eq!(lp(1, &base("imagenet100", 200)), None);
        assert_eq!(lp(3, &base("imagenet100", 200)), Some(61.2));
        assert_eq!(lp(3, &base("imagenet1k", 200)), Some(55.4));
        assert_eq!(
            (
                lp(6, &base("imagenet1k", 1600)),
                lp(6, &base("imagenet1k", 200))
            ),
            (Some(68.0), None)
        );
        let vqgan = record("VQGAN, K=16384", Some(16384), None);
        assert_eq!(printed(2, &vqgan).unwrap().tcas, Some(0.73));
    }

    #[test]
    fn every_table_is_read() {
        let counts: Vec<usize> = (1..=7).map(|t| rows(t).len()).collect();
        assert_eq!(counts[2..], [17, 6, 6, 3, 16]);
        assert!(counts.iter().all(|c| *c > 2));
    }
}
