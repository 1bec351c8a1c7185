//! Runs in a process of their own, so that a crash or a hang ends the run and not the loop.

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::setting::Setting;
use super::{Run, Surface};
use crate::statistics::Interval;

/// Why a run gave nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The program could not be started.
    #[error("cannot start {}: {error}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// It ended, but not well.
    #[error("{status}{}", said(last_line))]
    Ended {
        /// How.
        status: ExitStatus,
        /// The last that it said.
        last_line: String,
    },
    /// It did not end in time, and was ended.
    #[error("no result in {} s", limit.as_secs())]
    Hung {
        /// The time it had.
        limit: Duration,
    },
    /// What it printed is not what was asked for.
    #[error("what it printed is no result: {0}")]
    Unreadable(String),
    /// Somebody wants to stop.
    #[error("interrupted")]
    Interrupted,
}

fn said(last_line: &str) -> String {
    if last_line.is_empty() { String::new() } else { format!(": {last_line}") }
}

/// The program itself as the surface: one process a run.
pub struct ChildSurface {
    /// What is started.
    pub program: PathBuf,
    /// Its arguments for one run, which prints a bench's JSON; the settings' flags are appended.
    pub bench: Vec<OsString>,
    /// Its arguments for one comparison with the model as it is, which prints `{"mean": .., "low": .., "high": ..}`.
    pub loss: Vec<OsString>,
    /// The most time of a run.
    pub limit: Duration,
    /// Of a comparison.
    pub loss_limit: Duration,
    /// Set when nobody wants to go on.
    pub stop: Arc<AtomicBool>,
}

/// What is read of a bench's JSON.
#[derive(Deserialize)]
struct Printed {
    decode_tok_per_s: f64,
    prefill_tok_per_s: f64,
    hit_rate: f64,
    bytes_per_token: f64,
}

/// What is read of a comparison.
#[derive(Deserialize)]
struct PrintedLoss {
    mean: f64,
    /// None where nothing is sure, as JSON has no infinity.
    low: Option<f64>,
    high: Option<f64>,
}

impl ChildSurface {
    fn output<T: for<'a> Deserialize<'a>>(
        &self,
        args: &[OsString],
        settings: &[Setting],
        limit: Duration,
    ) -> Result<T, Failure> {
        let mut command = Command::new(&self.program);
        command.args(args).args(settings.iter().filter_map(Setting::flag).flatten());
        let output = output_within(&mut command, limit, &self.stop)?;
        serde_json::from_slice(&output).map_err(|error| Failure::Unreadable(error.to_string()))
    }
}

impl Surface for ChildSurface {
    fn run(&mut self, settings: &[Setting]) -> Result<Run, Failure> {
        let printed: Printed = self.output(&self.bench, settings, self.limit)?;
        if !(printed.decode_tok_per_s > 0.0 && printed.decode_tok_per_s.is_finite()) {
            return Err(Failure::Unreadable(format!("{} tokens a second", printed.decode_tok_per_s)));
        }
        let Printed { decode_tok_per_s, prefill_tok_per_s, hit_rate, bytes_per_token } = printed;
        Ok(Run { decode_tok_per_s, prefill_tok_per_s, hit_rate, bytes_per_token })
    }

    fn loss(&mut self, settings: &[Setting], within: Duration) -> Result<Interval, Failure> {
        let PrintedLoss { mean, low, high } =
            self.output(&self.loss, settings, self.loss_limit.min(within))?;
        Ok(Interval {
            estimate: mean,
            low: low.unwrap_or(f64::NEG_INFINITY),
            high: high.unwrap_or(f64::INFINITY),
        })
    }
}

/// Most bytes of a result, and of the complaints beside it, that are kept.
const MAX_OUTPUT_BYTES: u64 = 4 << 20;

/// What a program that Ctrl-C ended gives: 128 and the number of the signal.
const INTERRUPTED: i32 = 130;

/// How often it is looked whether the process has ended.
const TICK: Duration = Duration::from_millis(10);

/// Set to `1` for a process that shall end when its standard input does, as nobody waits for it then any more.
pub const ENDS_WITH_INPUT: &str = "FLASHMILL_ENDS_WITH_INPUT";

/// Runs `command` to its end and gives what it printed; ends it when `limit` is over or `stop` is set. Its standard input is a pipe that is
/// held open as long, by [`ENDS_WITH_INPUT`] it knows.
fn output_within(command: &mut Command, limit: Duration, stop: &AtomicBool) -> Result<Vec<u8>, Failure> {
    let program = PathBuf::from(command.get_program());
    command.env(ENDS_WITH_INPUT, "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| Failure::Start { program, error })?;
    let begun = Instant::now();
    // Read beside the wait: a full pipe would hold the process up.
    let output = child.stdout.take().map(read_all);
    let complaints = child.stderr.take().map(read_all);
    let status = loop {
        if stop.load(Ordering::SeqCst) {
            end(&mut child);
            return Err(Failure::Interrupted);
        }
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if begun.elapsed() < limit => thread::sleep(TICK),
            Ok(None) => {
                end(&mut child);
                return Err(Failure::Hung { limit });
            }
            Err(error) => {
                end(&mut child);
                return Err(Failure::Unreadable(error.to_string()));
            }
        }
    };
    // Ctrl-C reaches the process as well, which may end before the flag is set.
    if stop.load(Ordering::SeqCst) || status.code() == Some(INTERRUPTED) {
        return Err(Failure::Interrupted);
    }
    if !status.success() {
        let complaints = String::from_utf8_lossy(&joined(complaints)).into_owned();
        let last_line = complaints.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
        return Err(Failure::Ended { status, last_line: last_line.trim().chars().take(300).collect() });
    }
    Ok(joined(output))
}

/// The most time for a process that was killed to be gone.
const GRACE: Duration = Duration::from_secs(10);

/// Kills the process. One that waits for a disk which does not answer cannot end, and is left.
fn end(child: &mut Child) {
    // It may have ended by itself in this moment.
    let _ = child.kill();
    let killed = Instant::now();
    while matches!(child.try_wait(), Ok(None)) && killed.elapsed() < GRACE {
        thread::sleep(TICK);
    }
}

/// Reads to the end of the pipe, and keeps the first bytes.
fn read_all(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut kept = Vec::new();
        let _ = pipe.by_ref().take(MAX_OUTPUT_BYTES).read_to_end(&mut kept);
        let _ = io::copy(&mut pipe, &mut io::sink());
        kept
    })
}

fn joined(reader: Option<JoinHandle<Vec<u8>>>) -> Vec<u8> {
    reader.and_then(|reader| reader.join().ok()).unwrap_or_default()
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    /// A shell script as the program; it is given the settings' flags as `$@`.
    fn surface(script: &str) -> ChildSurface {
        let args: Vec<OsString> = ["-c", script, "sh"].map(OsString::from).to_vec();
        ChildSurface {
            program: "/bin/sh".into(),
            bench: args.clone(),
            loss: args,
            limit: Duration::from_secs(20),
            loss_limit: Duration::from_secs(20),
            stop: Arc::default(),
        }
    }

    #[test]
    fn a_run_is_read() {
        let script = r#"[ "$*" = "--depth 8 --reader pread" ] || exit 3
            echo '{"decode_tok_per_s": 12.5, "prefill_tok_per_s": 100, "hit_rate": 0.5, "bytes_per_token": 7, "rows": []}'"#;
        let settings = ["depth=8", "reader=pread", "cache=all"].map(|text| text.parse().unwrap());
        let run = surface(script).run(&settings).unwrap();
        assert_eq!((run.decode_tok_per_s, run.hit_rate, run.bytes_per_token), (12.5, 0.5, 7.0));
        let loss =
            surface("echo '{\"mean\": 0.5, \"low\": 0.25, \"high\": 1}'").loss(&[], Duration::MAX).unwrap();
        assert_eq!(loss, Interval { estimate: 0.5, low: 0.25, high: 1.0 });
        let mut slow = surface("exec sleep 1000");
        slow.loss_limit = Duration::from_millis(200);
        for (within, limit) in
            [(Duration::MAX, slow.loss_limit), (Duration::from_millis(100), Duration::from_millis(100))]
        {
            let hung = slow.loss(&[], within);
            assert!(matches!(hung, Err(Failure::Hung { limit: had }) if had == limit), "{hung:?}");
        }
    }

    #[test]
    fn a_crash_a_hang_and_nonsense_are_failures() {
        let crash = surface("echo one >&2; echo 'error: no such file' >&2; echo >&2; exit 1").run(&[]);
        let crash = crash.unwrap_err().to_string();
        assert!(crash.contains("exit status: 1: error: no such file"), "{crash}");
        let killed = surface("kill -SEGV $$").run(&[]).unwrap_err().to_string();
        assert!(killed.contains("signal: 11"), "{killed}");
        let mut hanging = surface("exec sleep 1000");
        hanging.limit = Duration::from_millis(100);
        assert!(matches!(hanging.run(&[]), Err(Failure::Hung { .. })));
        for printed in [
            "",
            "hello",
            "{}",
            "{\"decode_tok_per_s\": 0, \"prefill_tok_per_s\": 1, \"hit_rate\": 1, \"bytes_per_token\": 1}",
        ] {
            let failure = surface(&format!("printf '%s' '{printed}'")).run(&[]).unwrap_err();
            assert!(matches!(failure, Failure::Unreadable(_)), "{printed}: {failure}");
        }
        let nothing = ChildSurface { program: "/nowhere/at/all".into(), ..surface("") }.run(&[]);
        assert!(matches!(nothing, Err(Failure::Start { .. })));
    }

    #[test]
    fn a_process_that_says_much_is_no_hang() {
        let script = "head -c 9000000 /dev/zero >&2; head -c 9000000 /dev/zero";
        let output = output_within(
            Command::new("/bin/sh").args(["-c", script]),
            Duration::from_secs(60),
            &AtomicBool::new(false),
        );
        assert_eq!(output.unwrap().len() as u64, MAX_OUTPUT_BYTES);
    }

    /// `read` fails at the end of what there is to be read, which comes when nobody holds the pipe any more.
    #[test]
    fn standard_input_ends_with_whoever_waits() {
        let script = r#"[ "$FLASHMILL_ENDS_WITH_INPUT" = 1 ] && read line; exit 7"#;
        let mut waiting = surface(script);
        waiting.limit = Duration::from_millis(300);
        assert!(matches!(waiting.run(&[]), Err(Failure::Hung { .. })), "it waits as long as we do");
    }

    #[test]
    fn whoever_stops_does_not_wait() {
        let hanging = surface("exec sleep 1000");
        hanging.stop.store(true, Ordering::SeqCst);
        let mut hanging = hanging;
        assert!(matches!(hanging.run(&[]), Err(Failure::Interrupted)));
        assert!(matches!(surface("exit 130").run(&[]), Err(Failure::Interrupted)));
    }
}
