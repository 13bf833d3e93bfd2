//! The columns of every CSV file of a run folder, one line each: type, group, unit, direction, definition.
//!
//! The structs of the rows, the files' headers, tables, figures, `bench compare`, the page and `bench list` read them.
//! A new column of `results.csv` is one line at the end of [`Record`], with `#[serde(default)]`, so that older run folders stay
//! readable.

use serde::{Deserialize, Serialize};

use crate::column::{Better, Column, Group, Value, rows};
use crate::error::{Error, Result};

rows! {
/// A row of `results.csv`: one tokenizer and one seed. Fields without a measurement are empty; accuracies are in percent.
Record {
    suite: String, Identity, "", Undirected, "Name of the suite";
    tokenizer: String, Identity, "", Undirected, "Name of the row in the suite";
    kind: String, Identity, "", Undirected, "Kind of the tokenizer; `none` for a row without one";
    codebook_size: Option<usize>, Identity, "codes", Undirected, "Size of the codebook; empty for continuous targets";
    kmeans_epochs: Option<usize>, Identity, "", Undirected, "Passes of K-means over the train split";
    dataset: String, Identity, "", Undirected, "Name of the dataset";
    image_size: usize, Identity, "px", Undirected, "Side of the images that the model sees";
    patch_size: usize, Identity, "px", Undirected, "Side of a patch";
    backbone: String, Identity, "", Undirected, "Size of the Vision Transformer (`bench list backbones`)";
    seed: u64, Identity, "", Undirected, "Seed of pretraining and evaluation";
    saw_labels: bool, Identity, "", Undirected, "Whether labels were used to build the tokenizer, or to train the checkpoint of an imported encoder";
    tcas: Option<f64>, Metric, "0..1", Lower, "Token-class alignment similarity, without training: paper eq. 8 with P_ij = R_ij / sum_j R_ij, diagonal (1 - C_ii)^2, C = P P^T; R_ij counts the patches with code i in train images of class j";
    tcas_norm: Option<f64>, Metric, "0..1", Lower, "Eq. 8 with the diagonal (1 - |P_i|)^2";
    tcas_softmax: Option<f64>, Metric, "0..1", Lower, "Eq. 8 with rows softmax_j(P_ij), as printed";
    tcas_sharp: Option<f64>, Metric, "0..1", Lower, "Eq. 8 with rows softmax_j(P_ij / t), t in the suite; t = 0.0025 gives the reading that is closest to the paper's TCAS (docs/metrics.md)";
    tcas_sharp_t: Option<f64>, Identity, "0..", Undirected, "Temperature t of tcas_sharp";
    tcas_null: Option<f64>, Null, "0..1", Undirected, "Mean of tcas when the images' labels are permuted (chance level)";
    codebook_used: Option<usize>, Count, "codes", Undirected, "Codes that occur";
    perplexity: Option<f64>, Metric, "codes", Undirected, "exp(H(token))";
    mi: Option<f64>, Metric, "nats", Higher, "Mutual information of token and class";
    pnmi: Option<f64>, Metric, "0..1", Higher, "Mutual information of token and class over the entropy of the classes, MI / H(class)";
    pnmi_null: Option<f64>, Null, "0..1", Undirected, "Mean of pnmi when the images' labels are permuted (chance level)";
    nmi: Option<f64>, Metric, "0..1", Higher, "2 MI / (H(token) + H(class))";
    token_purity: Option<f64>, Metric, "0..1", Higher, "sum_i max_j R_ij / n";
    class_purity: Option<f64>, Metric, "0..1", Higher, "sum_j max_i R_ij / n";
    alpha: Option<f64>, Metric, "0..1", Lower, "Probability that two patches with the same token have different classes (paper, section 3)";
    eig_sq_sum: Option<f64>, Metric, "1..classes", Higher, "Sum of squared eigenvalues of the normalised class graph";
    pretrain_epochs: Option<usize>, Identity, "", Undirected, "Epochs of pretraining; empty for a row that is not pretrained by this run";
    pretrain_loss: Option<f64>, Stage, "0..", Undirected, "Mean pretraining loss of the last epoch; not comparable between targets";
    knn_k: Option<usize>, Identity, "1..n_train", Undirected, "Neighbours that vote in k-NN";
    knn_top1: Option<f64>, Accuracy, "%", Higher, "Accuracy of weighted k-NN on frozen features, validation split";
    pooling_lp: String, Identity, "", Undirected, "Vector that the linear probe reads: `cls` or `mean`";
    lp_top1: Option<f64>, Accuracy, "%", Higher, "top-1 accuracy of linear probing after the last epoch, validation split";
    lp_top5: Option<f64>, Accuracy, "%", Higher, "top-5 accuracy of linear probing after the last epoch, validation split";
    pooling_ft: String, Identity, "", Undirected, "Vector that the head of fine-tuning reads: `cls` or `mean`";
    ft_top1: Option<f64>, Accuracy, "%", Higher, "top-1 accuracy of fine-tuning after the last epoch, validation split";
    ft_top5: Option<f64>, Accuracy, "%", Higher, "top-5 accuracy of fine-tuning after the last epoch, validation split";
    n_train: usize, Identity, "images", Undirected, "Images of the train split";
    n_val: usize, Identity, "images", Undirected, "Images of the validation split";
    skipped_images: usize, Identity, "images", Undirected, "Images that are left out: broken, of a format that is not read, or without class; skipped_images.txt has the reasons";
    class_list_hash: String, Identity, "", Undirected, "Digest of the classes' names and order";
    recipe_hash: String, Identity, "", Undirected, "Digest of everything but tokenizer, images, seed and precision: equal digests and an equal dtype mean comparable accuracies";
    engine: String, Identity, "", Undirected, "ONNX engine of the tokenizer and its version";
    device: String, Identity, "", Undirected, "Device that trained or evaluated the row's model: `cpu` or `cuda`; empty without a model";
    dtype: String, Identity, "", Undirected, "Precision of training: `f32`, `bf16`, or `bf16-emulated` on a CPU without AVX-512 BF16; empty without a model. recipe_hash does not include it";
    fit_seconds: Option<f64>, Stage, "s", Undirected, "Wall time of fitting the tokenizer";
    count_seconds: Option<f64>, Stage, "s", Undirected, "Wall time of tokenizing and counting the train split";
    pretrain_seconds: Option<f64>, Stage, "s", Undirected, "Wall time of pretraining";
    probe_seconds: Option<f64>, Stage, "s", Undirected, "Wall time of linear probing";
    finetune_seconds: Option<f64>, Stage, "s", Undirected, "Wall time of fine-tuning";
    status: String, Identity, "", Undirected, "`ok`, `failed`, `pending` or `skipped`";
    error: String, Identity, "", Undirected, "Why the row failed or was skipped, or what it waits for; with status `ok`, why it has no gallery";
    #[serde(default)] n_classes: usize, Identity, "", Undirected, "Classes of the dataset";
    #[serde(default)] encoder: String, Identity, "", Undirected, "Encoder that is evaluated: `pretrained` by this run, `imported` from a checkpoint, or `random` (not pretrained); empty if none is";
    #[serde(default)] lp_base_lr: Option<f64>, Identity, "0..", Undirected, "Learning rate of the linear probe at batch 256; chosen on held-out train images if the suite lists several";
    #[serde(default)] lp_held_out: String, Identity, "%", Undirected, "Accuracy of each listed rate on a tenth of the train images, held out while the rates are compared; empty for a single rate";
    #[serde(default)] lp_loss_fall: Option<f64>, Identity, "%", Undirected, "Relative fall of the linear probe's training loss that one further step over all train images guarantees; 0 at the optimum of the cross-entropy, from which `weight_decay` and small batches keep a probe";
    #[serde(default)] lp_converged: String, Identity, "", Undirected, "Whether the linear probe has converged: `yes` if lp_loss_fall is at most 0.5, otherwise `no`";
    #[serde(default)] fit_seeds: String, Identity, "", Undirected, "Seeds with which the codebook is fitted, separated by spaces: training-free metrics are means over all, counts are rounded means, and pretraining uses the first; empty if nothing is fitted";
    #[serde(default)] bound: Option<f64>, Metric, "1..classes + 0.25", Undirected, "eig_sq_sum + 2.5 alpha: the bound of the downstream error (paper, eq. 3 with c_2 / c_1 = 5/2) on the class graph. The theory prefers small values, but codes that equal the classes have the value of their number, and random codes at most 3.5, so no direction is claimed (`bench theory`)";
    #[serde(default)] mi_position: Option<f64>, Metric, "nats", Undirected, "Mutual information of a patch's code and its position in the grid, train split";
    #[serde(default)] mi_position_null: Option<f64>, Null, "nats", Undirected, "Mean of mi_position when the patches of every image are in random order (chance level)";
    #[serde(default)] mi_left: Option<f64>, Metric, "nats", Undirected, "Mutual information of the codes of a patch and its left neighbour; empty above 2^17 codes";
    #[serde(default)] mi_left_null: Option<f64>, Null, "nats", Undirected, "Mean of mi_left when the patches of every image are in random order (chance level)";
    #[serde(default)] mi_upper: Option<f64>, Metric, "nats", Undirected, "Mutual information of the codes of a patch and its upper neighbour; empty above 2^17 codes";
    #[serde(default)] mi_upper_null: Option<f64>, Null, "nats", Undirected, "Mean of mi_upper when the patches of every image are in random order (chance level)";
    #[serde(default)] rankme: Option<f64>, Encoder, "1..width", Undirected, "Effective rank of the encoder's frozen features of the train split (RankMe, arXiv 2210.02885): exp of the entropy of their singular values' shares, each plus 1e-7; of at most 25,600 images";
    #[serde(default)] ap_form: String, Identity, "", Undirected, "Form of the attentive probe: `multi-query` with its number of queries, or `single-query`";
    #[serde(default)] ap_base_lr: Option<f64>, Identity, "0..", Undirected, "Learning rate of the attentive probe at batch 256; chosen on held-out train images if the suite lists several";
    #[serde(default)] ap_top1: Option<f64>, Accuracy, "%", Higher, "top-1 accuracy of attentive probing after the last epoch, validation split";
    #[serde(default)] ap_top5: Option<f64>, Accuracy, "%", Higher, "top-5 accuracy of attentive probing after the last epoch, validation split";
    #[serde(default)] attentive_seconds: Option<f64>, Stage, "s", Undirected, "Wall time of attentive probing";
    #[serde(default)] bag_top1: Option<f64>, Accuracy, "%", Higher, "top-1 accuracy of multinomial logistic regression on the images' counts of codes, without an encoder, validation split";
    #[serde(default)] bag_top5: Option<f64>, Accuracy, "%", Higher, "top-5 accuracy of multinomial logistic regression on the images' counts of codes, without an encoder, validation split";
    #[serde(default)] bag_l2: Option<f64>, Identity, "0..", Undirected, "Strength of its L2 penalty, with the lowest cross-entropy on a tenth of the train images, held out; the counts are scaled by one number so that the mean squared norm of the train images' rows is 1, and scikit-learn's C on such counts is 1 / (bag_l2 n_train)";
    #[serde(default)] bag_seconds: Option<f64>, Stage, "s", Undirected, "Wall time of tokenizing the validation split and of the logistic regression on counts of codes";
    #[serde(default)] code_groups: String, Identity, "", Undirected, "Number of codes of each group of a patch, separated by spaces (product and residual codes); codebook_size and the metrics are then those of the joint code, and empty above 2^24 joint codes; empty for ids and values";
    #[serde(default)] dataset_fingerprint: String, Identity, "", Undirected, "Digest of the images, their labels and their order in both splits; runs are paired by image only if it is equal. Empty in older files, whose images are unknown";
    #[serde(default)] encoder_checkpoint: String, Identity, "", Undirected, "Checkpoint file of an imported encoder, the prefix of its parameters' names in it, the scale of the images that it gets, and the grid from which its position embedding was resampled, if it was";
    #[serde(default)] features_checkpoint: String, Identity, "", Undirected, "The same of the checkpoint whose features the tokenizer reads (`features: {kind: checkpoint, file: ..}`)";
    #[serde(default)] fields: String, Identity, "", Undirected, "Fields of the tokenizer (`with:` in the suite) as JSON; empty for a row without one and in older files";
    #[serde(default)] tokenizer_digest: String, Identity, "", Undirected, "Digest of what the tokenizer is made from besides images and fit seed: its fields, the content of its files, and the version of its algorithm";
    #[serde(default)] encoder_digest: String, Identity, "", Undirected, "Digest of the content of an imported encoder's checkpoint file";
}

/// A row of `metrics.csv`: a training-free metric with its uncertainty.
MetricRow {
    tokenizer: String, Identity, "", Undirected, "Name of the row in the suite";
    seed: u64, Identity, "", Undirected, "Seed; training-free metrics are the same for every seed";
    metric: String, Identity, "", Undirected, "The metric, a column of results.csv (`bench list metrics`)";
    value: Option<f64>, Statistic, "", Undirected, "Its value on all train images, or the mean over the fits; empty if it is not defined";
    se: Option<f64>, Statistic, "0..", Undirected, "Standard error. With fit_seed, or if nothing is fitted: standard deviation over bootstrap draws of images. Of the mean over F fits: sqrt(W + (t / 1.96)^2 b^2 / F), W the mean of the fits' squared errors, b the standard deviation of their values (F - 1), t Student's 97.5 % quantile with F - 1 degrees of freedom";
    null_mean: Option<f64>, Statistic, "", Undirected, "Mean when the labels of whole images are permuted (chance level), for mi_position, mi_left and mi_upper when the patches of every image are in random order; or the mean of it over the fits";
    null_se: Option<f64>, Statistic, "0..", Undirected, "Standard error of null_mean over the permutations, and over the fits as for se";
    n_images: usize, Identity, "images", Undirected, "Number of counted images";
    #[serde(default)] fit_seed: Option<u64>, Identity, "", Undirected, "Seed of the one fit that value and se are of; se then leaves out how much another fit would move the value. Empty for the mean over several fits, which is the first row of its metric, and if nothing is fitted";
    #[serde(default)] group: Option<usize>, Identity, "", Undirected, "Group of codes, from 0, whose codes alone are counted; empty for ids, and for the joint code of all groups";
}

/// A row of `costs.csv`: the cost of a stage.
CostRow {
    tokenizer: String, Identity, "", Undirected, "Name of the row in the suite";
    seed: u64, Identity, "", Undirected, "Seed; the stages before training are shared by all seeds";
    stage: String, Identity, "", Undirected, "The stage";
    seconds: f64, Statistic, "s", Undirected, "Wall time";
    peak_mib: Option<f64>, Statistic, "MiB", Undirected, "Peak resident memory of the process during the stage; empty if the system does not report it";
    key: String, Identity, "", Undirected, "Key of the result in the store: a digest of everything that determines it (`bench store ls`, `provenance.json`)";
    #[serde(default)] fit_seed: Option<u64>, Identity, "", Undirected, "Seed of the fit, for fits after the first; otherwise empty";
}

/// A row of `comparisons.csv`: a tokenizer against the baseline on the same validation images.
Comparison {
    evaluation: String, Identity, "", Undirected, "Key of the evaluation, such as `lp`";
    tokenizer: String, Identity, "", Undirected, "Name of the row in the suite";
    baseline: String, Identity, "", Undirected, "Name of the row that it is compared with";
    seed: Option<u64>, Identity, "", Undirected, "The seed; empty for the comparison over all seeds";
    seeds: usize, Identity, "", Undirected, "Seeds that both rows have";
    n_val: usize, Identity, "images", Undirected, "Validation images";
    difference: f64, Statistic, "points", Higher, "Accuracy minus the baseline's";
    ci_low: Option<f64>, Statistic, "points", Undirected, "Lower end of the 95 % interval of the difference: of the bootstrap over images, widened to that over images and seeds if accuracies vary between seeds; it reaches 0 if p is not below 0.05; empty for a single seed, and if fewer than 10 images differ";
    ci_high: Option<f64>, Statistic, "points", Undirected, "Upper end of that interval";
    only_tokenizer: Option<usize>, Statistic, "images", Undirected, "Images that only this row gets right; over all seeds, images that it gets right with more seeds";
    only_baseline: Option<usize>, Statistic, "images", Undirected, "Images that only the baseline gets right; over all seeds, images that it gets right with more seeds";
    test: String, Identity, "", Undirected, "`mcnemar` for a single seed; for all seeds `sign-flip`, the exact test of the mean difference over images with random signs (McNemar's, if there is one seed), or `sign-flip and t` if accuracies vary between seeds";
    p: f64, Statistic, "0..1", Undirected, "Two-sided p-value; the larger one of two tests";
    p_holm: f64, Statistic, "0..1", Undirected, "P-value after Holm's correction over the rows of the same evaluation and seed";
}

/// A row of a cell's `history.csv`: one epoch of one stage.
HistoryRow {
    stage: String, Identity, "", Undirected, "The stage";
    epoch: usize, Identity, "", Undirected, "Epoch, from 0";
    lr: f64, Statistic, "0..", Undirected, "Learning rate at the end of the epoch";
    train_loss: f64, Statistic, "", Undirected, "Mean training loss of the epoch; NaN if every step was skipped";
    skipped_steps: usize, Statistic, "", Undirected, "Steps that changed nothing because loss or gradients were not finite";
}

/// A row of `figures/predictors.csv`: the correlation of a training-free metric with an accuracy over the tokenizers.
Predictor {
    metric: String, Identity, "", Undirected, "The metric, a column of results.csv";
    accuracy: String, Identity, "", Undirected, "Key of the evaluation, such as `lp`";
    n: usize, Identity, "", Undirected, "Tokenizers that have both numbers and are in the fit";
    r: f64, Statistic, "-1..1", Undirected, "Pearson's correlation coefficient";
    r_low: Option<f64>, Statistic, "-1..1", Undirected, "Lower end of its 95 % bootstrap interval over the tokenizers, which reaches 0 if p is not below 0.05; empty for fewer than six";
    r_high: Option<f64>, Statistic, "-1..1", Undirected, "Upper end of that interval";
    r2: f64, Statistic, "0..1", Undirected, "Square of r";
    spearman: f64, Statistic, "-1..1", Undirected, "Spearman's rank correlation, ties averaged";
    kendall: f64, Statistic, "-1..1", Undirected, "Kendall's tau-b";
    slope: f64, Statistic, "", Undirected, "Slope of the least-squares line";
    intercept: f64, Statistic, "%", Undirected, "Intercept of the least-squares line";
    #[serde(default)] r_without_low: Option<f64>, Statistic, "-1..1", Undirected, "Smallest r without one of the tokenizers; empty for fewer than four";
    #[serde(default)] r_without_high: Option<f64>, Statistic, "-1..1", Undirected, "Largest r without one of the tokenizers";
    #[serde(default)] spearman_without_low: Option<f64>, Statistic, "-1..1", Undirected, "Smallest Spearman correlation without one of the tokenizers";
    #[serde(default)] spearman_without_high: Option<f64>, Statistic, "-1..1", Undirected, "Largest Spearman correlation without one of the tokenizers";
    #[serde(default)] p: f64, Statistic, "0..1", Undirected, "Two-sided permutation p-value of r: exact for up to eight tokenizers, otherwise over 10000 random permutations";
    #[serde(default)] p_holm: f64, Statistic, "0..1", Undirected, "p after Holm's correction over the metrics of the same accuracy";
    #[serde(default)] spearman_p: f64, Statistic, "0..1", Undirected, "Two-sided permutation p-value of the Spearman correlation";
    #[serde(default)] spearman_p_holm: f64, Statistic, "0..1", Undirected, "spearman_p after Holm's correction over the metrics of the same accuracy";
    #[serde(default)] decided_by: String, Statistic, "", Undirected, "The tokenizer without which r has the other sign, less than half of its size, or no value; empty if there is none";
    #[serde(default)] left_out: String, Identity, "", Undirected, "Tokenizers that are not in the fit because they saw labels (`report: {labelled_in_fit: true}` includes them), separated by semicolons";
    #[serde(default)] finding: String, Statistic, "", Undirected, "What the numbers support: `shown` if p_holm is below 0.05 and the interval of r does not contain 0, `one row` if so but one tokenizer decides r, otherwise `not shown`";
    #[serde(default)] apart: String, Identity, "", Undirected, "Tokenizers that are not in the fit because they have another recipe of pretraining or of this evaluation than the rows in the fit, or because an earlier row is the same tokenizer, separated by semicolons";
}
}

/// Largest `lp_loss_fall` of a linear probe that has converged, percent. Probes above it gained accuracy from more training (docs/recipes.md).
const CONVERGED: f64 = 0.5;

/// Returns whether a linear probe with an `lp_loss_fall` of `percent` has converged. A number that is not finite has not.
pub fn has_converged(percent: f64) -> bool {
    percent <= CONVERGED
}

impl MetricRow {
    /// Returns whether it is the metric `name` of a row's ids or joint codes, which the column `name` of `results.csv` has.
    pub fn is_of(&self, name: &str) -> bool {
        self.metric == name && self.group.is_none()
    }
}

impl Record {
    /// Returns the column `name`. In a constant, an unknown name does not compile.
    pub const fn column(name: &str) -> Column {
        let mut at = 0;
        while at < Self::COLUMNS.len() {
            if equal(Self::COLUMNS[at].name, name) {
                return Self::COLUMNS[at];
            }
            at += 1;
        }
        panic!("no such column of results.csv")
    }

    /// Returns whether its encoder is that of a checkpoint file.
    pub fn is_imported(&self) -> bool {
        self.encoder == "imported"
    }

    /// Returns whether its encoder is random, as in the row without pretraining.
    pub fn is_random(&self) -> bool {
        match self.encoder.as_str() {
            // Older run folders lack the column, so the name decides.
            "" => self.kind == "none" && self.tokenizer == "No pretraining",
            encoder => encoder == "random",
        }
    }

    /// Returns what is taken from checkpoint files: `encoder` and `features`, each with what its column says, if it says anything.
    pub fn checkpoints(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let all = [
            ("encoder", self.encoder_checkpoint.as_str()),
            ("features", self.features_checkpoint.as_str()),
        ];
        all.into_iter().filter(|(_, taken)| !taken.is_empty())
    }

    /// Returns the number of fits of its codebook; 0 if nothing is fitted.
    pub fn fits(&self) -> usize {
        match self.fit_seeds.split_whitespace().count() {
            // Older run folders lack the column, also for random codebooks. They have one fit per codebook.
            0 => usize::from(self.fit_seconds.is_some() || self.is_drawn()),
            count => count,
        }
    }

    /// Returns whether its codebook is random. A recipe of another seed draws another one.
    pub fn is_drawn(&self) -> bool {
        self.kind == "random-projection"
    }

    /// Returns whether two records state the same images, or neither states them.
    pub fn has_images_of(&self, other: &Self) -> bool {
        self.dataset_fingerprint == other.dataset_fingerprint
    }

    /// Sets a measured number, if the file has a column of that name.
    ///
    /// # Errors
    /// [`Error::NoColumn`] if the column has no measured numbers.
    pub fn set_if_known(&mut self, name: &str, value: Option<f64>) -> Result<()> {
        match Self::COLUMNS.iter().any(|column| column.name == name) {
            true => self.set(name, value),
            false => Ok(()),
        }
    }

    /// Returns the training-free metrics, in the order of the file.
    pub fn metrics() -> impl Iterator<Item = &'static Column> {
        let is_metric = |c: &&Column| matches!(c.group, Group::Metric | Group::Count);
        Self::COLUMNS.iter().filter(is_metric)
    }

    /// Returns the metrics that figures compare with accuracies: training-free ones, and those of encoders without labels.
    pub fn predictors() -> impl Iterator<Item = &'static Column> {
        let predicts = |c: &&Column| matches!(c.group, Group::Metric | Group::Encoder);
        Self::COLUMNS.iter().filter(predicts)
    }

    /// Returns the columns that `bench compare` compares.
    pub fn compared() -> impl Iterator<Item = &'static Column> {
        Self::COLUMNS.iter().filter(|c| c.is_compared())
    }
}

const fn equal(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut at = 0;
    while at < a.len() && at < b.len() && a[at] == b[at] {
        at += 1;
    }
    at == a.len() && at == b.len()
}

/// A CSV file of a run folder.
#[derive(Clone, Copy, Debug)]
pub struct CsvFile {
    /// Its name.
    pub name: &'static str,
    /// Meaning of a row.
    pub row: &'static str,
    /// Its columns.
    pub columns: &'static [Column],
}

const fn file(name: &'static str, row: &'static str, columns: &'static [Column]) -> CsvFile {
    CsvFile { name, row, columns }
}

/// Every CSV file of a run folder except the tables.
#[rustfmt::skip]
pub const FILES: &[CsvFile] = &[
    file("results.csv", "a row per tokenizer and seed", Record::COLUMNS),
    file("metrics.csv", "a row per tokenizer, seed and training-free metric, and of codes of groups also per group; for several fits, the means come first and a row per fit follows", MetricRow::COLUMNS),
    file("costs.csv", "a row per tokenizer, seed and stage, and per fit after the first", CostRow::COLUMNS),
    file("comparisons.csv", "a row per evaluation, tokenizer and seed, and one over all seeds", Comparison::COLUMNS),
    file("figures/predictors.csv", "a row per training-free metric and evaluation", Predictor::COLUMNS),
    file("cells/*/history.csv", "a row per stage and epoch", HistoryRow::COLUMNS),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::column::{from_csv, to_csv};

    #[test]
    fn the_header_begins_with_the_contract() {
        let text = to_csv(&[Record::default()]).unwrap();
        let expected = "suite,tokenizer,kind,codebook_size,kmeans_epochs,dataset,image_size,patch_size,backbone,seed,saw_labels,\
            tcas,tcas_norm,tcas_softmax,tcas_sharp,tcas_sharp_t,tcas_null,codebook_used,perplexity,mi,pnmi,pnmi_null,nmi,\
            token_purity,class_purity,alpha,eig_sq_sum,pretrain_epochs,pretrain_loss,knn_k,knn_top1,pooling_lp,lp_top1,lp_top5,\
            pooling_ft,ft_top1,ft_top5,n_train,n_val,skipped_images,class_list_hash,recipe_hash,engine,device,dtype,\
            fit_seconds,count_seconds,pretrain_seconds,probe_seconds,finetune_seconds,status,error,n_classes";
        // Later columns are appended.
        assert!(text.starts_with(expected), "{text}");
        let names: Vec<&str> = Record::COLUMNS.iter().map(|c| c.name).collect();
        assert_eq!(text.lines().next().unwrap(), names.join(","));
    }

    #[test]
    fn numbers_are_set_and_read_by_name_and_unknown_names_are_refused() {
        let mut record = Record::default();
        record.set("tcas", Some(0.25)).unwrap();
        record.set("codebook_used", Some(48.0)).unwrap();
        assert_eq!((record.tcas, record.codebook_used), (Some(0.25), Some(48)));
        assert_eq!(record.number(&Record::column("codebook_used")), Some(48.0));
        record.set("tcas", None).unwrap();
        assert_eq!(record.tcas, None);
        record.set_if_known("knn_seconds", Some(1.0)).unwrap();
        record.set_if_known("tcas", Some(1.0)).unwrap();
        assert_eq!(record.tcas, Some(1.0));
        let error = record.set_if_known("seed", Some(1.0)).unwrap_err();
        assert!(error.to_string().contains("seed"));
        // A misspelt name, a text, and a number that is not measured.
        for name in ["tcsa", "suite", "seed"] {
            let error = record.set(name, Some(1.0)).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn every_column_has_a_definition_and_a_unique_name() {
        for file in FILES {
            for (at, column) in file.columns.iter().enumerate() {
                assert!(!column.definition.is_empty(), "{}", column.name);
                let same = |other: &Column| other.name == column.name;
                assert!(!file.columns[..at].iter().any(same), "{}", column.name);
            }
        }
    }

    #[test]
    fn records_survive_a_round_trip_and_absent_values_are_empty() {
        let record = Record {
            tokenizer: "K-means Pixel, K=50".into(),
            tcas: Some(0.1 + 0.2),
            lp_top1: Some(52.7),
            class_list_hash: "0012".into(),
            status: "ok".into(),
            ..Record::default()
        };
        let text = to_csv(std::slice::from_ref(&record)).unwrap();
        assert!(
            text.contains("\"K-means Pixel, K=50\"")
                && text.contains("0.30000000000000004")
                && text.contains(",,")
        );
        assert_eq!(from_csv::<Record>(&text, "results.csv").unwrap(), [record]);
        assert!(
            from_csv::<Record>("suite\nx\n", "results.csv")
                .unwrap_err()
                .to_string()
                .starts_with("results.csv: ")
        );
    }

    /// A negative error or time was believed.
    #[test]
    fn numbers_that_no_run_measures_are_refused() {
        macro_rules! of_any_size {
            ($row:ty) => {{
                let mut row = <$row>::default();
                let mut is_real = |c: &&Column| match row.set(c.name, Some(-1.0)) {
                    Ok(()) => row.number(c) == Some(-1.0),
                    Err(_) => row.number(c).is_some(),
                };
                let reals = <$row>::COLUMNS.iter().filter(|c| is_real(c));
                let free = reals.filter(|c| c.range().is_none());
                free.map(|c| c.name).collect::<Vec<_>>()
            }};
        }
        assert!(of_any_size!(Record).is_empty() && of_any_size!(CostRow).is_empty());
        // The range of these is the metric's.
        assert_eq!(of_any_size!(MetricRow), ["value", "null_mean"]);
        assert_eq!(of_any_size!(HistoryRow), ["train_loss"]);
        let cost = |seconds| CostRow {
            tokenizer: "K".into(),
            seconds,
            ..CostRow::default()
        };
        for (seconds, found) in [(-1.0, "-1"), (f64::NAN, "NaN")] {
            let text = to_csv(&[cost(seconds)]).unwrap();
            let error = from_csv::<CostRow>(&text, "costs.csv").unwrap_err();
            let expected = "of K, seed 0, expected at least 0";
            assert_eq!(
                error.to_string(),
                format!("costs.csv: found seconds {found} {expected}")
            );
        }
        let rounded = Record {
            pnmi: Some(1.0 + 1e-12),
            mi: Some(-1e-12),
            ..Record::default()
        };
        let text = to_csv(std::slice::from_ref(&rounded)).unwrap();
        assert_eq!(from_csv::<Record>(&text, "results.csv").unwrap(), [rounded]);
        let text = "stage,epoch,lr,train_loss,skipped_steps\nprobe,0,-0.1,NaN,0\n";
        let error = from_csv::<HistoryRow>(text, "history.csv").unwrap_err();
        assert!(error.to_string().contains("lr -0.1 of line 2"), "{error}");
    }
}
