//! Records of one tokenizer over its seeds.

use crate::record::Record;

/// One tokenizer's records.
pub struct Row<'a> {
    pub name: String,
    pub records: Vec<&'a Record>,
}

/// Records by tokenizer, in order of first appearance.
pub fn grouped(records: &[Record]) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for record in records {
        match rows.iter_mut().find(|r| r.name == record.tokenizer) {
            Some(row) => row.records.push(record),
            None => rows.push(Row {
                name: record.tokenizer.clone(),
                records: vec![record],
            }),
        }
    }
    rows
}

impl<'a> Row<'a> {
    /// The record of the first seed.
    pub fn first(&self) -> &'a Record {
        self.records[0]
    }

    fn values(&self, of: impl Fn(&Record) -> Option<f64>) -> Vec<f64> {
        self.records.iter().filter_map(|r| of(r)).collect()
    }

    pub fn mean(&self, of: impl Fn(&Record) -> Option<f64>) -> Option<f64> {
        let values = self.values(of);
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// Mean, and standard deviation over the seeds when there are several.
    pub fn percent(&self, of: impl Fn(&Record) -> Option<f64>) -> String {
        let values = self.values(of);
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        match values.len() {
            0 => String::new(),
            1 => format!("{mean:.1}"),
            _ => {
                let sd =
                    (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
                format!("{mean:.1} ± {sd:.1}")
            }
        }
    }

    /// [`percent`](Self::percent), or the plain mean for a CSV.
    pub fn accuracy(&self, of: impl Fn(&Record) -> Option<f64>, pretty: bool) -> String {
        if pretty {
            self.percent(of)
        } else {
            self.mean(of).map(|v| v.to_string()).unwrap_or_default()
        }
    }

    pub fn number(&self, of: impl Fn(&Record) -> Option<f64>) -> String {
        self.mean(of).map(|v| format!("{v:.3}")).unwrap_or_default()
    }

    pub fn codes(&self) -> String {
        self.first()
            .codebook_size
            .map(|k| k.to_string())
            .unwrap_or_default()
    }

    pub fn used(&self) -> String {
        self.first()
            .codebook_used
            .map(|k| k.to_string())
            .unwrap_or_default()
    }

    /// The worst status of its records.
    pub fn status(&self) -> String {
        let order = ["failed", "skipped", "pending"];
        let worst = order
            .iter()
            .find(|s| self.records.iter().any(|r| r.status == **s));
        (*worst.unwrap_or(&"ok")).to_owned()
    }

    /// The status unless all is well.
    pub fn problem(&self) -> String {
        Some(self.status())
            .filter(|s| s != "ok")
            .unwrap_or_default()
    }
}
