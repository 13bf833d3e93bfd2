//! Opens the graph of an ONNX row: its files, its manifest, the checks, the engine.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;

use super::check::Checked;
use super::embedded;
use super::engine::Output;
use super::engines::chosen;
use super::hub::{self, Remote};
use super::input::{Asked, Place, Scale};
use super::manifest::{Manifest, agreed};
use super::model::{Calls, Files, Model};
use crate::config::Config;
use crate::contract::{Fingerprint, Grid};
use crate::view::InputSpec;
use crate::{Error, Result};

/// A graph that is open, with the pixels it wants.
pub struct Opened {
    /// The graph.
    pub model: Arc<Model>,
    /// Its pixels.
    pub input: InputSpec,
    /// Changes with the file, the pixels and the engine.
    pub fingerprint: Fingerprint,
    /// What is known of it.
    pub manifest: Option<Manifest>,
    /// Whether its training used labels: a suite can say that of an embedded model, not take it away.
    pub saw_labels: bool,
}

impl Opened {
    /// What the graph gives for one image: its output's shape, and its numbers.
    ///
    /// # Errors
    /// When it does not run, or an image's output depends on its neighbours.
    pub fn tried(&self) -> Result<(Vec<usize>, Output)> {
        self.model.tried(self.input.side)
    }
}

/// Opens the graph that `with` asks for, and holds what is asked against its manifest.
///
/// # Errors
/// [`Error::Missing`] when the file isn't there, [`Error::NotFetched`] when it would have to be downloaded first, [`Error::File`]
/// when it is no ONNX graph with one image input or not its manifest's, [`Error::Config`] for a field that contradicts either.
pub fn open(with: &Config, asked: &Asked<'_>, place: &Place<'_>) -> Result<Opened> {
    let read = read(with, asked.model, place)?;
    let known = read.manifest.as_ref();
    if let (Some(manifest), Some(kind)) = (known, asked.kind) {
        manifest.check_kind(with, kind)?;
    }
    let refuse = |message| read.refused(message);
    let checked = Checked::of(&read.graph, asked.output).map_err(refuse)?;
    let side = side(with, asked, checked.side, known, place)?;
    let spec = read.scale(with, asked)?.spec(side);
    let saw_labels = agreed(with, known, "saw_labels", asked.saw_labels, |m| {
        m.saw_labels
    })?;
    let chosen = chosen(place.on_device)?;
    if let Some(note) = chosen.note_once() {
        (place.progress)(0, 0, note);
    }
    let engine = chosen.engine();
    let calls = Calls {
        batch: batch(with, asked, &checked, engine.batch())?,
        threads: asked.threads.map_or(1, NonZeroUsize::get),
    };
    let about = format!(
        "onnx 3 {spec:?} batch {} threads {} output {:?} engine {}",
        calls.batch,
        calls.threads,
        asked.output,
        engine.name()
    );
    let external = read.external(&checked, with, place)?;
    let files = Files {
        graph: read.graph,
        external,
    };
    let parts = std::iter::once(about.as_bytes()).chain(files.parts());
    let fingerprint = Fingerprint::of(&parts.collect::<Vec<_>>());
    Ok(Opened {
        model: Model::open(&read.name, files, &checked, engine, calls)?,
        input: spec,
        fingerprint,
        saw_labels: saw_labels.unwrap_or_default() || read.embedded.is_some_and(|e| e.saw_labels),
        manifest: read.manifest,
    })
}

/// Images per call: what the graph fixes, else one where its scales depend on the batch, else what is asked, else the engine's.
fn batch(with: &Config, asked: &Asked<'_>, checked: &Checked, usual: usize) -> Result<usize> {
    let only = checked.batch.or(checked.alone.then_some(1));
    let asked = asked.batch.map(NonZeroUsize::get);
    match (only, asked) {
        (Some(only), Some(asked)) if only != asked => {
            let reason = match checked.batch {
                Some(_) => format!("the graph takes {only} images at a time"),
                None => "the graph quantises dynamically, over all images of a call, so that each goes alone".into(),
            };
            let message = format!("found {asked}, but {reason}; leave `batch` out");
            Err(with.error("batch", message).into())
        }
        _ => Ok(only.or(asked).unwrap_or(usual)),
    }
}

/// Side of the graph's input: what the suite, the manifest or the graph fixes, else the model's.
fn side(
    with: &Config,
    asked: &Asked<'_>,
    fixed: Option<usize>,
    manifest: Option<&Manifest>,
    place: &Place<'_>,
) -> Result<usize> {
    if let (Some(manifest), Some(fixed)) = (manifest, fixed) {
        manifest.check("input.side", manifest.input.side, fixed)?;
    }
    let wanted = agreed(with, manifest, "input.side", asked.input.side, |m| {
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
    let side = wanted.or(fixed).unwrap_or(place.image_size);
    match place.finest.filter(|finest| *finest < side) {
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

/// A graph's file.
struct Read {
    /// For errors.
    name: PathBuf,
    graph: Vec<u8>,
    manifest: Option<Manifest>,
    /// Where it is the program's own.
    embedded: Option<&'static embedded::Embedded>,
    /// Where it is the hub's.
    remote: Option<Remote>,
}

fn read(with: &Config, model: &str, place: &Place<'_>) -> Result<Read> {
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
        Some(remote) => remote.path(with, place)?,
        None => with.resolve_path(model),
    };
    match std::fs::read(&path) {
        Ok(graph) => Ok(Read {
            manifest: Manifest::beside(&path, &graph)?,
            name: path,
            graph,
            embedded: None,
            remote,
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(Error::Missing {
            at: with.error("model", format!("{} is not there", path.display())),
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

    /// How the graph wants its pixels, by the suite, the manifest or the program. Without a suite (no kind asked) it does not matter.
    fn scale(&self, with: &Config, asked: &Asked<'_>) -> Result<Scale> {
        let written = asked.input.scale;
        if let Some(known) = self.embedded.map(|embedded| embedded.scale) {
            return match written.filter(|written| *written != known) {
                None => Ok(known),
                Some(written) => {
                    let message = format!(
                        "found {}, but {} was taught with {}; leave `scale` out",
                        json!(written),
                        asked.model,
                        json!(known)
                    );
                    Err(with.error("input.scale", message).into())
                }
            };
        }
        let known = self.manifest.as_ref();
        let scale = agreed(with, known, "input.scale", written, |m| m.input.scale)?;
        scale.or(asked.kind.is_none().then_some(Scale::ZeroOne)).ok_or_else(|| {
            let message = "missing, and the model has no manifest that says it; expected how its training scaled the pixels: imagenet, \
                           zero-one, minus-one-one, dvae, or {custom: {mean: [r, g, b], std: [r, g, b]}}";
            with.error("input.scale", message).into()
        })
    }

    /// The files beside the graph that it takes weights from, by the paths that it writes.
    fn external(
        &self,
        checked: &Checked,
        with: &Config,
        place: &Place<'_>,
    ) -> Result<Vec<(String, Vec<u8>)>> {
        let folder = self.name.parent().unwrap_or(Path::new(""));
        let files = checked.external.iter().map(|(location, least)| {
            let path = match &self.remote {
                Some(remote) => remote.beside(location).path(with, place)?,
                None => folder.join(location),
            };
            let bytes = std::fs::read(&path).map_err(|error| {
                self.refused(format!(
                    "takes weights from {}: {error}; put that file beside it, or save the graph with its weights inside",
                    path.display()
                ))
            })?;
            if (bytes.len() as u64) < *least {
                return Err(self.refused(format!(
                    "takes weights from {}, which has {} bytes, expected {least} or more; fetch or export both again",
                    path.display(),
                    bytes.len()
                )));
            }
            Ok((location.clone(), bytes))
        });
        files.collect()
    }
}

/// Checks that a graph's output grid is the suite's, and its manifest's; `remedy` where the caller knows a better one.
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
    let message = format!(
        "the graph's output has a {} grid, image_size and patch_size ask for {grid} ({} patches); {remedy}",
        found.join("x"),
        grid.num_patches()
    );
    Err(with.error("model", message).into())
}
