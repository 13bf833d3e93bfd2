//! What limits training: preparing images, or the model.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde::Serialize;

/// Name of the model among what limits.
const MODEL: &str = "model";
/// Share of the time from which preparing is worth a remedy where one pool of threads does everything.
const NOTABLE: f64 = 0.2;

/// Seconds of training, by what they are spent on, each by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Work {
    /// Images that the model sees.
    pub images: f64,
    /// Reading and decoding, on all threads.
    pub decoding: f64,
    /// Crops.
    pub crops: f64,
    /// Tokenizers.
    pub targets: f64,
    /// The model, on its device.
    pub model: f64,
    /// Whether ids are computed in every epoch.
    #[serde(skip)]
    pub ids_again: bool,
    /// Shards of a batch and threads of a CPU, if there are more threads.
    #[serde(skip)]
    pub idle: Option<[usize; 2]>,
}

impl Work {
    /// Returns the seconds in all. A GPU computes while threads prepare the next images; a CPU does one after the other.
    pub fn seconds(&self, on_gpu: bool) -> f64 {
        match on_gpu {
            true => self.preparing().max(self.model),
            false => self.preparing() + self.model,
        }
    }

    fn preparing(&self) -> f64 {
        self.decoding + self.crops + self.targets
    }

    /// Adds the work of another stage.
    pub fn add(&mut self, other: &Self) {
        self.images += other.images;
        self.decoding += other.decoding;
        self.crops += other.crops;
        self.targets += other.targets;
        self.model += other.model;
        self.ids_again |= other.ids_again;
        self.idle = self.idle.or(other.idle);
    }
}

/// The work of the stages that train.
#[derive(Debug, Default)]
pub struct Limits {
    on_gpu: bool,
    /// Bytes of all decoded images, if they are decoded in every epoch.
    decoded: Option<f64>,
    trained: RefCell<BTreeMap<&'static str, Trained>>,
}

/// The work of a stage, and the row with the slowest targets.
#[derive(Debug, Default)]
struct Trained {
    work: Work,
    slowest: (f64, String),
}

impl Limits {
    /// Starts without work, on a GPU or a CPU. `decoded`: bytes of all decoded images, if they are decoded in every epoch.
    pub fn new(on_gpu: bool, decoded: Option<f64>) -> Self {
        Self {
            on_gpu,
            decoded,
            trained: RefCell::default(),
        }
    }

    /// Notes the work of a run of `stage` for `row`. Returns its seconds.
    pub fn add(&self, stage: &'static str, row: &str, work: Work) -> f64 {
        let mut trained = self.trained.borrow_mut();
        let of_stage = trained.entry(stage).or_default();
        of_stage.work.add(&work);
        if work.targets > of_stage.slowest.0 {
            of_stage.slowest = (work.targets, row.to_owned());
        }
        work.seconds(self.on_gpu)
    }

    /// Returns what limits each stage.
    pub fn all(&self) -> Vec<Limit> {
        let trained = self.trained.borrow();
        let each = trained.iter();
        let each = each.map(|(stage, of)| Limit::of(stage, of, self.on_gpu, self.decoded));
        each.collect()
    }
}

/// The work of all runs of a stage that are not stored, and what limits it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Limit {
    /// Name of the stage.
    pub stage: &'static str,
    /// The work.
    #[serde(flatten)]
    pub work: Work,
    /// Whether a GPU computes the model.
    pub on_gpu: bool,
    /// What limits: `model`, or the largest piece of preparing (`decoding`, `crops` or `targets`).
    pub limit: &'static str,
    /// What shortens preparing, if it limits a GPU or takes a notable share of a CPU's time; else what makes a CPU's model faster if threads
    /// are idle.
    pub remedy: Option<String>,
}

impl Limit {
    /// Finds what limits `stage`.
    fn of(stage: &'static str, of: &Trained, on_gpu: bool, decoded: Option<f64>) -> Self {
        let work = of.work;
        let prepared = [
            ("decoding", work.decoding),
            ("crops", work.crops),
            ("targets", work.targets),
        ];
        let largest = prepared.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let (piece, seconds) = largest.unwrap_or_default();
        let is_limited = work.preparing() > work.model;
        let is_notable = match on_gpu {
            true => is_limited,
            false => seconds > NOTABLE * work.seconds(false),
        };
        let remedy = || remedy(piece, of, on_gpu, decoded);
        let remedy = is_notable.then(remedy).flatten();
        let busier = || {
            let [shards, threads] = work.idle.filter(|_| !is_limited)?;
            Some(format!(
                "a batch has {shards} shards, so {shards} of {threads} threads compute; a larger batch occupies more, and is another recipe"
            ))
        };
        Self {
            stage,
            work,
            on_gpu,
            limit: if is_limited { piece } else { MODEL },
            remedy: remedy.or_else(busier),
        }
    }

    /// Returns a line for the terminal.
    pub fn line(&self) -> String {
        let work = &self.work;
        let pieces = [
            (MODEL, work.model),
            ("decoding", work.decoding),
            ("crops", work.crops),
            ("targets", work.targets),
        ];
        let share = |seconds: f64, all: f64| format!("{:.0} %", 100.0 * seconds / all.max(1e-9));
        let of = |pieces: &[(&str, f64)], all: f64| -> String {
            let each = pieces
                .iter()
                .map(|(name, s)| format!("{name} {}", share(*s, all)));
            each.collect::<Vec<_>>().join(", ")
        };
        let Self { stage, limit, .. } = self;
        let text = match self.on_gpu {
            false => format!("{stage}: {}", of(&pieces, work.seconds(false))),
            true => format!(
                "{stage}: the GPU computes {:.0} images/s, this machine's threads prepare {:.0} ({}); {limit} limits",
                work.images / work.model.max(1e-9),
                work.images / work.preparing().max(1e-9),
                of(&pieces[1..], work.preparing()),
            ),
        };
        match &self.remedy {
            Some(remedy) => format!("{text}; {remedy}"),
            None => text,
        }
    }
}

fn remedy(piece: &str, of: &Trained, on_gpu: bool, decoded: Option<f64>) -> Option<String> {
    match (piece, decoded) {
        ("decoding", Some(bytes)) => Some(format!(
            "`decoded_cache: u8` in `dataset` decodes every image once, into {:.1} GB of the store; smaller files, with a short side a little above image_size, decode faster",
            bytes / 1e9
        )),
        ("targets", _) if of.work.ids_again => Some(format!(
            "`augment: fixed-view` computes ids once; the slowest tokenizer is that of {:?}",
            of.slowest.1
        )),
        _ if on_gpu => Some("more --threads, on a machine with more cores, prepare more".into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DECODED: Option<f64> = Some(3e9);

    fn work([decoding, crops, targets, model]: [f64; 4]) -> Trained {
        let work = Work {
            images: 1000.0,
            decoding,
            crops,
            targets,
            model,
            ids_again: true,
            idle: None,
        };
        let slowest = (targets, "Slow".to_owned());
        Trained { work, slowest }
    }

    #[test]
    fn a_gpu_computes_while_threads_prepare() {
        let slow = work([6.0, 2.0, 1.0, 4.0]);
        let limits = Limits::new(true, DECODED);
        assert_eq!(slow.work.seconds(false), 13.0);
        assert_eq!(limits.add("pretrain", "Slow", slow.work), 9.0);
        let limit = limits.all().remove(0);
        assert_eq!(limit.limit, "decoding");
        let line = limit.line();
        assert!(
            line.contains("computes 250 images/s, this machine's threads prepare 111 (decoding 67 %, crops 22 %, targets 11 %); decoding limits; `decoded_cache: u8`")
                && line.contains("3.0 GB"),
            "{line}"
        );
        let fast = Limit::of("pretrain", &work([1.0, 1.0, 1.0, 4.0]), true, DECODED);
        assert_eq!((fast.limit, fast.remedy), ("model", None));
    }

    #[test]
    fn the_remedy_fits_what_can_be_spared() {
        let of = |pieces, decoded| Limit::of("pretrain", &work(pieces), false, decoded);
        let notable = of([1.0, 1.0, 5.0, 9.0], DECODED);
        assert_eq!(notable.limit, "model", "more than half of the time");
        let line = notable.line();
        assert!(
            line.contains("targets 31 %; `augment: fixed-view`") && line.ends_with("\"Slow\""),
            "{line}"
        );
        assert_eq!(of([10.0, 1.0, 1.0, 9.0], DECODED).limit, "decoding");
        assert_eq!(of([10.0, 1.0, 1.0, 9.0], None).remedy, None);
        assert_eq!(of([1.0, 1.0, 1.0, 9.0], DECODED).remedy, None);
        let mut idle = work([1.0, 1.0, 1.0, 9.0]);
        idle.work.idle = Some([2, 8]);
        let line = Limit::of("pretrain", &idle, false, DECODED).line();
        assert!(
            line.contains("2 of 8 threads compute; a larger batch"),
            "{line}"
        );
        (idle.work.model, idle.work.ids_again) = (0.5, false);
        let limit = Limit::of("pretrain", &idle, false, None);
        assert_eq!(limit.remedy, None, "preparing limits");
    }
}
