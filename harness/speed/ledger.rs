//! What a step of masked pretraining in bf16 asks of a GPU, counted without one, and the speed that follows; or counted and timed on one.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Serialize;
use tessera_kernels::device::counting::Counting;
use tessera_kernels::device::ledger::{Line, MATMUL, NOT_LAUNCHES};
use tessera_models::pretrain::{Shape, counts};
use tessera_models::{Compute, TargetSpec};

use super::pretrain::{CODES, WARM_UP, model, run_steps};

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
    /// Seconds of the calls on a real device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// What a real device adds to the counts.
#[derive(Clone, Debug, Serialize)]
pub struct OnDevice {
    /// Name of the device.
    pub device: String,
    /// Seconds of all calls of a step. Each is timed between two events, so waits for the host do not count, and small calls seem longer.
    pub seconds: f64,
    /// Products, since the start, whose bias another launch added, because the library has no kernel that does.
    pub without_bias: u64,
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
    /// What was measured, if this is the ledger of a real device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<OnDevice>,
}

/// Counts a step of `preset` with `images` images in one part.
///
/// # Errors
/// If the preset does not exist or the kernels do not support it.
pub fn ledger(preset: &str, shape: Shape, images: usize) -> anyhow::Result<StepLedger> {
    let target = TargetSpec::Ids {
        codebook_size: CODES,
    };
    let counts = counts(&model(preset)?, target, shape, images)?;
    let rows = rows(&counts.lines, counts.unit, &BTreeMap::new());
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
        units: counts.bytes as f64 / counts.unit as f64,
        most_bytes: counts.most_bytes,
        measured: None,
    })
}

/// Returns the lines of a ledger, those with the most traffic first.
fn rows(lines: &BTreeMap<String, Line>, unit: u64, seconds: &BTreeMap<String, f64>) -> Vec<Row> {
    let row = |(operation, line): (&String, &Line)| Row {
        operation: operation.clone(),
        calls: line.calls,
        bytes: line.bytes,
        units: line.bytes as f64 / unit as f64,
        flops: line.flops,
        seconds: seconds.get(operation).copied(),
    };
    let mut rows: Vec<Row> = lines.iter().map(row).collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.bytes));
    rows
}

/// Counts and times the calls of a step of `preset` with `images` images on the device of `compute`, after warm-up steps.
///
/// # Errors
/// As for [`ledger`], if pretraining uses Candle's graph there, and those of training.
pub fn measured(
    preset: &str,
    shape: Shape,
    images: usize,
    mut compute: Compute,
) -> anyhow::Result<StepLedger> {
    let mut ledger = ledger(preset, shape, images)?;
    let Some(counting) = compute.count() else {
        anyhow::bail!(
            "pretraining uses Candle's graph here, whose calls cannot be counted; expected bf16 on a GPU without TESSERA_GPU_DEFAULTS=graph"
        );
    };
    let (vit, ids) = (
        model(preset)?,
        TargetSpec::Ids {
            codebook_size: CODES,
        },
    );
    let state = Mutex::new((0, None));
    let ended = || {
        let mut state = state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        state.0 += 1;
        match state.0 {
            WARM_UP => counting.clear(),
            now if now == WARM_UP + 1 => state.1 = Some(counted(&counting, ledger.unit)),
            _ => {}
        }
    };
    // The last step prepares no input, so another one is counted.
    let sizes = (images, WARM_UP + 2);
    run_steps((&vit, ids, shape), sizes, &compute, (&ended, &|| false))?;
    let found = state
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .1;
    let (rows, measured) = found.ok_or_else(|| anyhow::anyhow!("no step was counted"))??;
    let calls = counting.ledger();
    ledger.launches = rows
        .iter()
        .filter(|row| is_launch(row))
        .map(|row| row.calls)
        .sum();
    ledger.units = rows.iter().map(|row| row.units).sum();
    ledger.most_bytes = calls.most_bytes();
    ledger.rows = rows;
    ledger.measured = Some(measured);
    Ok(ledger)
}

/// Returns what a device has counted and measured.
fn counted(counting: &Counting, unit: u64) -> anyhow::Result<(Vec<Row>, OnDevice)> {
    let seconds = counting.seconds()?;
    let rows = rows(&counting.ledger().lines(), unit, &seconds);
    let device = counting.device();
    Ok((
        rows,
        OnDevice {
            device: device.name(),
            seconds: seconds.values().sum(),
            without_bias: device.without_bias(),
        },
    ))
}

fn is_launch(row: &Row) -> bool {
    !NOT_LAUNCHES.contains(&row.operation.as_str())
}

/// Returns the seconds of an operation: of its traffic or its products, whichever takes longer. Copies and waits are left out: they depend on
/// the host.
fn seconds(row: &Row, traffic: f64, products: f64) -> f64 {
    if !is_launch(row) {
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
            "{:<32} {:>6} {:>9} {:>7} {:>9}{}",
            "operation",
            "calls",
            "GB",
            "units",
            "TFLOP",
            match self.measured {
                Some(_) => format!(" {:>10} {:>7} {:>9}", "us", "GB/s", "TFLOP/s"),
                None => String::new(),
            }
        )];
        lines.extend(self.rows.iter().map(Row::line));
        let (launches, units, gb) = (self.launches, self.units, |bytes| bytes as f64 / 1e9);
        let parts = if self.measured.is_some() {
            "a step"
        } else {
            "one part"
        };
        lines.push(format!(
            "{} images in {parts}: {launches} launches, {units:.1} units of traffic of {:.2} GB, {:.1} GB of memory",
            self.images,
            gb(self.unit),
            gb(self.most_bytes)
        ));
        if let Some(found) = &self.measured {
            lines.push(format!(
                "measured on {}, each call between two events: {:.2} ms for {} images; {} products without a bias or its gradient in their kernel",
                found.device,
                found.seconds * 1e3,
                self.images,
                found.without_bias
            ));
        }
        let predicted = self.predicted.iter();
        let predicted = predicted.map(|(gpu, rate)| format!("{gpu} {rate:.0} images/s"));
        lines.push(format!(
            "predicted, not measured, without copies from the host: {} (at {TRAFFIC} of the memory's rate, {PRODUCTS} of the products' and {ATTENTION} inside attention)",
            predicted.collect::<Vec<_>>().join(", ")
        ));
        lines
    }
}

impl Row {
    fn line(&self) -> String {
        let (gb, tera) = (self.bytes as f64 / 1e9, self.flops as f64 / 1e12);
        let (name, calls, units) = (&self.operation, self.calls, self.units);
        let line = format!("{name:<32} {calls:>6} {gb:>9.2} {units:>7.2} {tera:>9.2}");
        match self.seconds {
            Some(seconds) => format!(
                "{line} {:>10.1} {:>7.0} {:>9.1}",
                seconds * 1e6,
                gb / seconds,
                tera / seconds
            ),
            None => line,
        }
    }
}
