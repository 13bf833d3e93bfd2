//! Describes this machine and this program, for `environment.json`, `bench doctor` and the first lines of a run.

use std::path::Path;

use serde_json::{Map, Value, json};
use tessera_models::EMULATED;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::data::Scan;
use crate::stages::common::context::Context;
use crate::stages::common::machine::{BF16, Machine, architecture};
use crate::stages::fit_seeds;
use crate::store::free_bytes;
use crate::suite::Row;

const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Commit of the sources; "unknown" outside a checkout.
const COMMIT: &str = env!("TESSERA_COMMIT");

/// Returns the content of `environment.json`.
pub fn about(cx: &Context<'_>) -> Value {
    let machine = cx.machine();
    json!({
        "tessera": VERSION,
        "commit": COMMIT,
        "date": now(),
        "command": cx.command,
        "os": std::env::consts::OS,
        "cpu": cpu(),
        "device": machine.device,
        "gpu": machine.chip,
        "dtype": machine.dtype,
        "arch": machine.arch,
        "threads": cx.threads,
        "suite": cx.suite.path.file_name().map(|name| name.to_string_lossy()),
        "models": models(cx),
    })
}

/// Returns which images the run uses: their fingerprint and number, and what is left out beside `skipped_images.txt`.
pub fn about_images(scan: &Scan) -> Value {
    let left_out = scan.omitted.others.iter();
    let left_out = left_out
        .map(|group| json!({"reason": group.reason, "files": group.count, "first": group.names}));
    json!({
        "fingerprint": scan.fingerprint,
        "train": scan.train.len(),
        "val": scan.val.len(),
        "train_twice": scan.twice(),
        "val_in_train": scan.repeated(),
        "in_two_classes": scan.contradictions(),
        "skipped": scan.omitted.images.len(),
        "left_out": left_out.collect::<Vec<_>>(),
    })
}

/// Returns the time in UTC: "2026-11-28T10:12:45Z".
pub fn now() -> String {
    let whole = OffsetDateTime::now_utc().replace_nanosecond(0);
    let text = whole.ok().and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_default()
}

/// Returns the model of the CPU; `None` if the system does not name it.
fn cpu() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// Returns the provenance of the rows' models, from their manifests, and what their features take from checkpoints.
fn models(cx: &Context<'_>) -> Map<String, Value> {
    let rows = cx.suite.rows.iter().chain(&cx.suite.needed);
    let rows = rows.chain(&cx.suite.kept);
    let rows = rows.filter(|row| row.skip.is_none());
    let of = |row: &Row| {
        let (kind, with) = row.tokenizer.as_ref()?;
        let factory = cx.registry.tokenizer(kind, with).ok()?;
        if factory.starts_programs() {
            return None;
        }
        cx.with_build(None, |build| match factory.learns() {
            true => factory.features(with, build).ok()??.facts().model,
            false => factory.build(with, build).ok()?.facts().model,
        })
    };
    rows.filter_map(|row| Some((row.name.clone(), of(row)?)))
        .collect()
}

/// Returns the first lines of a run.
pub fn greeting(cx: &Context<'_>) -> Vec<String> {
    let suite = cx.suite;
    let rows = suite.rows.iter().filter(|row| row.skip.is_none()).count();
    let mut lines = vec![format!(
        "tessera {VERSION} {} ({} threads): {}, {rows} rows x {} seeds, store {}",
        place(cx),
        cx.threads,
        suite.file.name,
        suite.file.seeds.len(),
        cx.store.root().display()
    )];
    for row in &suite.rows {
        if let Some(reason) = &row.skip {
            lines.push(format!("skipped: {}: {reason}", row.name));
        }
    }
    let mut rows = suite.rows.iter().filter(|row| row.skip.is_none());
    if rows.any(|row| !fit_seeds(cx, row).is_empty()) {
        lines.push(match suite.fit_seeds.len() {
            1 => "codebooks are fitted once, so errors of their metrics leave out the fits (`fit_seeds`)".to_owned(),
            _ => format!("codebooks are fitted with the seeds {:?}; training uses the first", suite.fit_seeds),
        });
    }
    lines
}

/// Says that products in `dtype` are slow on machines with the instruction set `arch`; `None` if they are not.
pub fn emulation(dtype: &str, arch: &str) -> Option<String> {
    (dtype == EMULATED).then(|| {
        format!(
            "precision: bf16 is slow on {arch}, which lacks AVX-512 BF16: numbers are rounded to bf16 and multiplied in f32 (dtype {EMULATED}); \
             expected `precision: f32` or a machine with {BF16}"
        )
    })
}

/// Describes the device of the run, or that of the results that it looks up: the instruction set, a GPU if there is one, and the type of
/// products unless it is f32 on the CPU.
fn place(cx: &Context<'_>) -> String {
    let Machine {
        arch, dtype, chip, ..
    } = cx.machine();
    let device = match (chip, dtype) {
        (Some(chip), _) => format!("{chip} in {dtype} and {arch}"),
        (None, "f32") => arch,
        (None, _) => format!("{arch} in {dtype}"),
    };
    match cx.looked_up {
        Some(_) => format!("with results of {device}"),
        None => format!("on {device}"),
    }
}

/// Describes this machine by names and findings. `here` is the folder whose disk is checked.
pub fn findings(here: &Path) -> Vec<(String, String)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut found = vec![
        ("tessera".to_owned(), format!("{VERSION}, commit {COMMIT}")),
        ("threads".to_owned(), threads.to_string()),
        ("instructions".to_owned(), instructions()),
        ("keys".to_owned(), keys()),
        ("free disk".to_owned(), free_disk(here)),
        ("CUDA".to_owned(), cuda()),
    ];
    found.extend(tessera_tokenizers::engines());
    found
}

/// Describes the GPU, the driver, and the program that a GPU needs.
fn cuda() -> String {
    use tessera_kernels::device;
    let driver = match std::fs::read_to_string("/proc/driver/nvidia/version") {
        Ok(text) => text.lines().next().unwrap_or_default().to_owned(),
        Err(_) => "no NVIDIA driver is loaded here".to_owned(),
    };
    match device::gpu() {
        Ok(gpu) => {
            format!(
                "{gpu}; training and evaluation use it in bf16 (--device, --precision); this is untested on hardware"
            )
        }
        Err(reason) if device::has_cuda() => {
            format!("{reason}; everything runs on the CPU; {driver}")
        }
        Err(reason) => {
            let build = device::BUILD;
            format!("{reason}; everything runs on the CPU; {build}; {driver}")
        }
    }
}

fn instructions() -> String {
    let name = architecture();
    if let Some(reason) = tessera_kernels::product::unsupported() {
        return format!("{name}; {reason}");
    }
    if cfg!(target_arch = "x86_64") && !name.contains("avx2") {
        return format!("{name}; without AVX2 training is several times slower");
    }
    name
}

/// Says which results of other machines this one finds in a store.
fn keys() -> String {
    format!(
        "hold {} and the name of a GPU: with another instruction set or GPU, a machine finds only scans, decoded images, and encoders that \
         are imported or random; {BF16} and what follows count for models in bf16 only; `bench run SUITE --collect --arch ARCH --gpu GPU` looks up results of \
         another instruction set or GPU",
        architecture()
    )
}

fn free_disk(here: &Path) -> String {
    match free_bytes(here) {
        Some(free) => {
            let free = free as f64 / f64::from(1 << 30);
            let hint = if free < 5.0 {
                "; checkpoints of a large suite need more"
            } else {
                ""
            };
            format!("{free:.1} GiB{hint}")
        }
        None => "unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_products_are_named_with_the_remedy() {
        assert_eq!(emulation("bf16", "x86_64+avx512bf16"), None);
        assert_eq!(emulation("f32", "x86_64+avx2"), None);
        let line = emulation(EMULATED, "x86_64+avx2").unwrap();
        for part in [
            "slow on x86_64+avx2,",
            "dtype bf16-emulated",
            "`precision: f32`",
        ] {
            assert!(line.contains(part), "{line}");
        }
    }
}
