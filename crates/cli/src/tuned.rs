//! The settings that `tune` found for a model on this machine, kept in the user's cache.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flashmill_engine::{Checkpoint, Engine, EngineOptions, budget_bytes, human_bytes, machine};
use flashmill_lab::tune::Setting;
use serde::{Deserialize, Serialize};

use crate::demo::user_cache;
use crate::profile::host;
use crate::terminal::note;

/// Budgets that differ by no more than this factor are alike.
const BUDGETS: f64 = 1.25;

/// The directory below the user's cache.
const DIR: &str = "tuned";

/// The longest file that is read: some ten lines.
const MAX_BYTES: u64 = 64 << 10;

/// What tuning found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tuned {
    /// Each as `name=value`.
    pub(crate) settings: Vec<String>,
    /// The model, as it was named.
    pub(crate) model: String,
    /// When it was found.
    pub(crate) when: String,
    /// Processors that could be used.
    pub(crate) cores: usize,
    /// The budget.
    pub(crate) ram_bytes: u64,
    /// Tokens a second; none where nothing was tried.
    pub(crate) tok_per_s: Option<f64>,
    /// How much faster than without, less 1, and bounds; none where it was not compared.
    pub(crate) gain: Option<[f64; 3]>,
    /// The most divergence that was allowed, in nats.
    pub(crate) max_loss: Option<f64>,
    /// The journal.
    pub(crate) results: PathBuf,
}

/// What flags say of settings that were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TunedUse {
    /// Not at all.
    pub(crate) off: bool,
    /// Settings that a flag gives.
    pub(crate) given: Vec<&'static str>,
}

impl Tuned {
    /// The settings, each where no flag gives it; or why they are of no use here.
    fn fitting(&self, options: &EngineOptions, usage: &TunedUse) -> Result<Vec<Setting>, String> {
        let settings: Result<Vec<Setting>, _> = self.settings.iter().map(|text| text.parse()).collect();
        let settings = settings.map_err(|error| error.to_string())?;
        let cores = machine::allowed_cores();
        if cores != self.cores {
            return Err(format!("they are for {} processors, and {cores} may be used", self.cores));
        }
        let budget = budget_bytes(options);
        let ratio = budget as f64 / self.ram_bytes.max(1) as f64;
        if !(1.0 / BUDGETS..=BUDGETS).contains(&ratio) {
            let (was, is) = (human_bytes(self.ram_bytes), human_bytes(budget));
            return Err(format!("they are for a budget of {was}, and it is {is}"));
        }
        let is_sane = |setting: &Setting| !matches!(setting, Setting::Threads(n) if *n > cores);
        if !settings.iter().all(is_sane) {
            return Err("they have more threads than processors".to_owned());
        }
        Ok(settings.into_iter().filter(|setting| !usage.given.contains(&setting.name())).collect())
    }

    /// `reader=uring depth=8 ..: 12.3 tok/s, 20 % faster than without`.
    pub(crate) fn line(&self) -> String {
        let speed = self.tok_per_s.map_or_else(String::new, |speed| format!("{speed:.1} tok/s, "));
        let gain = self
            .gain
            .map_or_else(String::new, |[gain, ..]| format!("{:.2} times the usual settings', ", 1.0 + gain));
        format!("{} ({speed}{gain}{})", self.settings.join(" "), self.when)
    }

    /// Keeps it for the model at `path`.
    pub(crate) fn keep(&self, path: &Path, options: &EngineOptions) -> Result<PathBuf> {
        let place =
            place(path, options).context("there is no cache directory; set HOME or XDG_CACHE_HOME")?;
        let dir = place.parent().unwrap_or(Path::new("."));
        let write = || {
            fs::create_dir_all(dir)?;
            let mut file = tempfile::NamedTempFile::new_in(dir)?;
            file.write_all(&serde_json::to_vec_pretty(self)?)?;
            file.persist(&place)?;
            anyhow::Ok(())
        };
        write().with_context(|| format!("cannot write {}", place.display()))?;
        Ok(place)
    }
}

/// Puts into `options` what was found for the model at `path`, and gives it; a line says why where it is of no use any more.
pub(crate) fn use_kept(path: &Path, options: &mut EngineOptions, usage: &TunedUse) -> Option<Tuned> {
    if usage.off {
        return None;
    }
    let tuned = kept(path, options)?;
    match tuned.fitting(options, usage) {
        Ok(settings) => {
            settings.iter().for_each(|setting| setting.apply(options));
            Some(tuned)
        }
        Err(why) => {
            note!("the settings that `tune` found on {} are not used: {why}", tuned.when);
            None
        }
    }
}

/// What was found for the model at `path`; `None` if nothing was, or it cannot be read.
fn kept(path: &Path, options: &EngineOptions) -> Option<Tuned> {
    // Where nothing was ever tuned, the model's files need not be looked at.
    if !user_cache()?.join(DIR).exists() {
        return None;
    }
    let place = place(path, options)?;
    if fs::metadata(&place).ok()?.len() > MAX_BYTES {
        return None;
    }
    serde_json::from_slice(&fs::read(place).ok()?).ok()
}

/// A file for each machine, kind of computing and model; the files of the model are looked at, so that another model at the same path is
/// another one.
fn place(path: &Path, options: &EngineOptions) -> Option<PathBuf> {
    let cache = user_cache()?;
    let level = options.level.map_or_else(|| "best".to_owned(), |level| level.to_string());
    let fingerprint = Engine::fingerprint(&Checkpoint::open(path).ok()?).ok()?;
    Some(cache.join(DIR).join(format!("{}-{level}-{fingerprint:032x}.json", host())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuned() -> Tuned {
        Tuned {
            settings: ["depth=8", "threads=1", "cache=all"].map(str::to_owned).to_vec(),
            model: "m".into(),
            when: "2026-01-02".into(),
            cores: machine::allowed_cores(),
            ram_bytes: 1 << 30,
            tok_per_s: Some(12.3),
            gain: Some([0.25, 0.1, 0.4]),
            max_loss: None,
            results: "results.tsv".into(),
        }
    }

    #[test]
    fn settings_are_used_where_they_fit_and_nothing_else_was_asked_for() {
        let options =
            |ram_bytes: u64| EngineOptions { ram_bytes: Some(ram_bytes), ..EngineOptions::default() };
        let fitting = |tuned: &Tuned, ram_bytes, given: &[&'static str]| {
            tuned.fitting(&options(ram_bytes), &TunedUse { off: false, given: given.to_vec() })
        };
        let all = [Setting::Depth(8), Setting::Threads(1), Setting::Cache(None)];
        assert_eq!(fitting(&tuned(), 1 << 30, &[]), Ok(all.to_vec()));
        assert_eq!(fitting(&tuned(), 1 << 30, &["depth"]), Ok(all[1..].to_vec()), "a flag goes first");
        for (tuned, ram_bytes, said) in [
            (tuned(), 3 << 30, "budget of 1.0 GiB, and it is 3.0 GiB"),
            (tuned(), 1 << 29, "budget"),
            (Tuned { cores: 4096, ..tuned() }, 1 << 30, "for 4096 processors"),
            (Tuned { settings: vec!["colour=red".into()], ..tuned() }, 1 << 30, "colour=red"),
            (Tuned { settings: vec!["threads=9999999".into()], ..tuned() }, 1 << 30, "threads"),
        ] {
            let why = fitting(&tuned, ram_bytes, &[]).expect_err("it does not fit");
            assert!(why.contains(said), "{why}");
        }
        assert!(tuned().line().contains("1.25 times"), "{}", tuned().line());
    }
}
