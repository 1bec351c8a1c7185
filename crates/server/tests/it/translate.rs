//! Requests to jobs and events to answers, without a server and without a model.

use flashmill_engine::Message;
use flashmill_server::answer::{
    AnswerEvent, Call, Ending, Head, Outcome, Part, Reply, TokenLogprob, TokenLogprobs,
};
use flashmill_server::job::{Chat, Format, Input, Job, PlainPrompt, ToolChoice};
use flashmill_server::{ApiError, anthropic, openai};
use serde_json::{Value, json};

use crate::client::events;

fn head() -> Head {
    Head { id: "1".into(), created: 7, model: "demo".into() }
}

fn chat(body: &Value) -> Result<Job, ApiError> {
    openai::chat::parse(body.to_string().as_bytes(), head()).map(|(job, _)| job)
}

fn responses(body: &Value) -> Result<Job, ApiError> {
    openai::responses::parse(body.to_string().as_bytes(), head()).map(|(job, _)| job)
}

fn completions(body: &Value) -> Result<Job, ApiError> {
    openai::completions::parse(body.to_string().as_bytes(), head()).map(|(job, _)| job)
}

fn messages(body: &Value) -> Result<Job, ApiError> {
    anthropic::messages::parse(body.to_string().as_bytes(), head()).map(|(job, _)| job)
}

fn conversation(job: &Job) -> &Chat {
    let Input::Chat(chat) = &job.input else { panic!("a conversation") };
    chat
}

/// The messages as templates see them.
fn seen(job: &Job) -> Value {
    json!(conversation(job).messages)
}

fn tool() -> Value {
    json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}})
}

#[test]
fn a_conversation_means_the_same_in_all_three_apis() {
    let expected = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Call f."},
        {"role": "assistant", "content": "I will.", "reasoning_content": "Hm.", "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
            {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{\"a\":2}"}}]},
        {"role": "tool", "content": "one", "tool_call_id": "c1"},
        {"role": "tool", "content": "two", "tool_call_id": "c2"},
        {"role": "user", "content": "And now?"},
    ]);
    let in_chat = chat(&json!({
        "messages": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Call f."}]},
            {"role": "assistant", "content": "I will.", "reasoning_content": "Hm.", "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 2}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
            {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
            {"role": "user", "content": "And now?"},
        ],
        "tools": [tool()],
    }))
    .expect("good");
    let in_responses = responses(&json!({
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Call f."}]},
            {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I will.", "annotations": []}]},
            {"type": "reasoning", "id": "rs2", "summary": [], "encrypted_content": "?"},
            {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{\"a\":1}"},
            {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{\"a\":2}"},
            {"type": "function_call_output", "call_id": "c1", "output": "one"},
            {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
            {"role": "user", "content": "And now?"},
        ],
        "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}],
    }))
    .expect("good");
    let in_messages = messages(&json!({
        "max_tokens": 5,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "Call f."},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                {"type": "text", "text": "I will."},
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "c2", "name": "f", "input": {"a": 2}}]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "one"},
                {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "two"}]},
                {"type": "text", "text": "And now?"}]},
        ],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}],
    }))
    .expect("good");
    for job in [&in_chat, &in_responses, &in_messages] {
        assert_eq!(seen(job), expected);
        assert_eq!(conversation(job).tools, Some(json!([tool()])));
    }
    assert_eq!(in_messages.max_tokens, Some(5));
}

#[test]
fn settings() {
    let job = chat(&json!({
        "model": "anything", "messages": [{"role": "user", "content": "x"}], "stream": true, "n": 2, "seed": -1,
        "stop": "END", "temperature": 0, "top_p": 0.5, "top_k": -1, "min_p": 0.1, "repetition_penalty": 1.1,
        "presence_penalty": 0.5, "frequency_penalty": -0.5, "logit_bias": {"7": -100, "5": 1.5}, "max_tokens": 3,
        "max_completion_tokens": 4, "logprobs": true, "top_logprobs": 2, "parallel_tool_calls": false,
        "chat_template_kwargs": {"enable_thinking": false, "style": "terse"}, "user": "u", "unknown": [1],
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": true}},
    }))
    .expect("good");
    assert_eq!((job.n, job.stream, job.max_tokens, job.logprobs), (2, true, Some(4), Some(2)));
    assert_eq!(job.stops, ["END"]);
    assert_eq!(job.format, Format::JsonSchema(json!({"type": "object"})));
    assert!(!job.parallel_calls);
    let chat_options = conversation(&job);
    assert_eq!(chat_options.thinking, Some(false));
    assert_eq!(Value::from(chat_options.variables.clone()), json!({"style": "terse"}));
    let sampling = &job.sampling;
    assert_eq!(
        (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p),
        (Some(0.0), Some(0.5), Some(0), Some(0.1))
    );
    assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (Some(0.5), Some(-0.5)));
    assert_eq!((sampling.repetition_penalty, sampling.seed), (Some(1.1), Some(u64::MAX)));
    assert_eq!(sampling.logit_bias, [(5, 1.5), (7, -100.0)]);
}

#[test]
fn forms() {
    let with = |field: &str, value: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "x"}]});
        body[field] = value;
        chat(&body).map(|job| job.format)
    };
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    let good = [
        ("response_format", json!({"type": "text"}), Format::Text),
        ("response_format", json!({"type": "json_object"}), Format::JsonObject),
        (
            "response_format",
            json!({"type": "json_object", "schema": schema}),
            Format::JsonSchema(schema.clone()),
        ),
        ("guided_json", schema.clone(), Format::JsonSchema(schema.clone())),
        ("guided_json", json!(schema.to_string()), Format::JsonSchema(schema.clone())),
        ("guided_regex", json!("[0-9]+"), Format::Regex("[0-9]+".into())),
        ("guided_choice", json!(["a", "b\"c"]), Format::Lark("start: \"a\" | \"b\\\"c\"".into())),
        ("grammar", json!("start: \"x\""), Format::Lark("start: \"x\"".into())),
        ("structured_outputs", json!({"regex": "a|b"}), Format::Regex("a|b".into())),
    ];
    for (field, value, format) in good {
        assert_eq!(with(field, value), Ok(format), "{field}");
    }
    for (field, value) in [
        ("response_format", json!({"type": "yaml"})),
        ("response_format", json!("json_object")),
        ("guided_json", json!("{")),
        ("guided_choice", json!([])),
        ("structured_outputs", json!({"regex": "a", "choice": ["b"]})),
    ] {
        assert!(with(field, value.clone()).is_err(), "{field}: {value}");
    }
}

#[test]
fn whether_tools_are_called() {
    let with = |choice: Value| {
        chat(&json!({"messages": [{"role": "user", "content": "x"}], "tools": [tool()], "tool_choice": choice}))
            .map(|job| (job.tool_choice.clone(), conversation(&job).tools.is_some()))
    };
    let named = json!({"type": "function", "function": {"name": "f"}});
    assert_eq!(with(json!("auto")), Ok((ToolChoice::Auto, true)));
    assert_eq!(with(json!("none")), Ok((ToolChoice::None, true)));
    assert_eq!(with(json!("required")), Ok((ToolChoice::Required, true)));
    assert_eq!(with(named), Ok((ToolChoice::Named("f".into()), true)));
    for wrong in [
        json!("sometimes"),
        json!({"type": "function", "function": {"name": "g"}}),
        json!(5),
        json!({"type": "custom"}),
    ] {
        assert_eq!(with(wrong).expect_err("wrong").param.as_deref(), Some("tool_choice"));
    }
    let anthropic = |choice: Value| {
        messages(
            &json!({"max_tokens": 1, "messages": [{"role": "user", "content": "x"}], "tool_choice": choice,
            "tools": [{"name": "f", "input_schema": {"type": "object"}}]}),
        )
        .map(|job| (job.tool_choice.clone(), conversation(&job).tools.is_some(), job.parallel_calls))
    };
    assert_eq!(
        anthropic(json!({"type": "any", "disable_parallel_tool_use": true})),
        Ok((ToolChoice::Required, true, false))
    );
    assert_eq!(
        anthropic(json!({"type": "tool", "name": "f"})),
        Ok((ToolChoice::Named("f".into()), true, true))
    );
    assert_eq!(anthropic(json!({"type": "none"})), Ok((ToolChoice::None, true, true)));
    assert!(anthropic(json!({"type": "tool"})).is_err());
}

#[test]
fn what_is_wrong_is_named() {
    let many: serde_json::Map<String, Value> = (0..5_000).map(|id| (id.to_string(), json!(1))).collect();
    let user = json!([{"role": "user", "content": "x"}]);
    let image = json!([{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]}]);
    let cases = [
        (json!({}), None),
        (json!({"messages": []}), Some("messages")),
        (json!({"messages": user, "n": 0}), Some("n")),
        (json!({"messages": user, "n": 1000}), Some("n")),
        (json!({"messages": user, "temperature": "hot"}), Some("temperature")),
        (json!({"messages": user, "temperature": -1}), Some("temperature")),
        (json!({"messages": user, "top_p": 0}), Some("top_p")),
        (json!({"messages": user, "max_tokens": 0}), Some("max_tokens")),
        (json!({"messages": user, "stop": [""]}), Some("stop")),
        (json!({"messages": user, "stop": "x".repeat(257)}), Some("stop")),
        (json!({"messages": user, "stop": vec!["x"; 17]}), Some("stop")),
        (json!({"messages": user, "logit_bias": {"x": 1}}), Some("logit_bias")),
        (json!({"messages": user, "logit_bias": many}), Some("logit_bias")),
        (json!({"messages": user, "logprobs": true, "top_logprobs": 99}), Some("top_logprobs")),
        (json!({"messages": user, "tools": [{"type": "web_search"}]}), Some("tools[0].type")),
        (
            json!({"messages": user, "tools": [{"type": "function", "function": {"name": "a b"}}]}),
            Some("tools[0].function.name"),
        ),
        (
            json!({"messages": user, "chat_template_kwargs": {"messages": []}}),
            Some("chat_template_kwargs.messages"),
        ),
        (json!({"messages": user, "functions": []}), Some("functions")),
        (json!({"messages": [{"role": "robot", "content": "x"}]}), Some("messages[0].role")),
        (json!({"messages": [{"role": "user"}]}), Some("messages[0].content")),
        (json!({"messages": [{"role": "user", "content": 5}]}), Some("messages[0].content")),
        (json!({"messages": image}), Some("messages[0].content[1]")),
    ];
    for (body, param) in cases {
        let error = chat(&body).expect_err("wrong");
        assert_eq!(error.param.as_deref(), param, "{body}: {}", error.message);
        assert_eq!(error.kind.status(), 400);
    }
    for (field, value) in [
        ("store", json!(true)),
        ("previous_response_id", json!("resp_1")),
        ("conversation", json!("c")),
        ("background", json!(true)),
        ("prompt", json!({"id": "p"})),
    ] {
        let mut body = json!({"input": "x"});
        body[field] = value;
        assert_eq!(responses(&body).expect_err("not stored").param.as_deref(), Some(field));
    }
    for (body, param) in [
        (json!({"messages": user}), "max_tokens"),
        (
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "max_tokens": 1}),
            "messages",
        ),
        (
            json!({"messages": user, "max_tokens": 1, "tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            "tools[0].type",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}], "max_tokens": 1}),
            "messages[0].content[0]",
        ),
    ] {
        assert_eq!(messages(&body).expect_err("wrong").param.as_deref(), Some(param), "{body}");
    }
}

#[test]
fn prompts_of_completions() {
    let prompts = |prompt: Value| {
        completions(&json!({"prompt": prompt})).map(|job| match job.input {
            Input::Plain(prompts) => prompts,
            Input::Chat(_) => panic!("no conversation"),
        })
    };
    let text = |text: &str| PlainPrompt::Text(text.into());
    assert_eq!(prompts(json!("a")), Ok(vec![text("a")]));
    assert_eq!(prompts(json!(["a", "b"])), Ok(vec![text("a"), text("b")]));
    assert_eq!(prompts(json!([1, 2])), Ok(vec![PlainPrompt::Tokens(vec![1, 2])]));
    assert_eq!(
        prompts(json!([[1], [2]])),
        Ok(vec![PlainPrompt::Tokens(vec![1]), PlainPrompt::Tokens(vec![2])])
    );
    for wrong in [
        json!([]),
        json!([[]]),
        json!([1, "a"]),
        json!([-1]),
        json!([1.5]),
        json!([5_000_000_000_u64]),
        json!({"a": 1}),
        json!(["a", {}]),
        json!(vec!["a"; 100]),
    ] {
        let error = prompts(wrong.clone()).expect_err("wrong");
        // Where it is an element, its place is named too.
        let param = error.param.expect("a field");
        assert!(param == "prompt" || param.starts_with("prompt["), "{wrong}: {param}");
    }
    assert_eq!(completions(&json!({"prompt": "a"})).expect("good").max_tokens, Some(16));
    assert!(completions(&json!({"prompt": "a", "echo": true})).is_err());
}

#[test]
fn system_messages_before_the_conversation_become_one() {
    let job = chat(&json!({"messages": [
        {"role": "system", "content": "a"}, {"role": "developer", "content": "b"}, {"role": "user", "content": "c"}]}))
    .expect("good");
    assert_eq!(conversation(&job).messages, [Message::system("a\n\nb"), Message::user("c")]);
}

/// A thought, a text in two pieces, two calls.
fn story() -> Vec<AnswerEvent> {
    let token = |parts: Vec<Part>| AnswerEvent::Token { index: 0, parts, logprobs: None };
    let call = |a: usize| Part::Call(Call { name: "f".into(), arguments: format!("{{\"a\":{a}}}") });
    vec![
        AnswerEvent::Started { prompt_tokens: 10, cached_tokens: 4 },
        token(vec![Part::Thought("Hm.".into())]),
        token(vec![]),
        token(vec![Part::Text("I ".into())]),
        token(vec![Part::Text("will.".into()), call(1)]),
        AnswerEvent::Finished {
            index: 0,
            parts: vec![call(2)],
            ending: Ending::Turn,
            n_tokens: 9,
            n_thought_tokens: 3,
        },
    ]
}

fn streamed(reply: &mut dyn Reply, story: &[AnswerEvent]) -> Vec<(String, String)> {
    let mut out = String::new();
    story.iter().for_each(|event| reply.stream(event, &mut out));
    events(&out)
}

fn whole(reply: &dyn Reply, story: &[AnswerEvent]) -> Value {
    let mut outcome = Outcome::new(1);
    story.iter().for_each(|event| outcome.add(event.clone()));
    reply.whole(&outcome)
}

#[test]
fn chat_says_it_whole_and_in_chunks() {
    let body =
        br#"{"messages": [{"role": "user", "content": "x"}], "stream_options": {"include_usage": true}}"#;
    let (_, mut reply) = openai::chat::parse(body, head()).expect("good");
    let calls = json!([
        {"id": "call_10000", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}},
        {"id": "call_10001", "type": "function", "function": {"name": "f", "arguments": "{\"a\":2}"}}]);
    let usage = json!({"prompt_tokens": 10, "completion_tokens": 9, "total_tokens": 19,
        "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 3}});
    assert_eq!(
        whole(&reply, &story()),
        json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 7, "model": "demo", "choices": [{"index": 0,
            "message": {"role": "assistant", "content": "I will.", "refusal": null, "reasoning_content": "Hm.", "tool_calls": calls},
            "logprobs": null, "finish_reason": "tool_calls"}], "usage": usage})
    );
    let events = streamed(&mut reply, &story());
    assert_eq!(events.last(), Some(&(String::new(), "[DONE]".to_owned())));
    let chunks: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|(_, data)| serde_json::from_str(data).expect("JSON"))
        .collect();
    let deltas: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    let mut call = calls[0].clone();
    call["index"] = 0.into();
    assert_eq!(*deltas[0], json!({"role": "assistant", "content": ""}));
    assert_eq!(*deltas[1], json!({"reasoning_content": "Hm."}));
    assert_eq!(*deltas[2], json!({"content": "I "}));
    assert_eq!(*deltas[4], json!({"tool_calls": [call]}));
    assert_eq!(chunks[6]["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!((&chunks[7]["choices"], &chunks[7]["usage"]), (&json!([]), &usage));
    assert!(
        chunks[..7]
            .iter()
            .all(|chunk| chunk["usage"].is_null() && chunk["object"] == "chat.completion.chunk")
    );
}

#[test]
fn anthropic_says_it_whole_and_in_blocks() {
    let body = br#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 9}"#;
    let (_, mut reply) = anthropic::messages::parse(body, head()).expect("good");
    let usage = json!({"input_tokens": 6, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 9});
    let content = json!([
        {"type": "thinking", "thinking": "Hm.", "signature": "flashmill"},
        {"type": "text", "text": "I will."},
        {"type": "tool_use", "id": "toolu_100", "name": "f", "input": {"a": 1}},
        {"type": "tool_use", "id": "toolu_101", "name": "f", "input": {"a": 2}}]);
    assert_eq!(
        whole(&reply, &story()),
        json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "demo", "content": content,
            "stop_reason": "tool_use", "stop_sequence": null, "usage": usage})
    );
    let events = streamed(&mut reply, &story());
    let mut blocks: Vec<Value> = Vec::new();
    let mut json = String::new();
    for (name, data) in &events {
        let data: Value = serde_json::from_str(data).expect("JSON");
        assert_eq!(data["type"], name.as_str());
        match name.as_str() {
            "message_start" => assert_eq!(data["message"]["usage"]["cache_read_input_tokens"], 4),
            "content_block_start" => {
                assert_eq!(data["index"], blocks.len());
                blocks.push(data["content_block"].clone());
            }
            "content_block_delta" => {
                let block = blocks.last_mut().expect("a block");
                let delta = &data["delta"];
                let (key, field) = match delta["type"].as_str().expect("a type") {
                    "thinking_delta" => ("thinking", "thinking"),
                    "signature_delta" => ("signature", "signature"),
                    "text_delta" => ("text", "text"),
                    "input_json_delta" => {
                        json += delta["partial_json"].as_str().expect("text");
                        continue;
                    }
                    other => panic!("{other}"),
                };
                let text =
                    block[key].as_str().expect("text").to_owned() + delta[field].as_str().expect("text");
                block[key] = text.into();
            }
            "content_block_stop" => {
                if !json.is_empty() {
                    blocks.last_mut().expect("a block")["input"] = serde_json::from_str(&json).expect("JSON");
                    json.clear();
                }
            }
            "message_delta" => {
                assert_eq!(data["delta"], json!({"stop_reason": "tool_use", "stop_sequence": null}));
                assert_eq!(data["usage"], usage);
            }
            _ => assert_eq!(name, "message_stop"),
        }
    }
    assert_eq!(Value::from(blocks), content);
    assert_eq!(events.last().map(|(name, _)| name.as_str()), Some("message_stop"));
}

#[test]
fn responses_say_it_whole_and_in_events() {
    let (_, mut reply) = openai::responses::parse(br#"{"input": "x"}"#, head()).expect("good");
    let whole = whole(&reply, &story());
    let kinds: Vec<&str> =
        whole["output"].as_array().expect("items").iter().filter_map(|item| item["type"].as_str()).collect();
    assert_eq!(kinds, ["reasoning", "message", "function_call", "function_call"]);
    assert_eq!(whole["status"], "completed");
    assert_eq!(whole["usage"]["input_tokens_details"]["cached_tokens"], 4);
    assert_eq!(whole["output"][1]["content"][0]["text"], "I will.");
    let events = streamed(&mut reply, &story());
    let datas: Vec<Value> =
        events.iter().map(|(_, data)| serde_json::from_str(data).expect("JSON")).collect();
    for (n, (data, (name, _))) in datas.iter().zip(&events).enumerate() {
        assert_eq!((&data["sequence_number"], &data["type"]), (&json!(n), &json!(name)));
    }
    let done: Vec<&Value> = datas
        .iter()
        .filter(|data| data["type"] == "response.output_item.done")
        .map(|data| &data["item"])
        .collect();
    assert_eq!(json!(done), whole["output"]);
    let last = datas.last().expect("an event");
    assert_eq!((&last["type"], &last["response"]), (&json!("response.completed"), &whole));
    let deltas: String = datas
        .iter()
        .filter(|data| data["type"] == "response.output_text.delta")
        .filter_map(|data| data["delta"].as_str())
        .collect();
    assert_eq!(deltas, "I will.");
}

#[test]
fn ends_have_the_words_of_each_api() {
    let ends = |ending: Ending| {
        let story =
            [AnswerEvent::Finished { index: 0, parts: vec![], ending, n_tokens: 1, n_thought_tokens: 0 }];
        let (_, chat) = openai::chat::parse(br#"{"messages": [{"role": "user", "content": "x"}]}"#, head())
            .expect("good");
        let (_, message) = anthropic::messages::parse(
            br#"{"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}"#,
            head(),
        )
        .expect("good");
        let (_, response) = openai::responses::parse(br#"{"input": "x"}"#, head()).expect("good");
        let (chat, message, response) =
            (whole(&chat, &story), whole(&message, &story), whole(&response, &story));
        let words = [&chat["choices"][0]["finish_reason"], &message["stop_reason"], &response["status"]];
        (words.map(|word| word.as_str().expect("a word").to_owned()), message["stop_sequence"].clone())
    };
    let words = |words: [&str; 3]| words.map(str::to_owned);
    assert_eq!(ends(Ending::Turn), (words(["stop", "end_turn", "completed"]), Value::Null));
    assert_eq!(ends(Ending::Stop("X".into())), (words(["stop", "stop_sequence", "completed"]), json!("X")));
    assert_eq!(ends(Ending::Length), (words(["length", "max_tokens", "incomplete"]), Value::Null));
    let full = words(["length", "model_context_window_exceeded", "incomplete"]);
    assert_eq!(ends(Ending::ContextFull), (full, Value::Null));
}

#[test]
fn log_probabilities() {
    let token = |bytes: &[u8], logprob| TokenLogprob { bytes: bytes.to_vec(), logprob };
    let logprobs = TokenLogprobs { chosen: token(b"\xe2\x82", -0.5), top: vec![token(b"a", -0.25)] };
    let story = [
        AnswerEvent::Token { index: 0, parts: vec![], logprobs: Some(logprobs.clone()) },
        AnswerEvent::Token { index: 0, parts: vec![Part::Text("x".into())], logprobs: Some(logprobs) },
        AnswerEvent::Finished {
            index: 0,
            parts: vec![],
            ending: Ending::Turn,
            n_tokens: 2,
            n_thought_tokens: 0,
        },
    ];
    let body = br#"{"messages": [{"role": "user", "content": "x"}], "logprobs": true, "top_logprobs": 1}"#;
    let (_, mut reply) = openai::chat::parse(body, head()).expect("good");
    let expected = json!({"token": "\u{fffd}", "logprob": -0.5, "bytes": [226, 130], "top_logprobs": [{"token": "a", "logprob": -0.25, "bytes": [97]}]});
    let content = &whole(&reply, &story)["choices"][0]["logprobs"]["content"];
    assert_eq!(*content, json!([expected, expected]));
    let n_streamed =
        streamed(&mut reply, &story).iter().filter(|(_, data)| data.contains("top_logprobs")).count();
    assert_eq!(n_streamed, 2);
    let (_, reply) = openai::completions::parse(br#"{"prompt": "x", "logprobs": 1}"#, head()).expect("good");
    let columns = &whole(&reply, &story)["choices"][0]["logprobs"];
    assert_eq!(columns["token_logprobs"], json!([-0.5, -0.5]));
    assert_eq!(columns["top_logprobs"], json!([{"a": -0.25}, {"a": -0.25}]));
    assert_eq!(columns["text_offset"], json!([0, 1]));
}
