//! Values of scipy 1.17.1 and statsmodels 0.15.0, and simulated data whose truth is known.

use super::*;
use crate::random::SplitMix64;

fn near(a: f64, b: f64, tolerance: f64) -> bool {
    (a - b).abs() <= tolerance
}

/// scipy.stats.norm.ppf and scipy.stats.t.ppf.
#[test]
fn quantiles_are_scipys() {
    for (p, expected) in [
        (0.975, 1.959963984540054),
        (0.5, 0.0),
        (0.001, -3.090232306167813),
        (0.84, 0.994457883209753),
        (0.999999999, 5.997807019601637),
    ] {
        let found = normal_quantile(p);
        assert!(near(found, expected, 1e-8), "normal {p}: {found}, scipy {expected}");
    }
    for (p, df, expected) in [
        (0.975, 1.0, 12.706204736174694),
        (0.975, 2.0, 4.302652729749462),
        (0.995, 7.0, 3.4994832973504924),
        (0.9, 30.0, 1.3104150253913955),
        (0.025, 4.0, -2.7764451051977943),
        (0.9999, 3.5, 16.295284596959196),
        (0.975, 1e6, 1.959966356814107),
    ] {
        let found = student_quantile(p, df);
        assert!(near(found, expected, 1e-8 * expected.abs()), "t {p}, {df}: {found}, scipy {expected}");
    }
}

/// statsmodels.stats.proportion.proportion_confint(method="wilson").
#[test]
fn wilsons_interval_is_statsmodels() {
    for (n_good, n, confidence, low, high) in [
        (8, 10, 0.95, 0.49016247153664183, 0.9433178485456247),
        (0, 10, 0.95, 0.0, 0.2775327998628892),
        (10, 10, 0.95, 0.7224672001371107, 1.0),
        (1, 1, 0.95, 0.20654931437723745, 1.0),
        (137, 400, 0.99, 0.284398624627331, 0.40574110255002527),
    ] {
        let found = wilson(n_good, n, confidence);
        assert!(near(found.low, low, 1e-9) && near(found.high, high, 1e-9), "{n_good}/{n}: {found:?}");
        assert!(near(found.estimate, n_good as f64 / n as f64, 1e-12));
    }
    assert_eq!(wilson(0, 0, 0.95), Interval { estimate: 0.0, low: 0.0, high: 1.0 });
}

/// statsmodels.stats.contingency_tables.mcnemar(exact=True).
#[test]
fn mcnemars_test_is_statsmodels() {
    for (first_only, second_only, p_value) in [
        (3, 9, 0.14599609375),
        (0, 5, 0.0625),
        (1, 0, 1.0),
        (10, 10, 1.0),
        (25, 52, 0.002799053877277624),
        (300, 401, 0.00015498176361506376),
    ] {
        let pairs = Pairs { both: 50, first_only, second_only, neither: 40 };
        let found = pairs.p_value();
        assert!(near(found, p_value, 1e-10), "{first_only}, {second_only}: {found}, {p_value}");
    }
}

/// The score with the free share found by scipy.optimize.minimize_scalar on the likelihood instead of Tango's closed form, and the bounds
/// by scipy.optimize.brentq.
#[test]
fn tangos_interval_is_that_of_the_likelihood() {
    for (both, first_only, second_only, neither, low, high) in [
        (36, 12, 2, 0, -0.3447087497690417, -0.061112407396586264),
        (36, 2, 12, 0, 0.06111240593900836, 0.3447087480347834),
        (20, 5, 9, 16, -0.07184173599553818, 0.23222424801721087),
        (100, 0, 0, 0, -0.03699349971054832, 0.03699349820699475),
        (90, 0, 10, 5, 0.05255630986340867, 0.16649127622202223),
        (30, 14, 14, 10, -0.15394635919150781, 0.1539463607685816),
    ] {
        let pairs = Pairs { both, first_only, second_only, neither };
        let found = pairs.difference(0.95);
        assert!(near(found.low, low, 1e-7) && near(found.high, high, 1e-7), "{pairs:?}: {found:?}");
    }
    let nothing = Pairs::default().difference(0.95);
    assert_eq!((nothing.low, nothing.high), (-1.0, 1.0));
    let all = Pairs { second_only: 5, ..Pairs::default() }.difference(0.95);
    assert!(all.estimate == 1.0 && near(all.high, 1.0, 1e-12) && all.low < 0.6, "{all:?}");
}

/// scipy.stats.t.interval, and scipy.stats.bootstrap(method="percentile") with 200,000 samples.
#[test]
fn means_and_bootstraps_are_scipys() {
    let found = mean(&[0.031, -0.012, 0.054, 0.022, 0.047, -0.003, 0.038], 0.95).unwrap();
    let expected = [0.02528571428571429, 0.0023458463244230843, 0.048225582247005495];
    for (found, expected) in [found.estimate, found.low, found.high].into_iter().zip(expected) {
        assert!(near(found, expected, 1e-12), "{found}, scipy {expected}");
    }
    assert_eq!((mean(&[], 0.95), mean(&[1.0], 0.95)), (None, None));

    let values: Vec<f64> = (1..=60).map(|i| f64::from(i * i * 37 % 101) / 101.0).collect();
    let found = bootstrap(&values, 0.95, 1, average);
    assert!(near(found.estimate, 0.4884488448844884, 1e-12));
    // What 4,000 samples leave to chance.
    assert!(near(found.low, 0.4132, 0.008) && near(found.high, 0.5639, 0.008), "{found:?}");
    let found = bootstrap(&values, 0.9, 1, median);
    assert!(near(found.estimate, 0.4752475247524752, 1e-12));
    assert!(near(found.low, 0.3317, 0.03) && near(found.high, 0.6089, 0.03), "{found:?}");
    assert_eq!(found, bootstrap(&values, 0.9, 1, median), "the same seed, the same interval");
}

/// The bound is above 0 exactly where scipy.stats.wilcoxon(alternative="greater", method="exact") has at most that probability.
#[test]
fn centers_are_those_of_scipys_signed_ranks() {
    let many: Vec<f64> = (1..=48).map(|i| f64::from(i * 37 % 97) / 97.0 - 0.38).collect();
    let cases: [(&[f64], f64, f64); 4] = [
        (&[0.5, 0.3, -0.1, 0.9, 1.2, 0.7], 0.03125, 0.6),
        (&[-0.203, -0.435, 1.099, 1.985, 0.623, -0.883, -0.608, 1.95, 0.553], 0.150390625, 0.5335),
        (
            &[
                0.989, 2.777, 1.085, -0.109, 0.174, 1.62, -0.19, 1.428, -0.83, -0.908, -0.662, 2.154, 1.82,
                -1.004, -0.351, 2.236, -0.107, 0.708, 1.754, 0.279,
            ],
            0.022027015686035156,
            0.63425,
        ),
        (&many, 0.00880562685360431, 0.1097),
    ];
    for (values, p, middle) in cases {
        let negative: Vec<f64> = values.iter().map(|value| -value).collect();
        for (tail, is_above) in [(p * 1.0001, true), (p * 0.9999, false)] {
            let up = center(values, 1.0 - 2.0 * tail);
            assert_eq!(up.low > 0.0, is_above, "{tail}: {up:?}");
            assert!(near(up.estimate, middle, 1e-4), "{up:?}");
            let down = center(&negative, 1.0 - 2.0 * tail);
            assert_eq!(down.high < 0.0, is_above, "{tail}: {down:?}");
        }
    }
    assert_eq!(center(&[4.0, 8.0, 9.0], 0.95).low, f64::NEG_INFINITY, "three say nothing");
    assert_eq!(center(&[4.0, 8.0, 9.0], 0.75).low, 4.0, "but with probability 1 in 8");
}

fn average(values: &mut [f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = values.len() / 2;
    if values.len() % 2 == 1 { values[at] } else { 0.5 * (values[at - 1] + values[at]) }
}

const N_RUNS: usize = 4000;

/// How often `happens` in [`N_RUNS`] simulated experiments, within what chance leaves: four standard errors.
fn assert_rate(what: &str, expected: f64, mut happens: impl FnMut(&mut SplitMix64) -> bool) {
    let mut random = SplitMix64(7);
    let rate = (0..N_RUNS).filter(|_| happens(&mut random)).count() as f64 / N_RUNS as f64;
    let error = (expected * (1.0 - expected) / N_RUNS as f64).sqrt();
    assert!(near(rate, expected, 4.0 * error), "{what}: {rate} of the runs, expected {expected}");
}

/// Box and Muller.
fn normal(random: &mut SplitMix64) -> f64 {
    (-2.0 * (1.0 - random.unit()).ln()).sqrt() * (std::f64::consts::TAU * random.unit()).cos()
}

/// Power: statsmodels.stats.power.TTestPower.
#[test]
fn students_interval_errs_as_often_as_it_says() {
    let differs = |n: usize, shift: f64| {
        move |random: &mut SplitMix64| {
            let values: Vec<f64> = (0..n).map(|_| shift + normal(random)).collect();
            let found = mean(&values, 0.95).unwrap();
            found.low > 0.0 || found.high < 0.0
        }
    };
    assert_rate("false positives of 4", 0.05, differs(4, 0.0));
    assert_rate("false positives of 20", 0.05, differs(20, 0.0));
    assert_rate("power of 10 at 1", 0.8030968566327218, differs(10, 1.0));
    assert_rate("power of 40 at 0.5", 0.8693981350238593, differs(40, 0.5));
}

/// Cases that are good the first way only with probability `down`, the second way only with `up`.
fn draw_pairs(random: &mut SplitMix64, n: usize, down: f64, up: f64) -> Pairs {
    let draw = |random: &mut SplitMix64| match random.unit() {
        u if u < down => (true, false),
        u if u < down + up => (false, true),
        u if u < 0.5 + 0.5 * (down + up) => (true, true),
        _ => (false, false),
    };
    (0..n).map(|_| draw(random)).collect()
}

/// Rates: the sum over all outcomes with scipy.stats.binom and binomtest. The exact test errs less often than it may.
#[test]
fn mcnemars_test_errs_as_often_as_it_must() {
    let significant = |down: f64, up: f64| {
        move |random: &mut SplitMix64| draw_pairs(random, 100, down, up).p_value() <= 0.05
    };
    assert_rate("power", 0.8367351211564408, significant(0.05, 0.2));
    assert_rate("false positives", 0.029440205993088275, significant(0.1, 0.1));
}

/// Six values cannot err more often than 2 in 64, whatever the noise: here one that is far off in one of four.
#[test]
fn centers_err_as_often_as_they_say() {
    let differs = |by: f64| {
        move |random: &mut SplitMix64| {
            let far =
                |random: &mut SplitMix64| if random.unit() < 0.25 { 20.0 * normal(random) } else { 0.0 };
            let values: Vec<f64> = (0..6).map(|_| by + normal(random) + far(random)).collect();
            let found = center(&values, 1.0 - 2.0 * 0.0157);
            found.low > 0.0 || found.high < 0.0
        }
    };
    assert_rate("false positives", 2.0 / 64.0, differs(0.0));
    assert_rate("sure of 1000", 1.0, differs(1000.0));
}

#[test]
fn intervals_hold_the_truth_as_often_as_they_say() {
    let mut random = SplitMix64(3);
    let mut held = [0; 3];
    for _ in 0..N_RUNS {
        let pairs = draw_pairs(&mut random, 120, 0.05, 0.15);
        let difference = pairs.difference(0.95);
        held[0] += usize::from((difference.low..=difference.high).contains(&0.1));
        let share = wilson(pairs.both + pairs.second_only, pairs.n(), 0.95);
        held[1] += usize::from((share.low..=share.high).contains(&0.55));
    }
    // Bootstraps are slow, so fewer of them; the median of 61 uniform values.
    for seed in 0..400 {
        let values: Vec<f64> = (0..61).map(|_| random.unit()).collect();
        let found = bootstrap(&values, 0.95, seed, median);
        held[2] += usize::from((found.low..=found.high).contains(&0.5));
    }
    let rates = [held[0] as f64 / N_RUNS as f64, held[1] as f64 / N_RUNS as f64, held[2] as f64 / 400.0];
    assert!(rates[..2].iter().all(|rate| near(*rate, 0.95, 0.015)), "{rates:?}");
    assert!(near(rates[2], 0.95, 0.04), "{rates:?}");
}
