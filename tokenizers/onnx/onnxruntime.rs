//! ONNX Runtime, loaded at run time. Search order: `ORT_DYLIB_PATH`, the `onnxruntime` package of the active Python environment,
//! the system's library.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ort::environment::{Environment, EnvironmentBuilder};
use ort::ep::{CUDA, ExecutionProvider};
use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::value::{DynValue, PrimitiveTensorElementType, TensorRef};
use tessera_models::files;

use super::check::{Checked, Element};
use super::engine::{Engine, Output, Session, Source, first_line};
use super::graph::Onnx;
use super::mends::has_turned_product;
use crate::pool::Pool;

/// A loaded library, with or without its CUDA provider.
#[derive(Clone)]
pub struct OnnxRuntime {
    name: String,
    environment: Environment,
    cuda: bool,
}

impl OnnxRuntime {
    /// Returns the first library that loads; `None` if none does.
    ///
    /// # Errors
    /// If the library in `ORT_DYLIB_PATH` does not load, or a library loads but does not start.
    pub fn find() -> Result<Option<Self>, String> {
        if let Some(path) = std::env::var_os("ORT_DYLIB_PATH").filter(|v| !v.is_empty()) {
            let library = PathBuf::from(path);
            let builder = ort::init_from(&library).map_err(|e| {
                format!(
                    "ORT_DYLIB_PATH={} does not load: {}; set it to a libonnxruntime 1.24 or newer, or unset it",
                    library.display(),
                    first_line(&e)
                )
            })?;
            return Self::started(builder, &library).map(Some);
        }
        for library in candidates() {
            // An absent or too old library is not an error of the user.
            if let Ok(builder) = ort::init_from(&library) {
                return Self::started(builder, &library).map(Some);
            }
        }
        Ok(None)
    }

    fn started(builder: EnvironmentBuilder, library: &Path) -> Result<Self, String> {
        Ok(Self {
            environment: builder.build().map_err(|e| e.to_string())?,
            name: format!("onnxruntime {}", version(library)),
            cuda: false,
        })
    }

    /// Returns the same library with its CUDA provider.
    ///
    /// # Errors
    /// Why the provider is not available.
    pub fn with_cuda(&self) -> Result<Self, String> {
        if !CUDA::is_available().map_err(|e| first_line(&e))? {
            return Err("this library was built without CUDA".into());
        }
        let builder = ort::session::Session::builder(&self.environment);
        let provider = CUDA::default().build().error_on_failure();
        let builder = builder.map_err(|e| first_line(&e))?;
        let tried = builder.with_execution_providers([provider]);
        tried.map_err(|e| first_line(&e))?;
        Ok(Self {
            name: format!("{} cuda, {}", self.name, gpu()?),
            environment: self.environment.clone(),
            cuda: true,
        })
    }
}

/// Returns the GPU, for keys: GPUs differ in the order of sums, and some round products to TF32.
///
/// # Errors
/// Why it is not known.
fn gpu() -> Result<String, String> {
    tessera_kernels::device::gpu().or_else(|reason| {
        let models = models(Path::new("/proc/driver/nvidia/gpus")).into_iter();
        match &models.collect::<Vec<_>>()[..] {
            [one] => Ok(one.clone()),
            found => Err(format!(
                "results need the name of the GPU, found {found:?} by NVIDIA's driver, expected one; the GPU itself cannot be asked: {reason}"
            )),
        }
    })
}

/// Returns the different GPUs that NVIDIA's driver for Linux lists in `folder`.
fn models(folder: &Path) -> BTreeSet<String> {
    let gpus = std::fs::read_dir(folder).into_iter().flatten().flatten();
    gpus.filter_map(|gpu| {
        let about = files::read_to_string(&gpu.path().join("information")).ok()?;
        let mut lines = about.lines();
        lines.find_map(|line| Some(line.strip_prefix("Model:")?.trim().to_owned()))
    })
    .collect()
}

/// Sessions per graph with the CUDA provider: one computes while the other's images are transferred.
const CUDA_SESSIONS: usize = 2;

impl Engine for OnnxRuntime {
    fn name(&self) -> &str {
        &self.name
    }

    fn batch(&self) -> usize {
        16
    }

    /// ONNX Runtime does not guarantee that its kernels sum in the same order for every batch size.
    fn pads(&self) -> bool {
        true
    }

    fn version(&self, file: &[u8], graph: &Checked) -> String {
        let mut text = String::new();
        if is_fused_wrongly(file, &graph.output) {
            text.push_str(", basic optimisation");
        }
        if !self.cuda && has_integer_products(file, &graph.output) {
            text.push_str(if has_vnni() { ", vnni" } else { ", no vnni" });
        }
        text
    }

    /// A second process may not get the GPU. A run on a GPU opens graphs on the CPU first, when it checks the suite.
    fn guarded(&self) -> bool {
        !self.cuda
    }

    fn open(&self, mut source: Source, threads: usize) -> Result<Box<dyn Session>, String> {
        // It looks for them in the working directory, whatever is given in memory.
        if Onnx::read(&source.bytes)?.has_inner_external() {
            return Err(
                "has weights of an inner graph, a function or a sparse tensor in external files, which ONNX Runtime does not read \
                 beside the graph; save them in the graph (`onnx.save(onnx.load(path), path)`), or use `TESSERA_ONNX=rten`"
                    .into(),
            );
        }
        let external = std::mem::take(&mut source.external).into_iter();
        // All sessions share these bytes and live until the process ends.
        let external = external.map(|(name, bytes)| (name, &*bytes.leak()));
        let most = if self.cuda { CUDA_SESSIONS } else { usize::MAX };
        let level = match is_fused_wrongly(&source.bytes, &source.output) {
            true => GraphOptimizationLevel::Level1,
            false => GraphOptimizationLevel::Level3,
        };
        let opened = Opened {
            environment: self.environment.clone(),
            level,
            cuda: self.cuda,
            external: external.collect(),
            source,
            threads,
            sessions: Pool::new(threads, most),
        };
        opened.sessions.add(opened.session()?);
        Ok(Box::new(opened))
    }
}

/// Returns whether ONNX Runtime may compute a graph wrongly above its basic optimisation: version 1.32 fuses an exchange of the last two axes
/// with the product with a vector that follows it, and multiplies other numbers.
fn is_fused_wrongly(file: &[u8], output: &str) -> bool {
    // The file has been read before, so this does not fail.
    let onnx = Onnx::read(file).unwrap_or_default();
    has_turned_product(&onnx, output)
}

/// Returns whether a graph has products of 8-bit integers, or operators that ONNX Runtime fuses into such products. They saturate at 16 bits on
/// processors without VNNI.
pub(super) fn has_integer_products(file: &[u8], output: &str) -> bool {
    // The file has been read before, so this does not fail.
    let onnx = Onnx::read(file).unwrap_or_default();
    let nodes = onnx.reached(output);
    let mut operators = nodes.iter().map(|node| node.operator);
    operators.any(|operator| {
        let is_own = operator.starts_with('Q') && operator != "QuickGelu";
        is_own || operator.contains("Integer") || operator.contains("Quantize")
    })
}

/// Returns whether this processor has instructions for products of 8-bit integers with sums of 32 bits.
fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::is_x86_feature_detected!("avx512vnni") || std::is_x86_feature_detected!("avxvnni");
    #[cfg(not(target_arch = "x86_64"))]
    true
}

/// A graph, with one session per concurrent call.
struct Opened {
    environment: Environment,
    cuda: bool,
    level: GraphOptimizationLevel,
    source: Source,
    external: Vec<(String, &'static [u8])>,
    threads: usize,
    sessions: Pool<ort::session::Session>,
}

impl Opened {
    fn session(&self) -> Result<ort::session::Session, String> {
        self.build().map_err(|e| first_line(&e))
    }

    fn build(&self) -> Result<ort::session::Session, ort::Error> {
        let mut builder = ort::session::Session::builder(&self.environment)?;
        builder = or_without(builder.with_optimization_level(self.level));
        builder = or_without(builder.with_intra_threads(self.threads));
        for (name, bytes) in &self.external {
            builder = builder.with_external_initializer_file_in_memory(name, (*bytes).into())?;
        }
        if self.cuda {
            builder =
                builder.with_execution_providers([CUDA::default().build().error_on_failure()])?;
        }
        builder.commit_from_memory(&self.source.bytes)
    }

    fn call(
        &self,
        session: &mut ort::session::Session,
        (shape, pixels): ([usize; 4], &[f32]),
    ) -> Result<(Vec<usize>, Output), ort::Error> {
        let input = TensorRef::from_array_view((shape, pixels))?;
        let outputs = session.run(ort::inputs![self.source.input.as_str() => input])?;
        let value = outputs.get(&self.source.output);
        let value = value.ok_or_else(|| ort::Error::new("the output is absent"))?;
        match self.source.element {
            Element::Values => {
                let (shape, values) = value.try_extract_tensor::<f32>()?;
                Ok((dims(shape), Output::Values(values.to_vec())))
            }
            Element::Ids(2) => ids::<u8>(value),
            Element::Ids(3) => ids::<i8>(value),
            Element::Ids(4) => ids::<u16>(value),
            Element::Ids(5) => ids::<i16>(value),
            Element::Ids(6) => ids::<i32>(value),
            Element::Ids(12) => ids::<u32>(value),
            Element::Ids(13) => ids::<u64>(value),
            Element::Ids(_) => ids::<i64>(value),
        }
    }
}

impl Session for Opened {
    fn run(&self, shape: [usize; 4], pixels: &[f32]) -> Result<(Vec<usize>, Output), String> {
        let call = |session: &mut ort::session::Session| {
            let result = self.call(session, (shape, pixels));
            result.map_err(|e| first_line(&e))
        };
        self.sessions.with(|| self.session(), call)
    }
}

fn dims(shape: &[i64]) -> Vec<usize> {
    shape.iter().map(|dim| *dim as usize).collect()
}

/// Returns integers of any width as i64. Larger values become `i64::MAX`, which is not a valid id either.
fn ids<T>(value: &DynValue) -> Result<(Vec<usize>, Output), ort::Error>
where
    T: PrimitiveTensorElementType + Copy + TryInto<i64>,
{
    let (shape, ids) = value.try_extract_tensor::<T>()?;
    let ids = ids.iter().map(|id| (*id).try_into().unwrap_or(i64::MAX));
    Ok((dims(shape), Output::Ids(ids.collect())))
}

/// Returns the builder with an option, or without it if the library does not support the option.
fn or_without(result: Result<SessionBuilder, ort::Error<SessionBuilder>>) -> SessionBuilder {
    result.unwrap_or_else(ort::Error::recover)
}

/// Returns the paths of libonnxruntime in Python environments and system folders, best first.
fn candidates() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let names: &[&str] = if cfg!(target_os = "windows") {
        &["onnxruntime.dll"]
    } else if cfg!(target_os = "macos") {
        &["libonnxruntime.dylib"]
    } else {
        &["libonnxruntime.so", "libonnxruntime.so.1"]
    };
    for variable in ["VIRTUAL_ENV", "CONDA_PREFIX"] {
        if let Some(prefix) = std::env::var_os(variable).filter(|v| !v.is_empty()) {
            found.extend(in_environment(Path::new(&prefix)));
        }
    }
    let system = [
        "/usr/lib",
        "/usr/local/lib",
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/opt/homebrew/lib",
    ];
    for folder in system {
        found.extend(names.iter().map(|name| Path::new(folder).join(name)));
    }
    found.retain(|path| path.is_file());
    found
}

/// `PREFIX/lib/python3.*/site-packages/onnxruntime/capi/libonnxruntime.*`.
fn in_environment(prefix: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for python in std::fs::read_dir(prefix.join("lib"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let folder = python.path().join("site-packages/onnxruntime/capi");
        for file in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if file
                .file_name()
                .to_string_lossy()
                .starts_with("libonnxruntime.")
            {
                found.push(file.path());
            }
        }
    }
    found.sort();
    found
}

/// Returns the version, "1.24.4", from the build information or the file name.
fn version(library: &Path) -> String {
    let info = ort::info();
    let real = library
        .canonicalize()
        .unwrap_or_else(|_| library.to_owned());
    let name = real
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let digits = |text: &str| -> Option<String> {
        let start = text.find(|c: char| c.is_ascii_digit())?;
        let version: String = text[start..]
            .chars()
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        let version = version.trim_end_matches('.').to_owned();
        (version.matches('.').count() >= 2).then_some(version)
    };
    let of_branch = info.split("rel-").nth(1).and_then(digits);
    of_branch
        .or_else(|| digits(&name))
        .unwrap_or_else(|| info.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Results of different GPUs had one key.
    #[test]
    fn the_driver_tells_the_models_of_gpus() {
        let folder = tempfile::tempdir().unwrap();
        let of = |gpus: &[(&str, &str)]| {
            for (bus, model) in gpus {
                let gpu = folder.path().join(bus);
                std::fs::create_dir_all(&gpu).unwrap();
                let about = format!("Model: \t\t {model}\nIRQ:   \t\t 123\n");
                std::fs::write(gpu.join("information"), about).unwrap();
            }
            models(folder.path()).into_iter().collect::<Vec<_>>()
        };
        assert_eq!(of(&[]), Vec::<String>::new());
        assert_eq!(
            of(&[("0", "NVIDIA H200"), ("1", "NVIDIA H200")]),
            ["NVIDIA H200"]
        );
        assert_eq!(of(&[("2", "NVIDIA L4")]), ["NVIDIA H200", "NVIDIA L4"]);
    }
}
