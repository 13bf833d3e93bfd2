//! Memory of the process and of the machine, on systems that report it (Linux).

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// Resets the peak; does nothing on other systems.
pub fn forget_peak() {
    // "5" sets the peak to the present size (proc(5), clear_refs).
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Returns free memory that the allocator keeps to the system, so that the next peak shows what is used; does nothing on other systems.
pub fn release() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[expect(unsafe_code, reason = "the allocator has no safe form")]
    // SAFETY: `malloc_trim` touches free memory only.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns the peak since [`forget_peak`], bytes; `None` if the system does not report it.
pub fn peak() -> Option<u64> {
    status("VmHWM:")
}

/// Returns the present size, bytes; `None` if the system does not report it.
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

/// Returns the bytes that the process may use at most: the machine's memory and swap space, or less if the process (`ulimit -v`) or its
/// control groups (containers, Slurm) have a limit; `None` if the system reports none of them.
pub fn limit() -> Option<u64> {
    const ABOUT: &str = "/proc/meminfo";
    let swap = field(ABOUT, "SwapTotal:").unwrap_or(0);
    let machine = field(ABOUT, "MemTotal:").map(|bytes| bytes + swap);
    let own = getrlimit(Resource::As).current;
    [machine, own, of_groups()].into_iter().flatten().min()
}

/// Returns the smallest limit of the process's control groups and of those around them, of version 1 and 2.
fn of_groups() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let limits = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (kinds, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let (root, file) = match kinds {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        };
        let is_memory = kinds
            .split(',')
            .any(|kind| kind.is_empty() || kind == "memory");
        let own = Path::new(root).join(path.trim_start_matches('/'));
        let around = own
            .ancestors()
            .take_while(|dir| is_memory && dir.starts_with(root));
        let read = |dir: &Path| fs::read_to_string(dir.join(file)).ok()?.trim().parse().ok();
        around.filter_map(read).collect::<Vec<u64>>()
    });
    limits.min()
}

fn status(name: &str) -> Option<u64> {
    field("/proc/self/status", name)
}

/// Returns a number of kilobytes in a file of the system.
fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_includes_used_memory() {
        forget_peak();
        let before = peak().unwrap();
        let used = vec![1_u8; 64 << 20];
        assert_eq!(used.iter().map(|v| u64::from(*v)).sum::<u64>(), 64 << 20);
        assert!(peak().unwrap() >= before + (48 << 20));
        assert!(resident().unwrap() <= peak().unwrap());
        assert!(peak().unwrap() < limit().unwrap());
    }
}
