//! Compiles CUDA C++ to PTX or machine code with NVRTC, which needs no GPU and no toolkit, only its library. The library is opened at run time,
//! so one binary runs with or without it, and tests can compile every kernel on a machine without a GPU.

#![expect(unsafe_code, reason = "calls a C library")]

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use libloading::Library;

use super::HEADERS;
use crate::device::launch::Module;

/// Environment variable that names the library's file or its folder.
pub const VARIABLE: &str = "TESSERA_NVRTC";

/// Reason why a kernel was not compiled.
#[derive(Debug, thiserror::Error)]
pub enum NvrtcError {
    /// No library was found.
    #[error(
        "found no libnvrtc in {searched}; install the Python package nvidia-cuda-nvrtc into the active environment, or \
         set {VARIABLE} to the library"
    )]
    Missing {
        /// The searched folders.
        searched: String,
    },
    /// The library does not load.
    #[error("{}: {message}", .path.display())]
    Load {
        /// Path of the library.
        path: PathBuf,
        /// The loader's message.
        message: String,
    },
    /// The source does not compile.
    #[error("{module}.cu for {arch}:\n{log}")]
    Compile {
        /// Name of the source file.
        module: &'static str,
        /// Virtual architecture.
        arch: String,
        /// The compiler's log.
        log: String,
    },
    /// A call failed unexpectedly.
    #[error("{call} of NVRTC returned {code}")]
    Call {
        /// Name of the function.
        call: &'static str,
        /// Its return code.
        code: i32,
    },
}

/// Result of this module.
pub type Result<T> = std::result::Result<T, NvrtcError>;

type Program = *mut std::ffi::c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// The loaded library.
pub struct Nvrtc {
    create: Create,
    compile: Compile,
    log_size: Size,
    log: Text,
    ptx_size: Size,
    ptx: Text,
    cubin_size: Size,
    cubin: Text,
    destroy: Destroy,
    version: (i32, i32),
    // Declared last, so that it is dropped last. The builtins are used only by the library itself.
    _libraries: Vec<Library>,
}

impl Nvrtc {
    /// Opens the first of the [`candidates`] that loads.
    ///
    /// # Errors
    /// [`NvrtcError::Missing`] if there is none, [`NvrtcError::Load`] if none loads.
    pub fn find() -> Result<Self> {
        let (found, searched) = candidates();
        let mut failed = None;
        for path in &found {
            match Self::open(path) {
                Ok(library) => return Ok(library),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        Err(failed.unwrap_or(NvrtcError::Missing { searched }))
    }

    /// Opens the library at `path`.
    ///
    /// # Errors
    /// [`NvrtcError::Load`].
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: libloading::Error| NvrtcError::Load {
            path: path.to_owned(),
            message: error.to_string(),
        };
        // NVRTC opens its builtins by name at the first compilation. It finds them if they are already loaded from its folder.
        let builtins = listed(path.parent().unwrap_or(path), "libnvrtc-builtins.so");
        let mut libraries = Vec::new();
        for file in builtins.iter().map(PathBuf::as_path).chain([path]) {
            // SAFETY: NVIDIA's libraries have no constructors that depend on the caller.
            libraries.push(unsafe { Library::new(file) }.map_err(failed)?);
        }
        let library = &libraries[libraries.len() - 1];
        // SAFETY: the types are those of nvrtc.h, unchanged since CUDA 11.1, and the library lives as long as `Self`.
        let (mut nvrtc, version) = unsafe {
            let version = *library.get::<Version>(b"nvrtcVersion\0").map_err(failed)?;
            let get = Self {
                create: *library.get(b"nvrtcCreateProgram\0").map_err(failed)?,
                compile: *library.get(b"nvrtcCompileProgram\0").map_err(failed)?,
                log_size: *library.get(b"nvrtcGetProgramLogSize\0").map_err(failed)?,
                log: *library.get(b"nvrtcGetProgramLog\0").map_err(failed)?,
                ptx_size: *library.get(b"nvrtcGetPTXSize\0").map_err(failed)?,
                ptx: *library.get(b"nvrtcGetPTX\0").map_err(failed)?,
                cubin_size: *library.get(b"nvrtcGetCUBINSize\0").map_err(failed)?,
                cubin: *library.get(b"nvrtcGetCUBIN\0").map_err(failed)?,
                destroy: *library.get(b"nvrtcDestroyProgram\0").map_err(failed)?,
                version: (0, 0),
                _libraries: Vec::new(),
            };
            (get, version)
        };
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are valid for a number.
        check("nvrtcVersion", unsafe { version(&mut major, &mut minor) })?;
        nvrtc.version = (major, minor);
        nvrtc._libraries = libraries;
        Ok(nvrtc)
    }

    /// Returns the major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Returns the PTX of `module` for a virtual architecture such as `compute_90`.
    ///
    /// # Errors
    /// [`NvrtcError::Compile`] with the compiler's log.
    pub fn ptx(&self, module: &Module, arch: &str) -> Result<String> {
        let program = self.compiled(module, arch)?;
        self.text("nvrtcGetPTX", program.0, self.ptx_size, self.ptx)
    }

    /// Returns the machine code of `module` for a real architecture such as `sm_90`.
    ///
    /// # Errors
    /// [`NvrtcError::Compile`] with the compiler's log.
    pub fn cubin(&self, module: &Module, arch: &str) -> Result<Vec<u8>> {
        let program = self.compiled(module, arch)?;
        let mut bytes = self.bytes("nvrtcGetCUBIN", program.0, self.cubin_size, self.cubin)?;
        bytes.pop();
        Ok(bytes)
    }

    fn compiled(&self, module: &Module, arch: &str) -> Result<ProgramGuard<'_>> {
        let program = self.create(module)?;
        match self.run(program.0, module, arch) {
            0 => Ok(program),
            _ => Err(NvrtcError::Compile {
                module: module.name,
                arch: arch.to_owned(),
                log: self.text("nvrtcGetProgramLog", program.0, self.log_size, self.log)?,
            }),
        }
    }

    fn create(&self, module: &Module) -> Result<ProgramGuard<'_>> {
        let text = |text: &str| CString::new(text.replace('\0', " ")).unwrap_or_default();
        let (source, name) = (text(module.source), text(&format!("{}.cu", module.name)));
        let headers = HEADERS.map(|(_, header)| text(header));
        let names = HEADERS.map(|(name, _)| text(name));
        let mut program = null_mut();
        // SAFETY: the C strings and arrays outlive the call, which copies what it needs.
        let code = unsafe {
            (self.create)(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                HEADERS.len() as c_int,
                headers.each_ref().map(|h| h.as_ptr()).as_ptr(),
                names.each_ref().map(|n| n.as_ptr()).as_ptr(),
            )
        };
        check("nvrtcCreateProgram", code)?;
        Ok(ProgramGuard(program, self))
    }

    fn run(&self, program: Program, module: &Module, arch: &str) -> c_int {
        let mut options = vec![
            format!("--gpu-architecture={arch}"),
            "--std=c++17".into(),
            // Lambdas have no annotation.
            "--device-as-default-execution-space".into(),
        ];
        let constants = module.constants.iter();
        options.extend(constants.map(|(name, value)| format!("-D{name}={value}")));
        let options = options.into_iter().map(CString::new);
        let options: Vec<CString> = options.filter_map(std::result::Result::ok).collect();
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        // SAFETY: the program belongs to this library, and the C strings outlive the call.
        unsafe { (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) }
    }

    fn text(&self, call: &'static str, program: Program, size: Size, text: Text) -> Result<String> {
        let bytes = self.bytes(call, program, size, text)?;
        let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
        Ok(text.to_string_lossy().into_owned())
    }

    /// Returns what a call writes, and a zero after it.
    fn bytes(
        &self,
        call: &'static str,
        program: Program,
        size: Size,
        text: Text,
    ) -> Result<Vec<u8>> {
        let mut length = 0;
        // SAFETY: the program belongs to this library, and `length` is a valid pointer.
        check(call, unsafe { size(program, &mut length) })?;
        let mut bytes = vec![0_u8; length + 1];
        // SAFETY: the buffer has the length that the library requested, plus one byte that stays zero.
        check(call, unsafe { text(program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }
}

/// A program that is destroyed on drop.
struct ProgramGuard<'a>(Program, &'a Nvrtc);

impl Drop for ProgramGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: this library created the program, which is not yet destroyed. A failure cannot be handled here.
        unsafe { (self.1.destroy)(&mut self.0) };
    }
}

fn check(call: &'static str, code: c_int) -> Result<()> {
    match code {
        0 => Ok(()),
        code => Err(NvrtcError::Call { call, code }),
    }
}

/// Returns the existing libraries, best first, and the searched folders: that of [`VARIABLE`], Python environments, toolkits.
fn candidates() -> (Vec<PathBuf>, String) {
    let mut folders = Vec::new();
    if let Some(named) = variable(VARIABLE) {
        if named.is_file() {
            return (vec![named], String::new());
        }
        folders.push(named);
    }
    for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"]
        .iter()
        .filter_map(|name| variable(name))
    {
        for packages in listed(&environment.join("lib"), "python3") {
            let nvidia = packages.join("site-packages/nvidia");
            folders.extend(listed(&nvidia, "cu").iter().map(|cuda| cuda.join("lib")));
        }
    }
    for home in ["CUDA_HOME", "CUDA_PATH"]
        .iter()
        .filter_map(|name| variable(name))
    {
        folders.extend([home.join("lib"), home.join("lib64")]);
    }
    folders.push("/usr/local/cuda/lib64".into());
    let found = folders
        .iter()
        .flat_map(|folder| listed(folder, "libnvrtc.so"));
    let found = found.filter(|path| path.is_file()).collect();
    let folders: Vec<String> = folders.iter().map(|f| f.display().to_string()).collect();
    (found, folders.join(", "))
}

/// Returns a path from the environment. An empty value counts as unset.
pub(super) fn variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    value.map(PathBuf::from)
}

/// Returns the sorted entries of a folder whose names start with `name`.
fn listed(folder: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else {
        return Vec::new();
    };
    let begins = |path: &PathBuf| {
        let file = path.file_name().and_then(|file| file.to_str());
        file.is_some_and(|file| file.starts_with(name))
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(begins)
        .collect();
    found.sort();
    found
}
