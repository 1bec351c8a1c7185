//! Plan, engine and session on the demo model: what an independent implementation says, to the token; resumed = fresh, to the bit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flashmill_engine::{
    BackendKind, Engine, EngineError, EngineOptions, KvKind, Message, Sampler, SamplingOptions, Session,
    TemplateOptions,
};

use crate::support::{open, options, path};

/// The demo model's cases, computed by numpy from the same files.
struct Case {
    name: String,
    messages: Vec<Message>,
    tools: Option<serde_json::Value>,
    prompt_ids: Vec<u32>,
    greedy_ids: Vec<u32>,
}

fn cases() -> Vec<Case> {
    let text = std::fs::read(path("fixtures/demo/cases.json")).expect("the cases are there");
    let json: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let ids = |value: &serde_json::Value| serde_json::from_value(value.clone()).expect("token ids");
    let case = |case: &serde_json::Value| Case {
        name: case["name"].as_str().expect("a name").to_owned(),
        messages: serde_json::from_value(case["messages"].clone()).expect("messages"),
        tools: case.get("tools").filter(|tools| !tools.is_null()).cloned(),
        prompt_ids: ids(&case["prompt_ids"]),
        greedy_ids: ids(&case["greedy_ids"]),
    };
    json["cases"].as_array().expect("a list").iter().map(case).collect()
}

fn greedy(session: &mut Session<'_>, n: usize) -> Vec<u32> {
    let n_vocab = session.engine().tokenizer().n_vocab();
    let mut sampler = Sampler::new(SamplingOptions::greedy(), n_vocab).expect("greedy is a setting");
    (0..n).map(|_| session.next(&mut sampler).expect("a token")).collect()
}

fn bits(session: &Session<'_>) -> Vec<u32> {
    session.logits().expect("logits are there").iter().map(|logit| logit.to_bits()).collect()
}

fn sync(session: &mut Session<'_>, tokens: &[u32], keep: &[usize]) {
    session.sync(tokens, keep, &mut |_, _| ()).expect("the prompt is read");
}

#[test]
fn prompts_and_greedy_tokens_are_those_of_the_independent_implementation() {
    for (backend, kv) in [(BackendKind::Cpu, KvKind::F16), (BackendKind::Reference, KvKind::F32)] {
        let mut engine = open(&EngineOptions { backend, kv, ..options() });
        for case in cases() {
            let template = engine.template().expect("the demo model has a template");
            let rendered = template
                .render(engine.tokenizer(), &case.messages, case.tools.as_ref(), &TemplateOptions::default())
                .expect("the conversation renders");
            let tokens = engine.tokenizer().encode_parts(&rendered.parts).expect("tokens");
            assert_eq!(tokens, case.prompt_ids, "{}: the prompt", case.name);
            let mut session = engine.session().expect("a session");
            sync(&mut session, &tokens, &[]);
            assert_eq!(greedy(&mut session, case.greedy_ids.len()), case.greedy_ids, "{}", case.name);
        }
    }
}

#[test]
fn a_session_that_goes_back_is_as_good_as_a_fresh_one() {
    let prompt = cases().swap_remove(0).prompt_ids;
    let other: Vec<u32> = prompt[..100].iter().chain(prompt[..60].iter()).copied().collect();
    let fresh = |tokens: &[u32]| {
        let mut engine = open(&options());
        let mut session = engine.session().unwrap();
        sync(&mut session, tokens, &[]);
        bits(&session)
    };
    let (fresh_prompt, fresh_other) = (fresh(&prompt), fresh(&other));

    let mut engine = open(&options());
    let mut session = engine.session().unwrap();
    sync(&mut session, &prompt, &[100]);
    assert_eq!(bits(&session), fresh_prompt);
    greedy(&mut session, 5);
    let before = session.stats();
    sync(&mut session, &other, &[]);
    assert_eq!(bits(&session), fresh_other);
    let reused = session.stats().reused_tokens - before.reused_tokens;
    assert_eq!(reused, 100, "the state saved at 100 tokens is used again");
    sync(&mut session, &prompt, &[]);
    assert_eq!(bits(&session), fresh_prompt);
}

#[test]
fn an_answer_that_becomes_history_is_not_read_again() {
    let prompt = cases().swap_remove(0).prompt_ids;
    let mut engine = open(&options());
    let mut session = engine.session().unwrap();
    sync(&mut session, &prompt, &[]);
    let answer = greedy(&mut session, 10);
    let longer: Vec<u32> = prompt.iter().chain(&answer).chain(&prompt[..20]).copied().collect();
    sync(&mut session, &longer, &[]);
    let resumed = bits(&session);
    assert_eq!(session.stats().reused_tokens as usize, prompt.len() + 9, "all but the last sampled token");
    session.reset().unwrap();
    sync(&mut session, &longer, &[]);
    assert_eq!(bits(&session), resumed);
}

#[test]
fn more_saved_states_than_there_is_room_for() {
    let prompt = cases().swap_remove(0).prompt_ids;
    let mut engine = open(&EngineOptions { context: Some(320), ..options() });
    let expected = {
        let mut session = engine.session().unwrap();
        sync(&mut session, &prompt, &[]);
        bits(&session)
    };
    let mut session = engine.session().unwrap();
    for start in 0..12 {
        let rotated: Vec<u32> = prompt[start..].iter().chain(&prompt[..start]).copied().collect();
        sync(&mut session, &rotated, &[40, 130, 200, 290]);
    }
    sync(&mut session, &prompt, &[]);
    assert_eq!(bits(&session), expected);
}

#[test]
fn an_interrupted_session_can_be_used_again() {
    let prompt = cases().swap_remove(0).prompt_ids;
    let mut engine = open(&options());
    let mut session = engine.session().unwrap();
    sync(&mut session, &prompt, &[]);
    let expected = bits(&session);
    let stop = Arc::new(AtomicBool::new(true));
    session.set_stop(Arc::clone(&stop));
    session.reset().unwrap();
    let error = session.sync(&prompt, &[], &mut |_, _| ()).unwrap_err();
    assert_eq!(error.to_string(), "interrupted");
    assert!(session.logits().is_none(), "half a prompt has no logits");
    stop.store(false, Ordering::Relaxed);
    sync(&mut session, &prompt, &[]);
    assert_eq!(bits(&session), expected);
}

#[test]
fn the_budget_is_a_ceiling_and_has_a_floor() {
    let plan = |ram_bytes| {
        Engine::plan_for(&path("models/demo"), &EngineOptions { ram_bytes: Some(ram_bytes), ..options() })
    };
    let generous = plan(4 << 30).expect("4 GiB are enough");
    assert_eq!(generous.resident_share, 1.0);
    let floor = || match plan(1 << 20) {
        Err(EngineError::BudgetBelowFloor { floor, .. }) => floor,
        other => panic!("1 MiB cannot be enough: {other:?}"),
    };
    // The plan measures the process, in which other tests take memory at the same time: one quiet moment is enough.
    let attempt = |_| {
        let floor = floor();
        let least = plan(floor + (1 << 20)).ok()?;
        (least.resident_share < generous.resident_share).then_some((floor, least))
    };
    let (floor, least) = (0..200).find_map(attempt).expect("the floor is enough, and no more than that");
    assert!(least.used_bytes() <= floor + (1 << 20), "{least}");
}

#[test]
fn a_context_that_is_full_says_so() {
    let prompt = cases().swap_remove(0).prompt_ids;
    let mut engine = open(&EngineOptions { context: Some(prompt.len() + 4), ..options() });
    let mut session = engine.session().unwrap();
    sync(&mut session, &prompt, &[]);
    assert_eq!(greedy(&mut session, 5).len(), 5, "four are read back, the fifth need not be");
    let mut sampler = Sampler::new(SamplingOptions::greedy(), 4096).unwrap();
    let error = session.next(&mut sampler).unwrap_err().to_string();
    assert!(error.contains("is full"), "{error}");
    let long: Vec<u32> = prompt.iter().chain(&prompt).copied().collect();
    let error = session.sync(&long, &[], &mut |_, _| ()).unwrap_err().to_string();
    assert!(error.starts_with("the prompt has"), "{error}");
}
