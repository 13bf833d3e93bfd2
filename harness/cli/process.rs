//! Settings of the process, and how it was called.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The program and the command line.
static CALLED: OnceLock<(PathBuf, Vec<OsString>)> = OnceLock::new();

/// Records the program and the command line of this process. Only the first call counts.
pub fn called(program: &Path, words: Vec<OsString>) {
    let _ = CALLED.set((program.to_owned(), words));
}

/// Returns the program that another process starts to do what this one does.
pub fn program() -> &'static Path {
    CALLED
        .get()
        .map_or(Path::new("bench"), |(program, _)| program)
}

/// Returns the command line of this process.
pub fn command_line() -> String {
    let words = CALLED.get().map_or(&[][..], |(_, words)| words);
    let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// Applies the settings. Must be called first in `main`, before any thread starts.
pub fn prepare() {
    one_candle_thread();
    keep_memory();
    #[expect(unsafe_code, reason = "signals have no safe form")]
    // SAFETY: ignoring a signal runs no code of this program. A write beyond the limit of a file's size then returns an error.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Handles SIGXCPU, which the system sends every second after the soft limit of CPU time: the first stops the program as SIGTERM does.
extern "C" fn out_of_time(_: libc::c_int) {
    #[expect(unsafe_code, reason = "signals have no safe form")]
    // SAFETY: both calls are allowed in a handler (signal-safety(7)).
    unsafe {
        libc::signal(libc::SIGXCPU, libc::SIG_IGN);
        libc::raise(libc::SIGTERM);
    }
}

/// Calls `stop` on SIGINT, SIGTERM, SIGXCPU and SIGHUP (a closed terminal). SIGHUP stays ignored under `nohup`.
pub fn on_signals(stop: impl FnMut() + Send + 'static) {
    let ignored = hangup_is_ignored();
    #[expect(unsafe_code, reason = "signals have no safe form")]
    // SAFETY: the handler makes only calls that are allowed in one.
    unsafe {
        let handler: extern "C" fn(libc::c_int) = out_of_time;
        libc::signal(libc::SIGXCPU, handler as libc::sighandler_t);
    }
    if let Err(error) = ctrlc::set_handler(stop) {
        say!("signals end the program without keeping its state: {error}");
    }
    if ignored {
        #[expect(unsafe_code, reason = "signals have no safe form")]
        // SAFETY: ignoring a signal runs no code of this program.
        unsafe {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
        }
    }
}

/// Returns whether SIGHUP was ignored when the program started (proc(5): bit n - 1 of `SigIgn` is signal n).
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (libc::SIGHUP - 1) & 1 == 1)
}

/// Limits Candle's own matrix products to one thread. Work is parallel over shards of images, whose sums do not depend on the number of
/// threads.
fn one_candle_thread() {
    #[expect(
        unsafe_code,
        reason = "Candle reads its number of threads only from the environment"
    )]
    // SAFETY: called first in `main`; no other thread reads the environment yet.
    unsafe {
        std::env::set_var("RAYON_NUM_THREADS", "1");
    }
}

/// Makes glibc keep freed tensors. By default it returns each to the system, which took a third of the time of training small models
/// (BENCHMARKS.md). On few cores all threads share one arena, which is never released. On many cores threads would wait for it, so each
/// has its own.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn keep_memory() {
    const MIB: libc::c_int = 1 << 20;
    const FEW_CORES: usize = 4;
    #[expect(unsafe_code, reason = "the allocator's settings have no safe form")]
    // SAFETY: `mallopt` only sets parameters; called first in `main`, no other thread allocates yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 32 * MIB);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2047 * MIB);
        libc::mallopt(libc::M_TOP_PAD, 64 * MIB);
        if std::thread::available_parallelism().is_ok_and(|n| n.get() <= FEW_CORES) {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn keep_memory() {}
