//! Settings of the GPU that environment variables change. A program without CUDA reads them, too, because keys of results depend on one.

/// Environment variable with a comma-separated list of settings that keep the default of Candle or of the driver: `stream`, `events`,
/// `pool`, `waits`; with `graph`, pretraining in bf16 uses Candle's graph. It serves to measure what a setting is worth; `stream` is the
/// driver's stream per thread and may give wrong numbers.
pub const DEFAULTS: &str = "TESSERA_GPU_DEFAULTS";

/// The settings that [`DEFAULTS`] may list.
pub const SETTINGS: [&str; 5] = ["stream", "events", "pool", "waits", "graph"];

/// Returns whether [`DEFAULTS`] lists `setting`.
pub fn keeps(setting: &str) -> bool {
    let keeps = std::env::var_os(DEFAULTS).unwrap_or_default();
    keeps.to_string_lossy().split(',').any(|s| s == setting)
}

/// Environment variable that makes pretraining in bf16 on a GPU record its steps and start each part as one CUDA graph, if it is `on`. Numbers
/// stay the same. It is off otherwise, until a GPU has shown what it is worth.
pub const CUDA_GRAPH: &str = "TESSERA_CUDA_GRAPH";

/// Returns whether [`CUDA_GRAPH`] is `on`.
pub fn records() -> bool {
    std::env::var_os(CUDA_GRAPH).is_some_and(|value| value == "on")
}
