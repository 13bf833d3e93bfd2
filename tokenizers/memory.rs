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
    version: &'static Version,
}

/// A version of control groups.
struct Version {
    root: &'static str,
    /// Name of the limit's file.
    limit: &'static str,
    /// Fields of `memory.stat` that count what cannot be taken back.
    held: &'static [&'static str],
}

static FIRST: Version = Version {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    held: &["total_rss", "total_shmem"],
};

static SECOND: Version = Version {
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    held: &["anon", "shmem", "kernel_stack", "slab_unreclaimable"],
};

impl Group {
    fn limit(&self) -> Option<u64> {
        let text = fs::read_to_string(self.dir.join(self.version.limit)).ok()?;
        text.trim().parse().ok()
    }

    fn left(&self) -> Option<u64> {
        let limit = self.limit()?;
        let stat = fs::read_to_string(self.dir.join("memory.stat")).unwrap_or_default();
        let fields = stat.lines().filter_map(|line| line.split_once(' '));
        let held = fields.filter(|(name, _)| self.version.held.contains(name));
        let used: u64 = held
            .filter_map(|(_, bytes)| bytes.parse::<u64>().ok())
            .sum();
        Some(limit.saturating_sub(used))
    }
}

/// Returns the process's control groups and those around them, of version 1 and 2.
fn groups() -> Vec<Group> {
    groups_of(&fs::read_to_string("/proc/self/cgroup").unwrap_or_default())
}

/// Returns the groups that limit memory in the text of `/proc/self/cgroup`: "NUMBER:KINDS:PATH" of each hierarchy, without kinds in version 2.
fn groups_of(text: &str) -> Vec<Group> {
    let all = text.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (kinds, path) = (parts.next()?, parts.next()?);
        let version = match kinds {
            "" => &SECOND,
            kinds if kinds.split(',').any(|kind| kind == "memory") => &FIRST,
            _ => return None,
        };
        Some((
            version,
            Path::new(version.root).join(path.trim_start_matches('/')),
        ))
    });
    all.flat_map(|(version, own)| {
        let around = own
            .ancestors()
            .take_while(|dir| dir.starts_with(version.root));
        let group = |dir: &Path| Group {
            dir: dir.to_owned(),
            version,
        };
        around.map(group).collect::<Vec<_>>()
    })
    .collect()
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
            version: &SECOND,
        };
        assert_eq!((group.limit(), group.left()), (None, None));
        write("memory.max", "max\n");
        assert_eq!((group.limit(), group.left()), (None, None));
        write("memory.max", "8000\n");
        write("memory.stat", "anon 5000\nfile 2500\nshmem 600\n");
        assert_eq!((group.limit(), group.left()), (Some(8000), Some(2400)));
    }

    #[test]
    fn groups_around_a_process_count_too() {
        let dirs = |text| {
            let all = groups_of(text).into_iter();
            all.map(|group| group.dir.display().to_string())
                .collect::<Vec<_>>()
        };
        let of_second = ["/sys/fs/cgroup/a/b", "/sys/fs/cgroup/a", "/sys/fs/cgroup"];
        assert_eq!(dirs("0::/a/b\n"), of_second);
        let of_first = ["/sys/fs/cgroup/memory/slurm", "/sys/fs/cgroup/memory"];
        assert_eq!(dirs("3:cpu,cpuacct:/x\n4:memory:/slurm\n"), of_first);
        assert!(dirs("").is_empty() && dirs("what is this").is_empty());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn less_is_free_than_there_is() {
        assert!(free().unwrap() < field(ABOUT, "MemTotal:").unwrap());
    }
}
