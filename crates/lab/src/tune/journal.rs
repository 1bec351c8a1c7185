//! `results.tsv`: every experiment a line, written when it is decided; read back to go on.

use std::fmt::Write as _;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::TuneError;
use super::duel::{Verdict, Why};
use super::grid::Grid;
use super::setting::Setting;

/// A challenger against the incumbent.
#[derive(Clone, Debug, PartialEq)]
pub struct Experiment {
    /// When it was decided.
    pub when: String,
    /// The settings that were best until then.
    pub incumbent: Vec<Setting>,
    /// Those that were tried.
    pub challenger: Vec<Setting>,
    /// Tokens decoded a second in each run of the incumbent.
    pub incumbent_runs: Vec<f64>,
    /// Of the challenger.
    pub challenger_runs: Vec<f64>,
    /// Challenger over incumbent, less 1: the estimate, and its bounds; none without runs of both. The bounds of few runs may be infinite.
    pub gain: Option<[f64; 3]>,
    /// Picks of the challenger's last run that were in a slot.
    pub hit_rate: Option<f64>,
    /// Bytes that a token of it read.
    pub bytes_per_token: Option<f64>,
    /// The mean divergence in nats and its upper bound, where it was measured.
    pub loss: Option<[f64; 2]>,
    /// How long it took.
    pub seconds: f64,
    /// Kept or discarded.
    pub verdict: Verdict,
    /// Why.
    pub why: Why,
}

const COLUMNS: [&str; 14] = [
    "when",
    "verdict",
    "why",
    "challenger",
    "gain",
    "gain_low",
    "gain_high",
    "challenger_tok_per_s",
    "incumbent_tok_per_s",
    "hit_rate",
    "bytes_per_token",
    "loss_mean_and_high",
    "seconds",
    "incumbent",
];

impl Experiment {
    /// Runs of both.
    pub fn n_runs(&self) -> usize {
        self.incumbent_runs.len() + self.challenger_runs.len()
    }

    /// The challenger was slower, by `share` or more as it seemed.
    pub(super) fn is_clear_loss(&self, share: f64) -> bool {
        self.why == Why::Slower && self.gain.is_some_and(|[estimate, ..]| estimate < -share)
    }

    /// What differs between the two, as `depth=8 (was 32)`.
    pub fn change(&self) -> String {
        let mut text = String::new();
        for (new, old) in self.challenger.iter().zip(&self.incumbent).filter(|(new, old)| new != old) {
            let old = old.to_string();
            let was = old.split_once('=').map_or("", |(_, value)| value);
            let _ = write!(text, "{}{new} (was {was})", if text.is_empty() { "" } else { ", " });
        }
        text
    }

    fn line(&self) -> String {
        let settings = |settings: &[Setting]| joined(settings, " ");
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.6}"));
        let gain = |at: usize| number(self.gain.map(|gain| gain[at]).filter(|gain| gain.is_finite()));
        let runs = |runs: &[f64]| {
            let runs: Vec<String> = runs.iter().map(|speed| format!("{speed:.4}")).collect();
            joined(&runs, ",")
        };
        let columns: [String; COLUMNS.len()] = [
            self.when.clone(),
            self.verdict.name().to_owned(),
            self.why.to_string(),
            settings(&self.challenger),
            gain(0),
            gain(1),
            gain(2),
            runs(&self.challenger_runs),
            runs(&self.incumbent_runs),
            number(self.hit_rate),
            number(self.bytes_per_token),
            self.loss.map_or_else(|| "-".to_owned(), |[mean, high]| format!("{mean:.6},{high:.6}")),
            format!("{:.1}", self.seconds),
            settings(&self.incumbent),
        ];
        let clean = |text: &String| text.replace(|char: char| char.is_control(), " ");
        columns.iter().map(clean).collect::<Vec<_>>().join("\t")
    }

    fn read(line: &str) -> Result<Experiment, &'static str> {
        let columns: Vec<&str> = line.split('\t').collect();
        let [
            when,
            verdict,
            why,
            challenger,
            gain,
            gain_low,
            gain_high,
            challenger_runs,
            incumbent_runs,
            hit_rate,
            bytes_per_token,
            loss,
            seconds,
            incumbent,
        ] = columns[..]
        else {
            return Err("not as many columns as the others");
        };
        let estimate = optional(gain)?;
        let bound = |text, missing: f64| optional(text).map(|bound| bound.unwrap_or(missing));
        let (low, high) = (bound(gain_low, -1.0)?, bound(gain_high, f64::INFINITY)?);
        let loss = if loss == "-" { None } else { Some(numbers(loss)?) };
        let loss = loss.map(|loss| loss.try_into().map_err(|_| "the loss is not two numbers")).transpose()?;
        Ok(Experiment {
            when: when.to_owned(),
            incumbent: settings(incumbent)?,
            challenger: settings(challenger)?,
            incumbent_runs: numbers(incumbent_runs)?,
            challenger_runs: numbers(challenger_runs)?,
            gain: estimate.map(|estimate| [estimate, low, high]),
            hit_rate: optional(hit_rate)?,
            bytes_per_token: optional(bytes_per_token)?,
            loss,
            seconds: seconds.parse().map_err(|_| "the seconds are no number")?,
            verdict: [Verdict::Kept, Verdict::Discarded]
                .into_iter()
                .find(|known| known.name() == verdict)
                .ok_or("the verdict is neither kept nor discarded")?,
            why: Why::read(why).ok_or("the reason is not known")?,
        })
    }
}

fn joined<T: ToString>(items: &[T], between: &str) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(between) }
}

fn settings(text: &str) -> Result<Vec<Setting>, &'static str> {
    let words = text.split(' ').filter(|word| !word.is_empty() && *word != "-");
    words.map(|word| word.parse().map_err(|_| "a setting that this version does not know")).collect()
}

fn optional(text: &str) -> Result<Option<f64>, &'static str> {
    if text == "-" { Ok(None) } else { text.parse().map(Some).map_err(|_| "a number is none") }
}

fn numbers(text: &str) -> Result<Vec<f64>, &'static str> {
    let words = text.split(',').filter(|word| *word != "-");
    words.map(|word| word.parse().map_err(|_| "a number is none")).collect()
}

/// What a search begins with and depends on the moment: memory is measured, and sizes follow from it. A search that goes on keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct Basis {
    /// The budget of every run.
    pub ram_bytes: u64,
    /// The context that every run has memory for.
    pub context: usize,
    /// The settings without any flag, a point of the grid.
    pub start: Vec<Setting>,
    /// What may be tried.
    pub grid: Grid,
}

impl Basis {
    fn line(&self) -> String {
        let Basis { ram_bytes, context, start, grid } = self;
        format!("# budget {ram_bytes} context {context} start {} grid {grid}", joined(start, ","))
    }

    fn read(line: &str) -> Option<Basis> {
        let (ram_bytes, rest) = line.strip_prefix("# budget ")?.split_once(" context ")?;
        let (context, rest) = rest.split_once(" start ")?;
        let (start, grid) = rest.split_once(" grid ")?;
        let (start, grid) = (settings(&start.replace(',', " ")).ok()?, grid.parse::<Grid>().ok()?);
        grid.point(&start)?;
        Some(Basis { ram_bytes: ram_bytes.parse().ok()?, context: context.parse().ok()?, start, grid })
    }
}

/// The file, open for the next line, and for nobody else's.
pub struct Journal {
    path: PathBuf,
    file: File,
}

/// What the first line begins with.
const TITLE: &str = "# flashmill tune: ";

/// Lines before the first result: conditions, basis, columns.
const N_HEAD: usize = 3;

/// No journal is longer: a line is some 500 bytes.
const MAX_BYTES: u64 = 64 << 20;

impl Journal {
    /// Opens the journal at `path`, which is begun on `basis` if there is none, and gives the basis that it has and the experiments.
    /// `conditions` are what results can be compared under. A last line that was not written to its end is cut off; a file that is no
    /// journal, or another one, stays as it is.
    pub fn open(
        path: &Path,
        conditions: &str,
        basis: Basis,
    ) -> Result<(Journal, Basis, Vec<Experiment>), TuneError> {
        let cannot = |what| move |error| TuneError::File { what, path: path.to_owned(), error };
        let mut file =
            File::options().read(true).append(true).create(true).open(path).map_err(cannot("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(TuneError::Busy { path: path.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(cannot("lock")(error)),
        }
        if file.metadata().map_err(cannot("read"))?.len() > MAX_BYTES {
            return Err(cannot("read")(io::Error::other("it is larger than 64 MiB")));
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(cannot("read"))?;
        let first = format!("{TITLE}{}\n", conditions.replace(|char: char| char.is_control(), " "));
        if !text.starts_with(&first) && !first.starts_with(&text) {
            return Err(other_journal(path, &text, &first));
        }
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let is_begun = text[..whole].lines().count() >= N_HEAD;
        let (whole, basis, experiments) = if is_begun {
            let mut lines = text[..whole].lines().skip(1);
            let what = "not a budget, a context, a start and a grid of this version";
            let line = TuneError::Line { path: path.to_owned(), line: 2, what };
            let basis = lines.next().and_then(Basis::read).ok_or(line)?;
            (whole, basis, read_lines(path, lines.skip(1))?)
        } else {
            (0, basis, Vec::new())
        };
        if whole < text.len() {
            file.set_len(whole as u64).map_err(cannot("write"))?;
        }
        let mut journal = Journal { path: path.to_owned(), file };
        if !is_begun {
            journal.write(&format!("{first}{}\n{}\n", basis.line(), COLUMNS.join("\t")))?;
        }
        Ok((journal, basis, experiments))
    }

    /// Appends a line, and has it on the disk.
    pub fn append(&mut self, experiment: &Experiment) -> Result<(), TuneError> {
        self.write(&(experiment.line() + "\n"))
    }

    fn write(&mut self, text: &str) -> Result<(), TuneError> {
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|error| TuneError::File { what: "write", path: self.path.clone(), error })
    }
}

/// Why a file that begins in another way than `expected` cannot be gone on with.
fn other_journal(path: &Path, text: &str, expected: &str) -> TuneError {
    let path = path.to_owned();
    match text.lines().next().and_then(|line| line.strip_prefix(TITLE)) {
        Some(found) => TuneError::OtherJournal {
            path,
            found: found.chars().take(600).collect(),
            expected: expected.trim_end().trim_start_matches(TITLE).to_owned(),
        },
        None => TuneError::NoJournal { path },
    }
}

fn read_lines<'a>(path: &Path, lines: impl Iterator<Item = &'a str>) -> Result<Vec<Experiment>, TuneError> {
    let read = |(at, line): (usize, &str)| {
        let line_of = at + N_HEAD + 1;
        Experiment::read(line).map_err(|what| TuneError::Line { path: path.to_owned(), line: line_of, what })
    };
    lines.enumerate().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn basis(ram_bytes: u64) -> Basis {
        Basis {
            ram_bytes,
            context: 4096,
            start: settings("depth=8 cache=all").unwrap(),
            grid: "depth=32|depth=8 cache=all|cache=1000".parse().unwrap(),
        }
    }

    fn experiments() -> [Experiment; 2] {
        let settings = |text: &str| settings(text).unwrap();
        let kept = Experiment {
            when: "2026-01-02T03:04:05Z".into(),
            incumbent: settings("depth=32 cache=all"),
            challenger: settings("depth=8 cache=1000"),
            incumbent_runs: vec![10.0, 10.5],
            challenger_runs: vec![12.0, 12.25],
            gain: Some([0.2, 0.1, 0.3]),
            hit_rate: Some(0.75),
            bytes_per_token: Some(1e6),
            loss: Some([0.01, 0.02]),
            seconds: 12.5,
            verdict: Verdict::Kept,
            why: Why::Faster,
        };
        let crashed = Experiment {
            incumbent_runs: Vec::new(),
            challenger_runs: Vec::new(),
            gain: None,
            hit_rate: None,
            bytes_per_token: None,
            loss: None,
            verdict: Verdict::Discarded,
            why: Why::Failed("signal: 11: what it said".into()),
            ..kept.clone()
        };
        [kept, crashed]
    }

    #[test]
    fn a_journal_is_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.tsv");
        let (mut journal, first, found) = Journal::open(&path, "a model", basis(1 << 30)).unwrap();
        assert!(found.is_empty() && first == basis(1 << 30));
        for experiment in experiments() {
            journal.append(&experiment).unwrap();
        }
        drop(journal);
        let (_, first, found) = Journal::open(&path, "a model", basis(2 << 30)).unwrap();
        assert_eq!(first, basis(1 << 30), "that of the beginning");
        assert_eq!(found, experiments());
        assert_eq!(found[0].change(), "depth=8 (was 32), cache=1000 (was all)");
        let other = Journal::open(&path, "another model", basis(1 << 30)).err().unwrap().to_string();
        assert!(other.contains("a model") && other.contains("another model") && other.contains("--results"));
    }

    #[test]
    fn a_line_that_was_cut_off_is_dropped_and_a_damaged_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.tsv");
        let (mut journal, ..) = Journal::open(&path, "a model", basis(1)).unwrap();
        let [kept, crashed] = experiments();
        journal.append(&kept).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        journal.append(&crashed).unwrap();
        let both = fs::read_to_string(&path).unwrap();
        drop(journal);
        for cut in whole.len()..both.len() {
            fs::write(&path, &both[..cut]).unwrap();
            let (mut journal, _, found) = Journal::open(&path, "a model", basis(1)).unwrap();
            assert_eq!(found, std::slice::from_ref(&kept));
            journal.append(&crashed).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), both, "cut at {cut}");
        }
        // Also in the lines at the beginning.
        let first = whole.find('\n').unwrap();
        for cut in [0, 5, first, first + 1, whole.find(" grid ").unwrap()] {
            fs::write(&path, &both[..cut]).unwrap();
            assert!(Journal::open(&path, "a model", basis(1)).unwrap().2.is_empty());
        }
        fs::write(&path, both.replace("kept", "liked")).unwrap();
        let error = Journal::open(&path, "a model", basis(1)).err().unwrap().to_string();
        assert!(error.contains("line 4") && error.contains("neither kept nor discarded"), "{error}");
    }

    #[test]
    fn what_is_no_journal_of_these_conditions_stays_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.tsv");
        let journal = "# flashmill tune: another model\n# budget 1";
        for (text, said) in [
            ("my only copy", "no journal of `tune`"),
            ("one line\n", "no journal of `tune`"),
            ("\n\n", "no journal of `tune`"),
            ("a\nb\nc\nd\n", "no journal of `tune`"),
            (journal, "other conditions (another model there, a model now)"),
        ] {
            fs::write(&path, text).unwrap();
            let error = Journal::open(&path, "a model", basis(1)).err().unwrap().to_string();
            assert!(error.contains(said) && error.contains("--results"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        fs::write(&path, [0xff, 0xfe, b'\n']).unwrap();
        assert!(Journal::open(&path, "a model", basis(1)).is_err());
        assert_eq!(fs::read(&path).unwrap(), [0xff, 0xfe, b'\n']);
    }

    #[test]
    fn a_journal_is_written_by_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("results.tsv");
        let one = Journal::open(&path, "a model", basis(1)).unwrap();
        let two = Journal::open(&path, "a model", basis(1)).err().unwrap().to_string();
        assert!(two.contains("another `tune`") && two.contains("--results"), "{two}");
        drop(one);
        assert!(Journal::open(&path, "a model", basis(1)).is_ok());
    }
}
