//! What every backend must pass: random computations compared with [`Reference`], and to the bit with each other.
//!
//! A [`Case`] is one computation with fixed inputs and several ways to do it: all rows at once, row by row, beside other rows, in
//! chunks. On one backend all ways must give the same bits; the first of them must lie within a bound, derived from the inputs and
//! from the backend's [`Precision`], of what `Reference` gives. [`same_bits`] holds two backends together.

mod attention;
mod delta_net;
mod experts;
mod ggml;
mod not_finite;
mod products;
mod random;
mod rewritten;
mod rows;
mod schedule;
mod stage;

use crate::{Backend, Reference};

pub use random::{Random, StoredMatrix, encodings};
pub use stage::Stage;

/// Makes a fresh backend.
pub type Make<'a> = &'a dyn Fn() -> Box<dyn Backend>;

/// How a backend rounds, besides f32 arithmetic with sums in 16 lanes or more.
#[derive(Clone, Copy, Debug)]
pub struct Precision {
    /// The inputs of a product with affine weights are rounded by at most this part of the largest magnitude of their group.
    pub activation_error: f64,
    /// Neighbouring inputs that are such a group.
    pub activation_group: usize,
}

impl Precision {
    /// Activations stay f32.
    pub const F32: Precision = Precision { activation_error: 0.0, activation_group: 1 };

    /// Activations are rounded to integers up to 32639 in groups of `group`; the half step is doubled for the rounding of the scale.
    pub const fn i16(group: usize) -> Precision {
        Precision { activation_error: 1.0 / 32639.0, activation_group: group }
    }
}

/// Does a computation on a fresh backend.
type Run = Box<dyn Fn(&mut dyn Backend) -> Vec<f32>>;

/// The largest distance of each value from `Reference`.
type Bound = Box<dyn Fn(&Precision) -> Vec<f64>>;

/// One computation.
pub struct Case {
    name: String,
    ways: Vec<Way>,
    bound: Bound,
}

/// One way to do it.
struct Way {
    name: &'static str,
    run: Run,
}

impl Case {
    /// A computation that `run` does; `bound` gives, for each value of its result, the largest distance from `Reference`.
    fn new(
        name: String,
        run: impl Fn(&mut dyn Backend) -> Vec<f32> + 'static,
        bound: impl Fn(&Precision) -> Vec<f64> + 'static,
    ) -> Self {
        Case { name, ways: vec![Way { name: "at once", run: Box::new(run) }], bound: Box::new(bound) }
    }

    /// Adds another way to compute the same.
    fn way(mut self, name: &'static str, run: impl Fn(&mut dyn Backend) -> Vec<f32> + 'static) -> Self {
        self.ways.push(Way { name, run: Box::new(run) });
        self
    }
}

/// All cases that `seed` gives.
pub fn cases(seed: u64) -> Vec<Case> {
    let mut random = Random::new(seed);
    let mut cases = Vec::new();
    cases.extend(products::cases(&mut random));
    cases.extend(experts::cases(&mut random));
    cases.extend(rows::cases(&mut random));
    cases.extend(delta_net::cases(&mut random));
    cases.extend(attention::cases(&mut random));
    cases.extend(not_finite::cases(&mut random));
    cases.extend(rewritten::cases(&mut random));
    cases
}

/// Runs every case on fresh backends and compares with [`Reference`], and all ways of a case with each other.
///
/// # Panics
/// With a list of what differs.
pub fn check_backend(make: Make<'_>, precision: &Precision, seed: u64) {
    let failures: Vec<String> = failures(make, precision, seed, "").collect();
    report(&make().name(), seed, &failures);
}

/// What differs in the cases whose name starts with `name`, found as the iterator is asked.
pub fn failures(
    make: Make<'_>,
    precision: &Precision,
    seed: u64,
    name: &str,
) -> impl Iterator<Item = String> {
    let cases = cases(seed).into_iter().filter(move |case| case.name.starts_with(name));
    cases.flat_map(move |case| {
        let truth = (case.ways[0].run)(&mut Reference::new());
        let bound = (case.bound)(precision);
        let first = (case.ways[0].run)(&mut *make());
        let mut found: Vec<String> = Vec::new();
        found.extend(distance(&first, &truth, &bound).map(|what| format!("{}: {what}", case.name)));
        for way in &case.ways[1..] {
            let other = (way.run)(&mut *make());
            found.extend(
                difference(&other, &first).map(|what| format!("{}, {}: {what}", case.name, way.name)),
            );
        }
        found
    })
}

/// Runs every case on several kinds of backend and demands the bits that the first gives; one NaN is as good as another.
///
/// # Panics
/// With a list of what differs.
pub fn same_bits(makes: &[Make<'_>], seed: u64) {
    let (first, others) = makes.split_first().expect("backends to compare");
    let names: Vec<String> = others.iter().map(|make| make().name()).collect();
    let mut failures = Vec::new();
    for case in cases(seed) {
        let expected = (case.ways[0].run)(&mut *first());
        for (make, backend) in others.iter().zip(&names) {
            let got = (case.ways[0].run)(&mut *make());
            failures
                .extend(difference(&got, &expected).map(|what| format!("{backend}: {}: {what}", case.name)));
        }
    }
    report(&format!("bits of {}", first().name()), seed, &failures);
}

/// The worst value beyond its bound.
fn distance(got: &[f32], truth: &[f32], bound: &[f64]) -> Option<String> {
    assert_eq!(got.len(), truth.len(), "as many values as the reference");
    assert_eq!(bound.len(), truth.len(), "a bound for each value");
    let near = |i: usize| {
        let distance = (f64::from(got[i]) - f64::from(truth[i])).abs();
        got[i].to_bits() == truth[i].to_bits()
            || (got[i].is_nan() && truth[i].is_nan())
            || distance <= bound[i]
    };
    let far: Vec<usize> = (0..truth.len()).filter(|&i| !near(i)).collect();
    let &first = far.first()?;
    Some(format!(
        "{} of {} values out of bounds, first value {first}: {:e} instead of {:e} +- {:e}",
        far.len(),
        truth.len(),
        got[first],
        truth[first],
        bound[first]
    ))
}

/// The first value with other bits.
fn difference(got: &[f32], expected: &[f32]) -> Option<String> {
    assert_eq!(got.len(), expected.len(), "as many values");
    let same =
        |i: usize| got[i].to_bits() == expected[i].to_bits() || (got[i].is_nan() && expected[i].is_nan());
    let others: Vec<usize> = (0..got.len()).filter(|&i| !same(i)).collect();
    let &first = others.first()?;
    Some(format!(
        "{} of {} values with other bits, first value {first}: {:e} instead of {:e}",
        others.len(),
        got.len(),
        got[first],
        expected[first]
    ))
}

fn report(what: &str, seed: u64, failures: &[String]) {
    let shown = &failures[..failures.len().min(40)];
    assert!(failures.is_empty(), "{what}, seed {seed}: {} failures\n{}", failures.len(), shown.join("\n"));
}

/// Relative error of a sum of `n` values of one sign in 16 lanes and a tree of depth 4, and of eight operations around it; an epsilon is
/// two roundings.
fn sum_error(n: usize) -> f64 {
    (n as f64 / 16.0 + 6.0) * f64::from(f32::EPSILON)
}
