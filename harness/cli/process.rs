//! Settings of the whole process, made before any thread starts.

/// Makes the settings. Call it first in `main`.
pub fn prepare() {
    one_candle_thread();
    keep_memory();
}

/// Calls `stop` on SIGINT, SIGTERM and, when a terminal closes, SIGHUP; `nohup` still keeps the last one away.
pub fn on_signals(stop: impl FnMut() + Send + 'static) {
    let ignored = hangup_is_ignored();
    let _ = ctrlc::set_handler(stop);
    if ignored {
        #[expect(unsafe_code, reason = "signals have no safe form")]
        // SAFETY: ignoring a signal runs no code of this program.
        unsafe {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
        }
    }
}

/// Whether whoever started the program had it ignore SIGHUP (proc(5): bit n - 1 of `SigIgn` is signal n).
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (libc::SIGHUP - 1) & 1 == 1)
}

/// Candle's own matrix products run on one thread: parallelism is by shards of images, whose sums do not depend on
/// the number of threads.
fn one_candle_thread() {
    #[expect(
        unsafe_code,
        reason = "Candle takes its number of threads from the environment only"
    )]
    // SAFETY: called first in `main`; no other thread reads the environment yet.
    unsafe {
        std::env::set_var("RAYON_NUM_THREADS", "1");
    }
}

/// Has glibc keep freed tensors: by default it returns each to the system and fetches it again, which took a third of
/// the time of training small models (measured, BENCHMARKS.md). On few cores all threads share one arena, which is never
/// given back; on many they would wait for it, so each keeps its own, in pieces of 64 MiB.
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
