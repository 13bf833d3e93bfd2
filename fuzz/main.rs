//! Runs libFuzzer on the target that the variable `TARGET` names.

#![no_main]

use std::sync::OnceLock;

mod targets;

static RUN: OnceLock<fn(&[u8])> = OnceLock::new();

libfuzzer_sys::fuzz_target!(
    init: {
        let name = std::env::var("TARGET").unwrap_or_default();
        let found = targets::TARGETS.iter().find(|(target, _)| *target == name);
        let names: Vec<&str> = targets::TARGETS.iter().map(|(target, _)| *target).collect();
        let (_, run) = found.unwrap_or_else(|| panic!("no target {name:?}, expected one of {names:?}"));
        RUN.get_or_init(|| *run);
    },
    |input: &[u8]| RUN.get().expect("set by `init`")(input)
);
