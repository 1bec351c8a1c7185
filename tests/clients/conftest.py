"""Clients of a running `flashmill serve demo`, as their makers ship them; .ci/clients starts it and says where it is."""

import json
import os
from pathlib import Path

import anthropic
import httpx
import openai
import pytest

ROOT = os.environ["FLASHMILL_URL"]
LOCKED_ROOT = os.environ["FLASHMILL_LOCKED_URL"]  # the same with --api-key
LOCKED_KEY = os.environ["FLASHMILL_LOCKED_KEY"]
SECONDS = 60  # for one request; the demo model needs a fraction of one

# Requests in the words of the demo model's grammar (models/demo/training/dialogues.py), which it answers without fail.
WEATHER = "What's the weather in Oslo?"
TWO_CITIES = "How is the weather in Lima today and what's the weather in Tokyo?"
CHAT = "What is a mixture of experts?"
SUNNY = json.dumps({"temperature": 21, "sky": "sunny"})


@pytest.fixture(scope="session")
def tools():
    """The demo model's tools in the shape of chat completions."""
    return json.loads(Path(__file__).parents[2].joinpath("models/demo/tools.json").read_text())


@pytest.fixture(scope="session")
def http():
    with httpx.Client(base_url=ROOT, timeout=SECONDS) as client:
        yield client


@pytest.fixture(scope="session")
def oai():
    return openai.OpenAI(base_url=f"{ROOT}/v1", api_key="none", timeout=SECONDS, max_retries=0)


@pytest.fixture(scope="session")
def claude():
    return anthropic.Anthropic(base_url=ROOT, api_key="none", timeout=SECONDS, max_retries=0)
