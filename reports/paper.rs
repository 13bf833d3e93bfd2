//! The paper's printed numbers (`paper/*.csv`), matched with rows of a suite by name.
//!
//! Tables show them only where a suite repeats the paper's settings on ImageNet, and never as a difference, because no
//! public implementation shows which form of TCAS the paper computed.

use serde::Deserialize;

use crate::column::{Measured, from_csv};
use crate::columns::Record;

/// A dataset of the paper: its name there, and its classes.
type Dataset = (&'static str, usize);

const IMAGENET_100: Dataset = ("ImageNet-100", 100);
const IMAGENET_1K: Dataset = ("ImageNet-1K", 1000);

/// Suites that repeat the paper's settings.
const SUITES: &[(&str, Dataset)] = &[
    ("imagenet100", IMAGENET_100),
    ("ablation-k", IMAGENET_100),
    ("ablation-epochs", IMAGENET_100),
    ("imagenet1k", IMAGENET_1K),
];

/// Sides of the paper's images and patches.
const SIDES: (usize, usize) = (224, 16);

/// Epochs of the paper's pretraining, except in Table 6.
const EPOCHS: usize = 200;

/// Temperature of the `tcas_sharp` that is closest to the paper's TCAS column (docs/metrics.md). No other reading of equation 8 comes near it.
pub const CLOSEST_T: f64 = 0.0025;

/// Returns the closest reading of the paper's TCAS, in suites on its dataset.
pub fn closest_reading(record: &Record) -> Option<f64> {
    let reading = dataset(record)? == IMAGENET_100.0 && record.tcas_sharp_t == Some(CLOSEST_T);
    record.tcas_sharp.filter(|_| reading)
}

/// Returns the name of the paper's dataset if the record is of a suite that repeats the paper. `--set` may have changed everything but the suite's name.
fn dataset(record: &Record) -> Option<&'static str> {
    let (_, (name, classes)) = SUITES.iter().find(|(suite, _)| *suite == record.suite)?;
    // Older files do not state the classes.
    let has_classes = [0, *classes].contains(&record.n_classes);
    let has_sides = (record.image_size, record.patch_size) == SIDES;
    (has_classes && has_sides).then_some(name)
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

/// Returns the row of the paper's table for `record`'s row, without accuracies if it is not pretrained as long as the paper's.
pub fn printed(table: u32, record: &Record) -> Option<PaperRow> {
    let dataset = dataset(record)?;
    let is_row = |row: &PaperRow| is_row(row, table, record, dataset);
    let row = rows(table).into_iter().find(is_row)?;
    let as_long = record.pretrain_epochs == Some(row.epochs.unwrap_or(EPOCHS));
    Some(PaperRow {
        lp_acc: row.lp_acc.filter(|_| as_long),
        ft_acc: row.ft_acc.filter(|_| as_long),
        ..row
    })
}

fn is_row(row: &PaperRow, table: u32, record: &Record, dataset: &str) -> bool {
    // Tables without these columns are for ImageNet-100 with ViT-S, except the table on longer training.
    let (its_dataset, its_backbone) = match table {
        6 => (IMAGENET_1K.0, "ViT-B"),
        _ => (
            row.dataset.as_deref().unwrap_or(IMAGENET_100.0),
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
    let passes = if dataset == IMAGENET_1K.0 { 10 } else { 100 };
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
            image_size: 224,
            patch_size: 16,
            n_classes: 100,
            pretrain_epochs: Some(200),
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
            n_classes: if suite == "imagenet1k" { 1000 } else { 100 },
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
        let vqgan = |k| record(&format!("VQGAN, K={k}"), Some(k), None);
        assert_eq!(printed(2, &vqgan(16384)).unwrap().tcas, Some(0.73));
        // The paper has no accuracy of this size.
        assert_eq!(
            (lp(1, &vqgan(1024)), lp(1, &vqgan(16384))),
            (Some(44.3), None)
        );
    }

    /// A suite of this name on other images or with shorter pretraining had the paper's numbers.
    #[test]
    fn a_suite_with_other_images_or_epochs_does_not_repeat_the_paper() {
        let own = Record {
            tcas_sharp: Some(0.51),
            tcas_sharp_t: Some(CLOSEST_T),
            ..record("K-means Pixel, K=50", Some(50), Some(100))
        };
        let found = |change: fn(&mut Record)| {
            let mut record = own.clone();
            change(&mut record);
            let tcas = printed(7, &record).and_then(|row| row.tcas);
            (lp(1, &record), tcas, closest_reading(&record))
        };
        let whole = (Some(52.7), Some(0.56), Some(0.51));
        assert_eq!(found(|_| ()), whole);
        assert_eq!(found(|r| r.n_classes = 0), whole);
        let others: [fn(&mut Record); 3] = [
            |r| r.n_classes = 10,
            |r| r.image_size = 32,
            |r| r.patch_size = 4,
        ];
        for other in others {
            assert_eq!(found(other), (None, None, None));
        }
        let without: [fn(&mut Record); 2] = [
            |r| r.pretrain_epochs = Some(10),
            |r| r.pretrain_epochs = None,
        ];
        for shorter in without {
            assert_eq!(found(shorter), (None, Some(0.56), Some(0.51)));
        }
    }

    #[test]
    fn every_table_is_read() {
        let counts: Vec<usize> = (1..=7).map(|t| rows(t).len()).collect();
        assert_eq!(counts[2..], [17, 6, 6, 3, 16]);
        assert!(counts.iter().all(|c| *c > 2));
    }
}
