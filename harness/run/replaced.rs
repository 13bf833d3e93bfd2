//! Refuses, before anything is removed, what would replace finished results of the run folder by none.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::Value;
use tessera_reports::{CostRow, Record};

use crate::data::Scan;
use crate::folder::earlier::{Earlier, places};
use crate::plan::graph::{Graph, Node, Part};
use crate::plan::walk::{Ignored, Mode, State, Walk};
use crate::stages::common::context::{Context, StageError};
use crate::stages::gallery;

/// Pause between two looks at the store.
pub const PAUSE: Duration = Duration::from_secs(1);
/// Rows that a message names.
const NAMED: usize = 5;

/// What the run folder `out` has.
pub struct Replaced<'a> {
    out: &'a Path,
    /// Its contents.
    pub earlier: Earlier,
}

impl<'a> Replaced<'a> {
    /// Reads the run folder.
    ///
    /// # Errors
    /// If a file cannot be opened.
    pub fn of(out: &'a Path) -> anyhow::Result<Self> {
        let earlier = Earlier::of(out)?;
        Ok(Self { out, earlier })
    }

    /// Returns whether the store lacks a result that the folder has.
    pub fn lacks(&self, cx: &Context<'_>) -> bool {
        !self.lacking(cx).is_empty()
    }

    /// Refuses a store without the results that the folder has, for a command that computes nothing; looks for them until `end`, because a
    /// cache of names may hide them.
    ///
    /// # Errors
    /// What was found and expected, and the remedy.
    pub fn check_store(&self, cx: &Context<'_>, end: Instant) -> anyhow::Result<()> {
        loop {
            let lacking = self.lacking(cx);
            let Some(first) = lacking.first() else {
                return Ok(());
            };
            if Instant::now() >= end {
                let rows = named(lacking.iter().map(|cost| cost.tokenizer.as_str()));
                let (out, store) = (self.out.display(), cx.store.root().display());
                bail!(
                    "{out} has finished results of {rows}, and the store {store} lacks their stages (the first: {}/{}), so they would be replaced \
                     by `pending`; name the store that has them with --store or TESSERA_STORE, choose another folder with --out, or compute them \
                     again with `bench run SUITE`",
                    first.stage,
                    first.key
                );
            }
            if cx.interrupted() {
                return Err(StageError::Interrupted.into());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Returns the finished stages that the store lacks. A stage without a number, such as the pictures, may be missing.
    fn lacking(&self, cx: &Context<'_>) -> Vec<&CostRow> {
        // Rows share stages.
        let mut known = HashMap::new();
        let mut lacking = Vec::new();
        for cost in &self.earlier.costs {
            let (stage, key) = (&*cost.stage, &*cost.key);
            let is_needed = !key.is_empty() && stage != gallery::NAME;
            let has = known.entry((stage, key));
            if is_needed && !*has.or_insert_with(|| cx.store.has_had(stage, key)) {
                lacking.push(cost);
            }
        }
        lacking
    }

    /// Refuses images from another place than those of the folder's run. A place that is gone is no reason, nor are added images.
    ///
    /// # Errors
    /// What was found and expected, and the remedy.
    pub fn check_images(&self, cx: &Context<'_>, scan: &Scan) -> anyhow::Result<()> {
        let mut records = self.earlier.records.iter().flatten();
        let is_other = |record: &Record| {
            let fingerprint = &record.dataset_fingerprint;
            !fingerprint.is_empty() && *fingerprint != scan.fingerprint.0
        };
        if self.earlier.costs.is_empty() || !records.any(is_other) {
            return Ok(());
        }
        let (before, now) = (&self.earlier.suite, &cx.suite.resolved);
        let base = match before["relative_to"].as_str() {
            Some(folder) => self.out.join(folder),
            None => cx.suite.base.clone(),
        };
        let (there, here) = (folders(before, &base), folders(now, &cx.suite.base));
        let is_drawn = [before, now].map(|suite| places(suite).is_empty());
        let related = |a: &PathBuf| {
            let mut here = here.iter();
            here.any(|b| a.starts_with(b) || b.starts_with(a))
        };
        let same = match is_drawn[0] == is_drawn[1] {
            true => there.is_empty() || here.is_empty() || there.iter().any(related),
            false => before.is_null(),
        };
        if same {
            return Ok(());
        }
        let of = |suite: &Value, folders: &[PathBuf]| match folders.first() {
            Some(folder) => folder.display().to_string(),
            None => format!("dataset.kind: {}", suite["dataset"]["kind"]),
        };
        let out = self.out.display();
        bail!(
            "{out} holds a run of {}, expected one of {} or none; choose another folder with --out, or remove this one",
            of(before, &there),
            of(now, &here)
        )
    }

    /// Refuses a command that neither finds nor computes results that the folder has: of rows outside its selection, and of training while it
    /// only scores. `walk` is used up.
    ///
    /// # Errors
    /// The rows, why their results are not found, and the remedy.
    pub fn check_uncomputed(&self, cx: &Context<'_>, mut walk: Walk<'_>) -> anyhow::Result<()> {
        let waiting = missing(&walk, |_| false);
        let mut at_risk = self.had(cx, walk.graph);
        at_risk.retain(|node| waiting[node.at]);
        if at_risk.is_empty() {
            return Ok(());
        }
        walk.pass(Mode::Lookup, &mut Ignored)?;
        let missing = missing(&walk, |at| walk.states[at] == State::Done);
        at_risk.retain(|node| missing[node.at]);
        self.refuse_without(cx, &at_risk)
    }

    /// Refuses a command that computes nothing if the folder has results of a stage and the store has them of no row in this recipe; looks for them
    /// until `end`, because a cache of names may hide them. If there are some, a part of a changed suite is computed. Each `walk` is used up.
    ///
    /// # Errors
    /// As for [`check_uncomputed`](Self::check_uncomputed).
    pub fn check_collected<'g>(
        &self,
        cx: &Context<'_>,
        walk: impl Fn() -> Walk<'g>,
        end: Instant,
    ) -> anyhow::Result<()> {
        loop {
            let mut look = walk();
            let mut lost = self.had(cx, look.graph);
            if lost.is_empty() {
                return Ok(());
            }
            look.pass(Mode::Collect, &mut Ignored)?;
            let done = lost
                .iter()
                .filter(|node| look.states[node.at] == State::Done);
            let found: HashSet<&str> = done.map(|node| node.stage.name()).collect();
            let is_lost = |node: &&Node<'_>| {
                look.states[node.at] == State::Missing && !found.contains(node.stage.name())
            };
            lost.retain(is_lost);
            if lost.is_empty() || Instant::now() >= end {
                return self.refuse_without(cx, &lost);
            }
            if cx.interrupted() {
                return Err(StageError::Interrupted.into());
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Returns the nodes of which the folder has finished results.
    fn had<'g>(&self, cx: &Context<'_>, graph: &'g Graph<'g>) -> Vec<&'g Node<'g>> {
        let costs = self.earlier.costs.iter();
        let had: HashSet<_> = costs.flat_map(Finished::of_cost).collect();
        let is_known = |node: &&Node<'_>| {
            !node.stage.is_optional() && had.contains(&Finished::of_node(cx, node))
        };
        graph.nodes.iter().filter(is_known).collect()
    }

    /// Refuses a command without the results of the nodes `lost`, if there are any.
    fn refuse_without(&self, cx: &Context<'_>, lost: &[&Node<'_>]) -> anyhow::Result<()> {
        if lost.is_empty() {
            return Ok(());
        }
        let lost: Vec<&str> = lost.iter().map(|node| node.row.name.as_str()).collect();
        let (why, remedy) = self.difference(cx, &lost);
        bail!(
            "{} has finished results of {}, which this command neither computes nor finds: {why}; {remedy}compute all rows with `bench run SUITE`, \
             or choose another folder with --out",
            self.out.display(),
            named(lost.into_iter())
        )
    }

    /// Refuses seeds without those of finished results of rows outside the selection, which `--only` keeps.
    ///
    /// # Errors
    /// The rows and seeds, and the remedy.
    pub fn check_kept(&self, cx: &Context<'_>) -> anyhow::Result<()> {
        let is_selected = |name: &str| cx.suite.rows.iter().any(|row| row.name == name);
        let shown = cx.suite.shown();
        let is_kept = |name: &str| !is_selected(name) && shown.iter().any(|row| row.name == name);
        let leaves = |old: &&Record| {
            let of_run = cx.suite.file.seeds.contains(&old.seed);
            old.status == "ok" && !of_run && is_kept(&old.tokenizer)
        };
        match by_row(self.earlier.records.iter().flatten().filter(leaves)) {
            Some(rows) => bail!(
                "{} has finished results of {rows}, which --only keeps, and this run has no such seeds; run with all seeds, compute all rows with \
                 `bench run SUITE`, or choose another folder with --out",
                self.out.display()
            ),
            None => Ok(()),
        }
    }

    /// Tells the user which results leave the folder, whose new ones are `records`.
    pub fn tell_leaving(&self, cx: &Context<'_>, graph: &Graph<'_>, records: &[Record]) {
        let leaving = [
            self.leaving(cx, records),
            self.unasked(graph),
            self.fits(cx, graph),
        ];
        for note in leaving.into_iter().flatten() {
            cx.reporter.note(&note);
        }
    }

    /// Says which finished results leave the folder because the rows or seeds of this run, those of `records`, are others; `None` if none does.
    fn leaving(&self, cx: &Context<'_>, records: &[Record]) -> Option<String> {
        let stays = |old: &Record| {
            let mut all = records.iter();
            all.any(|new| (&new.tokenizer, new.seed) == (&old.tokenizer, old.seed))
        };
        let earlier = self.earlier.records.iter().flatten();
        let rows = by_row(earlier.filter(|old| old.status == "ok" && !stays(old)))?;
        let kept = match self.lacks(cx) {
            true => "",
            false => "; the store keeps their results for a run with these rows and seeds",
        };
        Some(format!(
            "{} no longer has {rows}, which are not of this run{kept}",
            self.out.display()
        ))
    }

    /// Says which finished stages of rows of this run leave the folder because the suite does not ask for them; `None` if none does.
    fn unasked(&self, graph: &Graph<'_>) -> Option<String> {
        let (mut asked, mut rows) = (HashSet::new(), HashSet::new());
        for node in &graph.nodes {
            asked.insert((node.row.name.as_str(), node.stage.name()));
            rows.insert(node.row.name.as_str());
        }
        let leaves = |cost: &&CostRow| {
            let (row, stage) = (cost.tokenizer.as_str(), cost.stage.as_str());
            stage != gallery::NAME && rows.contains(row) && !asked.contains(&(row, stage))
        };
        let leaving: Vec<&CostRow> = self.earlier.costs.iter().filter(leaves).collect();
        let mut stages: Vec<&str> = leaving.iter().map(|cost| cost.stage.as_str()).collect();
        stages.sort_unstable();
        stages.dedup();
        (!stages.is_empty()).then(|| {
            format!(
                "{} no longer has results of {}, because the suite does not ask for: {}",
                self.out.display(),
                named(leaving.iter().map(|cost| cost.tokenizer.as_str())),
                stages.join(", ")
            )
        })
    }

    /// Says which fits of codebooks leave the folder because this run has other fit seeds; `None` if none does.
    fn fits(&self, cx: &Context<'_>, graph: &Graph<'_>) -> Option<String> {
        let rows: HashSet<&str> = graph.nodes.iter().map(|n| n.row.name.as_str()).collect();
        let mut leaving: BTreeMap<u64, Vec<&str>> = BTreeMap::new();
        for record in self.earlier.records.iter().flatten() {
            let name = record.tokenizer.as_str();
            let seeds = record
                .fit_seeds
                .split(' ')
                .filter_map(|seed| seed.parse().ok());
            for seed in seeds.filter(|seed| !cx.suite.fit_seeds.contains(seed)) {
                if rows.contains(name) {
                    leaving.entry(seed).or_default().push(name);
                }
            }
        }
        let seeds: Vec<String> = leaving.keys().map(u64::to_string).collect();
        (!seeds.is_empty()).then(|| {
            format!(
                "{} no longer has the fits with the seeds {} of {}, which were in the means and errors of their metrics; write `fit_seeds` to keep them",
                self.out.display(),
                seeds.join(", "),
                named(leaving.into_values().flatten())
            )
        })
    }

    /// Returns how the results of `rows` differ from those that are looked for, and the remedy that follows.
    fn difference(&self, cx: &Context<'_>, rows: &[&str]) -> (String, String) {
        let machine = cx.machine();
        let mut records = self.earlier.records.iter().flatten();
        let other = records.find(|record| {
            let is_other = (&*record.device, &*record.dtype) != (machine.device, machine.dtype);
            is_other && rows.contains(&record.tokenizer.as_str())
        });
        let Some(Record { device, dtype, .. }) = other else {
            return (
                "they are of another recipe or machine, or damaged in the store".into(),
                String::new(),
            );
        };
        let precision = dtype.split('-').next().unwrap_or_default();
        (
            format!(
                "they were computed in {dtype} on {device}, this run is {} on {}",
                machine.dtype, machine.device
            ),
            format!("add --device {device} --precision {precision}, "),
        )
    }
}

/// A finished stage: the row, the stage, whether it is of a seed, and that seed or a further seed of the fit.
#[derive(PartialEq, Eq, Hash)]
struct Finished<'a>(&'a str, &'a str, bool, Option<u64>);

impl<'a> Finished<'a> {
    fn of_node(cx: &Context<'_>, node: &'a Node<'_>) -> Self {
        let (of_seed, seed) = match node.part {
            Part::Seed(seed) => (true, Some(seed)),
            Part::Fit(0) => (false, None),
            Part::Fit(fit) => (false, cx.suite.fit_seeds.get(fit).copied()),
        };
        Self(&node.row.name, node.stage.name(), of_seed, seed)
    }

    /// A cost does not say whether all seeds share its stage, so it stands for both.
    fn of_cost(cost: &'a CostRow) -> [Self; 2] {
        let (row, stage) = (&*cost.tokenizer, &*cost.stage);
        let of_seed = cost.fit_seed.is_none().then_some(cost.seed);
        [
            Self(row, stage, false, cost.fit_seed),
            Self(row, stage, true, of_seed),
        ]
    }
}

/// Returns which nodes have no result after a command that computes those that `walk` wants, if `is_done` says which have one before it.
fn missing(walk: &Walk<'_>, is_done: impl Fn(usize) -> bool) -> Vec<bool> {
    let mut missing = vec![false; walk.graph.nodes.len()];
    for (at, node) in walk.graph.nodes.iter().enumerate() {
        let waits = node.after.iter().any(|before| missing[*before]);
        missing[at] = !is_done(at) && (!walk.wanted[at] || waits);
    }
    missing
}

/// Returns the folders on this machine in which a suite has its images.
fn folders(suite: &Value, base: &Path) -> Vec<PathBuf> {
    let places = places(suite).into_iter();
    let folder = |place: PathBuf| {
        // Shards are a pattern, or may be links out of their folder.
        let is_shard = place.extension().is_some_and(|end| end == "tar");
        let folder = if is_shard { place.parent()? } else { &place };
        base.join(folder).canonicalize().ok()
    };
    places.filter_map(folder).collect()
}

/// Returns the number of different rows, and the names and seeds of the first; `None` if there are no records.
fn by_row<'r>(records: impl Iterator<Item = &'r Record>) -> Option<String> {
    let mut rows: Vec<(&str, Vec<String>)> = Vec::new();
    for record in records {
        let (name, seed) = (record.tokenizer.as_str(), record.seed.to_string());
        match rows.iter_mut().find(|(row, _)| *row == name) {
            Some((_, seeds)) => seeds.push(seed),
            None => rows.push((name, vec![seed])),
        }
    }
    let shown = rows
        .iter()
        .map(|(row, seeds)| format!("{row} (seed {})", seeds.join(", ")));
    let shown: Vec<String> = shown.collect();
    (!shown.is_empty()).then(|| named(shown.iter().map(String::as_str)))
}

/// Returns the number of different rows, and the names of the first.
fn named<'n>(rows: impl Iterator<Item = &'n str>) -> String {
    let mut seen = HashSet::new();
    let rows: Vec<&str> = rows.filter(|row| seen.insert(*row)).collect();
    let more = if rows.len() > NAMED { ", ..." } else { "" };
    let (count, first) = (rows.len(), rows[..rows.len().min(NAMED)].join(", "));
    let word = if count == 1 { "row" } else { "rows" };
    format!("{count} {word} ({first}{more})")
}
