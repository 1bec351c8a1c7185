//! The loop of `tune` on a simulated machine whose truth is known, with the noise of a real one.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use flashmill_engine::cost::expected_hit_rate;
use flashmill_engine::{PolicyKind, Prefetch, ReaderKind};
use flashmill_lab::statistics::Interval;
use flashmill_lab::tune::{
    Basis, Experiment, Failure, Grid, Journal, Outcome, Point, Rule, Run, Setting, Surface, TuneError, Tuner,
    Verdict, Why, tune,
};

/// SplitMix64, as the tests' own.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Bytes of all experts of the simulated model.
const EXPERTS: f64 = 16e9;

/// Bytes of the cache when it has all that is left.
const CACHE: u64 = 4_000_000_000;

/// Where speed comes from, drawn for each seed: the formula of the plan with the effects that it does not know.
struct Machine {
    /// GB/s of io_uring, pread and the page cache.
    readers: [f64; 3],
    /// What the formula believes of each, over the truth.
    believed: [f64; 3],
    /// Reads in flight that give 63 % of a reader's speed.
    depth: f64,
    /// Speed of the readers with threads for 2, 4 and 8 of them.
    io_threads: [f64; 3],
    /// Misses of LFRU, LRU and LFU.
    policies: [f64; 3],
    /// Time of reading, with nothing, as many and twice as many read ahead as are used.
    prefetch: [f64; 3],
    /// Milliseconds on one thread.
    compute: f64,
    /// What a thread too many costs.
    crowd: f64,
}

impl Machine {
    fn new(random: &mut Random) -> Machine {
        let mut draw = |low, high| random.between(low, high);
        Machine {
            readers: [draw(1.5, 3.0), draw(1.5, 3.0), draw(1.0, 3.0)],
            believed: [draw(0.8, 1.25), draw(0.8, 1.25), draw(0.8, 1.25)],
            depth: draw(4.0, 40.0),
            io_threads: [draw(0.6, 1.0), draw(0.8, 1.0), draw(0.7, 1.0)],
            policies: [1.0, draw(0.85, 1.2), draw(0.85, 1.2)],
            prefetch: [1.0, draw(0.75, 1.3), draw(0.75, 1.5)],
            compute: draw(40.0, 160.0),
            crowd: draw(0.0, 0.3),
        }
    }

    /// Tokens a second without noise. `believed`: as far as the formula knows.
    fn speed(&self, settings: &[Setting], believed: bool) -> f64 {
        let mut reader = 0;
        let (mut depth, mut io_threads, mut policy, mut prefetch) = (32.0, 1, 0, 0);
        let (mut threads, mut chunk, mut cache) = (4.0f64, 2048.0, CACHE);
        for setting in settings {
            match *setting {
                Setting::Reader(kind) => {
                    reader = place(&[ReaderKind::Uring, ReaderKind::Pread, ReaderKind::PageCache], kind)
                }
                Setting::Depth(n) => depth = n as f64,
                Setting::IoThreads(n) => io_threads = place(&[2, 4, 8], n),
                Setting::Policy(kind) => policy = place(&PolicyKind::ALL, kind),
                Setting::Prefetch(kind) => prefetch = place(&Prefetch::ALL, kind),
                Setting::Threads(n) => threads = n as f64,
                Setting::Chunk(n) => chunk = n as f64,
                Setting::Cache(bytes) => cache = bytes.unwrap_or(CACHE),
                Setting::Experts(_) | Setting::CacheAware(_) => {}
            }
        }
        // A shorter chunk leaves more to the cache.
        let share = (cache as f64 + (2048.0 - chunk) * 250e3) / EXPERTS;
        let mut misses = 1.0 - expected_hit_rate(share);
        let mut gb_per_s = self.readers[reader];
        let mut wait = 1.0;
        let mut compute = self.compute / 4.0;
        if believed {
            gb_per_s *= self.believed[reader];
        } else {
            misses *= self.policies[policy];
            gb_per_s *= 1.0 - (-depth / self.depth).exp();
            if reader > 0 {
                gb_per_s *= self.io_threads[io_threads];
            }
            if reader == 2 {
                // The page cache holds a part of what the slots do not.
                misses *= 1.0 - 0.5 * (CACHE - cache) as f64 / CACHE as f64;
            }
            wait = self.prefetch[prefetch];
            compute = self.compute / threads.powf(0.9) * if threads > 3.0 { 1.0 + self.crowd } else { 1.0 };
        }
        let read = 600e6 * misses / gb_per_s / 1e6 * wait;
        1e3 / (0.5 * compute + read.max(0.5 * compute))
    }
}

fn place<T: PartialEq>(all: &[T], one: T) -> usize {
    all.iter().position(|other| *other == one).expect("a known value")
}

fn grid() -> Grid {
    Grid::new([
        [4, 3, 2].map(Setting::Threads).to_vec(),
        [ReaderKind::Uring, ReaderKind::Pread, ReaderKind::PageCache].map(Setting::Reader).to_vec(),
        [8, 32, 128].map(Setting::Depth).to_vec(),
        [2, 4, 8].map(Setting::IoThreads).to_vec(),
        PolicyKind::ALL.map(Setting::Policy).to_vec(),
        Prefetch::ALL.map(Setting::Prefetch).to_vec(),
        [2048, 1024, 512].map(Setting::Chunk).to_vec(),
        [None, Some(CACHE / 4 * 3), Some(CACHE / 2)].map(Setting::Cache).to_vec(),
    ])
}

/// How a planted run ends.
type Plant = fn() -> Failure;

/// A simulated machine, with what real runs of one setting differed by, in the order in which they did.
struct Simulated<'a> {
    machine: &'a Machine,
    noise: &'a [f64],
    at: usize,
    n_runs: usize,
    /// Settings that do not end well.
    planted: Option<(Setting, Plant)>,
}

impl Surface for Simulated<'_> {
    fn run(&mut self, settings: &[Setting]) -> Result<Run, Failure> {
        self.n_runs += 1;
        if let Some((_, failure)) = self.planted.as_ref().filter(|(planted, _)| settings.contains(planted)) {
            return Err(failure());
        }
        self.at += 1;
        let noise = self.noise[self.at % self.noise.len()];
        Ok(Run {
            decode_tok_per_s: self.machine.speed(settings, false) * noise,
            prefill_tok_per_s: 100.0,
            hit_rate: 0.8,
            bytes_per_token: 1e7,
        })
    }

    fn loss(&mut self, _: &[Setting], _: Duration) -> Result<Interval, Failure> {
        unreachable!("no setting of this grid changes answers")
    }
}

/// Speeds of the runs of one setting, over their median.
fn recorded(condition: &str) -> Vec<f64> {
    let text = include_str!("../data/bench_noise.tsv");
    let line = |line: &str| {
        let (name, speed) = line.split_once('\t')?;
        (name == condition).then(|| speed.parse::<f64>().expect("a speed"))
    };
    let speeds: Vec<f64> = text.lines().filter_map(line).collect();
    let mut sorted = speeds.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    speeds.into_iter().map(|speed| speed / median).collect()
}

fn begin<'a>(
    grid: &'a Grid,
    start: &Point,
    predict: &'a dyn Fn(&[Setting]) -> Option<f64>,
    stop: &'a AtomicBool,
) -> Tuner<'a> {
    Tuner {
        grid,
        start: start.clone(),
        predict,
        rule: Rule::default(),
        max_loss: None,
        now: &|| "2026-01-01T00:00:00Z".to_owned(),
        elapsed: &|| 0.0,
        limit: 1.0,
        stop,
    }
}

fn run(tuner: &Tuner<'_>, surface: &mut dyn Surface, path: &Path) -> Result<Outcome, TuneError> {
    let start = tuner.grid.settings(&tuner.start);
    let basis = Basis { ram_bytes: 1 << 30, context: 4096, start, grid: tuner.grid.clone() };
    let (mut journal, found, past) = Journal::open(path, "simulated", basis.clone())?;
    assert_eq!(found, basis, "it is read back");
    tune(tuner, surface, &mut journal, past, &mut |_| ())
}

/// The speed of the winner over the best of the grid, and the runs, from the worst point.
fn climb(seed: u64, noise: &[f64]) -> (f64, usize) {
    let mut random = Random(seed);
    let machine = Machine::new(&mut random);
    let grid = grid();
    let truth = |point: &Point| machine.speed(&grid.settings(point), false);
    let by_truth = |a: &Point, b: &Point| truth(a).total_cmp(&truth(b));
    let worst = grid.points().min_by(by_truth).expect("points");
    let best = grid.points().map(|point| truth(&point)).fold(0.0, f64::max);
    let at = random.next() as usize % noise.len();
    let mut surface = Simulated { machine: &machine, noise, at, n_runs: 0, planted: None };
    let predict = |settings: &[Setting]| Some(machine.speed(settings, true));
    let stop = AtomicBool::new(false);
    let directory = tempfile::tempdir().expect("a directory");
    let outcome =
        run(&begin(&grid, &worst, &predict, &stop), &mut surface, &directory.path().join("results.tsv"))
            .expect("it ends");
    assert!(outcome.is_complete, "nothing is left");
    assert_eq!(outcome.n_runs, surface.n_runs);
    (machine.speed(&outcome.best, false) / best, surface.n_runs)
}

/// Within 10 % of the best of all points, in fewer runs than a third of measuring each point of the grid once: alone on the machine, whose
/// runs differ by 12 %, and beside builds that come and go, where they differ by a third.
#[test]
fn it_climbs_from_bad_settings() {
    let n_points = grid().n_points();
    for condition in ["quiet", "busy"] {
        let noise = recorded(condition);
        let found: Vec<(f64, usize)> = (1..=20).map(|seed| climb(seed, &noise)).collect();
        let mut shares: Vec<f64> = found.iter().map(|(share, _)| *share).collect();
        shares.sort_by(f64::total_cmp);
        let most = found.iter().map(|(_, runs)| *runs).max().unwrap_or(0);
        let mean = found.iter().map(|(_, runs)| *runs).sum::<usize>() as f64 / found.len() as f64;
        println!(
            "{condition}: of the best speed {:.3} at the least, {:.3} in the median; {mean:.0} runs, {most} at most, of {n_points} points",
            shares[0], shares[10]
        );
        assert!(shares[0] >= 0.9, "{condition}, seeds 1 to 20: {shares:?}");
        assert!(most <= n_points / 3, "{condition}: {most} runs");
    }
}

/// Without noise only the way matters: threads that read are of no use to io_uring, so that the best of the readers with threads is found
/// only together with their number.
#[test]
fn readers_are_tried_with_all_numbers_of_threads() {
    let grid = Grid::new([
        [ReaderKind::Uring, ReaderKind::Pread].map(Setting::Reader).to_vec(),
        [2, 4, 8].map(Setting::IoThreads).to_vec(),
    ]);
    let machine = Machine {
        readers: [2.0, 2.4, 1.0],
        io_threads: [0.6, 0.7, 1.0],
        depth: 1.0,
        ..Machine::new(&mut Random(1))
    };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("results.tsv");
    let mut surface =
        Simulated { machine: &machine, noise: &[1.0, 1.01, 0.99], at: 0, n_runs: 0, planted: None };
    let stop = AtomicBool::new(false);
    let outcome = run(&begin(&grid, &vec![0, 0], &|_| None, &stop), &mut surface, &path).expect("it ends");
    assert_eq!(outcome.best, [Setting::Reader(ReaderKind::Pread), Setting::IoThreads(8)]);
}

/// Challengers that are the same setting under another name.
#[test]
fn what_is_no_faster_is_seldom_kept() {
    const N: usize = 2000;
    let rule = Rule::default();
    for condition in ["quiet", "busy"] {
        let noise = recorded(condition);
        let mut random = Random(11);
        let mut kept = 0;
        for _ in 0..N {
            let mut at = random.next() as usize % noise.len();
            let mut next = || {
                at += 1;
                noise[at % noise.len()]
            };
            let mut runs = [Vec::new(), Vec::new()];
            let verdict = loop {
                let first = usize::from(Rule::challenger_begins(runs[1].len()));
                runs[first].push(next());
                runs[1 - first].push(next());
                if let Some((verdict, _)) = rule.judge(&runs[0], &runs[1], rule.max_pairs()) {
                    break verdict;
                }
            };
            kept += usize::from(verdict == Verdict::Kept);
        }
        let bound = rule.alpha * rule.looks.len() as f64;
        println!("{condition}: {kept} of {N} kept, {:.0} at most by the rule", bound * N as f64);
        assert!((kept as f64) < bound * N as f64, "{condition}: {kept} of {N}");
    }
}

/// A grid of two knobs, and a machine on which the fewest reads in flight are the best.
fn small() -> (Grid, Machine) {
    let grid =
        Grid::new([[8, 32, 128].map(Setting::Depth).to_vec(), PolicyKind::ALL.map(Setting::Policy).to_vec()]);
    (grid, Machine { depth: 100.0, policies: [1.0, 0.6, 2.0], ..Machine::new(&mut Random(1)) })
}

fn read(path: &Path) -> Vec<Experiment> {
    let basis = Basis { ram_bytes: 0, context: 0, start: Vec::new(), grid: Grid::new([]) };
    Journal::open(path, "simulated", basis).expect("a whole journal").2
}

#[test]
fn a_crash_and_a_hang_are_results_like_others() {
    let (grid, machine) = small();
    let failures: [(Plant, &str); 2] = [
        (|| Failure::Unreadable("it crashed".into()), "it crashed"),
        (|| Failure::Hung { limit: Duration::from_secs(7) }, "no result in 7 s"),
    ];
    for (failure, said) in failures {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("results.tsv");
        // What would have been the best.
        let planted = Some((Setting::Depth(128), failure));
        let mut surface =
            Simulated { machine: &machine, noise: &[1.0, 1.01, 0.99], at: 0, n_runs: 0, planted };
        let stop = AtomicBool::new(false);
        let outcome =
            run(&begin(&grid, &vec![0, 2], &|_| None, &stop), &mut surface, &path).expect("it ends");
        assert_eq!(outcome.best, grid.settings(&vec![1, 1]), "the best of those that run");
        assert!(outcome.is_complete && outcome.gain.is_some_and(|[gain, low, _]| gain > low && low > 0.0));
        let failed: Vec<Experiment> =
            read(&path).into_iter().filter(|row| matches!(row.why, Why::Failed(_))).collect();
        assert!(!failed.is_empty(), "it was tried");
        for row in failed {
            assert!(row.verdict == Verdict::Discarded && row.why.to_string().contains(said), "{row:?}");
        }
    }
}

#[test]
fn an_incumbent_that_runs_no_more_is_left() {
    struct Broken<'a>(Simulated<'a>);
    impl Surface for Broken<'_> {
        fn run(&mut self, settings: &[Setting]) -> Result<Run, Failure> {
            let is_start = settings.contains(&Setting::Depth(8));
            if is_start { Err(Failure::Unreadable("gone".into())) } else { self.0.run(settings) }
        }
        fn loss(&mut self, settings: &[Setting], within: Duration) -> Result<Interval, Failure> {
            self.0.loss(settings, within)
        }
    }
    let (grid, machine) = small();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("results.tsv");
    let noise = [1.0, 1.01, 0.99];
    let mut surface = Broken(Simulated { machine: &machine, noise: &noise, at: 0, n_runs: 0, planted: None });
    let stop = AtomicBool::new(false);
    let outcome = run(&begin(&grid, &vec![0, 0], &|_| None, &stop), &mut surface, &path).expect("it ends");
    assert_eq!(outcome.best, grid.settings(&vec![2, 1]));
    assert!(read(&path).iter().any(|row| matches!(row.why, Why::IncumbentFailed(_))));
}

/// A winner that crashes in the last comparison is not kept: the one before it is, if it stands its own.
#[test]
fn a_winner_that_does_not_stand_the_last_comparison_is_dropped() {
    /// The best settings crash in a comparison with the start, which is the last one: two options differ.
    struct Frail<'a> {
        simulated: Simulated<'a>,
        start: Vec<Setting>,
        best: Vec<Setting>,
        before: Vec<Setting>,
    }
    impl Surface for Frail<'_> {
        fn run(&mut self, settings: &[Setting]) -> Result<Run, Failure> {
            let before = std::mem::replace(&mut self.before, settings.to_vec());
            if before == self.start && settings == self.best {
                return Err(Failure::Unreadable("it crashed".into()));
            }
            self.simulated.run(settings)
        }
        fn loss(&mut self, settings: &[Setting], within: Duration) -> Result<Interval, Failure> {
            self.simulated.loss(settings, within)
        }
    }
    let (grid, machine) = small();
    let noise = [1.0, 1.01, 0.99];
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("results.tsv");
    let start = vec![0, 2];
    let mut surface = Frail {
        simulated: Simulated { machine: &machine, noise: &noise, at: 0, n_runs: 0, planted: None },
        start: grid.settings(&start),
        best: grid.settings(&vec![2, 1]),
        before: Vec::new(),
    };
    let stop = AtomicBool::new(false);
    let tuner = begin(&grid, &start, &|_| None, &stop);
    let outcome = run(&tuner, &mut surface, &path).expect("it ends");
    let [(settings, Why::Failed(why))] = &outcome.dropped[..] else { panic!("{:?}", outcome.dropped) };
    assert!(*settings == surface.best && why.contains("it crashed"), "{why}");
    assert!(outcome.best != surface.best && outcome.best != surface.start, "{:?}", outcome.best);
    assert!(outcome.gain.is_some_and(|[_, low, _]| low > 0.0), "{:?}", outcome.gain);
    // The journal says so as well.
    let again = run(&tuner, &mut surface, &path).expect("it ends");
    assert_eq!((again.best, again.dropped, again.n_runs), (outcome.best, outcome.dropped, outcome.n_runs));
}

/// Ended after every number of runs, by an interrupt or because the time is over, and begun again: no experiment is done twice, and the end
/// is the same.
#[test]
fn what_was_broken_off_goes_on() {
    struct Ending<'a> {
        simulated: Simulated<'a>,
        left: usize,
        stop: &'a AtomicBool,
    }
    impl Surface for Ending<'_> {
        fn run(&mut self, settings: &[Setting]) -> Result<Run, Failure> {
            if self.left == 0 {
                self.stop.store(true, Ordering::SeqCst);
                return Err(Failure::Interrupted);
            }
            self.left -= 1;
            self.simulated.run(settings)
        }
        fn loss(&mut self, settings: &[Setting], within: Duration) -> Result<Interval, Failure> {
            self.simulated.loss(settings, within)
        }
    }
    let (grid, machine) = small();
    let noise = [1.0, 1.01, 0.99];
    let surface = || Simulated { machine: &machine, noise: &noise, at: 0, n_runs: 0, planted: None };
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("results.tsv");
    let start = vec![0, 2];
    for left in 0..60 {
        let stop = AtomicBool::new(false);
        let tuner = begin(&grid, &start, &|_| None, &stop);
        let ended = run(&tuner, &mut Ending { simulated: surface(), left, stop: &stop }, &path);
        let before = read(&path);
        assert!(
            matches!(ended, Err(TuneError::Interrupted)) || ended.is_ok_and(|outcome| outcome.is_complete)
        );
        let go_on = AtomicBool::new(false);
        let outcome = run(&begin(&grid, &start, &|_| None, &go_on), &mut surface(), &path).expect("it ends");
        assert_eq!(outcome.best, grid.settings(&vec![2, 1]), "after {left} runs");
        let after = read(&path);
        assert_eq!(before, after[..before.len()], "what was written stays");
        let mut tried: Vec<_> = after.iter().map(|row| (&row.challenger, &row.incumbent)).collect();
        tried.sort_by_key(|pair| format!("{pair:?}"));
        tried.dedup();
        assert_eq!(tried.len(), after.len(), "each experiment once");
        std::fs::remove_file(&path).expect("removed");
    }
}

#[test]
fn the_time_ends_it() {
    let (grid, machine) = small();
    let noise = [1.0, 1.01, 0.99];
    let directory = tempfile::tempdir().expect("a directory");
    for limit in [0.0, 3.0, 10.0, 25.0, 1000.0] {
        let path = directory.path().join(format!("{limit}.tsv"));
        let mut surface = Simulated { machine: &machine, noise: &noise, at: 0, n_runs: 0, planted: None };
        // A clock that moves by a second whenever somebody looks, which is more often than there are runs.
        let clock = std::cell::Cell::new(0.0);
        let elapsed = || {
            clock.set(clock.get() + 1.0);
            clock.get()
        };
        let stop = AtomicBool::new(false);
        let tuner = Tuner { elapsed: &elapsed, limit, ..begin(&grid, &vec![0, 2], &|_| None, &stop) };
        let outcome = run(&tuner, &mut surface, &path).expect("it ends");
        assert!(surface.n_runs as f64 <= limit, "{} runs in {limit} s", surface.n_runs);
        assert_eq!(outcome.is_complete, limit > 900.0, "{limit}");
        assert_eq!(outcome.n_experiments, read(&path).len());
    }
}

/// Fewer experts are faster, and lose: the fastest within the loss that is allowed, sure of it.
#[test]
fn losses_are_bounded() {
    struct Lossy(usize);
    impl Surface for Lossy {
        fn run(&mut self, settings: &[Setting]) -> Result<Run, Failure> {
            self.0 += 1;
            let Setting::Experts(n) = settings[0] else { unreachable!("the only knob") };
            let noise = [1.0, 1.01, 0.99][self.0 % 3];
            let decode_tok_per_s = 100.0 / n as f64 * noise;
            Ok(Run { decode_tok_per_s, prefill_tok_per_s: 1.0, hit_rate: 1.0, bytes_per_token: 0.0 })
        }
        fn loss(&mut self, settings: &[Setting], _: Duration) -> Result<Interval, Failure> {
            let Setting::Experts(n) = settings[0] else { unreachable!("the only knob") };
            let mean = 0.01 * (8 - n) as f64;
            Ok(Interval { estimate: mean, low: 0.5 * mean, high: 1.5 * mean })
        }
    }
    let grid = Grid::new([(4..=8).rev().map(Setting::Experts).collect()]);
    let predict = |settings: &[Setting]| match settings[0] {
        Setting::Experts(n) => Some(100.0 / n as f64),
        _ => None,
    };
    let directory = tempfile::tempdir().expect("a directory");
    // 0.03 in the mean is 0.045 at most.
    for (max_loss, best) in [(None, 8), (Some(0.001), 8), (Some(0.029), 7), (Some(0.03), 6), (Some(1.0), 4)] {
        let path = directory.path().join(format!("{max_loss:?}.tsv"));
        let stop = AtomicBool::new(false);
        let tuner = Tuner { max_loss, ..begin(&grid, &vec![0], &predict, &stop) };
        let outcome = run(&tuner, &mut Lossy(0), &path).expect("it ends");
        assert_eq!(outcome.best, [Setting::Experts(best)], "{max_loss:?}");
        for row in read(&path).iter().filter(|row| row.why == Why::LosesTooMuch) {
            assert_eq!((row.n_runs(), row.verdict), (0, Verdict::Discarded), "not even timed: {row:?}");
        }
    }
}

/// What cache-aware routing loses depends on what is in the cache, and so on every setting.
#[test]
fn losses_of_cache_aware_routing_are_those_of_all_settings() {
    struct Aware(usize);
    impl Surface for Aware {
        fn run(&mut self, settings: &[Setting]) -> Result<Run, Failure> {
            self.0 += 1;
            let gains = settings.iter().map(|setting| match setting {
                Setting::CacheAware(1..) => 1.5,
                Setting::Cache(Some(_)) => 1.25,
                _ => 1.0,
            });
            let decode_tok_per_s = gains.product::<f64>() * [1.0, 1.01, 0.99][self.0 % 3];
            Ok(Run { decode_tok_per_s, prefill_tok_per_s: 1.0, hit_rate: 1.0, bytes_per_token: 0.0 })
        }
        fn loss(&mut self, settings: &[Setting], _: Duration) -> Result<Interval, Failure> {
            let mean = if settings.contains(&Setting::Cache(None)) { 0.01 } else { 0.5 };
            Ok(Interval { estimate: mean, low: 0.0, high: 1.5 * mean })
        }
    }
    let grid = Grid::new([
        [0, 100].map(Setting::CacheAware).to_vec(),
        [None, Some(1000)].map(Setting::Cache).to_vec(),
    ]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("results.tsv");
    let stop = AtomicBool::new(false);
    // A prediction that has the routing tried first.
    let predict = |settings: &[Setting]| Some(if settings[0] == Setting::CacheAware(0) { 1.0 } else { 1.02 });
    let tuner = Tuner { max_loss: Some(0.02), ..begin(&grid, &vec![0, 0], &predict, &stop) };
    let outcome = run(&tuner, &mut Aware(0), &path).expect("it ends");
    assert_eq!(outcome.best, [Setting::CacheAware(100), Setting::Cache(None)]);
    assert!(read(&path).iter().any(|row| row.why == Why::LosesTooMuch), "a smaller cache was measured too");
}

/// A loss that is not found before the time is over is no result, and is measured again when there is more time.
#[test]
fn losses_keep_to_the_time() {
    struct Slow<'a>(&'a std::cell::Cell<f64>);
    impl Surface for Slow<'_> {
        fn run(&mut self, settings: &[Setting]) -> Result<Run, Failure> {
            self.0.set(self.0.get() + 1.0);
            let speed = if settings[0] == Setting::Experts(4) { 2.0 } else { 1.0 };
            Ok(Run { decode_tok_per_s: speed, prefill_tok_per_s: 1.0, hit_rate: 1.0, bytes_per_token: 0.0 })
        }
        fn loss(&mut self, _: &[Setting], within: Duration) -> Result<Interval, Failure> {
            self.0.set(self.0.get() + within.as_secs_f64().min(100.0));
            if within < Duration::from_secs(100) {
                return Err(Failure::Hung { limit: within });
            }
            Ok(Interval { estimate: 0.0, low: 0.0, high: 0.0 })
        }
    }
    let grid = Grid::new([[8, 4].map(Setting::Experts).to_vec()]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("results.tsv");
    let stop = AtomicBool::new(false);
    for (limit, best) in [(50.0, 8), (500.0, 4)] {
        let clock = std::cell::Cell::new(0.0);
        let elapsed = || clock.get();
        let tuner = Tuner {
            max_loss: Some(0.1),
            elapsed: &elapsed,
            limit,
            ..begin(&grid, &vec![0], &|_| None, &stop)
        };
        let outcome = run(&tuner, &mut Slow(&clock), &path).expect("it ends");
        assert_eq!(outcome.best, [Setting::Experts(best)], "{limit} s");
        assert!(clock.get() <= limit, "{} of {limit} s", clock.get());
    }
    assert_eq!(read(&path)[0].why, Why::OutOfTime);
}

/// The same through real processes: a shell script is the program, one setting crashes it and one hangs it.
#[cfg(unix)]
#[test]
fn processes_that_crash_and_hang_do_not_end_the_loop() {
    use flashmill_lab::tune::ChildSurface;
    let script = r#"
        case "$*" in
            *"--depth 8"*) kill -SEGV $$ ;;
            *"--depth 128"*) exec sleep 1000 ;;
            *"--cache-policy lru"*) speed=20 ;;
            *) speed=10 ;;
        esac
        # Digits of the process's number are the noise.
        printf '{"decode_tok_per_s": %s.%s, "prefill_tok_per_s": 1, "hit_rate": 1, "bytes_per_token": 0}' $speed $(($$ % 100))"#;
    let (grid, _) = small();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("results.tsv");
    let args: Vec<std::ffi::OsString> = ["-c", script, "sh"].map(Into::into).to_vec();
    let mut surface = ChildSurface {
        program: "/bin/sh".into(),
        bench: args.clone(),
        loss: args,
        limit: Duration::from_secs(2),
        loss_limit: Duration::from_secs(2),
        stop: std::sync::Arc::default(),
    };
    let stop = AtomicBool::new(false);
    let outcome = run(&begin(&grid, &vec![1, 0], &|_| None, &stop), &mut surface, &path).expect("it ends");
    assert_eq!(outcome.best, grid.settings(&vec![1, 1]), "{:#?}", read(&path));
    let whys: Vec<String> = read(&path).iter().map(|row| row.why.to_string()).collect();
    for said in ["signal: 11", "no result in 2 s"] {
        assert!(whys.iter().any(|why| why.contains(said)), "{said}: {whys:?}");
    }
}
