"""The official `anthropic` package: messages, as a stream and not, and counting tokens. The demo model is greedy of itself."""

import json

import anthropic
import pytest

from conftest import CHAT, LOCKED_KEY, LOCKED_ROOT, SUNNY, TWO_CITIES, WEATHER


def flat(tools):
    """Tools in Anthropic's shape."""
    return [{"name": t["function"]["name"], "description": t["function"]["description"], "input_schema": t["function"]["parameters"]} for t in tools]


def user(text):
    return [{"role": "user", "content": text}]


def ask(claude, text=CHAT, **fields):
    return claude.messages.create(**{"model": "demo", "max_tokens": 200, "messages": user(text), **fields})


def uses(message):
    return [block for block in message.content if block.type == "tool_use"]


def prompt_tokens(usage):
    return usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)


def test_message(claude):
    answer = ask(claude, system="Answer briefly.")
    assert answer.type == "message" and answer.role == "assistant" and answer.id
    assert answer.content[0].type == "text" and answer.content[0].text
    assert answer.stop_reason == "end_turn" and answer.stop_sequence is None
    assert answer.usage.output_tokens > 0


def test_stream_says_the_same(claude):
    whole = ask(claude)
    kinds = [event.type for event in ask(claude, stream=True)]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 1
    with claude.messages.stream(model="demo", max_tokens=200, messages=user(CHAT)) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert said == whole.content[0].text == final.content[0].text
    assert final.stop_reason == "end_turn" and final.usage.output_tokens == whole.usage.output_tokens


def test_system_as_blocks(claude):
    blocks = [{"type": "text", "text": "Answer briefly.", "cache_control": {"type": "ephemeral"}}]
    assert ask(claude, system=blocks).content[0].text == ask(claude, system="Answer briefly.").content[0].text


def test_tools_in_two_turns(claude, tools):
    first = ask(claude, WEATHER, tools=flat(tools))
    assert first.stop_reason == "tool_use"
    (use,) = uses(first)
    assert use.name == "get_weather" and use.input == {"city": "Oslo"}
    history = user(WEATHER) + [{"role": "assistant", "content": first.content},
                               {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": SUNNY}]}]
    second = ask(claude, messages=history, tools=flat(tools))
    assert second.stop_reason == "end_turn"
    assert "21" in second.content[0].text and "sunny" in second.content[0].text


def test_parallel_and_streamed_uses(claude, tools):
    assert [use.input for use in uses(ask(claude, TWO_CITIES, tools=flat(tools)))] == [{"city": "Lima"}, {"city": "Tokyo"}]
    parts = {}
    for event in ask(claude, TWO_CITIES, tools=flat(tools), stream=True):
        if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
            parts[event.index] = parts.get(event.index, "") + event.delta.partial_json
    assert [json.loads(text) for text in parts.values()] == [{"city": "Lima"}, {"city": "Tokyo"}]
    with claude.messages.stream(model="demo", max_tokens=200, messages=user(TWO_CITIES), tools=flat(tools)) as stream:
        final = stream.get_final_message()
    assert [use.input for use in uses(final)] == [{"city": "Lima"}, {"city": "Tokyo"}] and final.stop_reason == "tool_use"


def test_tool_choice(claude, tools):
    assert uses(ask(claude, WEATHER, tools=flat(tools), tool_choice={"type": "none"})) == []
    named = ask(claude, "Set a timer for 25 minutes", tools=flat(tools), tool_choice={"type": "tool", "name": "set_timer"})
    assert [(use.name, use.input) for use in uses(named)] == [("set_timer", {"minutes": 25})]
    single = ask(claude, TWO_CITIES, tools=flat(tools), tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert len(uses(single)) == 1


def test_stop_sequence_and_most_tokens(claude):
    full = ask(claude).content[0].text
    word = full.split()[3]
    cut = ask(claude, stop_sequences=[word])
    assert cut.stop_reason == "stop_sequence" and cut.stop_sequence == word
    assert cut.content[0].text == full[: full.index(word)]
    short = ask(claude, max_tokens=3)
    assert short.stop_reason == "max_tokens" and short.usage.output_tokens == 3


def test_count_tokens(claude, tools):
    fields = dict(messages=user(WEATHER), tools=flat(tools), system="Answer briefly.")
    counted = claude.messages.count_tokens(model="demo", **fields)
    assert counted.input_tokens == prompt_tokens(ask(claude, **fields).usage)


def test_cached_tokens(claude, tools):
    fields = dict(tools=flat(tools), system="Use the tools when they help. " * 20)
    first = ask(claude, WEATHER, **fields)
    again = ask(claude, "What is 17 * 23?", **fields)
    assert again.usage.cache_read_input_tokens > prompt_tokens(first.usage) // 2
    assert uses(again)[0].input == {"expression": "17 * 23"}


def test_models(claude):
    assert len(list(claude.models.list())) == 1


def test_wrong_key():
    with pytest.raises(anthropic.AuthenticationError) as error:
        ask(anthropic.Anthropic(base_url=LOCKED_ROOT, api_key="wrong", max_retries=0))
    assert error.value.body["type"] == "error" and error.value.body["error"]["type"] == "authentication_error"
    assert ask(anthropic.Anthropic(base_url=LOCKED_ROOT, api_key=LOCKED_KEY, max_retries=0)).content[0].text
    assert ask(anthropic.Anthropic(base_url=LOCKED_ROOT, auth_token=LOCKED_KEY, api_key=None, max_retries=0)).content[0].text


@pytest.mark.parametrize("fields", [
    {"messages": []},
    {"messages": [{"role": "wizard", "content": "hi"}]},
    {"max_tokens": 0},
    {"max_tokens": "many"},
    {"extra_body": {"temperature": -1}},
    {"extra_body": {"top_k": "all"}},
    {"tools": [{"name": "x"}]},
    {"tool_choice": {"type": "tool", "name": "missing"}},
], ids=lambda f: next(iter(f)))
def test_bad_requests(claude, fields):
    with pytest.raises(anthropic.BadRequestError) as error:
        ask(claude, **fields)
    assert error.value.body["type"] == "error" and error.value.body["error"]["type"] == "invalid_request_error"
    assert error.value.body["error"]["message"]


def test_images_are_refused(claude):
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    with pytest.raises(anthropic.BadRequestError) as error:
        ask(claude, messages=[{"role": "user", "content": [image]}])
    assert "image" in error.value.body["error"]["message"]
