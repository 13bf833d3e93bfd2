//! `command` and `python`: tokenizers that are programs. Child processes get images and return targets over pipes (`PROTOCOL.md`).

mod child;
mod drawn;
mod fields;
mod frame;

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::Path;
use std::slice::Chunks;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use candle_core::{Device, Tensor};
use tessera_models::{TargetSpec, Targets};

use crate::codes;
use crate::config::Config;
use crate::contract::{Facts, Fingerprint, Grid, Tokenizer};
use crate::pool::Pool;
use crate::registry::BuildContext;
use crate::view::{InputSpec, View};
use crate::{Error, Result};
use child::{Child, Fault, Start};
use frame::{Expected, Reply};

pub use fields::ProgramFactory;

/// Version of the drawn images and of the frames.
const VERSION: u32 = 1;
/// Requests of a child at a time.
const AHEAD: usize = 2;
/// Requests after which a child gets the drawn images again: first so many, then twice as many each time up to the maximum.
const FIRST_CHECK: usize = 4;
const MOST_BETWEEN_CHECKS: usize = 128;

/// Reads what a program wrote to its standard output as a row with this target and grid reads it, which asks for `batch` images at a time.
/// Returns the number of replies. What follows the last whole frame is left out.
///
/// # Errors
/// What was found and expected in the first wrong reply.
pub fn read_replies(
    output: &[u8],
    target: TargetSpec,
    (batch, grid): (usize, Grid),
) -> std::result::Result<usize, String> {
    let expected = Expected {
        target,
        batch,
        grid,
    };
    let arrays = child::arrays(output, expected.most());
    arrays.iter().try_fold(0, |count, array| {
        expected.read(array)?;
        Ok(count + 1)
    })
}

/// What a row wants of a program.
struct Wanted {
    target: TargetSpec,
    version: u64,
    input: InputSpec,
    batch: usize,
    workers: usize,
    limit: Duration,
    saw_labels: bool,
}

/// A child that was asked for the targets of the drawn images.
struct Checked {
    child: Child,
    /// Requests since then.
    requests: usize,
    /// Requests before it was last asked again.
    checked: usize,
    /// Requests after which it is asked again.
    due: usize,
}

impl From<Child> for Checked {
    fn from(child: Child) -> Self {
        Self {
            child,
            requests: 0,
            checked: 0,
            due: FIRST_CHECK,
        }
    }
}

/// Tokenizer whose targets a program computes.
struct Program {
    kind: &'static str,
    /// The row's fields, and the one that names the program.
    at: (Config, &'static str),
    start: Start,
    wanted: Wanted,
    expected: Expected,
    children: Pool<Checked>,
    /// Whether a check has found other targets.
    changed: AtomicBool,
    /// The targets of the drawn images.
    drawn: Reply,
    fingerprint: Fingerprint,
}

impl Program {
    /// Starts a child and checks it on drawn images. `about` is part of the fingerprint.
    fn open(
        kind: &'static str,
        at: (Config, &'static str),
        (words, folder): (Vec<OsString>, &Path),
        (wanted, about): (Wanted, &str),
        cx: &BuildContext<'_>,
    ) -> Result<Self> {
        let expected = Expected {
            target: wanted.target,
            batch: wanted.batch,
            grid: cx.grid,
        };
        let start = Start {
            words,
            folder: folder.to_owned(),
            limit: wanted.limit,
            most: expected.most(),
        };
        let mut program = Self {
            kind,
            at,
            start,
            expected,
            children: Pool::new(1, wanted.workers),
            changed: AtomicBool::new(false),
            drawn: Reply::Ids(Vec::new()),
            fingerprint: Fingerprint::of(&[]),
            wanted,
        };
        let images = drawn::images(&program.wanted.input)?;
        let mut child = program.spawn()?;
        program.drawn = program.ask(&mut child, &images, cx.interrupted)?;
        program.check_repeated(&mut child, cx.interrupted)?;
        program.children.add(child.into());
        program.fingerprint = program.identity(about);
        Ok(program)
    }

    /// Returns the digest of what determines the targets. The targets of the drawn images show changed weights.
    fn identity(&self, about: &str) -> Fingerprint {
        let Wanted {
            target,
            version,
            input,
            batch,
            ..
        } = &self.wanted;
        let fields = format!(
            "program {VERSION} {target:?} {} version {version} {input:?} batch {batch}",
            self.expected.grid
        );
        let targets: Vec<u8> = match &self.drawn {
            Reply::Ids(ids) => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
            Reply::Values(all) => all.iter().flat_map(|value| value.to_le_bytes()).collect(),
        };
        Fingerprint::of(&[fields.as_bytes(), about.as_bytes(), &targets])
    }

    fn refuse(&self, message: impl Into<String>) -> Error {
        self.at.0.error(self.at.1, message).into()
    }

    fn failed(&self, fault: Fault) -> Error {
        match fault {
            Fault::Interrupted => Error::Interrupted,
            Fault::Failed(message) => self.refuse(message),
        }
    }

    fn spawn(&self) -> Result<Child> {
        Child::start(&self.start).map_err(|error| {
            let program = self.start.words.first().map(|word| word.to_string_lossy());
            let program = program.unwrap_or_default();
            self.refuse(format!("{program} cannot be started: {error}"))
        })
    }

    /// Returns the targets of `images`, f32 `[count, 3, side, side]`.
    fn ask(
        &self,
        child: &mut Child,
        images: &[f32],
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Reply> {
        self.ask_each(child, self.requests(images), interrupted)
    }

    /// Returns the images of each request for `images`.
    fn requests<'a>(&self, images: &'a [f32]) -> Chunks<'a, f32> {
        images.chunks(self.wanted.batch * 3 * self.wanted.input.side.pow(2))
    }

    /// Returns the targets of the images of several requests, each of at most a batch.
    fn ask_each<'a>(
        &self,
        child: &mut Child,
        mut parts: impl Iterator<Item = &'a [f32]>,
        interrupted: &dyn Fn() -> bool,
    ) -> Result<Reply> {
        let (side, batch) = (self.wanted.input.side, self.wanted.batch);
        let (size, each) = (3 * side * side, self.expected.per_image());
        let (mut ids, mut values) = (Vec::new(), Vec::new());
        let mut sent = VecDeque::new();
        loop {
            // The child can read a request while it computes the one before.
            while sent.len() < AHEAD
                && let Some(part) = parts.next()
            {
                let frame = frame::images(part, batch, side);
                child.send(frame).map_err(|fault| self.failed(fault))?;
                sent.push_back(part.len() / size * each);
            }
            let Some(kept) = sent.pop_front() else { break };
            let reply = child.receive(interrupted).and_then(|reply| {
                let read = self.expected.read(&reply);
                read.map_err(|wrong| child.fail(&wrong))
            });
            match reply.map_err(|fault| self.failed(fault))? {
                Reply::Ids(mut part) => ids.extend(part.drain(..kept)),
                Reply::Values(mut part) => values.extend(part.drain(..kept)),
            }
        }
        Ok(match self.wanted.target {
            TargetSpec::Ids { .. } | TargetSpec::Codes { .. } => Reply::Ids(ids),
            TargetSpec::Values { .. } => Reply::Values(values),
        })
    }

    /// Checks that the targets of drawn images do not depend on the images beside them, on their positions, on the other request that is
    /// under way, or on chance.
    fn check_repeated(&self, child: &mut Child, interrupted: &dyn Fn() -> bool) -> Result<()> {
        let input = &self.wanted.input;
        let images = drawn::dim(input)?;
        let (batch, places) = drawn::beside(&images, &drawn::stark(input)?, self.wanted.batch);
        let alone = self.requests(&images);
        // Each is asked for while the other is under way, because replies may overtake each other.
        let parts = (alone.clone()).chain([&batch[..]]).chain(alone);
        let found = self.ask_each(child, parts, interrupted)?;
        let again = drawn::REPEATED + self.wanted.batch;
        let twice: Vec<_> = (places.iter())
            .flat_map(|(at, place)| [*at, again + at].map(|at| (at, drawn::REPEATED + place)))
            .collect();
        match drawn::differing(&found, &found, &twice, self.expected.per_image()) {
            None => Ok(()),
            Some(_) => Err(self.failed(child.fail(
                "gave the same image other targets at another place of another batch; compute each image alone, without sums over \
                 the batch, its largest or smallest value, and without random numbers (in torch: `model.eval()`), or write `batch: 1`; \
                 and reply in the order of the requests, of which two may be under way",
            ))),
        }
    }

    /// Starts another child, which must give the drawn images the targets of the first.
    fn another(&self) -> Result<Checked> {
        let mut child = self.spawn()?;
        let images = drawn::images(&self.wanted.input)?;
        let found = self.ask(&mut child, &images, &|| false)?;
        if found != self.drawn {
            return Err(self.failed(child.fail(
                "gave the same images other targets when it was started again; load fixed weights, or seed its random numbers",
            )));
        }
        Ok(child.into())
    }

    /// Checks a child that has computed for a while.
    fn check_due(&self, one: &mut Checked) -> Result<()> {
        if one.requests < one.due {
            return Ok(());
        }
        one.due = one.requests + one.requests.min(MOST_BETWEEN_CHECKS);
        self.check(one)
    }

    /// Asks a child that has computed for the targets of the drawn images again, in three requests.
    fn check(&self, one: &mut Checked) -> Result<()> {
        if one.requests == one.checked {
            return Ok(());
        }
        let images = drawn::images(&self.wanted.input)?;
        let [first, second] = drawn::pair(&images, self.wanted.batch);
        // Each is asked for while the other is under way.
        let requests = [&first, &second, &first];
        let parts = requests.iter().map(|(images, _)| &images[..]);
        let found = self.ask_each(&mut one.child, parts, &|| false)?;
        let order = requests.iter().flat_map(|(_, order)| order);
        let places: Vec<_> = order.copied().zip(0..).collect();
        match drawn::differing(&self.drawn, &found, &places, self.expected.per_image()) {
            None => {
                one.checked = one.requests;
                Ok(())
            }
            Some(_) => {
                self.changed.store(true, Ordering::Relaxed);
                Err(self.failed(one.child.fail(&format!(
                    "gave the same images other targets after {} requests than at its start; use no random numbers, keep \
                     nothing between calls (counters, running averages, codes that are learnt), and reply in the order of the requests",
                    one.requests
                ))))
            }
        }
    }
}

impl Tokenizer for Program {
    fn target(&self) -> TargetSpec {
        self.wanted.target
    }

    fn grid(&self) -> Grid {
        self.expected.grid
    }

    fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.clone()
    }

    fn tokenize(&self, view: &View<'_>) -> Result<Targets> {
        let images = view.values(&self.wanted.input)?;
        let ask = |one: &mut Checked| {
            let reply = self.ask(&mut one.child, &images, &|| false)?;
            one.requests += view.batch().div_ceil(self.wanted.batch);
            self.check_due(one)?;
            Ok(reply)
        };
        let reply = self.children.with(|| self.another(), ask)?;
        let (batch, patches) = (view.batch(), self.expected.grid.num_patches());
        Ok(match (reply, self.wanted.target) {
            (Reply::Values(values), TargetSpec::Values { dim }) => {
                let shape = (batch, patches, dim);
                Targets::Values(Tensor::from_vec(values, shape, &Device::Cpu)?)
            }
            (Reply::Values(_), _) => {
                return Err(self.refuse("found values, expected ids"));
            }
            (Reply::Ids(ids), target) => codes::targets(target, ids, (batch, patches))?,
        })
    }

    fn check_unchanged(&self) -> Result<()> {
        self.children.each_idle(|one| self.check(one))
    }

    fn has_changed(&self) -> bool {
        self.changed.load(Ordering::Relaxed)
    }

    fn facts(&self) -> Facts {
        Facts {
            saw_labels: self.wanted.saw_labels,
            engine: Some(self.kind.to_owned()),
            ..Facts::default()
        }
    }
}
