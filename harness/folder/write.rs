//! Writes a run folder.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tessera_models::files;
use tessera_reports::figure::Figure;
use tessera_reports::figures::{figures, is_figure};
use tessera_reports::page;
use tessera_reports::tensorboard::{Scalar, events};
use tessera_reports::{
    CostRow, HistoryRow, Record, TableContext, left_out, not_lowered, printable, render, tables,
    to_csv,
};

use super::data::RunData;
use super::earlier::Earlier;
use super::held::RunFolder;
use super::layout::{
    CELLS, CLASSES, COMPARISONS, COSTS, ENVIRONMENT, EVENTS, FIGURES, HISTORY, LABELS, METRICS,
    PAGE, PREDICTORS, RESULTS, SHOWN, SKIPPED, SUITE, SUMS, TABLES, cell_folders,
};
use crate::npy;
use crate::store::{Entry, Store, write_atomic};

/// Writes the files of a run.
pub struct Writer<'a> {
    folder: &'a RunFolder,
    cells: Vec<PathBuf>,
    /// Names of the files that this run has written into each cell's folder.
    written: Vec<BTreeSet<String>>,
}

impl<'a> Writer<'a> {
    /// Creates a writer into `folder` with a cell per record. Removes the list of digests; [`remove_replaced`](Self::remove_replaced) removes
    /// other files of earlier stages.
    ///
    /// # Errors
    /// If a file cannot be removed, or as for [`RunFolder::here`].
    pub fn new(folder: &'a RunFolder, records: &[Record]) -> anyhow::Result<Self> {
        let out = folder.here()?;
        remove(&out.join(SUMS))?;
        let folders = cell_folders(records).into_iter();
        let cells: Vec<PathBuf> = folders.map(|name| out.join(CELLS).join(name)).collect();
        Ok(Self {
            folder,
            written: vec![BTreeSet::new(); cells.len()],
            cells,
        })
    }

    /// Removes what the folder has from an earlier run, whose contents are `earlier`, and this one, whose stored results are `data`, has not
    /// written again: histories and pictures, checkpoints and predictions of another recipe, and the cells of rows that are gone. Of checkpoints and
    /// predictions, only what `store` has is removed.
    ///
    /// # Errors
    /// If a file cannot be removed, or the store cannot be read.
    pub fn remove_replaced(
        &self,
        earlier: &Earlier,
        data: &RunData,
        store: &Store,
    ) -> anyhow::Result<()> {
        let out = self.folder.here()?;
        for (folder, written) in self.cells.iter().zip(&self.written) {
            let shown = SHOWN.into_iter().chain([EVENTS]);
            for name in shown.filter(|name| !written.contains(*name)) {
                remove(&folder.join(name))?;
            }
        }
        let records = earlier.records.as_deref().unwrap_or_default();
        let cells = self.cells.iter().enumerate();
        let cells: HashMap<_, _> = cells.map(|(cell, folder)| (folder, cell)).collect();
        let mut costs: HashMap<_, Vec<&CostRow>> = HashMap::new();
        for cost in &earlier.costs {
            let of_cell = costs.entry((&cost.tokenizer, cost.seed)).or_default();
            of_cell.push(cost);
        }
        for (record, name) in records.iter().zip(cell_folders(records)) {
            let folder = out.join(CELLS).join(name);
            let cell = cells.get(&folder).copied();
            let now = cell.map(|cell| data.costs.range((cell, 0)..(cell + 1, 0)));
            let now: HashSet<&str> = now
                .into_iter()
                .flatten()
                .map(|(_, cost)| cost.key.as_str())
                .collect();
            let written = cell.map(|cell| self.written[cell].clone());
            let written = written.unwrap_or_default();
            let costs = costs.get(&(&record.tokenizer, record.seed));
            for cost in costs.into_iter().flatten() {
                if !now.contains(cost.key.as_str())
                    && let Some(entry) = store.entry_of(&cost.stage, &cost.key)?
                {
                    entry.remove_copies(&folder, &written)?;
                }
            }
            if cell.is_none() && costs.is_some() {
                for name in SHOWN.into_iter().chain([EVENTS]) {
                    remove(&folder.join(name))?;
                }
                // Other files stay, and with them the folder.
                let _ = fs::remove_dir(&folder);
            }
        }
        Ok(())
    }

    /// Writes the suite, the environment, the validation labels, the classes, and the skipped images if there are any.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn about(&self, data: &RunData) -> anyhow::Result<()> {
        let (folder, out) = (self.folder, self.folder.here()?);
        folder.put(&out.join(SUITE), data.suite_text.as_bytes())?;
        let environment = format!("{:#}\n", data.environment);
        folder.put(&out.join(ENVIRONMENT), environment.as_bytes())?;
        let (path, count) = (out.join(LABELS), data.labels.len());
        let written = npy::replace(&path, &[count], data.labels.iter().copied());
        folder.explained(written.with_context(|| path.display().to_string()))?;
        let classes = serde_json::to_string(&data.classes)?;
        folder.put(&out.join(CLASSES), classes.as_bytes())?;
        let lines = data.skipped.iter();
        let lines: String = lines
            .map(|(name, why)| {
                let name = name.replace('\n', "\\n").replace('\t', "\\t");
                let why = why.replace('\n', " ");
                // For people, who print it in a terminal. Lists for programs have names as they are.
                format!("{}\t{}\n", printable(&name), printable(&why))
            })
            .collect();
        or_remove(folder, SKIPPED, &lines)
    }

    /// Writes `results.csv`, `metrics.csv` and `costs.csv`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn results(&self, data: &RunData) -> anyhow::Result<()> {
        let out = self.folder.here()?;
        let write = |name: &str, text: String| self.folder.put(&out.join(name), text.as_bytes());
        // Readers refuse results whose metrics have no rows yet.
        write(METRICS, to_csv(&data.metric_rows())?)?;
        write(RESULTS, to_csv(&data.records)?)?;
        write(COSTS, to_csv(&data.cost_rows())?)?;
        Ok(())
    }

    /// Writes the epochs of a cell.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn history(&mut self, cell: usize, data: &RunData) -> anyhow::Result<()> {
        let rows = data.history(cell);
        self.file(cell, HISTORY, to_csv(&rows)?.as_bytes())?;
        self.file(cell, EVENTS, &events(&scalars(&rows)))
    }

    /// Writes a file of a cell.
    ///
    /// # Errors
    /// If the folder cannot be written.
    pub fn file(&mut self, cell: usize, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.cell(cell, name)?;
        self.folder.explained(write_atomic(&path, bytes))
    }

    /// Copies a file of a store entry into the cell's folder, if the entry contains it.
    ///
    /// # Errors
    /// If the folder cannot be written, or the file is damaged.
    pub fn link(&mut self, cell: usize, entry: &Entry, name: &str) -> anyhow::Result<()> {
        if !entry.has(name) {
            return Ok(());
        }
        let path = self.cell(cell, name)?;
        self.folder.explained(entry.copy(name, &path))
    }

    /// Creates the folder of a cell, and returns the path of its file `name`.
    fn cell(&mut self, cell: usize, name: &str) -> anyhow::Result<PathBuf> {
        self.folder.here()?;
        let folder = &self.cells[cell];
        let created = fs::create_dir_all(folder).with_context(|| folder.display().to_string());
        self.folder.explained(created)?;
        self.written[cell].insert(name.to_owned());
        Ok(folder.join(name))
    }
}

fn scalars(rows: &[HistoryRow]) -> Vec<Scalar> {
    let both = rows.iter().flat_map(|row| {
        [("loss", row.train_loss), ("lr", row.lr)].map(|(what, value)| Scalar {
            tag: format!("{}/{what}", row.stage),
            step: row.epoch as u64,
            value: value as f32,
        })
    });
    // An epoch whose steps were all skipped has no loss.
    both.filter(|scalar| scalar.value.is_finite()).collect()
}

/// Removes a file of an earlier run, if it exists.
fn remove(path: &Path) -> anyhow::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Writes a text into the file `name`, or removes the file if the text is empty.
fn or_remove(folder: &RunFolder, name: &str, text: &str) -> anyhow::Result<()> {
    let path = folder.here()?.join(name);
    if text.is_empty() {
        return remove(&path);
    }
    folder.put(&path, text.as_bytes())
}

/// Writes comparisons, `tables` that include the rows of `others`, figures and the page. Returns the paths of the tables.
///
/// # Errors
/// If the folder cannot be written or a table does not exist, or as for [`RunFolder::here`].
pub fn report(
    folder: &RunFolder,
    data: &RunData,
    tables: &[u32],
    others: &[RunData],
) -> anyhow::Result<Vec<PathBuf>> {
    let out = folder.here()?;
    let comparisons = data.comparisons();
    let text = match comparisons.is_empty() {
        true => String::new(),
        false => to_csv(&comparisons)?,
    };
    or_remove(folder, COMPARISONS, &text)?;
    let of_others = others.iter().flat_map(|other| &other.records);
    let records: Vec<Record> = data.records.iter().chain(of_others).cloned().collect();
    let mut cx = data.table_context(comparisons);
    if !others.is_empty() {
        cx.notes = of_runs(data, others, RunData::notes);
    }
    cx.notes.extend(left_out(&records));
    let losses = data.losses();
    // Rows of other runs may have the same names.
    cx.own = data.records.iter().map(Record::row_id).collect();
    let named = cx.baseline.as_deref();
    cx.others = others.iter().map(|other| other.beside(named)).collect();
    cx.risen = data.risen();
    cx.notes.extend(match others.is_empty() {
        true => Vec::from_iter(not_lowered(&losses)),
        false => of_runs(data, others, |run| {
            Vec::from_iter(not_lowered(&run.losses()))
        }),
    });
    let all = [data].into_iter().chain(others);
    cx.metrics = all.flat_map(RunData::metrics_of_records).collect();
    let paths = write_tables(folder, &records, &cx, tables)?;
    let (drawn, predictors) = figures(&data.records, &data.figure_data());
    let drawings = out.join(FIGURES);
    remove_figures(&drawings)?;
    if !drawn.is_empty() {
        draw(&drawings, &drawn, &|path, bytes| folder.put(path, bytes))?;
    }
    if !predictors.is_empty() {
        let text = to_csv(&predictors)?;
        folder.put(&drawings.join(PREDICTORS), text.as_bytes())?;
    }
    let files = page::files().filter(|name| exists(&out.join(name)));
    let page = data.page(drawn, predictors, files.collect());
    folder.put(&out.join(PAGE), page.as_bytes())?;
    Ok(paths)
}

/// Returns notes on several runs, each of which says of which run it is.
fn of_runs(
    data: &RunData,
    others: &[RunData],
    notes: impl Fn(&RunData) -> Vec<String>,
) -> Vec<String> {
    let own = notes(data).into_iter();
    let own = own.map(|note| format!("This run: {note}"));
    let added = (1..).zip(others).flat_map(|(number, run)| {
        let notes = notes(run).into_iter();
        notes.map(move |note| format!("Added run {number}: {note}"))
    });
    own.chain(added).collect()
}

/// Returns the numbers `wanted`, and those of the tables that the run folder `out` has.
pub fn with_present(out: &Path, wanted: &[u32]) -> Vec<u32> {
    let path = |number: &u32| out.join(TABLES).join(format!("table{number}.md"));
    let is_present = |number: &u32| !files::is_absent(&path(number));
    let known = tables().iter().map(|table| table.number);
    let others = known.filter(|number| is_present(number) && !wanted.contains(number));
    wanted.iter().copied().chain(others).collect()
}

fn write_tables(
    run: &RunFolder,
    records: &[Record],
    cx: &TableContext,
    tables: &[u32],
) -> anyhow::Result<Vec<PathBuf>> {
    let (folder, mut paths) = (&run.here()?.join(TABLES), Vec::new());
    for number in tables {
        let rendered = render(*number, records, cx)?;
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        for (extension, text) in [
            ("csv", &rendered.csv),
            ("md", &rendered.markdown),
            ("tex", &rendered.latex),
        ] {
            let path = folder.join(format!("table{number}.{extension}"));
            run.put(&path, text.as_bytes())?;
            paths.push(path);
        }
    }
    Ok(paths)
}

/// Returns whether there is a file at `path`, or a folder that is not empty.
fn exists(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => path.is_file(),
    }
}

/// Removes the figures of an earlier report, and leaves other files.
fn remove_figures(folder: &Path) -> anyhow::Result<()> {
    let named = || folder.display().to_string();
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(named)?,
    };
    for entry in entries {
        let path = entry.with_context(named)?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let end = path.extension().unwrap_or_default();
        if (is_figure(&stem) && (end == "svg" || end == "png")) || path.ends_with(PREDICTORS) {
            remove(&path)?;
        }
    }
    Ok(())
}

/// Writes each figure as SVG and PNG into `folder` and returns the paths.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_figures(folder: &Path, figures: &[Figure]) -> anyhow::Result<Vec<PathBuf>> {
    draw(folder, figures, &|path, bytes| {
        Ok(write_atomic(path, bytes)?)
    })
}

/// As [`write_figures`], with `put`, which writes a file.
fn draw(
    folder: &Path,
    figures: &[Figure],
    put: &dyn Fn(&Path, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<PathBuf>> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let mut paths = Vec::new();
    for figure in figures {
        let files = figure.files()?;
        let path = |extension| folder.join(format!("{}.{extension}", figure.name));
        let (svg, png) = (path("svg"), path("png"));
        put(&svg, files.svg.as_bytes())?;
        put(&png, &files.png)?;
        paths.extend([svg, png]);
    }
    Ok(paths)
}
