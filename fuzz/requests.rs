//! What every translated request must bear: a job within bounds, and an answer in the API's words.

use flashmill_server::ApiError;
use flashmill_server::answer::{AnswerEvent, Call, Ending, Head, Outcome, Part, Reply};
use flashmill_server::job::{Input, Job, MAX_ANSWERS};

pub fn head() -> Head {
    Head { id: "0".into(), created: 0, model: "m".into() }
}

pub fn check<R: Reply>(parsed: Result<(Job, R), ApiError>) {
    let (job, mut reply) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            assert_eq!(error.kind.status(), 400);
            assert!(!error.message.is_empty());
            return;
        }
    };
    let n_prompts = match &job.input {
        Input::Chat(chat) => {
            assert!(!chat.messages.is_empty());
            1
        }
        Input::Plain(prompts) => prompts.len(),
    };
    let n = n_prompts * job.n;
    assert!((1..=MAX_ANSWERS).contains(&n));
    let call = Call { name: "f".into(), arguments: "{\"a\":1}".into() };
    let parts = vec![Part::Thought("t".into()), Part::Text("a".into()), Part::Call(call), Part::Text("b".into())];
    let mut events = vec![AnswerEvent::Started { prompt_tokens: 3, cached_tokens: 1 }];
    for index in 0..n {
        events.push(AnswerEvent::Token { index, parts: parts.clone(), logprobs: None });
        let ending = Ending::Stop("s".into());
        events.push(AnswerEvent::Finished { index, parts: Vec::new(), ending, n_tokens: 4, n_thought_tokens: 1 });
    }
    let mut outcome = Outcome::new(n);
    let mut stream = String::new();
    for event in events {
        reply.stream(&event, &mut stream);
        outcome.add(event);
    }
    assert!(outcome.is_over());
    for line in stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|line| *line != "[DONE]") {
        assert!(serde_json::from_str::<serde_json::Value>(line).is_ok());
    }
    assert!(reply.whole(&outcome).is_object());
}
