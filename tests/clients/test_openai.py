"""The official `openai` package: chat completions and completions, as a stream and not."""

import asyncio
import json
import math
from typing import Literal

import jsonschema
import openai
import pytest
from pydantic import BaseModel

from conftest import CHAT, LOCKED_KEY, LOCKED_ROOT, ROOT, SECONDS, SUNNY, TWO_CITIES, WEATHER

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "enum": ["Oslo", "Lima"]},
        "degrees": {"type": "integer", "minimum": -50, "maximum": 50},
        "tags": {"type": "array", "items": {"type": "string", "enum": ["warm", "cold"]}, "maxItems": 2},
    },
    "required": ["city", "degrees", "tags"],
    "additionalProperties": False,
}


def user(text):
    return [{"role": "user", "content": text}]


def ask(oai, text=CHAT, **fields):
    return oai.chat.completions.create(model="demo", messages=user(text), **{"temperature": 0, **fields})


def gathered(stream):
    """A stream's content, calls, finish reason and usage; each chunk is of the right kind."""
    content, calls, finish, usage = "", {}, None, None
    for chunk in stream:
        assert chunk.object == "chat.completion.chunk"
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert finish is None or not choice.delta.content, "nothing is said after the end"
            content += choice.delta.content or ""
            finish = choice.finish_reason or finish
            for part in choice.delta.tool_calls or []:
                call = calls.setdefault(part.index, {"id": part.id, "name": part.function.name, "arguments": ""})
                call["arguments"] += part.function.arguments or ""
    return content, [calls[i] for i in sorted(calls)], finish, usage


# ------------------------------------------------------------------ chat

def test_models(oai):
    models = list(oai.models.list())
    assert len(models) == 1 and models[0].object == "model"
    assert oai.models.retrieve(models[0].id).id == models[0].id


def test_chat(oai):
    answer = ask(oai)
    choice = answer.choices[0]
    assert answer.object == "chat.completion" and answer.id and answer.created > 0
    assert choice.message.role == "assistant" and "expert" in choice.message.content
    assert choice.finish_reason == "stop" and not choice.message.tool_calls
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens > 0


def test_stream_says_the_same(oai):
    whole = ask(oai)
    with ask(oai, stream=True, stream_options={"include_usage": True}) as stream:
        content, calls, finish, usage = gathered(stream)
    assert content == whole.choices[0].message.content
    assert finish == "stop" and calls == []
    assert usage.completion_tokens == whole.usage.completion_tokens
    assert usage.prompt_tokens == whole.usage.prompt_tokens


def test_usage_of_a_stream_only_when_asked(oai):
    assert gathered(ask(oai, stream=True))[3] is None


def test_stream_helper(oai):
    with oai.chat.completions.stream(model="demo", messages=user(CHAT), temperature=0) as stream:
        said = "".join(event.delta for event in stream if event.type == "content.delta")
        final = stream.get_final_completion()
    assert said == final.choices[0].message.content != ""


def test_content_parts_and_roles(oai):
    parts = [{"role": "developer", "content": "Answer briefly."},
             {"role": "user", "content": [{"type": "text", "text": CHAT}]}]
    plain = [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": CHAT}]
    answers = [oai.chat.completions.create(model="demo", messages=m, temperature=0) for m in (parts, plain)]
    assert answers[0].choices[0].message.content == answers[1].choices[0].message.content
    assert answers[0].usage.prompt_tokens == answers[1].usage.prompt_tokens


# ------------------------------------------------------------------ tools

def test_tools_in_two_turns(oai, tools):
    first = ask(oai, WEATHER, tools=tools).choices[0]
    assert first.finish_reason == "tool_calls"
    (call,) = first.message.tool_calls
    assert call.type == "function" and call.function.name == "get_weather"
    assert json.loads(call.function.arguments) == {"city": "Oslo"}
    history = user(WEATHER) + [first.message, {"role": "tool", "tool_call_id": call.id, "content": SUNNY}]
    second = oai.chat.completions.create(model="demo", messages=history, tools=tools, temperature=0).choices[0]
    assert second.finish_reason == "stop" and not second.message.tool_calls
    assert "21" in second.message.content and "sunny" in second.message.content


def test_streamed_calls(oai, tools):
    whole = ask(oai, TWO_CITIES, tools=tools).choices[0].message.tool_calls
    _, calls, finish, _ = gathered(ask(oai, TWO_CITIES, tools=tools, stream=True))
    assert finish == "tool_calls"
    assert [(c["name"], c["arguments"]) for c in calls] == [(c.function.name, c.function.arguments) for c in whole]
    assert all(c["id"] for c in calls)


def test_parallel_calls(oai, tools):
    message = ask(oai, TWO_CITIES, tools=tools).choices[0].message
    assert [json.loads(c.function.arguments) for c in message.tool_calls] == [{"city": "Lima"}, {"city": "Tokyo"}]
    assert len({c.id for c in message.tool_calls}) == 2
    results = [{"role": "tool", "tool_call_id": c.id, "content": json.dumps({"temperature": t, "sky": sky})}
               for c, t, sky in zip(message.tool_calls, (17, 4), ("cloudy", "rainy"))]
    final = oai.chat.completions.create(model="demo", messages=user(TWO_CITIES) + [message, *results], tools=tools, temperature=0)
    assert "17" in final.choices[0].message.content and "4" in final.choices[0].message.content


def test_no_parallel_calls(oai, tools):
    message = ask(oai, TWO_CITIES, tools=tools, parallel_tool_calls=False).choices[0].message
    assert len(message.tool_calls) == 1


def test_tool_choice(oai, tools):
    assert not ask(oai, WEATHER, tools=tools, tool_choice="none").choices[0].message.tool_calls
    required = ask(oai, CHAT, tools=tools, tool_choice="required", max_tokens=200).choices[0]
    if required.finish_reason != "length":
        names = {t["function"]["name"] for t in tools}
        assert required.message.tool_calls and all(c.function.name in names for c in required.message.tool_calls)
    named = {"type": "function", "function": {"name": "set_timer"}}
    call = ask(oai, "Set a timer for 25 minutes", tools=tools, tool_choice=named).choices[0].message.tool_calls[0]
    assert call.function.name == "set_timer" and json.loads(call.function.arguments) == {"minutes": 25}


# ------------------------------------------------------------------ structured answers

def test_json_schema(oai):
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA, "strict": True}}
    for seed in range(3):
        answer = ask(oai, "Weather as JSON", response_format=form, temperature=1, seed=seed, max_tokens=300).choices[0]
        assert answer.finish_reason == "stop"
        jsonschema.validate(json.loads(answer.message.content), SCHEMA)


def test_json_schema_as_a_stream(oai):
    form = {"type": "json_schema", "json_schema": {"name": "weather", "schema": SCHEMA}}
    content, _, finish, _ = gathered(ask(oai, "Weather as JSON", response_format=form, stream=True, max_tokens=300))
    assert finish == "stop"
    jsonschema.validate(json.loads(content), SCHEMA)


def test_parse_into_a_class(oai):
    class Light(BaseModel):
        room: Literal["kitchen", "attic"]
        is_on: bool

    answer = oai.chat.completions.parse(model="demo", messages=user("The light as JSON"), response_format=Light, temperature=0, max_tokens=200)
    assert isinstance(answer.choices[0].message.parsed, Light)


def test_json_object(oai):
    answer = ask(oai, "Some JSON", response_format={"type": "json_object"}, max_tokens=200).choices[0]
    assert answer.message.content.lstrip().startswith("{")
    assert answer.finish_reason == "length" or isinstance(json.loads(answer.message.content), dict)


# ------------------------------------------------------------------ sampling and ends

def test_logprobs(oai):
    choice = ask(oai, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert "".join(t.token for t in tokens) == choice.message.content
    for token in tokens:
        assert len(token.top_logprobs) == 3
        ranked = [t.logprob for t in token.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)
        assert token.logprob == ranked[0] <= 0, "greedy takes the likeliest"
        assert sum(map(math.exp, ranked)) <= 1 + 1e-4
        assert bytes(token.bytes).decode() == token.token
    streamed = [t.logprob for chunk in ask(oai, logprobs=True, top_logprobs=3, stream=True)
                for c in chunk.choices if c.logprobs for t in c.logprobs.content]
    assert streamed == [t.logprob for t in tokens]


def test_n_and_seeds(oai):
    fields = dict(n=3, temperature=1.5, seed=11, max_tokens=40)
    first, second = (ask(oai, **fields) for _ in range(2))
    texts = [c.message.content for c in first.choices]
    assert [c.index for c in first.choices] == [0, 1, 2]
    assert texts == [c.message.content for c in second.choices]
    other = ask(oai, **{**fields, "seed": 12})
    assert texts != [c.message.content for c in other.choices]
    assert first.usage.completion_tokens >= 3


def test_n_as_a_stream(oai):
    texts = ["", ""]
    ends = set()
    for chunk in ask(oai, n=2, temperature=1, seed=5, max_tokens=40, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                ends.add(choice.index)
    whole = ask(oai, n=2, temperature=1, seed=5, max_tokens=40)
    assert texts == [c.message.content for c in whole.choices] and ends == {0, 1}


def test_stop(oai):
    full = ask(oai).choices[0].message.content
    word = full.split()[3]
    for stop in (word, [word, "never said"]):
        cut = ask(oai, stop=stop).choices[0]
        assert cut.message.content == full[: full.index(word)]
        assert cut.finish_reason == "stop"
    content, *_ = gathered(ask(oai, stop=word, stream=True))
    assert content == full[: full.index(word)], "no part of a stop text slips out"


def test_most_tokens(oai):
    for name in ("max_tokens", "max_completion_tokens"):
        answer = ask(oai, **{name: 3})
        assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3


def test_cached_tokens(oai, tools):
    system = [{"role": "system", "content": "Answer briefly. " * 20}]
    fields = dict(model="demo", tools=tools, temperature=0)
    first = oai.chat.completions.create(messages=system + user(WEATHER), **fields)
    again = oai.chat.completions.create(messages=system + user("What is 17 * 23?"), **fields)
    cached = again.usage.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens // 2 < cached <= again.usage.prompt_tokens, "system and tools are read once"
    assert json.loads(again.choices[0].message.tool_calls[0].function.arguments) == {"expression": "17 * 23"}


def test_completions(oai):
    fields = dict(model="demo", prompt="<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n", temperature=0, max_tokens=60)
    whole = oai.completions.create(**fields)
    assert whole.object == "text_completion" and whole.choices[0].text
    streamed = "".join(c.text for chunk in oai.completions.create(**fields, stream=True) for c in chunk.choices)
    assert streamed == whole.choices[0].text
    assert len(oai.completions.create(**{**fields, "prompt": ["Hello", "Hi"], "max_tokens": 2}).choices) == 2


def test_side_by_side_as_alone(oai, tools):
    asks = [WEATHER, TWO_CITIES, "What is 17 * 23?", "Set a timer for 25 minutes"]

    def shape(answer):
        message = answer.choices[0].message
        return message.content, [(c.function.name, c.function.arguments) for c in message.tool_calls or []]

    alone = [shape(ask(oai, text, tools=tools)) for text in asks]

    async def together():
        async with openai.AsyncOpenAI(base_url=f"{ROOT}/v1", api_key="none", timeout=SECONDS) as client:
            return await asyncio.gather(*(client.chat.completions.create(model="demo", messages=user(t), tools=tools, temperature=0) for t in asks))

    assert [shape(a) for a in asyncio.run(together())] == alone


def test_a_stream_that_is_left(oai):
    for _ in range(3):
        with ask(oai, stream=True) as stream:
            next(iter(stream))
    assert ask(oai).choices[0].finish_reason == "stop"


# ------------------------------------------------------------------ errors

def test_wrong_key():
    with pytest.raises(openai.AuthenticationError) as error:
        openai.OpenAI(base_url=f"{LOCKED_ROOT}/v1", api_key="wrong", max_retries=0).models.list()
    assert error.value.status_code == 401 and error.value.body["message"]
    good = openai.OpenAI(base_url=f"{LOCKED_ROOT}/v1", api_key=LOCKED_KEY, max_retries=0)
    assert ask(good).choices[0].message.content


@pytest.mark.parametrize("fields", [
    {"messages": []},
    {"messages": [{"role": "wizard", "content": "hi"}]},
    {"temperature": "hot"},
    {"temperature": -1},
    {"n": 0},
    {"top_logprobs": 1000, "logprobs": True},
    {"tools": [{"type": "function", "function": {}}]},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
    {"tool_choice": {"type": "function", "function": {"name": "missing"}}, "tools": None},
], ids=lambda f: next(iter(f)))
def test_bad_requests(oai, fields):
    body = {"messages": user("hi"), **fields}
    with pytest.raises(openai.BadRequestError) as error:
        oai.chat.completions.create(model="demo", **body)
    assert error.value.body["message"] and error.value.body["type"] == "invalid_request_error"


def test_images_are_refused(oai):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError) as error:
        oai.chat.completions.create(model="demo", messages=[{"role": "user", "content": [image]}])
    assert "image" in error.value.body["message"]


def test_a_prompt_that_is_too_long(oai):
    with pytest.raises(openai.BadRequestError) as error:
        ask(oai, "word " * 400_000)
    assert error.value.body["message"]


def test_embeddings_are_refused(oai):
    with pytest.raises(openai.APIStatusError) as error:
        oai.embeddings.create(model="demo", input="hi")
    assert 400 <= error.value.status_code < 500 and "support" in error.value.body["message"]
