//! Many requests on the demo model: each answer is what it would be alone, to the token; snapshots are found again, damaged ones are
//! not used.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use flashmill_engine::serving::{End, Event, Request, Sink, SubmitError};
use flashmill_engine::{
    Engine, EngineError, EngineOptions, Message, Prompt, Sampler, SamplingOptions, Scheduler,
    SchedulerOptions, TemplateOptions,
};

use crate::support::{open, options, path};

const WAIT: Duration = Duration::from_secs(300);

fn start(sessions: usize, options: SchedulerOptions) -> Scheduler {
    let engine = open(&EngineOptions { sessions: Some(sessions), context: Some(2048), ..self::options() });
    assert_eq!(engine.plan().sessions, sessions);
    Scheduler::start(engine, options).expect("it starts")
}

/// Text of about `n` tokens that depends on `seed`.
fn text(seed: usize, n: usize) -> String {
    let words = ["the", "river", "calls", "a", "tool", "for", "Oslo", "and", "seven", "stones"];
    (0..n).map(|i| words[(i * i + seed * 7 + i / 3) % words.len()]).collect::<Vec<_>>().join(" ")
}

fn request(scheduler: &Scheduler, seed: usize, n_words: usize, max_tokens: usize) -> Request {
    let messages = [Message::system("You are terse."), Message::user(text(seed, n_words))];
    let prompt = Prompt::of_messages(scheduler.text(), &messages, None, &TemplateOptions::default())
        .expect("a prompt");
    Request {
        prompt,
        n: 1,
        sampling: SamplingOptions { seed: Some(seed as u64), ..SamplingOptions::plain() },
        constraint: None,
        stops: Vec::new(),
        max_tokens: Some(max_tokens),
        logprobs: None,
    }
}

fn listen() -> (Sink, Receiver<Event>) {
    let (sender, receiver) = channel();
    (Box::new(move |event| sender.send(event).is_ok()), receiver)
}

/// What came of a request.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    /// Tokens of each answer.
    answers: BTreeMap<usize, Vec<u32>>,
    ends: BTreeMap<usize, End>,
    cached: usize,
    failed: Option<String>,
}

fn outcome(events: &Receiver<Event>) -> Outcome {
    let mut outcome = Outcome::default();
    while let Ok(event) = events.recv_timeout(WAIT) {
        match event {
            Event::Reading { read, total } => assert!(read < total),
            Event::Started { cached_tokens, .. } => outcome.cached = cached_tokens,
            Event::Token { index, token, .. } => outcome.answers.entry(index).or_default().push(token),
            Event::Finished { index, end, n_tokens, .. } => {
                assert_eq!(outcome.answers[&index].len(), n_tokens);
                outcome.ends.insert(index, end);
            }
            Event::Failed(error) => outcome.failed = Some(error.to_string()),
        }
    }
    outcome
}

/// The answer of a session that has the model for itself.
fn alone(request: &Request) -> Vec<u32> {
    let mut engine = open(&EngineOptions { context: Some(2048), ..options() });
    let eos = engine.defaults().eos_ids.clone();
    let mut sampler = Sampler::new(request.sampling.clone(), engine.tokenizer().n_vocab()).unwrap();
    let mut session = engine.session().unwrap();
    session.sync(&request.prompt.tokens, &[], &mut |_, _| ()).unwrap();
    sampler.start(&request.prompt.tokens);
    let mut answer = Vec::new();
    while answer.len() < request.max_tokens.unwrap() && answer.last().is_none_or(|id| !eos.contains(id)) {
        answer.push(session.next(&mut sampler).unwrap());
    }
    answer
}

#[test]
fn an_answer_does_not_depend_on_its_neighbours() {
    let scheduler = start(4, SchedulerOptions::default());
    // More requests than places, prompts from short to several chunks, arriving while others run.
    let requests: Vec<(usize, usize)> =
        vec![(1, 5), (2, 900), (3, 60), (4, 300), (5, 1), (6, 1200), (7, 30), (8, 64), (9, 200), (10, 10)];
    let mut events = Vec::new();
    for &(seed, n_words) in &requests {
        let (sink, receiver) = listen();
        scheduler.submit(request(&scheduler, seed, n_words, 40), sink).expect("there is a place");
        events.push(receiver);
        std::thread::sleep(Duration::from_millis(30));
    }
    let outcomes: Vec<Outcome> = events.iter().map(outcome).collect();
    for ((seed, n_words), outcome) in requests.iter().zip(&outcomes) {
        assert_eq!(outcome.failed, None);
        let expected = alone(&request(&scheduler, *seed, *n_words, 40));
        assert_eq!(outcome.answers[&0], expected, "request {seed}");
    }
    scheduler.shutdown(WAIT);
    let stats = scheduler.stats();
    assert_eq!((stats.finished, stats.failed, stats.cancelled), (10, 0, 0));
    assert!(stats.passes < stats.rows, "rows shared passes: {} of {}", stats.passes, stats.rows);
}

#[test]
fn several_answers_to_one_prompt_have_seeds_of_their_own() {
    let scheduler = start(3, SchedulerOptions::default());
    let ask = |n: usize, seed: u64| {
        let mut request = request(&scheduler, 1, 50, 24);
        request.n = n;
        request.sampling.seed = Some(seed);
        let (sink, events) = listen();
        scheduler.submit(request, sink).unwrap();
        outcome(&events)
    };
    let three = ask(3, 100);
    assert_eq!(three.answers.len(), 3);
    for index in 0..3 {
        assert_eq!(ask(1, 100 + index as u64).answers[&0], three.answers[&index], "answer {index}");
    }
    assert_ne!(three.answers[&0], three.answers[&1], "different seeds, different answers");
    let mut many = request(&scheduler, 1, 5, 5);
    many.n = 4;
    let refused = scheduler.submit(many, listen().0).expect_err("only three run at once");
    assert!(refused.to_string().contains("ask for 1 to 3"), "{refused}");
}

#[test]
fn what_makes_no_sense_is_refused_at_once() {
    let scheduler = start(1, SchedulerOptions { max_queue: 2, ..SchedulerOptions::default() });
    let refuse = |prompt: Prompt| {
        let mut request = request(&scheduler, 1, 1, 1);
        request.prompt = prompt;
        scheduler.submit(request, listen().0).expect_err("refused").to_string()
    };
    assert!(refuse(Prompt::of_tokens(vec![])).contains("empty"));
    assert!(refuse(Prompt::of_tokens(vec![1; 2049])).contains("2049 tokens"));
    assert!(refuse(Prompt::of_tokens(vec![1_000_000])).contains("vocabulary"));

    // One runs, two wait, the fourth is told when to come back.
    let mut events = Vec::new();
    let full = loop {
        let (sink, receiver) = listen();
        events.push(receiver);
        match scheduler.submit(request(&scheduler, events.len(), 800, 200), sink) {
            Ok(_) => assert!(events.len() < 10, "the queue has an end"),
            Err(error) => break error,
        }
    };
    let SubmitError::QueueFull { n_waiting, retry_after } = full else { panic!("{full}") };
    assert_eq!(n_waiting, 2);
    assert!(retry_after >= Duration::from_secs(1));
    // At the end those that wait fail, and so does what has no time left.
    scheduler.shutdown(Duration::ZERO);
    events.pop();
    for events in &events {
        assert!(outcome(events).failed.is_some_and(|error| error.contains("shutting down")));
    }
    let (sink, _events) = listen();
    let late = scheduler.submit(request(&scheduler, 1, 1, 1), sink);
    assert!(matches!(late, Err(SubmitError::ShuttingDown)));
}

#[test]
fn those_who_leave_make_room_for_others() {
    let scheduler = start(2, SchedulerOptions::default());
    // One drops its receiver after the first token, one cancels while it reads, one while it waits.
    let (sink, first) = listen();
    scheduler.submit(request(&scheduler, 1, 10, 2000), sink).unwrap();
    let (sink, reading) = listen();
    let reading_ticket = scheduler.submit(request(&scheduler, 2, 1200, 2000), sink).unwrap();
    let (sink, waiting) = listen();
    let waiting_ticket = scheduler.submit(request(&scheduler, 3, 10, 2000), sink).unwrap();
    loop {
        if let Event::Token { .. } = first.recv_timeout(WAIT).unwrap() {
            break;
        }
    }
    drop(first);
    waiting_ticket.cancel();
    reading_ticket.cancel();
    let (sink, last) = listen();
    scheduler.submit(request(&scheduler, 4, 20, 10), sink).unwrap();
    assert!(!outcome(&last).answers.is_empty());
    assert!(outcome(&reading).ends.is_empty());
    assert!(outcome(&waiting).answers.is_empty());
    scheduler.shutdown(WAIT);
    let stats = scheduler.stats();
    assert_eq!((stats.finished, stats.failed), (1, 0));
    assert_eq!((stats.running, stats.queued), (0, 0));
}

/// All contexts together hold fewer pages than these answers want, so some give theirs up and read them again.
#[test]
fn answers_that_need_more_memory_than_there_is_take_turns() {
    let engine = open(&EngineOptions { sessions: Some(4), context: Some(1024), ..options() });
    let scheduler = Scheduler::start(engine, SchedulerOptions::default()).unwrap();
    let ask = |seed: usize| {
        let mut request = request(&scheduler, seed, 330, 400);
        // No token ends the answer before its length.
        request.sampling.logit_bias =
            scheduler.text().defaults().eos_ids.iter().map(|&id| (id, -100.0)).collect();
        request
    };
    let mut events = Vec::new();
    for seed in 0..4 {
        let (sink, receiver) = listen();
        scheduler.submit(ask(seed), sink).unwrap();
        events.push(receiver);
    }
    for (seed, events) in events.iter().enumerate() {
        let outcome = outcome(events);
        assert_eq!(outcome.failed, None);
        assert_eq!(outcome.answers[&0], alone(&ask(seed)), "answer {seed}");
    }
    assert!(scheduler.stats().preempted > 0, "the test asks for more than there is: {:?}", scheduler.stats());
}

/// The same with several answers to a prompt: those who come back and those who are promised a place want the same places.
#[test]
fn preempted_answers_and_siblings_share_the_places() {
    let engine = open(&EngineOptions { sessions: Some(4), context: Some(1024), ..options() });
    let scheduler = Scheduler::start(engine, SchedulerOptions::default()).unwrap();
    let ask = |seed: usize, n: usize| {
        let mut request = request(&scheduler, seed, 330, 400);
        request.sampling.logit_bias =
            scheduler.text().defaults().eos_ids.iter().map(|&id| (id, -100.0)).collect();
        Request { n, ..request }
    };
    let counts = [1, 1, 1, 1, 3, 2, 1, 4, 2];
    let mut events = Vec::new();
    for (seed, &n) in counts.iter().enumerate() {
        let (sink, receiver) = listen();
        scheduler.submit(ask(seed, n), sink).unwrap();
        events.push(receiver);
    }
    for (seed, (events, &n)) in events.iter().zip(&counts).enumerate() {
        let outcome = outcome(events);
        assert_eq!(outcome.failed, None, "request {seed}");
        assert_eq!(outcome.ends.len(), n, "request {seed}");
        if seed % 3 == 1 {
            assert_eq!(outcome.answers[&0], alone(&ask(seed, 1)), "request {seed}");
        }
    }
    assert!(scheduler.is_working());
    assert!(scheduler.stats().preempted > 0, "the test asks for more than there is: {:?}", scheduler.stats());
}

/// The demo model with a head of its own, whose embedding of token `damaged` is no number.
fn model_with_a_damaged_token(dir: &Path, damaged: usize) {
    for file in ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        let text = fs::read_to_string(path("models/demo").join(file)).unwrap();
        let text = text.replace("\"tie_word_embeddings\": true", "\"tie_word_embeddings\": false");
        fs::write(dir.join(file), text).unwrap();
    }
    let file = fs::read(path("models/demo/model.safetensors")).unwrap();
    let n = u64::from_le_bytes(*file.first_chunk().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&file[8..8 + n]).unwrap();
    let mut data = file[8 + n..].to_vec();
    for part in ["weight", "scales", "biases"] {
        let mut tensor = header[format!("language_model.model.embed_tokens.{part}")].clone();
        let range = |i: usize| tensor["data_offsets"][i].as_u64().unwrap() as usize;
        let (start, end, at) = (range(0), range(1), data.len());
        data.extend_from_within(start..end);
        tensor["data_offsets"] = serde_json::json!([at, data.len()]);
        header[format!("language_model.lm_head.{part}")] = tensor;
        if part == "scales" {
            let row = (end - start) / 4096;
            data[start + damaged * row..][..row].copy_from_slice(&[0xff, 0x7f].repeat(row / 2));
        }
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    header.resize(header.len().next_multiple_of(8), b' ');
    let whole = [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat();
    fs::write(dir.join("model.safetensors"), whole).unwrap();
}

#[test]
fn a_sequence_that_is_no_number_fails_alone() {
    let dir = tempfile::tempdir().unwrap();
    const DAMAGED: u32 = 4000;
    model_with_a_damaged_token(dir.path(), DAMAGED as usize);
    let options = EngineOptions { sessions: Some(3), context: Some(1024), ..options() };
    let engine = Engine::open(dir.path(), &options, &mut |_, _| ()).expect("it opens");
    let scheduler = Scheduler::start(engine, SchedulerOptions::default()).unwrap();
    // One answers already and one reads when the damaged one comes, whose last token is the bad one, or one of them.
    let (sink, answering) = listen();
    scheduler.submit(request(&scheduler, 1, 20, 120), sink).unwrap();
    let (sink, reading) = listen();
    scheduler.submit(request(&scheduler, 2, 600, 40), sink).unwrap();
    for at_end in [true, false] {
        let mut bad = request(&scheduler, 3, 10, 40);
        bad.prompt.tokens.push(DAMAGED);
        if !at_end {
            bad.prompt.tokens.push(100);
        }
        let (sink, events) = listen();
        scheduler.submit(bad, sink).unwrap();
        let error = outcome(&events).failed.expect("it fails");
        assert!(error.contains("NaN or infinity"), "{error}");
    }
    for (seed, n_words, n_tokens, events) in [(1, 20, 120, answering), (2, 600, 40, reading)] {
        let outcome = outcome(&events);
        assert_eq!(outcome.failed, None);
        assert_eq!(outcome.answers[&0], alone(&request(&scheduler, seed, n_words, n_tokens)));
    }
    assert_eq!(scheduler.stats().failed, 2);
}

/// At the floor there is one state: what was saved in it goes on itself, where otherwise a copy would.
#[test]
fn one_state_is_enough_for_a_conversation() {
    // The process, of which the tests beside this one are a part, counts too: the floor is where it is just now.
    let mut ram_bytes = 20 << 20;
    let engine = loop {
        let options = EngineOptions { sessions: Some(1), ram_bytes: Some(ram_bytes), ..options() };
        match Engine::open(&path("models/demo"), &options, &mut |_, _| ()) {
            Ok(engine) if engine.plan().n_states == 1 => break engine,
            Ok(_) => ram_bytes = 20 << 20,
            Err(EngineError::BudgetBelowFloor { floor, .. }) => ram_bytes = floor + (1 << 20),
            Err(error) => panic!("{error}"),
        }
    };
    let scheduler = Scheduler::start(engine, SchedulerOptions::default()).unwrap();
    let mut tokens = Vec::new();
    for turn in 1..4 {
        let mut request = request(&scheduler, turn, 20, 8);
        tokens.append(&mut request.prompt.tokens);
        request.prompt.tokens = tokens.clone();
        let (sink, events) = listen();
        scheduler.submit(request, sink).unwrap();
        let outcome = outcome(&events);
        assert_eq!(outcome.failed, None, "turn {turn}");
        assert!(turn == 1 || outcome.cached > 0, "turn {turn} goes on with the state of the one before");
        tokens.extend(&outcome.answers[&0]);
    }
}

fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .flat_map(|model| fs::read_dir(model.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    found.sort();
    found
}

/// A conversation of one long system prompt; how much of it came from a snapshot.
fn converse(dir: &Path, question: &str) -> (usize, usize, Vec<u32>) {
    let options = SchedulerOptions { snapshot_dir: Some(dir.to_owned()), ..SchedulerOptions::default() };
    let scheduler = start(2, options);
    let messages = [Message::system(text(3, 700)), Message::user(question)];
    let prompt = Prompt::of_messages(scheduler.text(), &messages, None, &TemplateOptions::default()).unwrap();
    let preamble = prompt.keep[0];
    let (sink, events) = listen();
    scheduler.submit(Request { prompt, ..request(&scheduler, 5, 1, 12) }, sink).unwrap();
    let outcome = outcome(&events);
    assert_eq!(outcome.failed, None);
    scheduler.shutdown(WAIT);
    (outcome.cached, preamble, outcome.answers[&0].clone())
}

#[test]
fn a_preamble_is_read_once_in_its_life() {
    let dir = tempfile::tempdir().unwrap();
    let (cached, preamble, _) = converse(dir.path(), "Where is the river?");
    assert_eq!(cached, 0);
    assert_eq!(snapshots(dir.path()).len(), 1, "the rest is too short to be worth a file");

    // Another process, another question.
    let fresh = tempfile::tempdir().unwrap();
    let (_, _, expected) = converse(fresh.path(), "And the seven stones?");
    let (cached, _, answer) = converse(dir.path(), "And the seven stones?");
    assert_eq!(cached, preamble);
    assert_eq!(answer, expected, "an answer on a snapshot is the answer without one");

    // Whatever is wrong with the file, it is not used, and written again.
    let path = snapshots(dir.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    for at in [0, 9, 30, 60, 5000, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, damaged).unwrap();
        let (cached, _, answer) = converse(dir.path(), "And the seven stones?");
        assert_eq!((cached, &answer), (0, &expected), "byte {at} is wrong");
        assert_eq!(converse(dir.path(), "And the seven stones?").0, preamble, "it was written again");
    }
    for len in [0, 10, 100, whole.len() - 1] {
        fs::write(&path, &whole[..len]).unwrap();
        assert_eq!(converse(dir.path(), "And the seven stones?").0, 0, "cut to {len}");
    }
    // A file that a killed process was writing.
    fs::rename(&path, path.with_extension("part-1")).unwrap();
    assert_eq!(converse(dir.path(), "And the seven stones?").0, 0);
}

#[test]
fn a_snapshot_extends_another() {
    let dir = tempfile::tempdir().unwrap();
    let options =
        SchedulerOptions { snapshot_dir: Some(dir.path().to_owned()), ..SchedulerOptions::default() };
    let ask = |turns: usize| {
        let scheduler = start(2, options.clone());
        let mut messages = vec![Message::system(text(3, 300))];
        for turn in 0..turns {
            messages.push(Message::user(text(turn, 250)));
            messages.push(Message::assistant(text(turn + 50, 20)));
        }
        messages.push(Message::user(text(turns, 250)));
        let prompt =
            Prompt::of_messages(scheduler.text(), &messages, None, &TemplateOptions::default()).unwrap();
        let (sink, events) = listen();
        let n_tokens = prompt.tokens.len();
        scheduler.submit(Request { prompt, ..request(&scheduler, 5, 1, 12) }, sink).unwrap();
        let outcome = outcome(&events);
        scheduler.shutdown(WAIT);
        (outcome.cached, n_tokens, outcome.answers[&0].clone())
    };
    ask(1);
    ask(2);
    let (cached, n_tokens, answer) = ask(3);
    assert!(cached > 700, "{cached} of {n_tokens} tokens from the snapshot of the last turn");
    let files = snapshots(dir.path());
    let sizes: Vec<u64> = files.iter().map(|path| path.metadata().unwrap().len()).collect();
    assert!(files.len() >= 3, "{sizes:?}");

    // The bottom of the chain is gone: nothing that stands on it is used.
    let bottom = files.iter().min_by_key(|path| n_tokens_of(path)).unwrap();
    fs::remove_file(bottom).unwrap();
    let (cached, _, same) = ask(3);
    assert_eq!((cached, same), (0, answer));
    assert!(ask(3).0 > 700, "and it was written again");
}

/// What is used keeps all that it stands on; a snapshot goes before those that it extends.
#[test]
fn the_bottom_of_a_chain_goes_last() {
    let dir = tempfile::tempdir().unwrap();
    let ask = |turns: usize, limit: u64| {
        let options = SchedulerOptions {
            snapshot_dir: Some(dir.path().to_owned()),
            snapshot_bytes: limit,
            ..SchedulerOptions::default()
        };
        let scheduler = start(2, options);
        let mut messages = vec![Message::system(text(3, 300))];
        for turn in 0..turns {
            messages.push(Message::user(text(turn, 250)));
            messages.push(Message::assistant(text(turn + 50, 20)));
        }
        messages.push(Message::user(text(turns, 250)));
        let prompt =
            Prompt::of_messages(scheduler.text(), &messages, None, &TemplateOptions::default()).unwrap();
        let (sink, events) = listen();
        scheduler.submit(Request { prompt, ..request(&scheduler, 5, 1, 2) }, sink).unwrap();
        let cached = outcome(&events).cached;
        scheduler.shutdown(WAIT);
        cached
    };
    for turns in 0..3 {
        ask(turns, 1 << 30);
    }
    let total = |dir: &Path| snapshots(dir).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    let (n, all) = (snapshots(dir.path()).len(), total(dir.path()));
    assert!(n >= 4);
    // A little less: what goes is the longest, and the others are still of use.
    let longest = snapshots(dir.path()).into_iter().max_by_key(|path| n_tokens_of(path)).unwrap();
    assert!(ask(1, all - 1) > 400);
    assert!(!longest.exists(), "the end of the chain was used longest ago, together with the rest of it");
}

#[test]
fn other_files_are_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let hex = "0123456789abcdef0123456789abcdef";
    let paths = ["data/x.state", "data/x.part-1", "notes.state"].map(|name| dir.path().join(name));
    let mine = dir.path().join(hex).join("x.state");
    for path in paths.iter().chain([&mine]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "mine").unwrap();
        fs::File::options().append(true).open(path).unwrap().set_modified(old).unwrap();
    }
    let options = SchedulerOptions {
        snapshot_dir: Some(dir.path().to_owned()),
        snapshot_bytes: 1,
        ..SchedulerOptions::default()
    };
    start(1, options).shutdown(WAIT);
    assert!(paths.iter().chain([&mine]).all(|path| path.exists()));
    // One by the name of a snapshot of another model is one: it goes, as the limit is passed.
    let foreign = dir.path().join(hex).join(format!("{hex}.state"));
    fs::write(&foreign, "foreign").unwrap();
    let options = SchedulerOptions {
        snapshot_dir: Some(dir.path().to_owned()),
        snapshot_bytes: 1,
        ..SchedulerOptions::default()
    };
    start(1, options).shutdown(WAIT);
    assert!(!foreign.exists());
}

/// The number of tokens that the header states.
fn n_tokens_of(path: &Path) -> u64 {
    u64::from_le_bytes(fs::read(path).unwrap()[24..32].try_into().unwrap())
}

#[test]
fn snapshots_stay_below_their_limit() {
    let dir = tempfile::tempdir().unwrap();
    let total = |dir: &Path| snapshots(dir).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    let with = |limit: u64, seed: usize| {
        let options = SchedulerOptions {
            snapshot_dir: Some(dir.path().to_owned()),
            snapshot_bytes: limit,
            ..SchedulerOptions::default()
        };
        let scheduler = start(1, options);
        let messages = [Message::system(text(seed, 300)), Message::user("x")];
        let prompt =
            Prompt::of_messages(scheduler.text(), &messages, None, &TemplateOptions::default()).unwrap();
        let (sink, events) = listen();
        scheduler.submit(Request { prompt, ..request(&scheduler, 5, 1, 2) }, sink).unwrap();
        let cached = outcome(&events).cached;
        scheduler.shutdown(WAIT);
        cached
    };
    with(1 << 30, 1);
    let one = total(dir.path());
    assert!(one > 0);
    // Room for two: the third takes the place of the one that was used longest ago.
    let limit = 2 * one + one / 2;
    with(limit, 2);
    assert!(with(limit, 1) > 0);
    with(limit, 3);
    assert!(total(dir.path()) <= limit);
    assert_eq!(with(limit, 2), 0, "the second was used longest ago");
    with(one / 2, 4);
    assert_eq!(snapshots(dir.path()).len(), 0, "none fits");

    let file = dir.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let options = SchedulerOptions { snapshot_dir: Some(file), ..SchedulerOptions::default() };
    let error = Scheduler::start(open(&self::options()), options).err().expect("no directory");
    assert!(matches!(error, EngineError::Snapshots { .. }), "{error}");
}

#[test]
fn the_map_shows_every_expert() {
    let scheduler = start(1, SchedulerOptions::default());
    let (sink, events) = listen();
    scheduler.submit(request(&scheduler, 1, 5, 30), sink).unwrap();
    outcome(&events);
    scheduler.experts();
    let (sink, events) = listen();
    scheduler.submit(request(&scheduler, 2, 5, 30), sink).unwrap();
    outcome(&events);
    std::thread::sleep(Duration::from_millis(1100));
    scheduler.experts();
    std::thread::sleep(Duration::from_millis(1100));
    let map = scheduler.experts();
    assert_eq!(map.cells.len(), map.n_layers * map.n_experts);
    assert!(map.n_layers == 8 && map.n_experts > 0, "{} x {}", map.n_layers, map.n_experts);
    for layer in map.cells.chunks(map.n_experts) {
        assert!(layer.iter().filter(|&&cell| cell & 0x7f >= 126).count() >= 6, "the last token's experts");
        assert!(layer.iter().any(|&cell| cell >= 0x80), "some are resident");
    }
}
