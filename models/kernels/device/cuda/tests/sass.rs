//! Counts the machine instructions of attention's main loops and the registers of sums, where `ptxas` and `nvdisasm` are found (next to
//! NVRTC or on the path).

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

use super::ptx::nvrtc;
use crate::device::cuda::nvrtc::{VARIABLE, variable};
use crate::device::launch::Float;
use crate::ops::{attention, bias_gelu, layer_norm};
use crate::testing::tell;

/// Maximum instructions of the main loop for head size 32 on compute capability 9.0.
const LIMITS: [(&str, usize); 3] = [
    ("attention_forward", 720),
    ("attention_backward_queries", 680),
    ("attention_backward_keys", 830),
];

/// Returns the path of a program of the CUDA toolkit.
fn tool(name: &str) -> Option<PathBuf> {
    let folder = variable(VARIABLE).map(|lib| match lib.is_file() {
        true => lib.with_file_name(""),
        false => lib,
    });
    let beside = folder.map(|lib| lib.join("../bin"));
    let path = variable("PATH").unwrap_or_default();
    let folders = beside.into_iter().chain(std::env::split_paths(&path));
    folders.map(|f| f.join(name)).find(|path| path.is_file())
}

/// Runs a program and returns its standard output.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns the number of instructions of each kernel's longest loop in a listing of `nvdisasm -c`.
fn loops(listing: &str) -> HashMap<&str, usize> {
    let mut longest = HashMap::new();
    let (mut kernel, mut at, mut labels) = ("", 0, HashMap::new());
    for line in listing.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix(".section\t.text.") {
            kernel = section.split(',').next().unwrap();
            (at, labels) = (0, HashMap::new());
        } else if let Some(label) = line.strip_suffix(':') {
            labels.insert(label.to_owned(), at);
        } else if line.starts_with("/*") && line.contains(';') {
            at += 1;
            let target = line.split("`(").nth(1).and_then(|t| t.split(')').next());
            let start = target
                .filter(|_| line.contains("BRA"))
                .map(|t| labels.get(t));
            if let Some(Some(start)) = start {
                let most = longest.entry(kernel).or_insert(0);
                *most = (at - start).max(*most);
            }
        }
    }
    longest
}

#[test]
fn attention_loops_are_short() {
    let Some(nvrtc) = nvrtc() else { return };
    let (Some(ptxas), Some(nvdisasm)) = (tool("ptxas"), tool("nvdisasm")) else {
        tell("SKIPPED, no instructions were counted: found no ptxas or no nvdisasm");
        return;
    };
    let sizes = attention::Sizes {
        batch: 2,
        tokens: 197,
        heads: 8,
        size: 32,
    };
    let launch = attention::launch::forward(sizes).unwrap();
    let ptx = nvrtc.ptx(&launch.module, "compute_90").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (text, binary) = (folder.path().join("a.ptx"), folder.path().join("a.cubin"));
    std::fs::write(&text, ptx).unwrap();
    let arguments = ["-arch", "sm_90", "-o"];
    output(Command::new(ptxas).args(arguments).arg(&binary).arg(&text));
    let listing = output(Command::new(nvdisasm).arg("-c").arg(&binary));
    let found = loops(&listing);
    for (kernel, limit) in LIMITS {
        let count = found[kernel];
        tell(&format!("{kernel}: {count} instructions in the main loop"));
        assert!(
            count <= limit,
            "{kernel}: {count}, expected at most {limit}"
        );
        assert!(count > 200, "{kernel}: the main loop was not found");
    }
}

/// Layer norm and GELU keep rows and sums in registers at the widths of all backbones. Up to 512, two blocks of 256 threads fit.
#[test]
fn rows_and_sums_stay_in_registers() {
    let Some(nvrtc) = nvrtc() else { return };
    let Some(ptxas) = tool("ptxas") else {
        tell("SKIPPED, no registers were counted: found no ptxas");
        return;
    };
    let gelu = bias_gelu::launch::backward(Float::Bf16, 512, 1536).unwrap();
    let norm = |dim| layer_norm::launch::partial_backward([Float::Bf16; 2], 512, dim, 1e-6, true);
    let widths = [128, 192, 256, 384, 512, 768, 1024, 1280];
    let norms = widths.map(|dim| (dim <= 512, norm(dim).unwrap()));
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("a.ptx");
    for (two_fit, launch) in norms.into_iter().chain([(true, gelu)]) {
        std::fs::write(&text, nvrtc.ptx(&launch.module, "compute_90").unwrap()).unwrap();
        let mut command = Command::new(&ptxas);
        command.args(["-v", "-arch", "sm_90", "-o"]);
        let done = command
            .arg(folder.path().join("a.cubin"))
            .arg(&text)
            .output();
        let said = String::from_utf8(done.unwrap().stderr).unwrap();
        let mut lines = said
            .lines()
            .skip_while(|line| !line.contains(&format!("'{}'", launch.kernel)));
        let frame = lines.find(|line| line.contains("stack frame")).unwrap();
        let used = lines.find(|line| line.contains("Used")).unwrap();
        let number = |line: &str, before: &str| -> u32 {
            let words: Vec<&str> = line.split_whitespace().collect();
            let at = words
                .iter()
                .position(|word| word.starts_with(before))
                .unwrap();
            words[at - 1].parse().unwrap()
        };
        let registers = number(used, "registers");
        tell(&format!(
            "{}, {:?}: {registers} registers",
            launch.kernel, launch.module.constants[0]
        ));
        assert!(
            frame.contains("0 bytes stack frame, 0 bytes spill stores"),
            "{frame}"
        );
        assert!(!two_fit || registers <= 128, "{registers} registers");
    }
}
