//! Every API over real connections, streamed and whole, with the demo model.

use serde_json::{Value, json};

use crate::client::{Response, ask, get, post};
use crate::support::{Setup, TOOLS, serve, shared};

const WEATHER: &str = "What's the weather in Oslo?";

/// The chunks of a chat's stream, which must end as it should.
#[track_caller]
fn chunks(response: &Response) -> Vec<Value> {
    let events = response.events();
    let (last, chunks) = events.split_last().expect("events");
    assert_eq!(last.1, "[DONE]");
    chunks.iter().map(|(_, data)| serde_json::from_str(data).expect("JSON")).collect()
}

fn deltas(chunks: &[Value], key: &str) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"][key].as_str()).collect()
}

#[test]
fn a_chat_with_tools_in_two_turns() {
    let server = shared();
    let mut messages = vec![json!({"role": "user", "content": WEATHER})];
    let body = json!({"messages": messages, "tools": *TOOLS, "temperature": 0});
    let first = post(server.address, "/v1/chat/completions", &body).good();
    let choice = &first["choices"][0];
    assert_eq!((&first["object"], &first["model"]), (&json!("chat.completion"), &json!("demo")));
    assert_eq!(
        (&choice["finish_reason"], &choice["message"]["content"]),
        (&json!("tool_calls"), &Value::Null)
    );
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"], json!({"name": "get_weather", "arguments": "{\"city\":\"Oslo\"}"}));
    messages.push(choice["message"].clone());
    messages.push(json!({"role": "tool", "tool_call_id": call["id"], "content": "{\"temperature\": 3}"}));
    let mut body = json!({"messages": messages, "tools": *TOOLS, "temperature": 0});
    let second = post(server.address, "/v1/chat/completions", &body).good();
    assert_eq!(second["choices"][0]["finish_reason"], "stop");
    let text = second["choices"][0]["message"]["content"].as_str().expect("an answer");
    assert!(text.contains('3'), "{text}");
    // What was read for the first turn is known in the second.
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().expect("a number");
    assert!(cached >= 250, "{}", second["usage"]);
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let streamed = chunks(&post(server.address, "/v1/chat/completions", &body));
    assert_eq!(deltas(&streamed, "content"), text);
    let usage = &streamed.last().expect("chunks")["usage"];
    assert_eq!(usage["completion_tokens"], second["usage"]["completion_tokens"]);
    assert_eq!(usage["prompt_tokens"], second["usage"]["prompt_tokens"]);
}

#[test]
fn the_same_call_in_every_api() {
    let server = shared();
    let anthropic_tools: Vec<Value> = TOOLS
        .as_array()
        .expect("tools")
        .iter()
        .map(|tool| json!({"name": tool["function"]["name"], "description": tool["function"]["description"], "input_schema": tool["function"]["parameters"]}))
        .collect();
    let mut body = json!({"max_tokens": 100, "temperature": 0, "messages": [{"role": "user", "content": WEATHER}], "tools": anthropic_tools});
    let message = post(server.address, "/v1/messages", &body).good();
    assert_eq!(message["stop_reason"], "tool_use");
    let block = &message["content"][0];
    assert_eq!((&block["name"], &block["input"]), (&json!("get_weather"), &json!({"city": "Oslo"})));
    let n_tokens = message["usage"]["input_tokens"].as_u64().expect("a number")
        + message["usage"]["cache_read_input_tokens"].as_u64().expect("a number");
    let count = post(server.address, "/v1/messages/count_tokens", &body).good();
    assert_eq!(count["input_tokens"], n_tokens);
    body["stream"] = true.into();
    let events = post(server.address, "/v1/messages", &body).events();
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ];
    assert_eq!(names, expected);
    // The second turn.
    let result =
        json!({"type": "tool_result", "tool_use_id": block["id"], "content": "{\"temperature\": 3}"});
    body["stream"] = false.into();
    body["messages"] = json!([{"role": "user", "content": WEATHER}, {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": [result]}]);
    let second = post(server.address, "/v1/messages", &body).good();
    assert_eq!(second["stop_reason"], "end_turn");
    assert!(second["content"][0]["text"].as_str().is_some_and(|text| text.contains('3')), "{second}");

    let flat: Vec<Value> = TOOLS
        .as_array()
        .expect("tools")
        .iter()
        .map(|tool| json!({"type": "function", "name": tool["function"]["name"], "description": tool["function"]["description"], "parameters": tool["function"]["parameters"]}))
        .collect();
    let mut body = json!({"input": WEATHER, "tools": flat, "temperature": 0});
    let response = post(server.address, "/v1/responses", &body).good();
    let item = &response["output"][0];
    assert_eq!(
        (&response["status"], &item["type"], &item["name"]),
        (&json!("completed"), &json!("function_call"), &json!("get_weather"))
    );
    body["stream"] = true.into();
    let events = post(server.address, "/v1/responses", &body).events();
    assert_eq!(events.last().map(|(name, _)| name.as_str()), Some("response.completed"));
    let last: Value = serde_json::from_str(&events.last().expect("events").1).expect("JSON");
    assert_eq!(last["response"]["output"][0]["arguments"], item["arguments"]);
    body["stream"] = false.into();
    body["input"] = json!([{"role": "user", "content": WEATHER}, item,
        {"type": "function_call_output", "call_id": item["call_id"], "output": "{\"temperature\": 3}"}]);
    let second = post(server.address, "/v1/responses", &body).good();
    assert!(
        second["output"][0]["content"][0]["text"].as_str().is_some_and(|text| text.contains('3')),
        "{second}"
    );
}

#[test]
fn one_call_where_parallel_ones_are_not_wanted() {
    let server = shared();
    let question = "How is the weather in Lima today and what's the weather in Tokyo?";
    let mut body =
        json!({"messages": [{"role": "user", "content": question}], "tools": *TOOLS, "temperature": 0});
    let all = post(server.address, "/v1/chat/completions", &body).good();
    let calls = all["choices"][0]["message"]["tool_calls"].as_array().expect("calls").clone();
    assert_eq!(calls.len(), 2, "{all}");
    let ids: Vec<&Value> = calls.iter().map(|call| &call["id"]).collect();
    assert_ne!(ids[0], ids[1]);
    body["parallel_tool_calls"] = false.into();
    let one = post(server.address, "/v1/chat/completions", &body).good();
    let choice = &one["choices"][0];
    assert_eq!(choice["message"]["tool_calls"].as_array().map(Vec::len), Some(1), "{one}");
    assert_eq!(choice["message"]["tool_calls"][0]["function"], calls[0]["function"]);
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert!(one["usage"]["completion_tokens"].as_u64() < all["usage"]["completion_tokens"].as_u64());
}

#[test]
fn calls_that_must_be_made_and_answers_in_a_form() {
    let server = shared();
    let ask = |change: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "Hello!"}], "tools": *TOOLS, "temperature": 0, "max_tokens": 200});
        for (key, value) in change.as_object().expect("fields") {
            body[key] = value.clone();
        }
        post(server.address, "/v1/chat/completions", &body).good()["choices"][0].clone()
    };
    let free = ask(json!({}));
    assert_eq!(free["finish_reason"], "stop");
    let required = ask(json!({"tool_choice": "required"}));
    assert!(required["message"]["tool_calls"].is_array(), "{required}");
    let named = ask(
        json!({"tool_choice": {"type": "function", "function": {"name": "set_timer"}}, "parallel_tool_calls": false}),
    );
    let call = &named["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "set_timer", "{named}");
    let arguments: Value = serde_json::from_str(call["arguments"].as_str().expect("text")).expect("JSON");
    assert!(arguments["minutes"].is_i64(), "{arguments}");
    let none = ask(json!({"tool_choice": "none", "messages": [{"role": "user", "content": WEATHER}]}));
    assert!(none["message"]["tool_calls"].is_null(), "{none}");

    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}, "kind": {"enum": ["x", "y"]}}, "required": ["ok", "kind"], "additionalProperties": false});
    let held = ask(
        json!({"tools": [], "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}),
    );
    let json: Value = serde_json::from_str(held["message"]["content"].as_str().expect("text")).expect("JSON");
    assert!(json["ok"].is_boolean() && (json["kind"] == "x" || json["kind"] == "y"), "{json}");
    let choice = ask(json!({"tools": [], "guided_choice": ["apple", "pear"]}));
    assert!(["apple", "pear"].map(Some).contains(&choice["message"]["content"].as_str()), "{choice}");
    let bad = json!({"messages": [{"role": "user", "content": "x"}], "guided_regex": "("});
    assert_eq!(post(server.address, "/v1/chat/completions", &bad).status, 400);
}

#[test]
fn several_answers_seeds_and_log_probabilities() {
    let server = shared();
    let body = json!({"messages": [{"role": "user", "content": "Hello!"}], "n": 3, "seed": 7, "temperature": 1, "max_tokens": 8,
        "logprobs": true, "top_logprobs": 2, "top_k": 0, "top_p": 1});
    let ask = |body: &Value| post(server.address, "/v1/chat/completions", body).good();
    let (first, second) = (ask(&body), ask(&body));
    assert_eq!(first["choices"], second["choices"], "the same seed, the same answers");
    assert_eq!(first["choices"].as_array().map(Vec::len), Some(3));
    for choice in first["choices"].as_array().expect("choices") {
        let content = choice["logprobs"]["content"].as_array().expect("tokens");
        let text: String = content.iter().filter_map(|token| token["token"].as_str()).collect();
        assert_eq!(Some(text.trim_end()), choice["message"]["content"].as_str().map(str::trim_end));
        assert!(content.iter().all(|token| token["top_logprobs"].as_array().map(Vec::len) == Some(2)));
        assert!(content.iter().all(|token| token["logprob"].as_f64().is_some_and(|logprob| logprob <= 0.0)));
    }
    let mut alone = body.clone();
    alone["n"] = 1.into();
    alone["seed"] = 8.into();
    assert_eq!(
        ask(&alone)["choices"][0]["message"],
        first["choices"][1]["message"],
        "the i-th answer has the seed + i"
    );
}

#[test]
fn ends_of_answers() {
    let server = shared();
    let chat = |field: &str, value: Value| {
        let mut body = json!({"messages": [{"role": "user", "content": "Hello!"}], "temperature": 0});
        body[field] = value;
        post(server.address, "/v1/chat/completions", &body).good()["choices"][0].clone()
    };
    let whole = chat("user", json!("u"));
    let text = whole["message"]["content"].as_str().expect("text").to_owned();
    assert_eq!(whole["finish_reason"], "stop");
    let cut = chat("max_tokens", json!(3));
    assert_eq!(cut["finish_reason"], "length");
    assert!(text.starts_with(cut["message"]["content"].as_str().expect("text")));
    let word = text.split(' ').nth(1).expect("two words");
    let stopped = chat("stop", json!([word]));
    assert_eq!(stopped["finish_reason"], "stop");
    assert_eq!(stopped["message"]["content"].as_str(), text.split(word).next());
    let body = json!({"max_tokens": 50, "temperature": 0, "messages": [{"role": "user", "content": "Hello!"}], "stop_sequences": [word]});
    let message = post(server.address, "/v1/messages", &body).good();
    assert_eq!((&message["stop_reason"], &message["stop_sequence"]), (&json!("stop_sequence"), &json!(word)));
    let response = post(
        server.address,
        "/v1/responses",
        &json!({"input": "Hello!", "max_output_tokens": 2, "temperature": 0}),
    )
    .good();
    assert_eq!(
        (&response["status"], &response["incomplete_details"]["reason"]),
        (&json!("incomplete"), &json!("max_output_tokens"))
    );
}

#[test]
fn completions_of_texts_and_tokens() {
    let server = shared();
    let tokens = server.scheduler.text().tokenizer().encode("Hello").expect("tokens");
    let ask = |body: Value| post(server.address, "/v1/completions", &body);
    let plain = ask(json!({"prompt": "Hello", "temperature": 0, "max_tokens": 5})).good();
    assert_eq!(plain["object"], "text_completion");
    assert_eq!(plain["usage"]["completion_tokens"], 5);
    let both = ask(json!({"prompt": ["Hello", "Hello"], "temperature": 0, "max_tokens": 5, "n": 2})).good();
    let texts: Vec<&Value> =
        both["choices"].as_array().expect("choices").iter().map(|choice| &choice["text"]).collect();
    assert_eq!(texts, [&plain["choices"][0]["text"]; 4]);
    if server.scheduler.text().tokenizer().bos_id().is_none() {
        let ids = ask(json!({"prompt": tokens, "temperature": 0, "max_tokens": 5})).good();
        assert_eq!(ids["choices"][0]["text"], plain["choices"][0]["text"]);
    }
    let streamed =
        chunks(&ask(json!({"prompt": "Hello", "temperature": 0, "max_tokens": 5, "stream": true})));
    let text: String = streamed.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(plain["choices"][0]["text"], text);
    assert_eq!(ask(json!({"prompt": [4_000_000], "max_tokens": 5})).status, 400);
}

#[test]
fn cache_aware_routing_is_said_by_every_response() {
    let aware = serve(Setup { cache_aware: 0.25, ..Setup::default() });
    for (server, header, share) in [(&aware, Some("0.25"), 0.25), (shared(), None, 0.0)] {
        let list = get(server.address, "/v1/models");
        assert_eq!(list.header("x-flashmill-cache-aware"), header);
        assert_eq!(list.json()["data"][0]["cache_aware"], share);
        let request = json!({"prompt": "a", "max_tokens": 2, "temperature": 0});
        let answer = post(server.address, "/v1/completions", &request);
        assert_eq!((answer.status, answer.header("x-flashmill-cache-aware")), (200, header));
        let metrics = get(server.address, "/metrics");
        let metrics = metrics.text();
        assert!(metrics.contains(&format!("\nflashmill_cache_aware_share {share}\n")), "{metrics}");
    }
}

#[test]
fn models_health_metrics_and_the_document() {
    let server = shared();
    let list = get(server.address, "/v1/models").good();
    assert_eq!(list["data"][0]["id"], "demo");
    assert_eq!(get(server.address, "/v1/models/demo").good(), list["data"][0]);
    let missing = get(server.address, "/v1/models/gpt-7");
    assert_eq!((missing.status, &missing.json()["error"]["code"]), (404, &json!("model_not_found")));
    assert_eq!(get(server.address, "/health").good(), json!({"status": "ok"}));
    let metrics = get(server.address, "/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in metrics.text().lines().filter(|line| !line.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        assert!(name.starts_with("flashmill_") && value.parse::<f64>().is_ok(), "{line}");
    }
    for name in [
        "generated_tokens_total",
        "requests_queued",
        "expert_hit_rate",
        "read_bytes_total",
        "read_latency_seconds",
    ] {
        assert!(metrics.text().contains(&format!("\nflashmill_{name}")), "{name}");
    }
    let document = get(server.address, "/openapi.json").good();
    // Whatever the document names is there, and knows the method.
    for (path, methods) in document["paths"].as_object().expect("paths") {
        for method in ["get", "post", "delete"] {
            let is_named = methods[method].is_object();
            let path = path.replace("{id}", "x");
            if path != "/live" {
                let response = ask(server.address, &method.to_uppercase(), &path, &[], b"");
                assert_eq!(response.status != 405, is_named, "{method} {path}: {}", response.status);
                let class = response.status.to_string();
                assert!(
                    !is_named || methods[method]["responses"][&class].is_object(),
                    "{method} {path}: {class}"
                );
            }
        }
    }
}

#[test]
fn what_is_not_there_says_so_in_the_words_of_its_api() {
    let server = shared();
    let embeddings = post(server.address, "/v1/embeddings", &json!({"input": "x", "model": "demo"}));
    assert_eq!((embeddings.status, &embeddings.json()["error"]["code"]), (404, &json!("not_supported")));
    let stored = get(server.address, "/v1/responses/resp_1");
    assert_eq!(stored.status, 404);
    let wrong = get(server.address, "/v1/chat/completions");
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    assert_eq!(get(server.address, "/v1/nothing").status, 404);
    let anthropic = get(server.address, "/v1/messages").json();
    assert_eq!(anthropic["type"], "error");
    let body = json!({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}], "max_tokens": 5});
    let image = post(server.address, "/v1/messages", &body);
    assert_eq!((image.status, &image.json()["error"]["type"]), (400, &json!("invalid_request_error")));
    let long = "word ".repeat(5000);
    let body = json!({"messages": [{"role": "user", "content": long}]});
    let long = post(server.address, "/v1/chat/completions", &body);
    assert_eq!((long.status, &long.json()["error"]["code"]), (400, &json!("context_length_exceeded")));
    let roles = json!({"messages": [{"role": "user", "content": "x"}], "n": 20});
    assert_eq!(post(server.address, "/v1/chat/completions", &roles).status, 400);
}

#[test]
fn the_panel_sees_experts() {
    let server = serve(Setup::default());
    post(server.address, "/v1/completions", &json!({"prompt": "Hello", "max_tokens": 20})).good();
    let mut connection = crate::client::Connection::open(server.address);
    connection.send(&crate::client::request("GET", "/live", &[], b""));
    assert_eq!(connection.head().expect("a head").status, 200);
    let mut text = String::new();
    for _ in 0..3 {
        text += &String::from_utf8(connection.chunk().expect("an event")).expect("UTF-8");
    }
    let events = crate::client::events(&text);
    let last: Value = serde_json::from_str(&events.last().expect("events").1).expect("JSON");
    assert_eq!((&last["experts"]["layers"], &last["experts"]["experts"]), (&json!(8), &json!(48)));
    let cells = last["experts"]["cells"].as_str().expect("cells");
    assert_eq!(cells.len(), (8 * 48_usize).div_ceil(3) * 4);
    assert!(cells.bytes().any(|digit| digit != b'A'), "some expert is resident");
}

/// Where there are tools beside a format, the model may still call them, and what is no call has the format.
#[test]
fn a_format_leaves_tools_callable() {
    let body = |content: &str| {
        json!({"messages": [{"role": "user", "content": content}], "tools": *TOOLS, "max_tokens": 200, "temperature": 0,
            "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema":
                {"type": "object", "properties": {"text": {"type": "string", "maxLength": 20}}, "required": ["text"], "additionalProperties": false}}}})
    };
    let called = post(shared().address, "/v1/chat/completions", &body("What's the weather in Oslo?")).json();
    let choice = &called["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{called}");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["name"], "get_weather");
    let mut free = body("Hello!");
    free["tool_choice"] = "none".into();
    let answered = post(shared().address, "/v1/chat/completions", &free).json();
    let text = answered["choices"][0]["message"]["content"].as_str().expect("a text");
    let answer: Value = serde_json::from_str(text).expect("JSON");
    assert!(answer["text"].is_string(), "{answered}");
}
