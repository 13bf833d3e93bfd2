//! The native half of the Python package `tessera_bench`: the command line, and the metrics of ids and labels.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::PathBuf;

use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyValueError};
use pyo3::prelude::*;
use tessera::folder::layout::{CELLS, RESULTS, cell_folders};
use tessera::folder::read::measured;
use tessera::metrics::arrangement::Arrangement;
use tessera::metrics::uncertainty::memory;
use tessera::metrics::{CountError, CountsWriter, Estimate, estimate};
use tessera::suite::Metrics;

/// Name, value, standard error, null, and the null's standard error of a metric.
type Row = (String, Option<f64>, Option<f64>, Option<f64>, Option<f64>);

/// Bytes of the sums over classes above which `score` refuses: an allocation that fails would end the interpreter.
const MOST_MEMORY: usize = 16 << 30;

/// Runs `bench` with the command line `words`. `program` is the file that nodes of a submitted suite start, `again` starts this command
/// line in another process, to try graphs. Returns the exit status.
#[pyfunction]
#[pyo3(name = "bench")]
fn called(py: Python<'_>, program: PathBuf, again: Vec<OsString>, words: Vec<OsString>) -> u8 {
    tessera::onnx::guard_with(again);
    py.detach(|| tessera::bench_as(&program, words, tessera::Registry::builtin()))
}

/// Computes every training-free metric of `ids` and `labels`, both u32 in the machine's byte order: ids `[images, rows * cols]`, labels
/// `[images]`.
///
/// # Errors
/// `ValueError` for an id or a label out of range, `OSError` if a temporary file cannot be written.
#[pyfunction]
fn score(
    py: Python<'_>,
    ids: &[u8],
    labels: &[u8],
    grid: (usize, usize),
    sizes: (usize, usize),
    sharp_t: f64,
) -> PyResult<Vec<Row>> {
    let (ids, labels) = (words(ids), words(labels));
    let bytes = memory(sizes.1, labels.len());
    if bytes > MOST_MEMORY {
        return Err(PyValueError::new_err(format!(
            "num_classes: {} classes need {} GiB of memory, expected at most {}; give labels the numbers 0, 1, and so on",
            sizes.1,
            bytes >> 30,
            MOST_MEMORY >> 30
        )));
    }
    let estimates = py.detach(|| metrics(&ids, &labels, grid, sizes, sharp_t));
    let estimates = estimates.map_err(|error| match error {
        CountError::Io(error) if error.kind() == ErrorKind::Interrupted => {
            PyKeyboardInterrupt::new_err("")
        }
        CountError::Io(error) => PyOSError::new_err(error.to_string()),
        wrong => PyValueError::new_err(wrong.to_string()),
    })?;
    let row = |one: Estimate| (one.metric, one.value, one.se, one.null_mean, one.null_se);
    Ok(estimates.into_iter().map(row).collect())
}

/// Reads a run folder. Returns the rows of `results.csv` and of `metrics.csv` as JSON, and the folders of the rows of `results.csv`.
///
/// # Errors
/// `ValueError` if it is no run folder or a file is wrong.
#[pyfunction]
fn read(folder: PathBuf) -> PyResult<(String, String, Vec<PathBuf>)> {
    let data = measured(&folder, &folder.join(RESULTS));
    let data = data.map_err(|error| PyValueError::new_err(format!("{error:#}")))?;
    let text =
        |rows: serde_json::Result<String>| rows.map_err(|e| PyValueError::new_err(e.to_string()));
    let metrics: Vec<_> = data.metrics.values().flatten().collect();
    let cells = cell_folders(&data.records).into_iter();
    Ok((
        text(serde_json::to_string(&data.records))?,
        text(serde_json::to_string(&metrics))?,
        cells.map(|name| folder.join(CELLS).join(name)).collect(),
    ))
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let words = bytes.as_chunks().0.iter();
    words.map(|word| u32::from_ne_bytes(*word)).collect()
}

/// Computes the metrics as `bench score` does, so that the numbers are equal.
fn metrics(
    ids: &[u32],
    labels: &[u32],
    grid: (usize, usize),
    sizes: (usize, usize),
    sharp_t: f64,
) -> Result<Vec<Estimate>, CountError> {
    let scratch = tempfile::tempdir()?;
    let mut counts = CountsWriter::create(scratch.path(), scratch.path(), sizes, None)?;
    counts.add(ids, labels)?;
    let counts = counts.finish()?;
    let mut places = Arrangement::new(grid, sizes.0, scratch.path());
    places.add(ids)?;
    let interrupted = || Python::attach(|py| py.check_signals().is_err());
    let mut all = estimate(&counts, sharp_t, 0, scratch.path(), &interrupted)?;
    all.extend(places.estimates(&interrupted)?);
    Ok(all)
}

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("MOST_CODES", tessera::MOST_CODES)?;
    module.add("SHARP_T", Metrics::default().tcas_sharp_t)?;
    module.add_function(wrap_pyfunction!(called, module)?)?;
    module.add_function(wrap_pyfunction!(read, module)?)?;
    module.add_function(wrap_pyfunction!(score, module)?)
}
