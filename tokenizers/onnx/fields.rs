//! Opens the graph of an ONNX row: reads its files and manifest, checks it, and starts a session.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;
use tessera_models::{files, foreign};

use super::check::Checked;
use super::embedded;
use super::engines::chosen;
use super::guard::{self, Trial};
use super::hub::{self, Remote};
use super::input::{Context, MOST_IMAGES, Request, Scale};
use super::manifest::{Manifest, agreed};
use super::model::{Calls, Files, Model, Probed};
use crate::config::Config;
use crate::contract::{Fingerprint, Grid};
use crate::view::{InputSpec, MOST_PIXELS};
use crate::{Error, Result};

/// An open graph with its input spec.
pub struct Opened {
    /// The graph.
    pub model: Arc<Model>,
    /// What it returned for an image.
    pub probed: Probed,
    /// Size and scaling of its input.
    pub input: InputSpec,
    /// Depends on the files, the input spec, the size of calls and the engine.
    pub fingerprint: Fingerprint,
    /// The manifest, if there is one.
    pub manifest: Option<Manifest>,
    /// Whether training used labels. A row can set this for an embedded model but not clear it.
    pub saw_labels: bool,
}

/// Opens the graph of `with` and checks the fields of the row against its manifest.
///
/// # Errors
/// [`Error::Missing`] if the file does not exist, [`Error::NotFetched`] if it must be downloaded first, [`Error::File`] if it is
/// not an ONNX graph with one image input or does not match its manifest, [`Error::Config`] if a field contradicts either.
pub fn open(with: &Config, request: &Request<'_>, cx: &Context<'_>) -> Result<Opened> {
    let read = read(with, request.model, cx)?.noted(request, cx);
    let known = read.manifest.as_ref();
    if let (Some(manifest), Some(kind)) = (known, request.kind) {
        manifest.check_kind(with, kind)?;
    }
    let refuse = |message| read.refused(message);
    let checked = Checked::of(&read.graph, request.output).map_err(refuse)?;
    let side = side(with, request, checked.side, known, cx)?;
    let spec = read.scale(with, request)?.spec(side);
    let embedded_saw = read.embedded.is_some_and(|e| e.saw_labels);
    if embedded_saw && request.saw_labels == Some(false) {
        let message = format!(
            "found false, but the training of {} used labels; leave `saw_labels` out",
            request.model
        );
        return Err(with.error("saw_labels", message).into());
    }
    let saw_labels = agreed(with, known, "saw_labels", request.saw_labels, |m| {
        m.saw_labels
    })?;
    let chosen = chosen(cx.on_device)?;
    if let Some(note) = chosen.note_once() {
        (cx.progress)(0, 0, note);
    }
    let engine = chosen.engine();
    let calls = Calls {
        batch: batch(with, request, &checked, engine.batch())?,
        threads: request.threads.map_or(1, NonZeroUsize::get),
    };
    let about = format!(
        "onnx 3 {spec:?} batch {} threads {} output {:?} engine {}{}",
        calls.batch,
        calls.threads,
        request.output,
        engine.name(),
        engine.version(&read.graph, &checked)
    );
    let external = read.external(&checked, with, cx)?;
    let files = Files {
        graph: read.graph,
        external,
    };
    let parts = std::iter::once(about.as_bytes()).chain(files.parts());
    let fingerprint = Fingerprint::of(&parts.collect::<Vec<_>>());
    // An embedded model is as trusted as the program.
    let tried = match engine.guarded() && read.embedded.is_none() {
        true => {
            let trial = Trial {
                file: &read.name,
                files: &files,
                checked: &checked,
                calls,
                side,
                fingerprint: &fingerprint,
            };
            guard::tried(&trial, cx.interrupted)?
        }
        false => None,
    };
    let model = Model::open(&read.name, files, &checked, engine, calls)?;
    Ok(Opened {
        probed: tried.map_or_else(|| model.probe(side), Ok)?,
        model,
        input: spec,
        fingerprint,
        saw_labels: saw_labels.unwrap_or_default() || embedded_saw,
        manifest: read.manifest,
    })
}

/// Returns the images per call: the graph's fixed batch, else 1 if the graph quantises dynamically, else the field, else `usual`.
fn batch(with: &Config, request: &Request<'_>, checked: &Checked, usual: usize) -> Result<usize> {
    let only = checked.batch.or(checked.alone.then_some(1));
    let wanted = request.batch.map(NonZeroUsize::get);
    match (only, wanted) {
        (Some(only), Some(wanted)) if only != wanted => {
            let reason = match checked.batch {
                Some(_) => format!("the graph takes {only} images at a time"),
                None => "the graph quantises dynamically over all images of a call, so images must run one by one".into(),
            };
            let message = format!("found {wanted}, but {reason}; leave `batch` out");
            Err(with.error("batch", message).into())
        }
        _ => match only.or(wanted).unwrap_or(usual) {
            batch @ ..=MOST_IMAGES => Ok(batch),
            batch => {
                let message =
                    format!("found {batch} images per call, expected at most {MOST_IMAGES}");
                Err(with.error("batch", message).into())
            }
        },
    }
}

/// Returns the side of the graph's input from the row, the manifest or the graph, else [`Context::image_size`].
fn side(
    with: &Config,
    request: &Request<'_>,
    fixed: Option<usize>,
    manifest: Option<&Manifest>,
    cx: &Context<'_>,
) -> Result<usize> {
    if let (Some(manifest), Some(fixed)) = (manifest, fixed) {
        manifest.check("input.side", manifest.input.side, fixed)?;
    }
    let wanted = agreed(with, manifest, "input.side", request.input.side, |m| {
        m.input.side
    })?;
    if let (Some(wanted), Some(fixed)) = (wanted, fixed)
        && wanted != fixed
    {
        let message = format!(
            "found {wanted}, but the graph's input is {fixed} pixels wide; leave `side` out"
        );
        return Err(with.error("input.side", message).into());
    }
    let side = wanted.or(fixed).unwrap_or(cx.image_size);
    if !(1..=MOST_PIXELS).contains(&side) {
        let message = format!("found {side}, expected at least 1 and at most {MOST_PIXELS} pixels");
        return Err(with.error("input.side", message).into());
    }
    match cx.finest.filter(|finest| *finest < side) {
        None => Ok(side),
        Some(finest) => {
            let message = format!(
                "the graph's input is {side} pixels wide, and with `fast_decode` images are decoded for {finest} pixels, the largest side \
                 that the suite names; write `input: {{side: {side}}}`, or set `fast_decode: false`"
            );
            Err(with.error("input.side", message).into())
        }
    }
}

/// A graph's file and its origin.
struct Read {
    /// Path, or the embedded name.
    name: PathBuf,
    graph: Vec<u8>,
    manifest: Option<Manifest>,
    /// Set for an embedded model.
    embedded: Option<&'static embedded::Embedded>,
    /// Set for a model on the hub.
    remote: Option<Remote>,
}

fn read(with: &Config, model: &str, cx: &Context<'_>) -> Result<Read> {
    if let Some(name) = model.strip_prefix("embedded:") {
        let found = embedded::model(name).map_err(|message| with.error("model", message))?;
        return Ok(Read {
            name: model.into(),
            graph: found.bytes.to_vec(),
            manifest: None,
            embedded: Some(found),
            remote: None,
        });
    }
    let remote = hub::named(model, with.base_dir());
    let remote = remote.map_err(|message| with.error("model", message))?;
    let path = match &remote {
        Some(remote) => remote.path(with, cx)?,
        None => with.resolve_path(model),
    };
    match files::read(&path) {
        Ok(graph) => Ok(Read {
            manifest: Manifest::beside(&path, &graph)?,
            name: path,
            graph,
            embedded: None,
            remote,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::Missing {
            at: with.error("model", format!("{} does not exist", path.display())),
            remedy: "set TESSERA_MODELS to the folder that has it, or export it (tokenizers/export/README.md)".into(),
        }),
        Err(error) => Err(Error::File { path, message: error.to_string() }),
    }
}

impl Read {
    fn refused(&self, message: String) -> Error {
        Error::File {
            path: self.name.clone(),
            message,
        }
    }

    /// Notes, once for each model, that a row without `saw_labels` has a graph of the hub without a manifest.
    fn noted(self, request: &Request<'_>, cx: &Context<'_>) -> Self {
        static NOTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        let is_open = request.saw_labels.is_none() && self.manifest.is_none();
        if let Some(remote) = self.remote.as_ref().filter(|_| is_open) {
            let note = remote.without_manifest();
            let mut noted = NOTED.lock().unwrap_or_else(PoisonError::into_inner);
            if noted.insert(note.clone()) {
                (cx.progress)(0, 0, &note);
            }
        }
        self
    }

    /// Returns the scaling from the row, the manifest or the embedded model. Without a row (`kind` is `None`) the scaling does not matter.
    fn scale(&self, with: &Config, request: &Request<'_>) -> Result<Scale> {
        let written = request.input.scale;
        if let Some(scale) = written {
            let refuse = |message| with.error("input.scale", message);
            scale.check().map_err(refuse)?;
        }
        if let Some(known) = self.embedded.map(|embedded| embedded.scale) {
            return match written.filter(|written| *written != known) {
                None => Ok(known),
                Some(written) => {
                    let message = format!(
                        "found {}, but {} was trained with {}; leave `scale` out",
                        json!(written),
                        request.model,
                        json!(known)
                    );
                    Err(with.error("input.scale", message).into())
                }
            };
        }
        let known = self.manifest.as_ref();
        let scale = agreed(with, known, "input.scale", written, |m| m.input.scale)?;
        scale.or(request.kind.is_none().then_some(Scale::ZeroOne)).ok_or_else(|| {
            let message = "missing, and no manifest of the model sets it; expected the scaling of pixels in its training: imagenet, \
                           zero-one, minus-one-one, dvae, or {custom: {mean: [r, g, b], std: [r, g, b]}}";
            with.error("input.scale", message).into()
        })
    }

    /// Reads the external weight files. Returns path as written in the graph, and content.
    fn external(
        &self,
        checked: &Checked,
        with: &Config,
        cx: &Context<'_>,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let folder = self.name.parent().unwrap_or(Path::new(""));
        let files = checked.external.iter().map(|(location, least)| {
            let path = match &self.remote {
                Some(remote) => remote.beside(location).path(with, cx)?,
                None => folder.join(location),
            };
            let bytes = files::read(&path).map_err(|error| {
                self.refused(format!(
                    "reads weights from {}: {error}; put that file beside it, or save the graph with embedded weights",
                    path.display()
                ))
            })?;
            // The graph need not say how long the file is.
            if (bytes.len() as u64) < *least || foreign::is_pointer(&bytes) {
                let found = foreign::told_of_numbers(&bytes).map_or_else(
                    || format!("has {} bytes, expected {least} or more; fetch or export both again", bytes.len()),
                    str::to_owned,
                );
                let path = path.display();
                return Err(self.refused(format!("reads weights from {path}, which {found}")));
            }
            Ok((location.clone(), bytes))
        });
        let files: Vec<_> = files.collect::<Result<_>>()?;
        // A bias of zeros may have a file of its own.
        let mut bytes = files.iter().flat_map(|(_, bytes)| bytes);
        if !files.is_empty() && bytes.all(|byte| *byte == 0) {
            let message = format!(
                "reads weights from {:?}, which holds only zero bytes, its content is lost; write or copy it again",
                files[0].0
            );
            return Err(self.refused(message));
        }
        Ok(files)
    }
}

/// Checks that a graph's output grid equals the grids of the suite and of the manifest. `remedy` replaces the default one.
///
/// # Errors
/// [`Error::Config`] on `model`, [`Error::File`] on the manifest.
pub fn check_grid(
    with: &Config,
    manifest: Option<&Manifest>,
    found: &[usize],
    grid: Grid,
    remedy: Option<&str>,
) -> Result<()> {
    if let Some(manifest) = manifest {
        manifest.check_grid(found)?;
    }
    let fits = match found {
        [rows, cols] => (*rows, *cols) == (grid.rows, grid.cols),
        [patches] => *patches == grid.num_patches(),
        _ => false,
    };
    if fits {
        return Ok(());
    }
    let remedy = remedy.unwrap_or("change patch_size or `input: {side: ...}`");
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    let found = match &found[..] {
        [] => "no".into(),
        found => found.join("x"),
    };
    let message = format!(
        "the graph's output has {found} patches per image, expected {grid} ({} patches) by image_size and patch_size; {remedy}",
        grid.num_patches()
    );
    Err(with.error("model", message).into())
}
