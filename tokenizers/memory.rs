//! Memory that this process may use, on systems that report it (Linux).

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

const ABOUT: &str = "/proc/meminfo";

/// Returns the bytes that the process may use at most: the machine's memory and swap space, or less if the process (`ulimit -v`) or its
/// control groups (containers, Slurm) have a limit; `None` if the system reports none of them.
pub fn limit() -> Option<u64> {
    let swap = field(ABOUT, "SwapTotal:").unwrap_or(0);
    let machine = field(ABOUT, "MemTotal:").map(|bytes| bytes + swap);
    let own = getrlimit(Resource::As).current;
    let groups = groups().into_iter().filter_map(|group| group.limit());
    groups.chain([machine, own].into_iter().flatten()).min()
}

/// Returns the bytes that are free for another process: those of the machine, or less if the control groups have less left. Memory that the
/// system can take back, such as copies of files, counts as free. `None` if the system reports neither.
pub fn free() -> Option<u64> {
    let groups = groups().into_iter().filter_map(|group| group.left());
    groups.chain(field(ABOUT, "MemAvailable:")).min()
}

/// A control group, which may limit memory.
struct Group {
    dir: PathBuf,
    /// Names of the limit's file, and of the field of `memory.stat` that counts what cannot be taken back.
    names: [&'static str; 2],
}

impl Group {
    fn limit(&self) -> Option<u64> {
        let text = fs::read_to_string(self.dir.join(self.names[0])).ok()?;
        text.trim().parse().ok()
    }

    fn left(&self) -> Option<u64> {
        let limit = self.limit()?;
        let stat = fs::read_to_string(self.dir.join("memory.stat")).unwrap_or_default();
        let mut fields = stat.lines().filter_map(|line| line.split_once(' '));
        let used = fields.find(|(name, _)| *name == self.names[1]);
        let used = used.and_then(|(_, bytes)| bytes.parse().ok()).unwrap_or(0);
        Some(limit.saturating_sub(used))
    }
}

/// Returns the process's control groups and those around them, of version 1 and 2.
fn groups() -> Vec<Group> {
    let all = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let all = all.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (kinds, path) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
        let (root, names) = match kinds {
            "" => ("/sys/fs/cgroup", ["memory.max", "anon"]),
            _ => (
                "/sys/fs/cgroup/memory",
                ["memory.limit_in_bytes", "total_rss"],
            ),
        };
        let is_memory = kinds
            .split(',')
            .any(|kind| kind.is_empty() || kind == "memory");
        let own = Path::new(root).join(path.trim_start_matches('/'));
        let around = own
            .ancestors()
            .take_while(|dir| is_memory && dir.starts_with(root));
        let group = |dir: &Path| Group {
            dir: dir.to_owned(),
            names,
        };
        around.map(group).collect::<Vec<_>>()
    });
    all.collect()
}

/// Returns a number of kilobytes in a file of the system, in bytes.
pub fn field(path: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_left_what_its_processes_do_not_hold() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        let group = Group {
            dir: dir.path().to_owned(),
            names: ["memory.max", "anon"],
        };
        assert_eq!((group.limit(), group.left()), (None, None));
        write("memory.max", "max\n");
        assert_eq!((group.limit(), group.left()), (None, None));
        write("memory.max", "8000\n");
        write("memory.stat", "anon 5000\nfile 2500\n");
        assert_eq!((group.limit(), group.left()), (Some(8000), Some(3000)));
    }
}
