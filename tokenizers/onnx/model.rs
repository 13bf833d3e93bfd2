//! An open graph: sessions of a fixed batch, one per thread that asks at the same time.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::Tensor;
use ort::session::Session;
use ort::value::{TensorElementType, TensorRef, ValueType};

use super::engine::{Engine, Opener};
use crate::{Error, Result};

/// What a graph gives for a batch of images.
#[derive(Clone, Debug)]
pub enum Output {
    /// Integers: ids.
    Ids(Vec<i64>),
    /// Numbers: features.
    Values(Vec<f32>),
}

/// How a graph is called: both are constants, so that no value depends on its neighbours or on the program's threads.
#[derive(Clone, Copy, Debug)]
pub struct Calls {
    /// Images per call; the rest is padded.
    pub batch: usize,
    /// Threads of a call.
    pub threads: usize,
}

/// An open graph with one image input.
pub struct Model {
    /// The engine's name.
    pub engine: String,
    /// Side of the input where the graph fixes it.
    pub side: Option<usize>,
    file: String,
    bytes: Vec<u8>,
    /// As asked, or the batch that the graph fixes.
    pub calls: Calls,
    /// The engine, for more sessions.
    opener: Opener,
    input: String,
    output: String,
    sessions: Mutex<Sessions>,
    /// Told when a session is free.
    freed: Condvar,
}

/// The sessions of a graph.
#[derive(Default)]
struct Sessions {
    idle: Vec<Session>,
    running: usize,
}

/// Graphs that are open, by content, output and calls: rows that share an encoder share its sessions.
static OPEN: Mutex<Option<HashMap<String, Arc<Model>>>> = Mutex::new(None);

impl Model {
    /// Opens the graph in `bytes`, which `file` names in errors; `output` is the first where it isn't given.
    ///
    /// # Errors
    /// [`Error::File`] when it is no graph with one f32 image input and the output.
    pub fn open(
        file: &Path,
        bytes: &[u8],
        engine: &Engine,
        output: Option<&str>,
        calls: Calls,
    ) -> Result<Arc<Self>> {
        let content = blake3::hash(bytes).to_hex();
        let key = format!("{content} {output:?} {calls:?} {}", engine.name);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.get_or_insert_with(HashMap::new);
        if let Some(model) = open.get(&key) {
            return Ok(Arc::clone(model));
        }
        let model = Arc::new(Self::read(file, bytes, engine, output, calls)?);
        open.insert(key, Arc::clone(&model));
        Ok(model)
    }

    fn read(
        file: &Path,
        bytes: &[u8],
        engine: &Engine,
        output: Option<&str>,
        calls: Calls,
    ) -> Result<Self> {
        let refuse = |message: String| Error::File {
            path: file.to_owned(),
            message,
        };
        let opener = engine.opener();
        let session = opener.session(bytes, calls.threads).map_err(|e| {
            refuse(format!(
                "is no ONNX graph that {} reads: {}",
                engine.name,
                first_line(&e)
            ))
        })?;
        let [input] = session.inputs() else {
            let names: Vec<&str> = session.inputs().iter().map(|i| i.name()).collect();
            return Err(refuse(format!(
                "has the inputs {names:?}, expected one: images [batch, 3, side, side]"
            )));
        };
        let side = image_side(input.dtype()).map_err(refuse)?;
        let calls = Calls {
            batch: fixed_batch(input.dtype()).unwrap_or(calls.batch),
            ..calls
        };
        let names: Vec<&str> = session.outputs().iter().map(|o| o.name()).collect();
        let output = match output {
            Some(name) if names.contains(&name) => name.to_owned(),
            Some(name) => {
                return Err(refuse(format!(
                    "has no output `{name}`, expected one of {names:?}"
                )));
            }
            None => names
                .first()
                .map(|name| (*name).to_owned())
                .ok_or_else(|| refuse("has no output".into()))?,
        };
        Ok(Self {
            engine: engine.name.clone(),
            side,
            file: file.display().to_string(),
            bytes: bytes.to_vec(),
            calls,
            opener,
            input: input.name().to_owned(),
            output,
            sessions: Mutex::new(Sessions {
                idle: vec![session],
                running: 0,
            }),
            freed: Condvar::new(),
        })
    }

    /// Runs `images` `[batch, 3, side, side]`; the output's shape, its first dimension `batch`, and its values.
    ///
    /// # Errors
    /// [`Error::Engine`].
    pub fn run(&self, images: &Tensor) -> Result<(Vec<usize>, Output)> {
        let batch = images.dim(0)?;
        let mut all: Option<(Vec<usize>, Output)> = None;
        for start in (0..batch).step_by(self.calls.batch) {
            let count = self.calls.batch.min(batch - start);
            let part = self.run_padded(&images.narrow(0, start, count)?)?;
            all = Some(match all {
                None => part,
                Some(before) => self.joined(before, part)?,
            });
        }
        all.ok_or_else(|| self.failed("a batch without images"))
    }

    fn joined(
        &self,
        (mut shape, before): (Vec<usize>, Output),
        (more, part): (Vec<usize>, Output),
    ) -> Result<(Vec<usize>, Output)> {
        shape[0] += more[0];
        let output = match (before, part) {
            (Output::Ids(a), Output::Ids(b)) => Output::Ids([a, b].concat()),
            (Output::Values(a), Output::Values(b)) => Output::Values([a, b].concat()),
            _ => return Err(self.failed("the output's type changes from batch to batch")),
        };
        Ok((shape, output))
    }

    /// At most a call's images, padded with zeros; the padding's output is cut off.
    fn run_padded(&self, images: &Tensor) -> Result<(Vec<usize>, Output)> {
        let (count, channels, rows, cols) = images.dims4()?;
        let mut pixels: Vec<f32> = images.flatten_all()?.to_vec1()?;
        let batch = self.calls.batch;
        pixels.resize(batch * channels * rows * cols, 0.0);
        let taken = self.take();
        let (session, result) = match taken {
            Ok(mut session) => {
                let result = self.call(&mut session, ([batch, channels, rows, cols], &pixels));
                (Some(session), result)
            }
            Err(error) => (None, Err(error)),
        };
        self.put(session);
        let (mut shape, output) = result?;
        if shape.first() != Some(&batch) {
            return Err(self.failed(&format!(
                "expected the output's first dimension to be the batch ({batch}), found {shape:?}"
            )));
        }
        shape[0] = count;
        let keep: usize = shape.iter().product();
        let output = match output {
            Output::Ids(mut ids) => {
                ids.truncate(keep);
                Output::Ids(ids)
            }
            Output::Values(mut values) => {
                values.truncate(keep);
                Output::Values(values)
            }
        };
        Ok((shape, output))
    }

    fn call(
        &self,
        session: &mut Session,
        (shape, pixels): ([usize; 4], &[f32]),
    ) -> Result<(Vec<usize>, Output)> {
        let failed = |e: ort::Error| self.failed(&first_line(&e));
        let input = TensorRef::from_array_view((shape, pixels)).map_err(failed)?;
        let outputs = session
            .run(ort::inputs![self.input.as_str() => input])
            .map_err(failed)?;
        let value = outputs
            .get(&self.output)
            .ok_or_else(|| self.failed("the output is absent"))?;
        let ValueType::Tensor { ty, .. } = value.dtype() else {
            return Err(self.failed("the output is no tensor"));
        };
        let dims = |shape: &[i64]| shape.iter().map(|d| *d as usize).collect::<Vec<_>>();
        match ty {
            TensorElementType::Float32 => {
                let (shape, values) = value.try_extract_tensor::<f32>().map_err(failed)?;
                Ok((dims(shape), Output::Values(values.to_vec())))
            }
            TensorElementType::Int64 => {
                let (shape, ids) = value.try_extract_tensor::<i64>().map_err(failed)?;
                Ok((dims(shape), Output::Ids(ids.to_vec())))
            }
            TensorElementType::Int32 => {
                let (shape, ids) = value.try_extract_tensor::<i32>().map_err(failed)?;
                Ok((
                    dims(shape),
                    Output::Ids(ids.iter().map(|id| i64::from(*id)).collect()),
                ))
            }
            other => Err(self.failed(&format!(
                "the output is {other:?}, expected f32, i64 or i32"
            ))),
        }
    }

    /// A session nobody uses, or a new one. Sessions of one thread never wait for each other. Sessions of several are as many as
    /// the pool's threads have room for; whoever runs one does nothing else meanwhile, so that waiting ends.
    fn take(&self) -> Result<Session> {
        let room = match self.calls.threads {
            1 => usize::MAX,
            threads => (rayon::current_num_threads() / threads).max(1),
        };
        let room = room.min(self.opener.most_sessions());
        let sessions = self.locked();
        let waited = self.freed.wait_while(sessions, |s| s.running >= room);
        let mut sessions = waited.unwrap_or_else(PoisonError::into_inner);
        sessions.running += 1;
        let idle = sessions.idle.pop();
        drop(sessions);
        match idle {
            Some(session) => Ok(session),
            None => self
                .opener
                .session(&self.bytes, self.calls.threads)
                .map_err(|e| self.failed(&first_line(&e))),
        }
    }

    /// The end of a [`take`](Self::take), whatever it gave.
    fn put(&self, session: Option<Session>) {
        let mut sessions = self.locked();
        sessions.running -= 1;
        sessions.idle.extend(session);
        drop(sessions);
        self.freed.notify_one();
    }

    fn locked(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed(&self, message: &str) -> Error {
        Error::Engine {
            engine: self.engine.clone(),
            message: format!("{}: {message}", self.file),
        }
    }
}

/// Images per call that an image input allows, where it is fixed.
fn fixed_batch(dtype: &ValueType) -> Option<usize> {
    let batch = *dtype.tensor_shape()?.first()?;
    usize::try_from(batch).ok().filter(|batch| *batch > 0)
}

/// Side of an image input `[batch, 3, side, side]`, where it is fixed.
fn image_side(dtype: &ValueType) -> Result<Option<usize>, String> {
    let ValueType::Tensor {
        ty: TensorElementType::Float32,
        shape,
        ..
    } = dtype
    else {
        return Err(format!(
            "has an input of {dtype}, expected f32 images [batch, 3, side, side]"
        ));
    };
    match shape[..] {
        [_, 3 | -1, rows, cols] if rows == cols => {
            Ok(usize::try_from(rows).ok().filter(|side| *side > 0))
        }
        _ => Err(format!(
            "has an input of shape {:?}, expected [batch, 3, side, side]",
            &shape[..]
        )),
    }
}

fn first_line(error: &impl ToString) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
