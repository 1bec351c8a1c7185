//! Files below one directory, and none outside it.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// A directory lists at most this many entries.
const MAX_ENTRIES: usize = 200;

/// A file gives at most this many bytes.
const MAX_BYTES: usize = 32 << 10;

/// A directory that paths cannot leave, neither by `..` nor by a link.
///
/// A path is made canonical, links resolved, before it is compared with the canonical root. Someone who changes links below the
/// directory between that moment and the opening could still lead a read astray; the model, which only calls tools one
/// after the other and has none that writes, cannot.
pub(crate) struct Sandbox {
    root: PathBuf,
}

impl Sandbox {
    /// The files below `root`.
    pub(crate) fn new(root: &Path) -> Result<Sandbox> {
        let root = root.canonicalize().with_context(|| format!("cannot open {}", root.display()))?;
        Ok(Sandbox { root })
    }

    /// The names in a directory: directories with a slash, files with their size. Hidden ones are left out.
    pub(crate) fn list(&self, path: &str) -> Result<Vec<String>> {
        let directory = self.resolve(path)?;
        if !directory.is_dir() {
            bail!("{path:?} is not a directory");
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {path:?}"))? {
            let entry = entry.with_context(|| format!("cannot list {path:?}"))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            // The entry itself, not what a link points to.
            let kind = entry.metadata().with_context(|| format!("cannot look at {name:?}"))?;
            names.push(if kind.is_dir() {
                format!("{name}/")
            } else if kind.is_symlink() {
                format!("{name} (link)")
            } else {
                format!("{name} ({} bytes)", kind.len())
            });
        }
        names.sort();
        let more = names.len().saturating_sub(MAX_ENTRIES);
        names.truncate(MAX_ENTRIES);
        if more > 0 {
            names.push(format!("... and {more} more"));
        }
        Ok(names)
    }

    /// A text file, its first [`MAX_BYTES`] bytes.
    pub(crate) fn read(&self, path: &str) -> Result<String> {
        let file = self.resolve(path)?;
        // Asked before opening: opening a pipe would wait for a writer.
        let len = match fs::metadata(&file) {
            Ok(metadata) if metadata.is_file() => metadata.len(),
            Ok(metadata) if metadata.is_dir() => bail!("{path:?} is a directory; list it instead"),
            Ok(_) => bail!("{path:?} is not a regular file"),
            Err(error) => return Err(error).with_context(|| format!("cannot open {path:?}")),
        };
        let mut bytes = Vec::new();
        File::open(&file)
            .and_then(|file| file.take(MAX_BYTES as u64).read_to_end(&mut bytes))
            .with_context(|| format!("cannot read {path:?}"))?;
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            // Only the character that the limit cuts in two may be incomplete.
            Err(error) if error.utf8_error().error_len().is_none() && len > MAX_BYTES as u64 => {
                let whole = error.utf8_error().valid_up_to();
                String::from_utf8_lossy(&error.as_bytes()[..whole]).into_owned()
            }
            Err(_) => bail!("{path:?} is not a text file"),
        };
        if text.contains('\0') {
            bail!("{path:?} is not a text file");
        }
        if len > MAX_BYTES as u64 {
            return Ok(format!("{text}\n[the first {} of {len} bytes]", text.len()));
        }
        Ok(text)
    }

    /// The canonical path, which lies below the root.
    fn resolve(&self, path: &str) -> Result<PathBuf> {
        if path.contains('\0') {
            bail!("a path holds no NUL");
        }
        let joined = self.root.join(if path.is_empty() { "." } else { path });
        // Links out of the directory and files outside get one answer, so that it tells nothing about what is there.
        match joined.canonicalize() {
            Ok(real) if real.starts_with(&self.root) => Ok(real),
            Err(error) if self.stays_below(path) => {
                Err(error).with_context(|| format!("cannot open {path:?}"))
            }
            _ => bail!("{path:?} is not below the current directory"),
        }
    }

    /// The longest part of the path that exists lies below the root.
    fn stays_below(&self, path: &str) -> bool {
        let plain = Path::new(path)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_) | std::path::Component::CurDir));
        let joined = self.root.join(path);
        plain
            && joined
                .ancestors()
                .find_map(|ancestor| ancestor.canonicalize().ok())
                .is_some_and(|real| real.starts_with(&self.root))
            && !joined.is_symlink()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `outer/secret.txt` outside, `outer/room` inside with a file and a folder.
    fn rooms() -> (tempfile::TempDir, Sandbox) {
        let outer = tempfile::tempdir().expect("a temporary directory");
        let room = outer.path().join("room");
        fs::create_dir_all(room.join("sub")).expect("directories");
        fs::write(outer.path().join("secret.txt"), "secret").expect("a file");
        fs::write(room.join("a.txt"), "hello").expect("a file");
        fs::write(room.join("sub/b.txt"), "nested").expect("a file");
        fs::write(room.join(".hidden"), "h").expect("a file");
        let sandbox = Sandbox::new(&room).expect("a sandbox");
        (outer, sandbox)
    }

    fn refused<T: std::fmt::Debug>(result: Result<T>) {
        let error = result.expect_err("must be refused").to_string();
        assert!(error.contains("not below the current directory"), "{error}");
    }

    #[test]
    fn files_inside_are_read_and_listed() {
        let (_outer, room) = rooms();
        assert_eq!(room.read("a.txt").expect("inside"), "hello");
        assert_eq!(room.read("./sub/../sub/b.txt").expect("inside"), "nested");
        assert_eq!(room.list("").expect("inside"), ["a.txt (5 bytes)", "sub/"]);
        assert_eq!(room.list("sub").expect("inside"), ["b.txt (6 bytes)"]);
        let absolute = room.root.join("a.txt");
        assert_eq!(room.read(absolute.to_str().expect("UTF-8")).expect("inside"), "hello");
    }

    #[test]
    fn paths_do_not_leave() {
        let (outer, room) = rooms();
        let secret = outer.path().canonicalize().expect("it is there").join("secret.txt");
        for path in ["../secret.txt", "sub/../../secret.txt", "/etc/passwd", "..", "../room-not-there", "/"] {
            refused(room.read(path));
            refused(room.list(path));
        }
        refused(room.read(secret.to_str().expect("UTF-8")));
        assert!(room.read("a\0b").is_err());
    }

    #[cfg(unix)]
    #[test]
    fn links_do_not_lead_out() {
        use std::os::unix::fs::symlink;
        let (outer, room) = rooms();
        symlink("../secret.txt", room.root.join("relative")).expect("a link");
        symlink(outer.path().join("secret.txt"), room.root.join("absolute")).expect("a link");
        symlink("..", room.root.join("up")).expect("a link");
        symlink("absolute", room.root.join("chain")).expect("a link");
        symlink("../not-there", room.root.join("dangling")).expect("a link");
        symlink("sub/b.txt", room.root.join("inside")).expect("a link");
        symlink("loop", room.root.join("loop")).expect("a link");
        for path in
            ["relative", "absolute", "up/secret.txt", "chain", "up/room/../secret.txt", "dangling", "up/x"]
        {
            refused(room.read(path));
        }
        refused(room.list("up"));
        assert!(room.read("loop").is_err());
        assert_eq!(room.read("inside").expect("a link that stays inside"), "nested");
        assert!(room.list(".").expect("inside").contains(&"up (link)".to_owned()));
    }

    /// A directory whose name merely starts with the root's name is outside.
    #[test]
    fn siblings_with_the_same_prefix_are_outside() {
        let (outer, room) = rooms();
        fs::create_dir(outer.path().join("room2")).expect("a directory");
        fs::write(outer.path().join("room2/x"), "x").expect("a file");
        refused(room.read("../room2/x"));
    }

    #[test]
    fn only_text_of_a_bounded_size() {
        let (_outer, room) = rooms();
        fs::write(room.root.join("binary"), [0x7f, b'E', 0xff, 0xfe]).expect("a file");
        fs::write(room.root.join("nul"), "a\0b").expect("a file");
        fs::write(room.root.join("long"), "\u{e9}".repeat(MAX_BYTES)).expect("a file");
        // One byte before the two-byte characters: the limit falls inside one of them.
        fs::write(room.root.join("odd"), format!("x{}", "\u{e9}".repeat(MAX_BYTES))).expect("a file");
        assert!(room.read("binary").is_err_and(|error| error.to_string().contains("not a text file")));
        assert!(room.read("nul").is_err_and(|error| error.to_string().contains("not a text file")));
        let long = room.read("long").expect("text");
        assert!(long.ends_with("[the first 32768 of 65536 bytes]"), "{}", &long[long.len() - 60..]);
        assert!(room.read("odd").expect("text").ends_with("[the first 32767 of 65537 bytes]"));
        assert!(room.read("sub").is_err_and(|error| error.to_string().contains("is a directory")));
        assert!(
            room.read("missing").is_err_and(|error| error.to_string().contains("cannot open \"missing\""))
        );
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_not_waited_for() {
        let (_outer, room) = rooms();
        let made = std::process::Command::new("mkfifo").arg(room.root.join("pipe")).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo is part of every Unix");
        assert!(room.read("pipe").is_err_and(|error| error.to_string().contains("not a regular file")));
    }

    #[test]
    fn long_lists_are_cut() {
        let (_outer, room) = rooms();
        for i in 0..MAX_ENTRIES + 5 {
            fs::write(room.root.join(format!("sub/f{i:03}")), "").expect("a file");
        }
        let list = room.list("sub").expect("inside");
        assert_eq!(list.len(), MAX_ENTRIES + 1);
        assert_eq!(list[MAX_ENTRIES], "... and 6 more");
    }
}
