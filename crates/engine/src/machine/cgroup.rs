//! Memory limits of control groups, v1 and v2, from the text of /proc/self/cgroup and /proc/self/mountinfo.
//!
//! `/proc/self/cgroup` names the process's group in each hierarchy, `/proc/self/mountinfo` says where a hierarchy is mounted
//! and which group is the root of that mount (a container often sees only its own subtree). The group's directory is the
//! mount point with the part of its path below the mount's root; its limits and those of all groups above it count.

use std::path::{Path, PathBuf};

/// The hierarchies that can limit memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// A mounted hierarchy.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The group that appears at the mount point.
    root: String,
    point: PathBuf,
}

/// Every memory limit on this process: bytes, and the file that states it. `read` gives a file's text.
pub(super) fn limits(
    cgroup: &str,
    mountinfo: &str,
    read: &dyn Fn(&Path) -> Option<String>,
) -> Vec<(u64, PathBuf)> {
    let mut found = Vec::new();
    for mount in mountinfo.lines().filter_map(parse_mount) {
        let Some(group) = group_path(cgroup, mount.version) else { continue };
        let leaf = directory(&mount, &group);
        let chain = leaf.ancestors().take_while(|directory| directory.starts_with(&mount.point));
        for directory in chain {
            found.extend(limits_of(mount.version, directory, read));
        }
    }
    found
}

/// The limits that the files of one group state.
fn limits_of(
    version: Version,
    directory: &Path,
    read: &dyn Fn(&Path) -> Option<String>,
) -> Vec<(u64, PathBuf)> {
    // The hierarchical limit of v1 covers groups above the root of the mount, which cannot be seen from here.
    let files: [(&str, &str); 2] = match version {
        Version::V1 => [("memory.limit_in_bytes", ""), ("memory.stat", "hierarchical_memory_limit ")],
        Version::V2 => [("memory.max", ""), ("memory.high", "")],
    };
    files
        .into_iter()
        .filter_map(|(name, field)| {
            let path = directory.join(name);
            let text = read(&path)?;
            let value = text.lines().find_map(|line| line.strip_prefix(field))?;
            Some((parse_limit(value)?, path))
        })
        .collect()
}

/// A limit in bytes; `max`, -1 and v1's "no limit" (the largest multiple of a page) are none.
fn parse_limit(text: &str) -> Option<u64> {
    let bytes = text.trim().parse::<u64>().ok()?;
    (bytes < i64::MAX as u64 / 2).then_some(bytes)
}

/// The process's group in the hierarchy that has the memory controller (v1), or in the unified one (v2).
fn group_path(cgroup: &str, version: Version) -> Option<String> {
    cgroup.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        let matches = match version {
            Version::V1 => controllers.split(',').any(|name| name == "memory"),
            Version::V2 => id == "0" && controllers.is_empty(),
        };
        matches.then(|| path.to_owned())
    })
}

/// Where the group's files are. A group outside the mount's root (another namespace's view) is seen at the mount point.
fn directory(mount: &Mount, group: &str) -> PathBuf {
    let below = Path::new(group).strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let plain = below.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    if plain { mount.point.join(below) } else { mount.point.clone() }
}

/// A line of mountinfo: `36 35 98:0 /root /point options [optional fields] - type source super-options`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (kind, super_options) = (right.next()?, right.nth(1).unwrap_or(""));
    let version = match kind {
        "cgroup2" => Version::V2,
        "cgroup" if super_options.split(',').any(|option| option == "memory") => Version::V1,
        _ => return None,
    };
    Some(Mount { version, root: unescape(root), point: unescape(point).into() })
}

/// Space, tab, newline and backslash stand as `\040`, `\011`, `\012` and `\134` in mountinfo.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (code, char)| text.replace(code, char))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const V1_MOUNTS: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
34 31 0:31 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 master:2 - cgroup cgroup rw,memory
";
    const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    fn least(cgroup: &str, mounts: &str, files: &[(&str, &str)]) -> Option<(u64, String)> {
        let files: HashMap<PathBuf, String> =
            files.iter().map(|(path, text)| (PathBuf::from(path), (*text).to_owned())).collect();
        limits(cgroup, mounts, &|path| files.get(path).cloned())
            .into_iter()
            .min()
            .map(|(bytes, path)| (bytes, path.display().to_string()))
    }

    #[test]
    fn v2_takes_the_least_up_the_chain() {
        let files = [
            ("/sys/fs/cgroup/user.slice/app/memory.max", "max\n"),
            ("/sys/fs/cgroup/user.slice/app/memory.high", "9000000000\n"),
            ("/sys/fs/cgroup/user.slice/memory.max", "8000000000\n"),
            ("/sys/fs/cgroup/user.slice/memory.high", "max\n"),
            ("/sys/fs/cgroup/other/memory.max", "5\n"),
        ];
        let found = least("0::/user.slice/app\n", V2_MOUNT, &files);
        assert_eq!(found, Some((8_000_000_000, "/sys/fs/cgroup/user.slice/memory.max".into())));
    }

    #[test]
    fn v2_high_counts() {
        let files =
            [("/sys/fs/cgroup/a/memory.max", "9000000000"), ("/sys/fs/cgroup/a/memory.high", "7000000000")];
        let found = least("0::/a\n", V2_MOUNT, &files);
        assert_eq!(found, Some((7_000_000_000, "/sys/fs/cgroup/a/memory.high".into())));
    }

    #[test]
    fn a_namespaced_v2_group_is_the_mount_point() {
        let files = [("/sys/fs/cgroup/memory.max", "4294967296\n")];
        let expected = Some((4_294_967_296, "/sys/fs/cgroup/memory.max".to_owned()));
        assert_eq!(least("0::/\n", V2_MOUNT, &files), expected);
        assert_eq!(least("0::/../../outside\n", V2_MOUNT, &files), expected, "a group above the namespace");
    }

    #[test]
    fn v1_reads_the_memory_hierarchy_only() {
        let cgroup = "8:pids:/\n5:memory:/box/inner\n1:cpu,cpuacct:/elsewhere\n0::/\n";
        let files = [
            ("/sys/fs/cgroup/memory/box/inner/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/box/memory.limit_in_bytes", "6000000000\n"),
            ("/sys/fs/cgroup/cpu/memory.limit_in_bytes", "1\n"),
        ];
        let found = least(cgroup, V1_MOUNTS, &files);
        assert_eq!(found, Some((6_000_000_000, "/sys/fs/cgroup/memory/box/memory.limit_in_bytes".into())));
    }

    #[test]
    fn v1_hierarchical_limit_covers_what_lies_above_the_mount() {
        let cgroup = "4:memory:/docker/abc/job\n";
        let mounts =
            "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:15 - cgroup cgroup rw,memory\n";
        let stat = "cache 0\nrss 5\nhierarchical_memory_limit 3000000000\nhierarchical_memsw_limit 7\n";
        let files = [
            ("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "5000000000\n"),
            ("/sys/fs/cgroup/memory/job/memory.stat", stat),
        ];
        let found = least(cgroup, mounts, &files);
        assert_eq!(found, Some((3_000_000_000, "/sys/fs/cgroup/memory/job/memory.stat".into())));
    }

    #[test]
    fn hybrid_systems_have_both() {
        let cgroup = "9:memory:/a\n0::/b\n";
        let mounts = format!("{V1_MOUNTS}41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        let files = [
            ("/sys/fs/cgroup/memory/a/memory.limit_in_bytes", "200"),
            ("/sys/fs/cgroup/unified/b/memory.max", "100"),
        ];
        assert_eq!(least(cgroup, &mounts, &files).map(|(bytes, _)| bytes), Some(100));
    }

    #[test]
    fn odd_paths_are_kept_whole() {
        let mounts = "30 23 0:26 / /mnt/with\\040space rw - cgroup2 none rw\n";
        let files = [("/mnt/with space/a:b/memory.max", "77")];
        assert_eq!(least("0::/a:b\n", mounts, &files).map(|(bytes, _)| bytes), Some(77));
    }

    #[test]
    fn no_limit_is_no_limit() {
        assert_eq!(parse_limit("max"), None);
        assert_eq!(parse_limit("-1"), None);
        assert_eq!(parse_limit("9223372036854771712"), None);
        assert_eq!(parse_limit("0\n"), Some(0));
        assert_eq!(least("", "", &[]), None);
        assert_eq!(least("garbage", "garbage - cgroup2", &[]), None);
    }
}
