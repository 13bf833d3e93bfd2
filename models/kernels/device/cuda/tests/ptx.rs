//! Compiles every kernel with NVRTC if the library is found.

use std::collections::HashSet;

use super::every_launch;
use crate::device::cuda::nvrtc::{Nvrtc, NvrtcError, VARIABLE, variable};
use crate::device::launch::module;
use crate::testing::tell;

/// Returns the library, or `None` with a notice. If `TESSERA_NVRTC` is set, the library must exist.
pub(super) fn nvrtc() -> Option<Nvrtc> {
    match Nvrtc::find() {
        Ok(nvrtc) => Some(nvrtc),
        Err(error) => {
            let requested = variable(VARIABLE);
            assert!(requested.is_none(), "{error}");
            tell(&format!(
                "SKIPPED, no kernel was compiled for a GPU: {error}"
            ));
            None
        }
    }
}

#[test]
fn every_kernel_compiles_for_compute_80_and_90() {
    let Some(nvrtc) = nvrtc() else { return };
    let mut compiled = HashSet::new();
    for launch in every_launch() {
        for arch in ["compute_80", "compute_90"] {
            let key = format!(
                "{arch} {} {:?}",
                launch.module.name, launch.module.constants
            );
            if compiled.insert(key) {
                nvrtc.ptx(&launch.module, arch).unwrap();
            }
        }
    }
    let ptx = |launch: &crate::device::launch::Launch| nvrtc.ptx(&launch.module, "compute_90");
    let launches = every_launch();
    let names: HashSet<&str> = launches.iter().map(|l| l.module.name).collect();
    for name in names {
        let of_module = || launches.iter().filter(|l| l.module.name == name);
        let text = ptx(of_module().next().unwrap()).unwrap();
        for launch in of_module() {
            let entry = format!(".entry {}(", launch.kernel);
            assert!(
                text.contains(&entry),
                "{} is not in {name}'s PTX",
                launch.kernel
            );
        }
    }
    let (major, minor) = nvrtc.version();
    tell(&format!(
        "NVRTC {major}.{minor} compiled {} variants of the kernels' sources",
        compiled.len()
    ));
}

#[test]
fn a_compile_error_contains_the_log() {
    let Some(nvrtc) = nvrtc() else { return };
    let source = "#include \"common.cuh\"\nextern \"C\" __global__ void broken(float *x) { x[0] = nowhere; }";
    let error = nvrtc
        .ptx(&module("broken", source, &[]), "compute_80")
        .unwrap_err();
    assert!(matches!(error, NvrtcError::Compile { .. }));
    let text = error.to_string();
    assert!(
        text.contains("nowhere") && text.contains("broken.cu"),
        "{text}"
    );
}

#[test]
fn an_error_names_the_missing_library() {
    let error = Nvrtc::open(std::path::Path::new("/nowhere/libnvrtc.so"))
        .err()
        .unwrap();
    assert!(
        error.to_string().contains("/nowhere/libnvrtc.so"),
        "{error}"
    );
}
