use proptest::prelude::*;

use super::{Rng, *};

/// All probabilities after the filters, the slow and plain way: sort everything, in f64.
fn probabilities(logits: &[f32], options: &SamplingOptions) -> Vec<f64> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    if options.top_k > 0 {
        order.truncate(options.top_k);
    }
    let largest = logits[order[0]];
    let weight = |id: usize| (((logits[id] - largest) * (1.0 / options.temperature)).exp()) as f64;
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    let mut sum = 0.0;
    let mut n_kept = 0;
    for &id in &order {
        n_kept += 1;
        sum += weight(id);
        if sum >= options.top_p as f64 * total {
            break;
        }
    }
    order.truncate(n_kept);
    order.retain(|&id| weight(id) >= options.min_p as f64);
    let total: f64 = order.iter().map(|&id| weight(id)).sum();
    let mut all = vec![0.0; logits.len()];
    for id in order {
        all[id] = weight(id) / total;
    }
    all
}

fn frequencies(logits: &[f32], options: &SamplingOptions, n: usize) -> Vec<f64> {
    let mut sampler = Sampler::new(options.clone(), logits.len()).unwrap();
    let mut counts = vec![0usize; logits.len()];
    for _ in 0..n {
        counts[sampler.sample(logits).unwrap() as usize] += 1;
    }
    counts.into_iter().map(|count| count as f64 / n as f64).collect()
}

#[test]
fn samples_follow_the_probabilities() {
    let mut rng = Rng::new(5);
    let logits: Vec<f32> = (0..40).map(|_| (rng.next_f64() * 6.0) as f32).collect();
    let base = SamplingOptions { seed: Some(11), ..SamplingOptions::plain() };
    let cases = [
        base.clone(),
        SamplingOptions { temperature: 0.5, ..base.clone() },
        SamplingOptions { top_k: 5, ..base.clone() },
        SamplingOptions { top_p: 0.6, ..base.clone() },
        SamplingOptions { min_p: 0.2, ..base.clone() },
        SamplingOptions { temperature: 1.7, top_k: 20, top_p: 0.8, min_p: 0.1, ..base },
    ];
    let n = 40_000;
    for options in cases {
        let expected = probabilities(&logits, &options);
        for (id, (found, p)) in frequencies(&logits, &options, n).into_iter().zip(expected).enumerate() {
            // Five standard deviations of a binomial share; never-chosen tokens are exactly never chosen.
            let tolerance = 5.0 * (p * (1.0 - p) / n as f64).sqrt();
            assert!((found - p).abs() <= tolerance, "token {id}: {found} for {p} with {options:?}");
        }
    }
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let mut sampler = Sampler::new(SamplingOptions::greedy(), 100).unwrap();
    let mut logits = vec![0.0; 100];
    (logits[40], logits[41], logits[99]) = (2.0, 2.0, 2.0);
    assert_eq!(sampler.sample(&logits).unwrap(), 40);
    assert_eq!(sampler.sample(&[-1.0, -1.0]).unwrap(), 0);
}

#[test]
fn padding_of_the_vocabulary_is_never_sampled() {
    for options in [SamplingOptions::greedy(), SamplingOptions::plain(), SamplingOptions::default()] {
        let mut sampler = Sampler::new(options, 3).unwrap();
        for _ in 0..50 {
            assert!(sampler.sample(&[0.0, 0.0, 0.0, 50.0, f32::NAN]).unwrap() < 3);
        }
    }
}

#[test]
fn no_numbers_are_errors() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for at in [0, 15, 16, 99] {
            let mut logits = vec![1.0; 100];
            logits[at] = bad;
            let error = Sampler::new(SamplingOptions::greedy(), 100).unwrap().sample(&logits).unwrap_err();
            assert!(matches!(error, EngineError::LogitNotFinite { token, .. } if token == at));
        }
    }
    let error = Sampler::new(SamplingOptions::greedy(), 100).unwrap().sample(&[]).unwrap_err();
    assert!(matches!(error, EngineError::NoLogits));
}

#[test]
fn seeds_repeat_and_differ() {
    let logits: Vec<f32> = (0..1000).map(|i| (i % 17) as f32 * 0.1).collect();
    let run = |seed| {
        let options = SamplingOptions { seed, ..SamplingOptions::default() };
        let mut sampler = Sampler::new(options, 1000).unwrap();
        (sampler.seed(), (0..20).map(|_| sampler.sample(&logits).unwrap()).collect::<Vec<_>>())
    };
    assert_eq!(run(Some(3)), run(Some(3)));
    assert_ne!(run(Some(3)).1, run(Some(4)).1);
    let (seed, tokens) = run(None);
    assert_eq!(run(Some(seed)).1, tokens);
}

#[test]
fn penalties_act_on_what_they_say() {
    let greedy =
        |options: SamplingOptions| Sampler::new(SamplingOptions { temperature: 0.0, ..options }, 4).unwrap();
    let logits = [3.0, 2.0, 1.8, -1.0];

    // Repetition: prompt and answer; 3 / 2 < 2, then 2 / 2 < 1.8.
    let mut sampler = greedy(SamplingOptions { repetition_penalty: 2.0, ..SamplingOptions::plain() });
    sampler.start(&[0, 0, 3]);
    assert_eq!(sampler.sample(&logits).unwrap(), 1);
    assert_eq!(sampler.sample(&logits).unwrap(), 2);
    assert_eq!(sampler.adjusted, [1.5, 1.0, 1.8, -2.0]);

    // Presence: the answer only, once.
    let mut sampler = greedy(SamplingOptions { presence_penalty: 1.1, ..SamplingOptions::plain() });
    sampler.start(&[0]);
    assert_eq!(sampler.sample(&logits).unwrap(), 0);
    assert_eq!(sampler.sample(&logits).unwrap(), 1);
    assert_eq!(sampler.sample(&logits).unwrap(), 0, "3 - 1.1 is again the largest");
    assert_eq!(sampler.sample(&logits).unwrap(), 0, "the second time costs nothing more");

    // Frequency: each time.
    let mut sampler = greedy(SamplingOptions { frequency_penalty: 0.6, ..SamplingOptions::plain() });
    sampler.accept(0);
    sampler.accept(0);
    assert_eq!(sampler.sample(&logits).unwrap(), 1);
    assert!((sampler.adjusted[0] - 1.8).abs() < 1e-6);
    sampler.start(&[]);
    assert_eq!(sampler.sample(&logits).unwrap(), 0);

    // Bias, and its ids.
    let mut sampler = greedy(SamplingOptions { logit_bias: vec![(3, 100.0)], ..SamplingOptions::plain() });
    assert_eq!(sampler.sample(&logits).unwrap(), 3);
    let outside = SamplingOptions { logit_bias: vec![(4, 1.0)], ..SamplingOptions::plain() };
    assert!(Sampler::new(outside, 4).is_err());
}

#[test]
fn steady_state_keeps_its_buffers() {
    let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5000) as f32 * 0.001).collect();
    let options =
        SamplingOptions { top_k: 0, top_p: 0.9, frequency_penalty: 0.1, ..SamplingOptions::plain() };
    let mut sampler = Sampler::new(options, 5000).unwrap();
    sampler.sample(&logits).unwrap();
    sampler.sample(&logits).unwrap();
    let buffers = |s: &Sampler| (s.scratch.candidates.as_ptr(), s.adjusted.as_ptr(), s.history.seen.as_ptr());
    let before = buffers(&sampler);
    for _ in 0..100 {
        sampler.sample(&logits).unwrap();
    }
    assert_eq!(buffers(&sampler), before);
}

/// The mask of `ids`, with `n_words` words.
fn mask(ids: &[u32], n_words: usize) -> Vec<u32> {
    let mut words = vec![0; n_words];
    for id in ids {
        words[(id / 32) as usize] |= 1 << (id % 32);
    }
    words
}

#[test]
fn a_constraint_leaves_the_probabilities_of_what_it_allows() {
    let mut rng = Rng::new(6);
    let logits: Vec<f32> = (0..100).map(|_| (rng.next_f64() * 6.0) as f32).collect();
    let ids = [0, 3, 31, 32, 63, 64, 98, 99];
    let few: Vec<f32> = ids.iter().map(|&id| logits[id as usize]).collect();
    let allowed = mask(&ids, 4);
    let base = SamplingOptions { seed: Some(12), ..SamplingOptions::plain() };
    for options in [
        base.clone(),
        SamplingOptions { temperature: 0.0, ..base.clone() },
        SamplingOptions { temperature: 1.4, top_k: 5, top_p: 0.9, min_p: 0.05, ..base },
    ] {
        // The same draws from a vocabulary that holds nothing else.
        let mut small = Sampler::new(options.clone(), few.len()).unwrap();
        let mut sampler = Sampler::new(options, 100).unwrap();
        for _ in 0..200 {
            let expected = ids[small.sample(&few).unwrap() as usize];
            assert_eq!(sampler.sample_among(&logits, Some(&allowed)).unwrap(), expected);
        }
    }
}

#[test]
fn an_empty_mask_is_an_error_that_says_so() {
    let logits = [0.0; 40];
    // No bit, no word, and a bit of an id that the vocabulary does not have.
    for allowed in [vec![0, 0], vec![], mask(&[40], 2)] {
        for options in [SamplingOptions::greedy(), SamplingOptions::default()] {
            let mut sampler = Sampler::new(options, 40).unwrap();
            let error = sampler.sample_among(&logits, Some(&allowed)).unwrap_err();
            assert!(matches!(error, EngineError::NothingAllowed));
            assert!(error.to_string().contains("allows no token"), "{error}");
            // The sampler is as good as before.
            assert_eq!(sampler.sample_among(&logits, Some(&mask(&[7], 2))).unwrap(), 7);
        }
    }
}

#[test]
fn a_constrained_sampler_keeps_its_buffers() {
    let logits: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 5000) as f32 * 0.001).collect();
    let options =
        SamplingOptions { top_k: 0, top_p: 0.9, frequency_penalty: 0.1, ..SamplingOptions::plain() };
    let mut sampler = Sampler::new(options, 5000).unwrap();
    let buffers =
        |s: &Sampler| (s.among.ids.as_ptr(), s.among.logits.as_ptr(), s.scratch.candidates.as_ptr());
    let all = vec![u32::MAX; 157];
    sampler.sample_among(&logits, Some(&mask(&[9], 157))).unwrap();
    sampler.sample_among(&logits, Some(&all)).unwrap();
    let before = buffers(&sampler);
    for n in 1..100 {
        let some: Vec<u32> = (0..5000).step_by(n).collect();
        sampler.sample_among(&logits, Some(&mask(&some, 157))).unwrap();
        sampler.sample_among(&logits, Some(&all)).unwrap();
    }
    assert_eq!(buffers(&sampler), before);
}

proptest! {
    #[test]
    fn what_is_not_allowed_is_never_chosen(
        logits in proptest::collection::vec(prop_oneof![-8.0f32..8.0, Just(1.0f32), Just(f32::MIN)], 1..300),
        is_allowed in proptest::collection::vec(prop_oneof![3 => Just(false), 1 => Just(true)], 300),
        n_words in 0usize..12,
        temperature in prop_oneof![Just(0.0f32), 0.05f32..3.0],
        top_k in 0usize..40,
        top_p in 0.05f32..=1.0,
        min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0],
        penalties in (prop_oneof![Just(1.0f32), 0.5f32..2.0], prop_oneof![Just(0.0f32), -2.0f32..2.0], prop_oneof![Just(0.0f32), -2.0f32..2.0]),
        biases in proptest::collection::vec((0u32..300, prop_oneof![-1e3f32..1e3, Just(f32::MIN)]), 0..4),
        seed in any::<u64>(),
    ) {
        let n_vocab = logits.len();
        let options = SamplingOptions {
            temperature, top_k, top_p, min_p,
            repetition_penalty: penalties.0,
            presence_penalty: penalties.1,
            frequency_penalty: penalties.2,
            seed: Some(seed),
            logit_bias: biases.into_iter().filter(|&(id, _)| (id as usize) < n_vocab).collect(),
        };
        let ids: Vec<u32> = (0..300).filter(|&id| is_allowed[id as usize] && (id / 32) < n_words as u32).collect();
        let words = mask(&ids, n_words);
        let is_possible = ids.iter().any(|&id| (id as usize) < n_vocab);
        let mut sampler = Sampler::new(options.clone(), n_vocab).unwrap();
        sampler.start(&[0, 5, 200]);
        for _ in 0..8 {
            match sampler.sample_among(&logits, Some(&words)) {
                Ok(id) => prop_assert!(ids.contains(&id) && (id as usize) < n_vocab, "{id} of {ids:?}"),
                Err(error) => prop_assert!(matches!(error, EngineError::NothingAllowed) && !is_possible, "{error}"),
            }
        }
        // With everything allowed, nothing changes.
        let all = vec![u32::MAX; n_vocab.div_ceil(32)];
        let mut plain = Sampler::new(options.clone(), n_vocab).unwrap();
        let mut masked = Sampler::new(options, n_vocab).unwrap();
        for _ in 0..8 {
            prop_assert_eq!(plain.sample(&logits).unwrap(), masked.sample_among(&logits, Some(&all)).unwrap());
        }
    }

    #[test]
    fn only_what_the_filters_leave_is_chosen(
        logits in proptest::collection::vec(prop_oneof![-8.0f32..8.0, Just(1.0f32)], 1..3000),
        temperature in 0.05f32..3.0,
        top_k in 0usize..40,
        top_p in 0.05f32..=1.0,
        min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0],
        u in 0.0f64..1.0,
    ) {
        let options = SamplingOptions { temperature, top_k, top_p, min_p, ..SamplingOptions::plain() };
        let mut scratch = Scratch::default();
        let id = select::draw(&logits, &options, &mut scratch, u);
        let expected = probabilities(&logits, &options);
        // Whether the token at the edge of top-p is in can hang on rounding.
        let n_expected = expected.iter().filter(|&&p| p > 0.0).count();
        prop_assert!(scratch.candidates.len().abs_diff(n_expected) <= 1, "{} kept, {n_expected} expected", scratch.candidates.len());
        prop_assert!(expected[id as usize] > 0.0 || scratch.candidates.len() == n_expected + 1);
    }

    #[test]
    fn top_k_is_the_front_of_the_sorted(
        logits in proptest::collection::vec(prop_oneof![-8.0f32..8.0, Just(1.0f32), Just(-2.0f32)], 2..900),
        k in 2usize..100,
    ) {
        let k = k.min(logits.len());
        let options = SamplingOptions { top_k: k, ..SamplingOptions::plain() };
        let mut scratch = Scratch::default();
        select::draw(&logits, &options, &mut scratch, 0.5);
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|&a, &b| logits[b as usize].total_cmp(&logits[a as usize]).then(a.cmp(&b)));
        let mut found: Vec<u32> = scratch.candidates.iter().map(|candidate| candidate.id).collect();
        found.sort();
        order.truncate(k);
        order.sort();
        prop_assert_eq!(found, order);
    }
}

/// Settings at the edge of what a number holds choose some token, and do not end the program.
#[test]
fn settings_at_the_edge_of_numbers() {
    let logits: Vec<f32> = (0..3000).map(|i| (i as f32 * 0.37).sin() * 9.0).collect();
    let plain = SamplingOptions { top_p: 0.5, seed: Some(1), ..SamplingOptions::plain() };
    for options in [
        SamplingOptions { temperature: 1e-40, ..plain.clone() },
        SamplingOptions { temperature: f32::MAX, ..plain.clone() },
        SamplingOptions { repetition_penalty: 1e-40, ..plain.clone() },
        SamplingOptions { repetition_penalty: f32::MAX, ..plain.clone() },
        SamplingOptions { frequency_penalty: -3e38, presence_penalty: 3e38, ..plain.clone() },
        SamplingOptions { frequency_penalty: 3e38, presence_penalty: 3e38, ..plain.clone() },
        SamplingOptions { logit_bias: vec![(5, 3e38), (5, 3e38), (6, -3e38)], ..plain.clone() },
        SamplingOptions {
            logit_bias: vec![(5, 3e38)],
            frequency_penalty: 3e38,
            repetition_penalty: 1e-40,
            ..plain.clone()
        },
    ] {
        let mut sampler = Sampler::new(options.clone(), logits.len()).unwrap();
        sampler.start(&[5, 6, 7]);
        for _ in 0..50 {
            let id = sampler.sample(&logits).unwrap();
            assert!((id as usize) < logits.len(), "{options:?}");
        }
    }
}
