//! What may be tried.

use flashmill_engine::cost::{MachineProfile, Setting as Place, Workload, expected_hit_rate};
use flashmill_engine::{Checkpoint, EngineOptions, Plan, PolicyKind, Prefetch, ReaderKind};

use super::search::Point;
use super::setting::{Setting, UnknownSetting};

/// Readers for which less than this share of the best one's speed is predicted are not tried.
const PROMISING: f64 = 0.5;

/// The values of one option, at least two.
#[derive(Clone, Debug, PartialEq)]
pub struct Knob {
    /// All of one kind.
    pub values: Vec<Setting>,
}

/// All combinations of some options' values.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// One for each option.
    pub knobs: Vec<Knob>,
}

impl std::fmt::Display for Grid {
    /// `depth=8|depth=32 threads=2|threads=1`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, knob) in self.knobs.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { " " })?;
            for (at, value) in knob.values.iter().enumerate() {
                write!(f, "{}{value}", if at == 0 { "" } else { "|" })?;
            }
        }
        Ok(())
    }
}

impl std::str::FromStr for Grid {
    type Err = UnknownSetting;

    fn from_str(text: &str) -> Result<Grid, UnknownSetting> {
        let knob = |word: &str| word.split('|').map(str::parse).collect::<Result<Vec<Setting>, _>>();
        Ok(Grid::new(text.split_whitespace().map(knob).collect::<Result<Vec<_>, _>>()?))
    }
}

impl Grid {
    /// Of lists of values; an option with a single value is no knob.
    pub fn new(knobs: impl IntoIterator<Item = Vec<Setting>>) -> Grid {
        let knobs = knobs.into_iter().filter(|values| values.len() > 1).map(|values| Knob { values });
        Grid { knobs: knobs.collect() }
    }

    /// Combinations in all.
    pub fn n_points(&self) -> usize {
        self.knobs.iter().map(|knob| knob.values.len()).product()
    }

    /// The settings of a point.
    pub fn settings(&self, point: &Point) -> Vec<Setting> {
        self.knobs.iter().zip(point).map(|(knob, &value)| knob.values[value]).collect()
    }

    /// The point with these settings; `None` if it is not in the grid.
    pub fn point(&self, settings: &[Setting]) -> Option<Point> {
        let place =
            |(knob, setting): (&Knob, &Setting)| knob.values.iter().position(|value| value == setting);
        let found = self.knobs.iter().zip(settings).map(place).collect();
        if settings.len() == self.knobs.len() { found } else { None }
    }

    /// Every point, in no order that means anything.
    pub fn points(&self) -> impl Iterator<Item = Point> + '_ {
        (0..self.n_points()).map(|mut number| {
            let digit = |knob: &Knob| {
                let value = number % knob.values.len();
                number /= knob.values.len();
                value
            };
            self.knobs.iter().map(digit).collect()
        })
    }

    /// Whether the option number `knob` does anything at `point`: threads that read are of no use to io_uring.
    pub fn matters(&self, point: &Point, knob: usize) -> bool {
        match self.knobs[knob].values[0] {
            Setting::IoThreads(_) => !self.settings(point).contains(&Setting::Reader(ReaderKind::Uring)),
            _ => true,
        }
    }
}

/// What there is to choose from.
pub struct Candidates<'a> {
    profile: &'a MachineProfile,
    options: &'a EngineOptions,
    given: &'a [&'static str],
    plan: &'a Plan,
    workloads: Vec<(usize, Workload)>,
}

impl<'a> Candidates<'a> {
    /// For the model of `checkpoint`, planned as `plan` with `options`, on the machine of `profile`. The settings that are named in `given`
    /// ([`Setting::name`]) were chosen by somebody, and are no knobs.
    pub fn new(
        checkpoint: &Checkpoint,
        profile: &'a MachineProfile,
        options: &'a EngineOptions,
        given: &'a [&'static str],
        plan: &'a Plan,
    ) -> Candidates<'a> {
        let least = plan.experts_per_token.div_ceil(2).max(1);
        let workload = |experts| (experts, Workload::of(checkpoint, experts));
        let workloads = (least..=plan.experts_per_token).map(workload).collect();
        Candidates { profile, options, given, plan, workloads }
    }

    /// The options that are knobs here, and their values; `lossy`: those too that change answers.
    pub fn grid(&self, lossy: bool) -> Grid {
        let streamed = self.plan.resident_share < 1.0;
        let mut knobs = vec![self.threads()];
        if streamed {
            // Fewer reads in flight than a layer's misses wait for each other; more than a few layers' find nothing to do.
            let depths = [8, 32, 128].map(Setting::Depth).to_vec();
            let policies = PolicyKind::ALL.map(Setting::Policy).to_vec();
            let prefetches = Prefetch::ALL.map(Setting::Prefetch).to_vec();
            knobs.extend([self.readers(), depths, self.io_threads(), policies]);
            knobs.extend([prefetches, self.chunks(), self.caches()]);
        }
        if lossy {
            let most = self.plan.experts_per_token;
            knobs.push((most.div_ceil(2).max(1)..=most).rev().map(Setting::Experts).collect());
        }
        if lossy && streamed {
            knobs.push([0, 50, 100, 200, 400].map(Setting::CacheAware).to_vec());
        }
        let is_given = |values: &Vec<Setting>| {
            values.first().is_some_and(|setting| self.given.contains(&setting.name()))
        };
        Grid::new(knobs.into_iter().filter(|values| !is_given(values)))
    }

    /// The settings of `grid` that are what happens without any flag; `reader` is the one that a run takes then.
    pub fn start(&self, grid: &Grid, reader: ReaderKind) -> Vec<Setting> {
        let is_usual = |setting: &&Setting| match **setting {
            Setting::Reader(kind) => kind == reader,
            Setting::Depth(n) => n == 32,
            Setting::IoThreads(n) => n == 4,
            Setting::Policy(policy) => policy == PolicyKind::default(),
            Setting::Prefetch(prefetch) => prefetch == Prefetch::default(),
            Setting::Threads(n) => n == self.options.n_threads(),
            Setting::Chunk(n) => n == self.plan.chunk,
            Setting::Cache(bytes) => bytes.is_none(),
            Setting::Experts(n) => n == self.plan.experts_per_token,
            Setting::CacheAware(thousandths) => thousandths == 0,
        };
        let usual = |knob: &Knob| *knob.values.iter().find(is_usual).unwrap_or(&knob.values[0]);
        grid.knobs.iter().map(usual).collect()
    }

    /// Tokens a second that the cost formula says of `settings`; `None` where it knows too little.
    pub fn predict(&self, settings: &[Setting]) -> Option<f64> {
        let mut reader = self.options.reader.to_string();
        let (mut slots, mut chunk) = (self.plan.slot_bytes, self.plan.chunk);
        let mut experts = self.plan.experts_per_token;
        for setting in settings {
            match *setting {
                Setting::Reader(kind) => reader = kind.to_string(),
                Setting::Cache(Some(bytes)) => slots = bytes,
                Setting::Chunk(n) => chunk = n,
                Setting::Experts(n) => experts = n,
                _ => {}
            }
        }
        if reader == ReaderKind::Auto.to_string() {
            reader = ReaderKind::Uring.to_string();
        }
        let share = (slots as f64 / self.plan.bundle_bytes.max(1) as f64).min(1.0);
        let place =
            Place { reader: &reader, hit_rate: expected_hit_rate(share), resident_share: share, chunk };
        let (_, workload) = self.workloads.iter().find(|(n, _)| *n == experts)?;
        let prompt = flashmill_engine::cost::PROMPT;
        workload.predict(self.profile, &place, 0, prompt).map(|prediction| prediction.decode_tok_per_s)
    }

    /// Readers that were measured and are not hopeless.
    fn readers(&self) -> Vec<Setting> {
        let all = [ReaderKind::Uring, ReaderKind::Pread, ReaderKind::PageCache].map(Setting::Reader);
        let speed = |reader: &Setting| self.predict(&[*reader]).unwrap_or(0.0);
        let best = all.iter().map(speed).fold(0.0, f64::max);
        all.into_iter().filter(|reader| best > 0.0 && speed(reader) >= PROMISING * best).collect()
    }

    fn io_threads(&self) -> Vec<Setting> {
        let without = self.options.reader == ReaderKind::Uring;
        if without { Vec::new() } else { [2, 4, 8].map(Setting::IoThreads).to_vec() }
    }

    /// All processors, one fewer for the system and the disk, half of them.
    fn threads(&self) -> Vec<Setting> {
        let most = self.options.n_threads();
        let mut counts = vec![most, most - 1, most.div_ceil(2)];
        counts.retain(|&n| n > 0);
        counts.dedup();
        counts.into_iter().map(Setting::Threads).collect()
    }

    /// The plan's chunk and shorter ones, whose memory goes to the cache.
    fn chunks(&self) -> Vec<Setting> {
        let chunks = [1, 2, 4].map(|part| self.plan.chunk / part).into_iter().filter(|&chunk| chunk >= 32);
        chunks.map(Setting::Chunk).collect()
    }

    /// All that is left, or less of it: what the page cache does not share is then the system's.
    fn caches(&self) -> Vec<Setting> {
        let part = |quarters| Setting::Cache(Some(self.plan.slot_bytes / 4 * quarters));
        vec![Setting::Cache(None), part(3), part(2)]
    }
}
