"""Real clients with their default settings."""

from __future__ import annotations

import subprocess
from typing import Any

import numpy as np
import ollama
import openai
import pytest

MODEL = "all-MiniLM-L6-v2"


@pytest.fixture(scope="module")
def key(texts: Any) -> str:
    return str(texts.key())


def test_the_openai_sdk(texts: Any, key: str) -> None:
    """Its defaults ask for base64; a float request gives the same vectors."""
    with openai.OpenAI(base_url=f"{texts.url}/v1", api_key=key) as client:
        answer = client.embeddings.create(model=MODEL, input=["Hello world", "and again"])
        floats = client.embeddings.create(model=MODEL, input=["Hello world", "and again"], encoding_format="float")
        short = client.embeddings.create(model=MODEL, input="Hello world", dimensions=64)
        assert [len(row.embedding) for row in answer.data] == [384, 384]
        assert np.allclose(answer.data[1].embedding, floats.data[1].embedding, atol=1e-7)
        assert (answer.usage.prompt_tokens, len(short.data[0].embedding)) == (8, 64)
        assert MODEL in [model.id for model in client.models.list()]
        assert client.models.retrieve(MODEL).owned_by == "phalanx"


def test_the_openai_sdk_sees_errors(texts: Any, key: str) -> None:
    """As its own exception classes, with the message."""
    with openai.OpenAI(base_url=f"{texts.url}/v1", api_key=key, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="does not serve"):
            client.embeddings.create(model="none", input="x")
        with pytest.raises(openai.BadRequestError, match="empty"):
            client.embeddings.create(model=MODEL, input="")
    stranger = openai.OpenAI(base_url=f"{texts.url}/v1", api_key="fe_wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_the_ollama_client(texts: Any, key: str) -> None:
    """Both routes, and its error."""
    with ollama.Client(host=texts.url, headers={"Authorization": f"Bearer {key}"}) as client:
        use_ollama(client)


def use_ollama(client: ollama.Client) -> None:
    """Embed by both routes and see an error."""
    answer = client.embed(model=MODEL, input=["Hello world", "and again"])
    assert [len(vector) for vector in answer.embeddings] == [384, 384]
    assert answer.total_duration
    assert len(client.embeddings(model=MODEL, prompt="Hello world").embedding) == 384
    with pytest.raises(ollama.ResponseError, match="does not serve"):
        client.embed(model="none", input="x")


def test_curl_as_the_first_start_prints_it(texts: Any, key: str) -> None:
    """The ready-to-paste line."""
    words = ["curl", "-sS", f"{texts.url}/v1/embed", "-H", f"Authorization: Bearer {key}"]
    words += ["-H", "Content-Type: application/json", "-d", '{"text": "Hello world"}']
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.startswith('{"embedding":[')
    assert done.stdout.endswith('"tokens":4,"cached":true,"model":"all-MiniLM-L6-v2"}') or '"tokens":4' in done.stdout
