//! An open graph: splits images into batches and checks the output.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::check::{Checked, Element};
use super::engine::{Engine, Output, Session, Source};
use crate::{Error, Result};

/// Size of the calls of a graph. Neither depends on the program's thread count, so results do not either.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// Maximum images per call.
    pub batch: usize,
    /// Threads per call.
    pub threads: usize,
}

/// Contents of a graph's file and of its external weight files.
pub struct Files {
    /// The graph.
    pub graph: Vec<u8>,
    /// External weight files: path as written in the graph, and content.
    pub external: Vec<(String, Vec<u8>)>,
}

impl Files {
    /// Returns the graph, then alternately names and contents of the external files.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let external = self.external.iter();
        let external = external.flat_map(|(name, bytes)| [name.as_bytes(), bytes.as_slice()]);
        std::iter::once(self.graph.as_slice()).chain(external)
    }
}

/// What a graph returns for an image of noise.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Probed {
    /// The output's shape for one image.
    pub shape: Vec<usize>,
    /// Whether it holds integers.
    pub ids: bool,
}

/// An open graph with one image input.
pub struct Model {
    /// The engine's name.
    pub engine: String,
    /// Size of its calls.
    pub calls: Calls,
    file: String,
    /// The graph's fixed batch size.
    fixed: Option<usize>,
    /// Whether calls with fewer images than the batch are padded, so that an image's output bits are the same in every call.
    pads: bool,
    element: Element,
    outputs: Vec<String>,
    session: Box<dyn Session>,
}

/// Open graphs by content, output, calls and engine. Rows that share an encoder share its sessions.
static OPEN: Mutex<Option<HashMap<String, Arc<Model>>>> = Mutex::new(None);

impl Model {
    /// Opens the graph of `files`; errors name it `file`.
    ///
    /// # Errors
    /// [`Error::File`] if the engine cannot open it.
    pub fn open(
        file: &Path,
        files: Files,
        checked: &Checked,
        engine: &dyn Engine,
        calls: Calls,
    ) -> Result<Arc<Self>> {
        let mut content = blake3::Hasher::new();
        for part in files.parts() {
            content.update(&part.len().to_le_bytes()).update(part);
        }
        let content = content.finalize().to_hex();
        let key = format!("{content} {} {calls:?} {}", checked.output, engine.name());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.get_or_insert_with(HashMap::new);
        if let Some(model) = open.get(&key) {
            return Ok(Arc::clone(model));
        }
        let model = Arc::new(Self::read(file, files, checked, engine, calls)?);
        open.insert(key, Arc::clone(&model));
        Ok(model)
    }

    fn read(
        file: &Path,
        files: Files,
        checked: &Checked,
        engine: &dyn Engine,
        calls: Calls,
    ) -> Result<Self> {
        let source = Source {
            bytes: files.graph,
            external: files.external,
            input: checked.input.clone(),
            output: checked.output.clone(),
            element: checked.element,
        };
        let session = engine.open(source, calls.threads);
        let session = session.map_err(|message| Error::File {
            path: file.to_owned(),
            message: format!("is not a graph that {} can run: {message}", engine.name()),
        })?;
        Ok(Self {
            engine: engine.name().to_owned(),
            calls,
            file: file.display().to_string(),
            fixed: checked.batch,
            pads: engine.pads(),
            element: checked.element,
            outputs: checked.outputs.clone(),
            session,
        })
    }

    /// Runs `images` `[batch, 3, side, side]`. Returns the output's shape, whose first dimension is `batch`, and its values.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn run(&self, images: &Tensor) -> Result<(Vec<usize>, Output)> {
        let count = images.dim(0)?;
        let mut all: Option<(Vec<usize>, Output)> = None;
        for start in (0..count).step_by(self.calls.batch) {
            let part = images.narrow(0, start, self.calls.batch.min(count - start))?;
            let part = self.call(&part, self.padded(part.dim(0)?))?;
            all = Some(match all {
                None => part,
                Some(before) => self.joined(before, part)?,
            });
        }
        all.ok_or_else(|| self.failed("the batch has no images"))
    }

    /// Returns the images of a call of `count`, if it is padded. One image alone has other kernels, and other shapes in some graphs.
    fn padded(&self, count: usize) -> Option<usize> {
        let whole = self.fixed.or(self.pads.then_some(self.calls.batch));
        whole.or((count == 1 && self.calls.batch > 1).then_some(2))
    }

    fn joined(
        &self,
        (mut shape, before): (Vec<usize>, Output),
        (more, part): (Vec<usize>, Output),
    ) -> Result<(Vec<usize>, Output)> {
        if shape[1..] != more[1..] {
            return Err(self.failed(&format!(
                "the output has the shape {more:?} after {shape:?}, expected the same for every image"
            )));
        }
        shape[0] += more[0];
        let output = match (before, part) {
            (Output::Ids(a), Output::Ids(b)) => Output::Ids([a, b].concat()),
            (Output::Values(a), Output::Values(b)) => Output::Values([a, b].concat()),
            _ => return Err(self.failed("the output's type changes from batch to batch")),
        };
        Ok((shape, output))
    }

    /// Runs one call, padded with zero images to `padded` images. The output of the padding is cut off.
    fn call(&self, images: &Tensor, padded: Option<usize>) -> Result<(Vec<usize>, Output)> {
        let (count, channels, rows, cols) = images.dims4()?;
        let mut pixels: Vec<f32> = images.flatten_all()?.to_vec1()?;
        let batch = padded.unwrap_or(count);
        pixels.resize(batch * channels * rows * cols, 0.0);
        let result = self.session.run([batch, channels, rows, cols], &pixels);
        let (mut shape, output) = result.map_err(|message| self.failed(&message))?;
        if shape.first() != Some(&batch) {
            let others = match self.outputs.len() {
                1 => String::new(),
                _ => format!("; its outputs are {:?}: set `output` to one", self.outputs),
            };
            return Err(self.failed(&format!(
                "for {batch} images the output has the shape {shape:?}, expected {batch} as its first dimension: export it with a \
                 batch dimension{others}"
            )));
        }
        shape[0] = count;
        let keep: usize = shape.iter().product();
        match (output, self.element) {
            (Output::Ids(mut ids), Element::Ids(_)) => {
                ids.truncate(keep);
                Ok((shape, Output::Ids(ids)))
            }
            (Output::Values(mut values), Element::Values) => {
                values.truncate(keep);
                Ok((shape, Output::Values(values)))
            }
            _ => Err(self.failed("the output does not have the type that the graph declares")),
        }
    }

    /// Runs an image of noise. If a batch may have several images, the image runs in whole batches
    /// at the first, the middle and the last place, each with two different sets of neighbours, because its targets may depend neither
    /// on them nor on the place. If a call may have fewer images, it runs in one with fewer, too.
    ///
    /// # Errors
    /// [`Error::Engine`] if the graph does not run or the output depends on the neighbours, the place or the number of images.
    pub fn probe(&self, side: usize) -> Result<Probed> {
        let batch = self.fixed.unwrap_or(self.calls.batch);
        let (middle, last) = (batch / 2, batch - 1);
        let all = self.probed(side, batch, FLAT, &[0, middle, last])?;
        let (shape, output) = &all[0];
        let probed = Probed {
            shape: shape.clone(),
            ids: matches!(output, Output::Ids(_)),
        };
        if last == 0 {
            return Ok(probed);
        }
        let first = self.probed(side, batch, BRIGHT, &[0])?;
        let others = self.probed(side, batch, DARK, &[middle, last])?;
        let mut pairs = all.iter().zip(first.iter().chain(&others));
        if !pairs.all(|(a, b)| same(a, b)) {
            return Err(self.failed(
                "an image's output depends on the images beside it; export the graph without sums over its batch, or write \
                 `batch: 1` to run every image alone",
            ));
        }
        if !all.iter().all(|found| same(found, &all[0])) {
            return Err(self.failed(
                "an image's output depends on its place in the batch; export the graph without constants of the size of its batch, \
                 or with a batch of 1",
            ));
        }
        // The last call of a split has fewer images, but at least two.
        let varies = self.fixed.is_none() && !self.pads && last > 1;
        for fewer in [last, 2].into_iter().filter(|_| varies) {
            if !same(&self.probed(side, fewer, FLAT, &[0])?[0], &all[0]) {
                return Err(self.failed(
                    "an image's output depends on the number of images in a call; export the graph without the size of its batch in its \
                     values, or write `batch: 1`",
                ));
            }
        }
        Ok(probed)
    }

    /// Runs an image of noise at each of `places` of one batch, beside `others`. Returns the outputs of the places.
    fn probed(
        &self,
        side: usize,
        batch: usize,
        others: Noise,
        places: &[usize],
    ) -> Result<Vec<(Vec<usize>, Output)>> {
        let size = 3 * side * side;
        let (image, mut pixels) = (noise(IMAGE, size), noise(others, size * batch));
        for place in places {
            pixels[size * place..size * (place + 1)].copy_from_slice(&image);
        }
        let images = Tensor::from_vec(pixels, (batch, 3, side, side), &Device::Cpu)?;
        let (mut shape, output) = self.call(&images, None).map_err(|error| match error {
            Error::Engine { engine, message } if batch > 1 => Error::Engine {
                engine,
                message: format!(
                    "{message} (if the graph accepts only one image at a time, write `batch: 1`)"
                ),
            },
            other => other,
        })?;
        shape[0] = 1;
        let size: usize = shape.iter().product();
        let own = |place: &usize| {
            let own = size * place..size * (place + 1);
            let output = match &output {
                Output::Ids(ids) => Output::Ids(ids[own].to_vec()),
                Output::Values(values) => Output::Values(values[own].to_vec()),
            };
            (shape.clone(), output)
        };
        Ok(places.iter().map(own).collect())
    }

    fn failed(&self, message: &str) -> Error {
        Error::Engine {
            engine: self.engine.clone(),
            message: format!("{}: {message}", self.file),
        }
    }
}

/// Returns whether both outputs are bitwise equal.
fn same(a: &(Vec<usize>, Output), b: &(Vec<usize>, Output)) -> bool {
    let values = match (&a.1, &b.1) {
        (Output::Ids(a), Output::Ids(b)) => a == b,
        (Output::Values(a), Output::Values(b)) => {
            let bits = a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits());
            bits && a.len() == b.len()
        }
        _ => false,
    };
    values && a.0 == b.0
}

/// Noise of pixels: its mean, and its largest distance from the mean.
type Noise = (f32, f32);

/// An image whose outputs are compared.
const IMAGE: Noise = (0.0, 1.0);
/// The images beside it. Their means differ, because many a dependence is on a mean over the batch.
const FLAT: Noise = (0.0, 0.1);
const BRIGHT: Noise = (8.0, 8.0);
const DARK: Noise = (-8.0, 3.0);

/// Returns pseudo-random numbers around `mean`, the same on every call.
fn noise((mean, distance): Noise, count: usize) -> Vec<f32> {
    // The upper bits of the linear congruential generator of Numerical Recipes.
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(((*state >> 8) as f32 / (1 << 23) as f32 - 1.0) * distance + mean)
    };
    let numbers = std::iter::repeat_n((), count);
    numbers.scan(1, |state, ()| next(state)).collect()
}
