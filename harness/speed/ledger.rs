//! What a step of masked pretraining in bf16 asks of a GPU, counted without one, and the speed that follows.

use std::collections::BTreeMap;

use serde::Serialize;
use tessera_kernels::device::ledger::{Line, MATMUL, NOT_LAUNCHES};
use tessera_models::TargetSpec;
use tessera_models::pretrain::counts;

use super::pretrain::{CODES, MASK_RATIO, model};

/// A GPU: name, memory traffic in bytes per second, bf16 products in operations per second, by its data sheet.
const GPUS: [(&str, f64, f64); 2] = [("H100 SXM", 3.35e12, 989e12), ("H200", 4.8e12, 989e12)];
/// Reached share of the memory traffic: a copy reaches 0.8 to 0.9.
const TRAFFIC: f64 = 0.8;
/// Reached share of the products of large matrices.
const PRODUCTS: f64 = 0.6;
/// Reached share of the products inside attention, whose `mma` instructions reach about half of Hopper's `wgmma` and wait for softmax.
const ATTENTION: f64 = 0.2;

/// Seconds that the host needs to start a launch.
const LAUNCH: f64 = 5e-6;

/// One kind of operation.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Kernel, form of matrix product, or kind of copy.
    pub operation: String,
    /// Calls in a step.
    pub calls: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// The same in units.
    pub units: f64,
    /// Operations of matrix products.
    pub flops: u64,
}

/// The operations of a step.
#[derive(Clone, Debug, Serialize)]
pub struct StepLedger {
    /// Images of the step.
    pub images: usize,
    /// The operations, those with the most traffic first.
    pub rows: Vec<Row>,
    /// Kernels and matrix products of a step.
    pub launches: u64,
    /// Bytes of a unit: the activations of one width of all blocks.
    pub unit: u64,
    /// Units of traffic.
    pub units: f64,
    /// Most bytes allocated at the same time.
    pub most_bytes: u64,
    /// Predicted images per second by GPU.
    pub predicted: BTreeMap<&'static str, f64>,
}

/// Counts a step of `preset` with `images` images in one part.
///
/// # Errors
/// If the preset does not exist or the kernels do not support it.
pub fn ledger(preset: &str, images: usize) -> anyhow::Result<StepLedger> {
    let target = TargetSpec::Ids {
        codebook_size: CODES,
    };
    let counts = counts(&model(preset)?, target, MASK_RATIO, images)?;
    let units = |bytes: u64| bytes as f64 / counts.unit as f64;
    let row = |(operation, line): (&String, &Line)| Row {
        operation: operation.clone(),
        calls: line.calls,
        bytes: line.bytes,
        units: units(line.bytes),
        flops: line.flops,
    };
    let mut rows: Vec<Row> = counts.lines.iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    let predict = |(name, traffic, products): (&'static str, f64, f64)| {
        let seconds: f64 = rows.iter().map(|row| seconds(row, traffic, products)).sum();
        (
            name,
            images as f64 / seconds.max(counts.launches as f64 * LAUNCH),
        )
    };
    Ok(StepLedger {
        images,
        predicted: GPUS.into_iter().map(predict).collect(),
        rows,
        launches: counts.launches,
        unit: counts.unit,
        units: units(counts.bytes),
        most_bytes: counts.most_bytes,
    })
}

/// Returns the seconds of an operation: of its traffic or its products, whichever takes longer. Copies and waits are left out: they depend on
/// the host.
fn seconds(row: &Row, traffic: f64, products: f64) -> f64 {
    if NOT_LAUNCHES.contains(&row.operation.as_str()) {
        return 0.0;
    }
    // The only kernels with matrix products inside are those of attention.
    let share = match row.operation.starts_with(MATMUL) {
        true => PRODUCTS,
        false => ATTENTION,
    };
    let moved = row.bytes as f64 / (traffic * TRAFFIC);
    moved.max(row.flops as f64 / (products * share))
}

impl StepLedger {
    /// Returns the lines of a table for a terminal.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{:<32} {:>6} {:>9} {:>7} {:>9}",
            "operation", "calls", "GB", "units", "TFLOP"
        )];
        let gb = |bytes: u64| bytes as f64 / 1e9;
        lines.extend(self.rows.iter().map(|row| {
            let (name, tera) = (&row.operation, row.flops as f64 / 1e12);
            let (bytes, units) = (gb(row.bytes), row.units);
            format!(
                "{name:<32} {:>6} {bytes:>9.2} {units:>7.2} {tera:>9.2}",
                row.calls
            )
        }));
        lines.push(format!(
            "{} images in one part: {} launches, {:.1} units of traffic of {:.2} GB, {:.1} GB of memory",
            self.images,
            self.launches,
            self.units,
            gb(self.unit),
            gb(self.most_bytes)
        ));
        let predicted = self.predicted.iter();
        let predicted = predicted.map(|(gpu, rate)| format!("{gpu} {rate:.0} images/s"));
        lines.push(format!(
            "predicted, not measured, without copies from the host: {} (at {TRAFFIC} of the memory's rate, {PRODUCTS} of the products' and {ATTENTION} inside attention)",
            predicted.collect::<Vec<_>>().join(", ")
        ));
        lines
    }
}
