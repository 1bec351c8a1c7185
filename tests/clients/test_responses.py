"""The official `openai` package: the responses API, without stored responses."""

import json

import jsonschema
import openai
import pytest

from conftest import CHAT, SUNNY, WEATHER
from test_openai import SCHEMA


def flat(tools):
    """Tools in the shape of the responses API."""
    return [{"type": "function", "strict": False, **t["function"]} for t in tools]


def ask(oai, input=CHAT, **fields):
    return oai.responses.create(model="demo", input=input, store=False, **{"temperature": 0, **fields})


def test_text(oai):
    answer = ask(oai)
    assert answer.status == "completed" and answer.object == "response" and answer.error is None
    assert "expert" in answer.output_text
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens > 0


def test_stream_says_the_same(oai):
    whole = ask(oai).output_text
    kinds, said, numbers, final = [], "", [], None
    for event in ask(oai, stream=True):
        kinds.append(event.type)
        numbers.append(event.sequence_number)
        if event.type == "response.output_text.delta":
            said += event.delta
        if event.type == "response.completed":
            final = event.response
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    for kind in ("response.output_item.added", "response.content_part.added", "response.output_text.done", "response.output_item.done"):
        assert kind in kinds
    assert numbers == list(range(len(numbers)))
    assert said == whole == final.output_text


def test_stream_helper(oai):
    with oai.responses.stream(model="demo", input=CHAT, temperature=0, store=False) as stream:
        said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert stream.get_final_response().output_text == said != ""


def test_tools_in_two_turns(oai, tools):
    first = ask(oai, WEATHER, tools=flat(tools))
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert call.name == "get_weather" and json.loads(call.arguments) == {"city": "Oslo"}
    history = [{"role": "user", "content": WEATHER}, *[item.model_dump(exclude_none=True) for item in first.output],
               {"type": "function_call_output", "call_id": call.call_id, "output": SUNNY}]
    second = ask(oai, history, tools=flat(tools))
    assert "21" in second.output_text and "sunny" in second.output_text


def test_streamed_call(oai, tools):
    arguments, done = "", None
    for event in ask(oai, WEATHER, tools=flat(tools), stream=True):
        if event.type == "response.function_call_arguments.delta":
            arguments += event.delta
        if event.type == "response.function_call_arguments.done":
            done = event.arguments
    assert done == arguments and json.loads(done) == {"city": "Oslo"}


def test_instructions_and_json_schema(oai):
    form = {"format": {"type": "json_schema", "name": "weather", "schema": SCHEMA, "strict": True}}
    answer = ask(oai, "Weather as JSON", instructions="Answer briefly.", text=form, max_output_tokens=300)
    jsonschema.validate(json.loads(answer.output_text), SCHEMA)


def test_cut_off(oai):
    answer = ask(oai, max_output_tokens=3)
    assert answer.status == "incomplete" and answer.incomplete_details.reason == "max_output_tokens"


def test_nothing_is_stored(oai):
    with pytest.raises(openai.APIStatusError) as error:
        oai.responses.create(model="demo", input="hi", previous_response_id="resp_1")
    assert 400 <= error.value.status_code < 500 and error.value.body["message"]
    with pytest.raises(openai.APIStatusError) as error:
        oai.responses.retrieve("resp_1")
    assert 400 <= error.value.status_code < 500


def test_images_are_refused(oai):
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"}]}]
    with pytest.raises(openai.BadRequestError) as error:
        ask(oai, image)
    assert "image" in error.value.body["message"]
