//! Compares the arguments of launches with the parameters of kernels. A mismatch would make a kernel read unrelated memory.

use std::collections::{BTreeMap, BTreeSet};

use super::every_launch;
use crate::device::launch::{Access, Arg};

/// Returns the kernels of a source: name and parameters, with normalised whitespace.
fn signatures(source: &str) -> BTreeMap<String, Vec<String>> {
    let mut found = BTreeMap::new();
    for text in source
        .split("extern \"C\" __global__ void __launch_bounds__(")
        .skip(1)
    {
        let (_, text) = text.split_once(')').unwrap();
        let (name, rest) = text.split_once('(').unwrap();
        let (parameters, _) = rest.split_once(')').unwrap();
        let each = parameters.split(',');
        let each = each.map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
        found.insert(name.trim().to_owned(), each.collect());
    }
    found
}

/// Returns an argument as a kernel declares it.
fn declared(arg: &Arg) -> String {
    match arg {
        Arg::Buffer(buffer) => {
            let qualifier = if buffer.access == Access::Read {
                "const "
            } else {
                ""
            };
            format!("{qualifier}{} *{}", buffer.dtype.name(), buffer.parameter)
        }
        Arg::U32(name, _) => format!("u32 {name}"),
        Arg::F32(name, _) => format!("float {name}"),
    }
}

#[test]
fn launches_pass_the_parameters_that_kernels_declare() {
    for launch in every_launch() {
        let signatures = signatures(launch.module.source);
        let Some(expected) = signatures.get(&launch.kernel) else {
            panic!("{} is not in {}.cu", launch.kernel, launch.module.name);
        };
        let given: Vec<String> = launch.args.iter().map(declared).collect();
        assert_eq!(&given, expected, "{}", launch.kernel);
    }
}

#[test]
fn every_kernel_of_every_source_is_launched() {
    let launches = every_launch();
    let launched: BTreeSet<&str> = launches.iter().map(|l| l.kernel.as_str()).collect();
    for launch in &launches {
        let source = launch.module.source;
        let signatures = signatures(source);
        assert_eq!(
            source.matches("__global__").count(),
            signatures.len(),
            "{}",
            launch.module.name
        );
        for kernel in signatures.keys() {
            assert!(
                launched.contains(kernel.as_str()),
                "nothing launches {kernel}"
            );
        }
    }
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ops");
    let sources = folder
        .read_dir()
        .unwrap()
        .flatten()
        .flat_map(|entry| entry.path().read_dir());
    let sources = sources.flat_map(|files| files.flatten().map(|file| file.path()));
    for source in sources.filter(|path| path.extension().is_some_and(|e| e == "cu")) {
        let name = source.file_stem().unwrap().to_str().unwrap();
        assert!(
            launches.iter().any(|l| l.module.name == name),
            "nothing launches {name}.cu"
        );
    }
}
