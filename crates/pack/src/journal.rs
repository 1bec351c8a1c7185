//! What is already written, so that a run that was killed goes on where it was.
//!
//! A line is `TEXT HASH`, with the XXH3 of TEXT in 16 digits. The first holds the settings as JSON; the others are
//! `done TASK CHECKSUM..`, written after the task's bytes, `synced N`, written after the bytes of the first N `done` lines
//! have reached the disk, or `void TASK`, which takes back the `done` lines of the task before it (they still count for N). A
//! kill leaves all lines but perhaps the last; a power failure may also take bytes of files, which is why lines that no `synced`
//! covers are checked before they are believed, and made void if they are wrong, lest a later `synced` vouches for them.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use flashmill_checkpoint::packed::{Checksum, JOURNAL};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::PackError;

/// What makes two runs the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Name and fingerprint of the source's files.
    pub(crate) source: String,
    pub(crate) experts: String,
    pub(crate) trunk: String,
    pub(crate) importance: String,
    /// Of all places in the output.
    pub(crate) layout: String,
}

/// A finished task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) task: usize,
    pub(crate) checksums: Vec<Checksum>,
    /// Its bytes have reached the disk.
    pub(crate) is_synced: bool,
}

/// The open journal, locked against other programs.
pub(crate) struct Journal {
    path: PathBuf,
    lines: Mutex<Lines>,
}

struct Lines {
    file: File,
    /// `done` lines, void ones too.
    n_done: usize,
    /// A line may be there in part, so that no other may follow it.
    is_broken: bool,
}

impl Journal {
    /// Opens or begins the journal of `out`, which has to be there, and gives what is done.
    pub(crate) fn open(out: &Path, settings: &Settings) -> Result<(Journal, Vec<Done>), PackError> {
        let path = out.join(JOURNAL);
        let failed = |action| {
            let path = path.clone();
            move |source| PackError::Write { path, action, source }
        };
        let mut options = OpenOptions::new();
        let mut file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed("create"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PackError::Busy { out: out.to_owned() }),
            // A file system without locks: nothing is lost but this check.
            Err(TryLockError::Error(_)) => {}
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed("read"))?;
        let (lines, valid) = valid_lines(&bytes);
        file.set_len(valid as u64).map_err(failed("cut"))?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0)).map_err(failed("read"))?;
        let mut lines = lines.into_iter();
        let (done, n_done) = match lines.next() {
            Some(first) => {
                check_settings(out, first, settings)?;
                read_done(lines)
            }
            None => {
                let json = serde_json::to_string(settings).expect("texts have a JSON form");
                file.write_all(line(&json).as_bytes()).map_err(failed("write"))?;
                file.sync_all().map_err(failed("flush"))?;
                (Vec::new(), 0)
            }
        };
        let lines = Lines { file, n_done, is_broken: false };
        Ok((Journal { path, lines: Mutex::new(lines) }, done))
    }

    /// Refuses other settings than those of the journal that `out` may have; changes nothing.
    pub(crate) fn check(out: &Path, settings: &Settings) -> Result<(), PackError> {
        let path = out.join(JOURNAL);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(PackError::Io { path, action: "read", source }),
        };
        let (lines, _) = valid_lines(&bytes);
        lines.first().map_or(Ok(()), |first| check_settings(out, first, settings))
    }

    /// Notes that a task's bytes are written.
    pub(crate) fn done(&self, task: usize, checksums: &[Checksum]) -> Result<(), PackError> {
        let mut text = format!("done {task}");
        for checksum in checksums {
            text.push_str(&format!(" {checksum}"));
        }
        let mut lines = self.lock();
        self.append(&mut lines, &text)?;
        lines.n_done += 1;
        Ok(())
    }

    /// Takes back what is noted of a task, whose bytes are not there.
    pub(crate) fn void(&self, task: usize) -> Result<(), PackError> {
        self.append(&mut self.lock(), &format!("void {task}"))
    }

    /// Lines of finished tasks so far, those that are void among them.
    pub(crate) fn n_done(&self) -> usize {
        self.lock().n_done
    }

    /// Notes that the bytes of the first `n_done` finished tasks have reached the disk, and waits until this has, too.
    pub(crate) fn synced(&self, n_done: usize) -> Result<(), PackError> {
        let mut lines = self.lock();
        self.append(&mut lines, &format!("synced {n_done}"))?;
        lines.file.sync_data().map_err(|source| self.failed("flush", source))
    }

    /// Removes it.
    pub(crate) fn remove(self) -> Result<(), PackError> {
        std::fs::remove_file(&self.path).map_err(|source| self.failed("remove", source))
    }

    fn append(&self, lines: &mut Lines, text: &str) -> Result<(), PackError> {
        if lines.is_broken {
            return Err(self.failed("write", io::Error::other("an earlier line could not be written")));
        }
        lines.file.write_all(line(text).as_bytes()).map_err(|source| {
            lines.is_broken = true;
            self.failed("write", source)
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Lines> {
        self.lines.lock().expect("no thread panics while it holds the journal")
    }

    fn failed(&self, action: &'static str, source: io::Error) -> PackError {
        PackError::Write { path: self.path.clone(), action, source }
    }
}

fn line(text: &str) -> String {
    format!("{text} {:016x}\n", xxh3_64(text.as_bytes()))
}

/// The lines up to the first that is not whole, without their hashes, and the bytes that they take.
fn valid_lines(bytes: &[u8]) -> (Vec<&str>, usize) {
    let (mut lines, mut valid) = (Vec::new(), 0);
    for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
        let text = piece.strip_suffix(b"\n").and_then(|piece| std::str::from_utf8(piece).ok());
        let Some((text, hash)) = text.and_then(|text| text.rsplit_once(' ')) else { break };
        if hash.parse() != Ok(Checksum(xxh3_64(text.as_bytes()))) {
            break;
        }
        lines.push(text);
        valid += piece.len();
    }
    (lines, valid)
}

fn check_settings(out: &Path, line: &str, wanted: &Settings) -> Result<(), PackError> {
    let other = |setting, found: &str, wanted: &str| PackError::OtherSettings {
        out: out.to_owned(),
        setting,
        found: found.to_owned(),
        wanted: wanted.to_owned(),
    };
    let Ok(found) = serde_json::from_str::<Settings>(line) else {
        return Err(other("a version of flashmill", "that is not this one", "another"));
    };
    for (setting, found, wanted) in [
        ("the source", &found.source, &wanted.source),
        ("experts:", &found.experts, &wanted.experts),
        // Before the trunk, whose scales follow it.
        ("importance:", &found.importance, &wanted.importance),
        ("trunk:", &found.trunk, &wanted.trunk),
        ("the layout", &found.layout, &wanted.layout),
    ] {
        if found != wanted {
            return Err(other(setting, found, wanted));
        }
    }
    Ok(())
}

/// The finished tasks of the lines, and the number of `done` lines; what makes no sense ends the list.
fn read_done<'a>(lines: impl Iterator<Item = &'a str>) -> (Vec<Done>, usize) {
    // Void ones keep their place, since `synced` counts lines.
    let mut done: Vec<Option<Done>> = Vec::new();
    for line in lines {
        let mut words = line.split(' ');
        let kind = words.next();
        let Some(number) = words.next().and_then(|word| word.parse::<usize>().ok()) else { break };
        match kind {
            Some("done") => {
                let Ok(checksums) = words.map(str::parse).collect::<Result<_, _>>() else { break };
                done.push(Some(Done { task: number, checksums, is_synced: false }));
            }
            Some("synced") => done.iter_mut().take(number).flatten().for_each(|done| done.is_synced = true),
            Some("void") => {
                let is_void =
                    |done: &&mut Option<Done>| done.as_ref().is_some_and(|done| done.task == number);
                done.iter_mut().filter(is_void).for_each(|done| *done = None);
            }
            _ => break,
        }
    }
    let n_done = done.len();
    (done.into_iter().flatten().collect(), n_done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let text = |text: &str| text.to_owned();
        Settings {
            source: text("a model"),
            experts: text("4 bits"),
            trunk: text("8 bits"),
            importance: text("none"),
            layout: text("0"),
        }
    }

    #[test]
    fn lines_come_back_and_torn_ones_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, done) = Journal::open(dir.path(), &settings()).unwrap();
        assert_eq!(done, []);
        journal.done(3, &[Checksum(7)]).unwrap();
        journal.done(1, &[Checksum(8), Checksum(u64::MAX)]).unwrap();
        journal.synced(1).unwrap();
        journal.done(2, &[]).unwrap();
        drop(journal);
        let path = dir.path().join(JOURNAL);
        let whole = std::fs::read(&path).unwrap();
        let first = whole.iter().position(|&byte| byte == b'\n').unwrap() + 1;
        let task = |task, checksums: &[u64], is_synced| Done {
            task,
            checksums: checksums.iter().map(|&sum| Checksum(sum)).collect(),
            is_synced,
        };
        let all = [task(3, &[7], true), task(1, &[8, u64::MAX], false), task(2, &[], false)];
        for cut in first..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (journal, done) = Journal::open(dir.path(), &settings()).unwrap();
            assert_eq!(journal.n_done(), done.len());
            for (found, expected) in done.iter().zip(&all) {
                assert_eq!(
                    (found.task, &found.checksums),
                    (expected.task, &expected.checksums),
                    "cut at {cut}"
                );
            }
            journal.done(9, &[Checksum(1)]).unwrap();
            drop(journal);
            let (_, again) = Journal::open(dir.path(), &settings()).unwrap();
            assert_eq!(again.len(), done.len() + 1, "a line after a cut at {cut} counts");
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(Journal::open(dir.path(), &settings()).unwrap().1, all);
    }

    #[test]
    fn what_is_taken_back_is_not_vouched_for() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = Journal::open(dir.path(), &settings()).unwrap();
        journal.done(1, &[Checksum(10)]).unwrap();
        journal.done(2, &[Checksum(20)]).unwrap();
        journal.void(1).unwrap();
        journal.done(3, &[Checksum(30)]).unwrap();
        assert_eq!(journal.n_done(), 3);
        journal.synced(2).unwrap();
        drop(journal);
        let done = |task, sum, is_synced| Done { task, checksums: vec![Checksum(sum)], is_synced };
        let (journal, found) = Journal::open(dir.path(), &settings()).unwrap();
        assert_eq!(found, [done(2, 20, true), done(3, 30, false)]);
        assert_eq!(journal.n_done(), 3);
        journal.done(1, &[Checksum(10)]).unwrap();
        drop(journal);
        let (journal, found) = Journal::open(dir.path(), &settings()).unwrap();
        assert_eq!(found.last(), Some(&done(1, 10, false)), "done again, and not on the disk yet");
        journal.synced(journal.n_done()).unwrap();
        drop(journal);
        assert_eq!(Journal::open(dir.path(), &settings()).unwrap().1.last(), Some(&done(1, 10, true)));
    }

    #[test]
    fn other_settings_are_refused_and_a_torn_start_is_none() {
        let dir = tempfile::tempdir().unwrap();
        drop(Journal::open(dir.path(), &settings()).unwrap());
        let other = Settings { experts: "3 bits".to_owned(), ..settings() };
        let error = Journal::open(dir.path(), &other).err().expect("refused").to_string();
        assert!(error.contains("4 bits") && error.contains("3 bits"), "{error}");
        let path = dir.path().join(JOURNAL);
        let torn = std::fs::read(&path).unwrap();
        std::fs::write(&path, &torn[..torn.len() - 2]).unwrap();
        assert_eq!(Journal::open(dir.path(), &other).unwrap().1, []);
    }

    #[test]
    fn two_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let (_first, _) = Journal::open(dir.path(), &settings()).unwrap();
        assert!(matches!(Journal::open(dir.path(), &settings()), Err(PackError::Busy { .. })));
    }
}
