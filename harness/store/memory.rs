//! Memory of the process, on systems that report it (Linux).

use std::fs;

use tessera_tokenizers::memory::field;

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

fn status(name: &str) -> Option<u64> {
    field("/proc/self/status", name)
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
        assert!(peak().unwrap() < tessera_tokenizers::memory::limit().unwrap());
    }
}
