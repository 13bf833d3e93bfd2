//! Settings of the GPU that an environment variable turns off. A program without CUDA reads them, too, because keys of results depend on one.

/// Environment variable with a comma-separated list of settings that keep the default of Candle or of the driver: `stream`, `events`,
/// `pool`, `waits`; with `graph`, pretraining in bf16 uses Candle's graph. It serves to measure what a setting is worth; `stream` is the
/// driver's stream per thread and may give wrong numbers.
pub const DEFAULTS: &str = "TESSERA_GPU_DEFAULTS";

/// Returns whether [`DEFAULTS`] lists `setting`.
pub fn keeps(setting: &str) -> bool {
    let keeps = std::env::var_os(DEFAULTS).unwrap_or_default();
    keeps.to_string_lossy().split(',').any(|s| s == setting)
}
