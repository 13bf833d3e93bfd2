//! The most memory that the process had resident, on systems that tell (Linux).

use std::fs;

/// Starts anew; nothing where the system does not know the wish.
pub fn forget_peak() {
    // "5": the peak becomes what is resident now (proc(5), clear_refs).
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Bytes at the peak since [`forget_peak`]; `None` where the system does not tell.
pub fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_sees_what_was_used() {
        forget_peak();
        let before = peak().unwrap();
        let used = vec![1_u8; 64 << 20];
        assert_eq!(used.iter().map(|v| u64::from(*v)).sum::<u64>(), 64 << 20);
        assert!(peak().unwrap() >= before + (48 << 20));
    }
}
