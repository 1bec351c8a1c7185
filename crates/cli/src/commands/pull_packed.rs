//! `flashmill pull REPO --pack BITS`: each file of a model is packed as it arrives and removed again.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result, bail};
use flashmill_engine::human_bytes;
use flashmill_pack::{Arrival, PackOptions, PackPlan, PackReport, SHARDS, check_out, header_bytes};
use flashmill_pull::{PullError, PullOptions, Remote, Repo};

use super::pack::warn;
use crate::progress::Progress;
use crate::terminal::note;

/// Fetches and packs, and prints the path of the packed model. A run that was interrupted is taken up by an equal one.
pub(super) fn pull_packed(repo: &Repo, options: &PullOptions, pack: PackOptions) -> Result<ExitCode> {
    if repo.quant().is_some() {
        bail!(
            "{repo}: --pack takes repositories of safetensors; fetch the GGUF file without --pack, then pack it"
        );
    }
    if cfg!(not(unix)) {
        bail!(
            "--pack needs a Unix system, where files may have holes; pull {repo} without --pack, then pack it"
        );
    }
    let out = pack.out.clone();
    let arrivals = directory(&out)?;
    // Before anything is fetched.
    check_out(&out)?;
    let remote = Remote::open(repo, options, &arrivals)?;
    let bar = Mutex::new(Progress::of_bytes("fetching headers"));
    remote.prepare(&header_bytes, &|progress| {
        let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
        bar.set(progress.done_bytes, progress.total_bytes);
    })?;
    drop(bar);
    let plan = flashmill_pack::plan_arriving(PackOptions { source: remote.source(), ..pack })?;
    warn(&plan);
    let report = match plan.already_packed()? {
        Some(report) => report,
        None => stream(&remote, &plan)?,
    };
    remote.remove()?;
    note!(
        "{repo} is packed, {} (experts {}; trunk {}); run it with: flashmill run {} -p TEXT",
        human_bytes(report.bytes),
        plan.recipe().experts,
        plan.recipe().trunk,
        out.display()
    );
    writeln!(io::stdout(), "{}", out.display()).context("cannot write to standard output")?;
    Ok(ExitCode::SUCCESS)
}

/// Where files on their way lie: beside the output, on its disk.
fn directory(out: &Path) -> Result<PathBuf> {
    let name = out.file_name().with_context(|| format!("{} is no name of a directory", out.display()))?;
    let mut name = name.to_owned();
    name.push(".pull");
    Ok(out.with_file_name(name))
}

/// One thread fetches, as far ahead as there is room for files; this one packs what has come and makes room.
fn stream(remote: &Remote, plan: &PackPlan) -> Result<PackReport> {
    let names: Vec<String> = plan
        .files()
        .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect();
    let mut arrival = Arrival::begin(plan, &|_, _| ())?;
    let needed: Vec<&str> = arrival.order().iter().map(|&file| names[file].as_str()).collect();
    // An earlier run may have ended between the last weight of a file and its removal.
    remote.keep_only(&needed)?;
    arrival.take_room(remote.here_bytes())?;
    if arrival.n_held() > SHARDS {
        note!(
            "note: {} files have to be on the disk together, since weights lie across them",
            arrival.n_held()
        );
    }
    let order = arrival.order().to_vec();
    let fetching = Fetching { remote, names: &names, order: &order, stop: AtomicBool::new(false) };
    let (arrived, arrivals) = mpsc::channel();
    let (room, rooms) = mpsc::channel();
    (0..arrival.n_held()).for_each(|_| room.send(()).expect("its receiver is here"));
    thread::scope(|scope| {
        scope.spawn(|| fetching.run(rooms, arrived));
        let result = pack_arrivals(&mut arrival, remote, &names, &arrivals, &room);
        fetching.stop.store(true, Ordering::Relaxed);
        // Without more room the other thread ends.
        drop(room);
        result
    })?;
    Ok(arrival.finish()?)
}

/// A file that is here.
type Arrived = Result<(usize, PathBuf), PullError>;

fn pack_arrivals(
    arrival: &mut Arrival<'_>,
    remote: &Remote,
    names: &[String],
    arrivals: &Receiver<Arrived>,
    room: &Sender<()>,
) -> Result<()> {
    for arrived in arrivals {
        let (file, path) = arrived?;
        for gone in arrival.arrived(file, &path)? {
            remote.discard(&names[gone])?;
            // The other thread has gone when everything is here.
            let _ = room.send(());
        }
    }
    Ok(())
}

/// What the thread that fetches needs.
struct Fetching<'a> {
    remote: &'a Remote,
    names: &'a [String],
    order: &'a [usize],
    stop: AtomicBool,
}

impl Fetching<'_> {
    /// Fetches the files in their order, each when there is room for one more.
    fn run(&self, rooms: Receiver<()>, arrived: Sender<Arrived>) {
        let size = |file: usize| self.remote.size(&self.names[file]).unwrap_or(0);
        let total: u64 = self.order.iter().map(|&file| size(file)).sum();
        let bar = Mutex::new(Progress::of_many_bytes("fetching and packing"));
        let mut before = 0;
        for &file in self.order {
            if rooms.recv().is_err() {
                return;
            }
            let fetched = self.remote.fetch(
                &self.names[file],
                &|progress| {
                    let mut bar = bar.lock().unwrap_or_else(PoisonError::into_inner);
                    bar.set(before + progress.done_bytes, total);
                },
                &self.stop,
            );
            before += size(file);
            let message = match fetched {
                Ok(None) => return,
                Ok(Some(path)) => Ok((file, path)),
                Err(error) => Err(error),
            };
            let is_last = message.is_err();
            if arrived.send(message).is_err() || is_last {
                return;
            }
        }
    }
}
