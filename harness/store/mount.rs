//! The file system that a folder lies on, and what its documentation says about it.

use std::path::{Path, PathBuf};

/// A mounted file system, from `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its type: `ext4`, `nfs4`, `fuse.glusterfs`.
    pub kind: String,
    /// What is mounted: a device or `SERVER:PATH`.
    pub source: String,
    /// Options of the mount and of the file system.
    pub options: Vec<String>,
}

/// Whether the locks of one machine are seen by others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locks {
    /// Only this machine uses the file system.
    Alone,
    /// They are.
    Reach,
    /// They are not: machines compute the same stage twice, and results stay right.
    Local,
    /// The documentation does not say.
    Unknown,
}

/// What the documentation of a file system says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// About locks.
    pub locks: Locks,
    /// What follows, with its source, and the remedy if there is one.
    pub about: String,
}

impl Mount {
    /// Returns the file system of the nearest existing folder at or above `path`; `None` if the system does not describe it.
    pub fn of(path: &Path) -> Option<Self> {
        let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        Self::find(&table, &existing(path)?)
    }

    /// Returns the file system of `path`, which is canonical, from a table in the format of proc(5).
    fn find(table: &str, path: &Path) -> Option<Self> {
        let mounts = table.lines().filter_map(parse);
        let within = mounts.filter(|(point, _)| path.starts_with(point));
        // Of two mounts at one point, the later hides the earlier.
        let nearest = within.max_by_key(|(point, _)| point.components().count());
        nearest.map(|(_, mount)| mount)
    }

    /// Returns whether other machines may use the same files.
    pub fn is_shared(&self) -> bool {
        self.known().locks != Locks::Alone
    }

    /// Returns the value of an option; an empty text for one without a value.
    fn option(&self, name: &str) -> Option<&str> {
        let mut values = self.options.iter().filter_map(|option| {
            let (key, value) = option.split_once('=').unwrap_or((option, ""));
            (key == name).then_some(value)
        });
        values.next()
    }

    /// Returns what the documentation says.
    pub fn known(&self) -> Known {
        let known = |locks, about: &str| Known {
            locks,
            about: about.to_owned(),
        };
        match self.kind.as_str() {
            "ext2" | "ext3" | "ext4" | "xfs" | "btrfs" | "f2fs" | "zfs" | "bcachefs" | "jfs" => {
                known(
                    Locks::Alone,
                    "a disk of this machine; names, inodes and times are stable",
                )
            }
            "tmpfs" | "ramfs" => known(
                Locks::Alone,
                "memory of this machine, lost at its restart; put the store on a disk",
            ),
            "overlay" => known(
                Locks::Alone,
                "layers of a container, lost with it unless this is a volume; a file of a lower layer has another inode after its first \
                 change (kernel documentation), so its image is read again",
            ),
            "nfs" | "nfs4" => self.nfs(),
            "lustre" => self.lustre(),
            "ceph" | "fuse.ceph-fuse" | "gfs2" | "ocfs2" | "gpfs" => known(
                Locks::Reach,
                "machines see each other's names at once (its documentation)",
            ),
            "beegfs" => known(
                Locks::Local,
                "locks reach others only with tuneUseGlobalFileLocks in beegfs-client.conf (its documentation)",
            ),
            "cifs" | "smb3" => match self.option("nobrl") {
                Some(_) => known(
                    Locks::Local,
                    "`nobrl` keeps locks on this machine (mount.cifs(8))",
                ),
                None => known(
                    Locks::Reach,
                    "names are cached for actimeo, 1 s by default (mount.cifs(8))",
                ),
            },
            "fuse.glusterfs" => known(
                Locks::Reach,
                "names are cached for entry-timeout and absent names for negative-timeout, which the system does not show; keep both \
                 below 60 s (glusterfs(8))",
            ),
            "fuse" | "fuse.bindfs" => known(
                Locks::Local,
                "a program serves it (FUSE), which the system may not name; of bindfs, two mounts of a folder do not see each other's locks \
                 without --enable-lock-forwarding (bindfs(1))",
            ),
            "fuse.sshfs" => known(
                Locks::Local,
                "locks stay on this machine, and names are cached for 20 s (sshfs(1))",
            ),
            "fuse.s3fs" | "fuse.gcsfuse" | "fuse.rclone" | "fuse.goofys" | "fuse.mountpoint-s3"
            | "fuse.blobfuse2" => known(
                Locks::Local,
                "an object store cannot rename a folder in one step, so entries may be seen in part; put the store elsewhere",
            ),
            _ => known(Locks::Unknown, "nothing is known of it"),
        }
    }

    fn nfs(&self) -> Known {
        let is_local = self.option("nolock").is_some()
            || matches!(self.option("local_lock"), Some("all" | "flock"));
        let cached = match self.option("actimeo").or(self.option("acdirmax")) {
            _ if self.option("noac").is_some() || self.option("lookupcache") == Some("none") => "0",
            Some(seconds) => seconds,
            None => "60",
        };
        let remedy = match cached.parse() {
            Ok(0..=60) => "",
            _ => "; mount it with acdirmax=60 or less",
        };
        let (locks, lock) = match is_local {
            true => (
                Locks::Local,
                "`nolock` or `local_lock` keeps locks on this machine",
            ),
            false => (Locks::Reach, "locks go to the server"),
        };
        Known {
            locks,
            about: format!("{lock}; names are cached for up to {cached} s (nfs(5)){remedy}"),
        }
    }

    fn lustre(&self) -> Known {
        let (locks, about) = match (self.option("flock"), self.option("localflock")) {
            (Some(_), _) => (Locks::Reach, "`flock`: locks reach others"),
            (None, Some(_)) => (Locks::Local, "`localflock` keeps locks on this machine"),
            (None, None) => (
                Locks::Local,
                "without `flock` there are no locks; mount it with `flock`",
            ),
        };
        Known {
            locks,
            about: format!("{about}; machines see each other's names at once (Lustre's manual)"),
        }
    }
}

/// Returns the canonical path of the nearest existing folder at or above `path`.
pub(super) fn existing(path: &Path) -> Option<PathBuf> {
    let here = std::path::absolute(path).ok()?;
    here.ancestors()
        .find_map(|folder| std::fs::canonicalize(folder).ok())
}

/// Parses a line of proc(5): `ID PARENT DEVICE ROOT POINT OPTIONS ... - KIND SOURCE OPTIONS`.
fn parse(line: &str) -> Option<(PathBuf, Mount)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(4);
    let (point, own) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (kind, source) = (right.next()?, right.next()?);
    let options = own.split(',').chain(right.next()?.split(','));
    let mount = Mount {
        kind: kind.to_owned(),
        source: plain(source),
        options: options.map(str::to_owned).collect(),
    };
    Some((plain(point).into(), mount))
}

/// Returns a field in which the system writes spaces, tabs, newlines and backslashes as octal numbers.
fn plain(field: &str) -> String {
    let escapes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    let replace = |text: String, (code, plain): (&str, &str)| text.replace(code, plain);
    escapes.into_iter().fold(field.to_owned(), replace)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "21 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw
30 21 0:40 / /net rw shared:5 - nfs4 server:/export rw,vers=4.2,local_lock=none,acdirmax=90
31 30 0:41 / /net/of\\040us rw - fuse.bindfs /net rw,user_id=0
32 21 0:42 / /net rw - lustre 10.0.0.1@tcp:/work rw,localflock
33 21 0:43 / /n rw - nfs server:/n rw,nolock
";

    fn found(path: &str) -> Mount {
        Mount::find(TABLE, Path::new(path)).unwrap()
    }

    #[test]
    fn the_nearest_mount_counts_and_the_last_of_one_point() {
        let kinds =
            ["/home", "/net/a", "/net/of us/b", "/network", "/n"].map(|path| found(path).kind);
        assert_eq!(kinds, ["ext4", "lustre", "fuse.bindfs", "ext4", "nfs"]);
        assert!(Mount::of(Path::new("no/such/folder")).is_some());
    }

    #[test]
    fn options_decide_about_locks_and_names() {
        assert_eq!(found("/home").known().locks, Locks::Alone);
        assert!(!found("/home").is_shared());
        for path in ["/net/a", "/net/of us", "/n"] {
            assert_eq!(found(path).known().locks, Locks::Local, "{path}");
            assert!(found(path).is_shared());
        }
        let (_, mut nfs) = parse(TABLE.lines().nth(1).unwrap()).unwrap();
        assert_eq!(nfs.known().locks, Locks::Reach);
        assert!(nfs.known().about.contains("90 s") && nfs.known().about.contains("acdirmax=60"));
        nfs.options.push("noac".into());
        assert!(nfs.known().about.contains("up to 0 s (nfs(5))"));
        nfs.kind = "fuse.new".into();
        assert_eq!(nfs.known().locks, Locks::Unknown);
    }
}
