//! One row of `results.csv`, and one of `metrics.csv`: the contract with everything that reads them.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// One cell (tokenizer) and seed. Fields are the columns, in this order; empty where not measured; accuracies in percent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the columns are defined together in the documentation of results.csv"
)]
pub struct Record {
    pub suite: String,
    pub tokenizer: String,
    pub kind: String,
    pub codebook_size: Option<usize>,
    pub kmeans_epochs: Option<usize>,
    pub dataset: String,
    pub image_size: usize,
    pub patch_size: usize,
    pub backbone: String,
    pub seed: u64,
    pub saw_labels: bool,
    pub tcas: Option<f64>,
    pub tcas_norm: Option<f64>,
    pub tcas_softmax: Option<f64>,
    pub tcas_sharp: Option<f64>,
    pub tcas_sharp_t: Option<f64>,
    pub tcas_null: Option<f64>,
    pub codebook_used: Option<usize>,
    pub perplexity: Option<f64>,
    pub mi: Option<f64>,
    pub pnmi: Option<f64>,
    pub pnmi_null: Option<f64>,
    pub nmi: Option<f64>,
    pub token_purity: Option<f64>,
    pub class_purity: Option<f64>,
    pub alpha: Option<f64>,
    pub eig_sq_sum: Option<f64>,
    pub pretrain_epochs: Option<usize>,
    pub pretrain_loss: Option<f64>,
    pub knn_k: Option<usize>,
    pub knn_top1: Option<f64>,
    pub pooling_lp: String,
    pub lp_top1: Option<f64>,
    pub lp_top5: Option<f64>,
    pub pooling_ft: String,
    pub ft_top1: Option<f64>,
    pub ft_top5: Option<f64>,
    pub n_train: usize,
    pub n_val: usize,
    pub skipped_images: usize,
    pub class_list_hash: String,
    pub recipe_hash: String,
    pub engine: String,
    pub device: String,
    pub dtype: String,
    pub fit_seconds: Option<f64>,
    pub count_seconds: Option<f64>,
    pub pretrain_seconds: Option<f64>,
    pub probe_seconds: Option<f64>,
    pub finetune_seconds: Option<f64>,
    /// `ok`, `failed`, `pending` or `skipped`.
    pub status: String,
    pub error: String,
    /// Classes of the dataset.
    #[serde(default)]
    pub n_classes: usize,
}

/// A training-free metric with its uncertainty, for `metrics.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "the columns are defined together in the documentation of metrics.csv"
)]
pub struct MetricRow {
    pub tokenizer: String,
    pub seed: u64,
    pub metric: String,
    pub value: Option<f64>,
    pub se: Option<f64>,
    pub null_mean: Option<f64>,
    pub null_se: Option<f64>,
    pub n_images: usize,
}

/// What a stage of a cell cost, for `costs.csv`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// The row.
    pub tokenizer: String,
    /// The seed.
    pub seed: u64,
    /// The stage.
    pub stage: String,
    /// Wall time.
    pub seconds: f64,
    /// Most memory that the process had resident meanwhile, MiB; empty where the system does not tell.
    pub peak_mib: Option<f64>,
    /// Key of the result in the store: a digest of everything that determines it (`bench store ls`, `provenance.json`).
    pub key: String,
}

/// Rows as CSV with a header.
///
/// # Errors
/// [`Error::Csv`].
pub fn to_csv<T: Serialize>(rows: &[T]) -> Result<String> {
    let failed = |source| Error::Csv {
        what: "writing CSV".into(),
        source,
    };
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter()
        .try_for_each(|row| writer.serialize(row))
        .map_err(failed)?;
    let bytes = writer
        .into_inner()
        .map_err(|e| failed(e.into_error().into()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The rows of a CSV text; `what` names it in errors.
///
/// # Errors
/// [`Error::Csv`].
pub fn from_csv<T: for<'de> Deserialize<'de>>(text: &str, what: &str) -> Result<Vec<T>> {
    let rows = csv::Reader::from_reader(text.as_bytes())
        .into_deserialize()
        .collect::<Result<_, _>>();
    rows.map_err(|source| Error::Csv {
        what: what.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_the_contracts() {
        let text = to_csv(&[Record::default()]).unwrap();
        let expected = "suite,tokenizer,kind,codebook_size,kmeans_epochs,dataset,image_size,patch_size,backbone,seed,saw_labels,\
            tcas,tcas_norm,tcas_softmax,tcas_sharp,tcas_sharp_t,tcas_null,codebook_used,perplexity,mi,pnmi,pnmi_null,nmi,\
            token_purity,class_purity,alpha,eig_sq_sum,pretrain_epochs,pretrain_loss,knn_k,knn_top1,pooling_lp,lp_top1,lp_top5,\
            pooling_ft,ft_top1,ft_top5,n_train,n_val,skipped_images,class_list_hash,recipe_hash,engine,device,dtype,\
            fit_seconds,count_seconds,pretrain_seconds,probe_seconds,finetune_seconds,status,error,n_classes";
        assert_eq!(text.lines().next().unwrap(), expected);
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
}
