"""The dialects: shapes, envelopes and oddities of the systems whose clients they serve."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from phalanx.edges.http.app import DIALECTS
from phalanx.edges.http.dialects import DialectRoute

MODEL = "all-MiniLM-L6-v2"
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"


def smally(error: Any) -> bool:
    return set(error) == {"error", "message"}


def openai(error: Any) -> bool:
    return set(error["error"]) == {"message", "type", "param", "code"}


def tei(error: Any) -> bool:
    return set(error) == {"error", "error_type"}


def ollama(error: Any) -> bool:
    return set(error) == {"error"} and isinstance(error["error"], str)


def canonical(error: Any) -> bool:
    return {"type", "title", "status", "detail", "code", "request_id"} <= set(error)


ROUTES: list[tuple[str, Callable[[Any], Any], Callable[[Any], bool]]] = [
    ("/v1/text/embed", lambda text: {"texts": [text]}, canonical),
    ("/v1/embed", lambda text: {"text": text}, smally),
    ("/v1/embeddings", lambda text: {"input": text, "model": MODEL}, openai),
    ("/embed", lambda text: {"inputs": text}, tei),
    ("/", lambda text: {"inputs": text}, tei),
    ("/embed_all", lambda text: {"inputs": text}, tei),
    ("/tokenize", lambda text: {"inputs": text}, tei),
    ("/similarity", lambda text: {"inputs": {"source_sentence": text, "sentences": ["b"]}}, tei),
    ("/api/embed", lambda text: {"model": MODEL, "input": text}, ollama),
    ("/api/embeddings", lambda text: {"model": MODEL, "prompt": text}, ollama),
]
PATHS = [path for path, _, _ in ROUTES]


@pytest.mark.parametrize(("path", "make", "envelope"), ROUTES, ids=PATHS)
class TestEveryTextRoute:
    """What holds on all routes that take a text."""

    def test_a_text_is_answered(self, worker: Any, path: str, make: Any, envelope: Any) -> None:
        """The plain case."""
        assert worker.post(path, make("Hello world")).status == 200

    @pytest.mark.parametrize(
        "text", ["nul \x00 inside", "🦀" * 50, "\u202eright to left", "a\ud7ffb", "\ufffe", "i\u0307" * 99]
    )
    def test_odd_text_is_text(self, worker: Any, path: str, make: Any, envelope: Any, text: str) -> None:
        """NUL, emoji, controls, non-characters and combining marks are embedded."""
        assert worker.post(path, make(text)).status == 200

    @pytest.mark.parametrize(
        "body",
        [b"", b"{", b"[1]", b'{"a": "\xff"}', b"[" * 10_000, b'{"input": "\\ud800"}', b'{"x": ' + b'{"x": ' * 10_000],
        ids=["empty", "truncated", "list", "not UTF-8", "deep list", "lone surrogate", "deep object"],
    )
    def test_a_broken_body_has_the_dialects_envelope(
        self, worker: Any, path: str, make: Any, envelope: Any, body: bytes
    ) -> None:
        """400 in the shape that the client expects."""
        answer = worker.post(path, body=body)
        assert answer.status == 400
        assert envelope(answer.json)

    def test_a_compressed_body_is_refused(self, worker: Any, path: str, make: Any, envelope: Any) -> None:
        """415 that says so, rather than 400 for JSON that is none."""
        packed = gzip.compress(json.dumps(make("a")).encode())
        answer = worker.post(path, body=packed, headers={"content-encoding": "gzip"})
        assert (answer.status, envelope(answer.json), b"compressed" in answer.body) == (415, True, True)
        plain = worker.post(path, make("a"), headers={"content-encoding": "identity"})
        assert plain.status == 200

    def test_a_lone_surrogate_is_refused(self, worker: Any, path: str, make: Any, envelope: Any) -> None:
        r"""`\ud800` alone is no text."""
        body = json.dumps(make("MARK")).replace("MARK", "\\ud800").encode()
        answer = worker.post(path, body=body)
        assert answer.status == 400
        assert envelope(answer.json)

    def test_a_number_for_a_text_is_refused(self, worker: Any, path: str, make: Any, envelope: Any) -> None:
        """Nothing is guessed."""
        answer = worker.post(path, make(3.5))
        assert answer.status == 400
        assert envelope(answer.json)

    @pytest.mark.parametrize("text", ["  \n\t ", "\u3000"])
    def test_white_space_is_refused(self, worker: Any, path: str, make: Any, envelope: Any, text: str) -> None:
        """A vector of nothing would be noise; tokenising nothing is fine."""
        answer = worker.post(path, make(text))
        if path == "/tokenize":
            assert answer.status == 200
        else:
            assert (answer.status, envelope(answer.json)) == (400, True)

    def test_no_credential_has_the_dialects_envelope(self, worker: Any, path: str, make: Any, envelope: Any) -> None:
        """401."""
        answer = worker.post(path, make("a"), key=None)
        assert (answer.status, envelope(answer.json)) == (401, True)

    def test_another_method_has_the_dialects_envelope(self, worker: Any, path: str, make: Any, envelope: Any) -> None:
        """405 with the method that there is."""
        answer = worker.request("PUT", path, body=b"{}")
        assert (answer.status, envelope(answer.json)) == (405, True)
        assert "POST" in answer.headers["allow"]

    def test_a_body_over_the_limit_has_the_dialects_envelope(
        self, worker: Any, path: str, make: Any, envelope: Any
    ) -> None:
        """413."""
        answer = worker.post(path, body=b"{}", headers={"content-length": str(2**30)})
        assert (answer.status, envelope(answer.json)) == (413, True)

    def test_a_megabyte_of_text_is_cut_or_refused(self, worker: Any, path: str, make: Any, envelope: Any) -> None:
        """Never slow, never a 5xx: smally refuses a long text, tokenising answers all of it."""
        answer = worker.post(path, make("word " * 200_000))
        assert answer.status == (400 if path == "/v1/embed" else 200)


@pytest.mark.parametrize(("path", "make", "envelope"), ROUTES, ids=PATHS)
def test_other_content_types(worker: Any, path: str, make: Any, envelope: Any) -> None:
    """415 in the dialect's envelope; Ollama reads JSON whatever it is called."""
    answer = worker.post(path, make("a"), headers={"content-type": "text/plain"})
    assert answer.status == (200 if path.startswith("/api/") else 415)


def test_smally_answers_raw_by_default(worker: Any) -> None:
    """The raw vector, its tokens and whether it was cached."""
    first = worker.post("/v1/embed", {"text": "smally says hello"}).json
    again = worker.post("/v1/embed", {"text": "smally says hello"}).json
    unit = worker.post("/v1/embed", {"text": "smally says hello", "normalize": True}).json
    assert set(first) == {"embedding", "tokens", "cached", "model"}
    assert (first["cached"], again["cached"], unit["cached"]) == (False, True, True)
    assert first["embedding"] == again["embedding"]
    assert np.linalg.norm(unit["embedding"]) == pytest.approx(1, abs=1e-5)
    raw = np.array(first["embedding"])
    assert np.allclose(raw / np.linalg.norm(raw), unit["embedding"], atol=1e-6)


@pytest.mark.parametrize("text", ["", " ", "\n"])
def test_smally_refuses_empty_text(worker: Any, text: str) -> None:
    """As the original: `invalid_request`."""
    answer = worker.post("/v1/embed", {"text": text})
    assert (answer.status, answer.json["error"]) == (400, "invalid_request")


def test_smally_refuses_long_text(worker: Any) -> None:
    """As the original: `text_too_long`, with both numbers."""
    answer = worker.post("/v1/embed", {"text": "word " * 400})
    assert (answer.status, answer.json["error"]) == (400, "text_too_long")
    assert "256" in answer.json["message"]


def test_openai_float_and_base64_agree(worker: Any) -> None:
    """The SDKs ask for base64."""
    body = {"input": ["one", "two"], "model": HUB_ID}
    floats = worker.post("/v1/embeddings", {**body, "encoding_format": "float"}).json
    coded = worker.post("/v1/embeddings", {**body, "encoding_format": "base64"}).json
    assert floats["object"] == "list"
    assert [row["index"] for row in floats["data"]] == [0, 1]
    for plain, packed in zip(floats["data"], coded["data"], strict=True):
        assert np.array_equal(
            np.frombuffer(base64.b64decode(packed["embedding"]), "<f4"), np.float32(plain["embedding"])
        )
    assert floats["usage"] == {"prompt_tokens": 6, "total_tokens": 6}


def test_openai_takes_token_ids(worker: Any) -> None:
    """Ids of the model's vocabulary, one list or several, special tokens added."""
    tokens = [t["id"] for t in worker.post("/tokenize", {"inputs": "Hello world", "add_special_tokens": False}).json[0]]
    plain = worker.post("/v1/embeddings", {"input": "Hello world", "model": MODEL}).json["data"][0]["embedding"]
    flat = worker.post("/v1/embeddings", {"input": tokens, "model": MODEL}).json
    nested = worker.post("/v1/embeddings", {"input": [tokens, tokens], "model": MODEL}).json
    assert flat["usage"]["total_tokens"] == 4
    for row in (*flat["data"], *nested["data"]):
        assert np.dot(row["embedding"], plain) > 0.99998


@pytest.mark.parametrize("bad", [[], [[]], [""], ["a", 1], [["a"]], [1.5], {"a": 1}, None, [30522], [[-1]], [2**31]])
def test_openai_refuses_other_input(worker: Any, bad: Any) -> None:
    """Empty, mixed, nested, out of the vocabulary."""
    answer = worker.post("/v1/embeddings", {"input": bad, "model": MODEL})
    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert answer.json["error"]["message"]


@pytest.mark.parametrize("dimensions", [0, 385, -1, 1.5, "64"])
def test_openai_refuses_other_dimensions(worker: Any, dimensions: Any) -> None:
    """1 to 384 for this model."""
    answer = worker.post("/v1/embeddings", {"input": "a", "model": MODEL, "dimensions": dimensions})
    assert (answer.status, "dimensions" in answer.json["error"]["message"]) == (400, True)


def test_openai_dimensions_are_renormalised(worker: Any) -> None:
    """A shortened vector has unit length again."""
    answer = worker.post("/v1/embeddings", {"input": "a", "model": MODEL, "dimensions": 64}).json
    vector = answer["data"][0]["embedding"]
    assert len(vector) == 64
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_openai_unknown_model(worker: Any) -> None:
    """404 in OpenAI's words."""
    answer = worker.post("/v1/embeddings", {"input": "a", "model": "text-embedding-9"})
    assert (answer.status, answer.json["error"]["code"]) == (404, "model_not_found")


def test_openai_models(worker: Any) -> None:
    """The list, one by its hub id (with a slash), and an unknown one in OpenAI's envelope."""
    listed = worker.get("/v1/models").json
    assert listed["object"] == "list"
    one = worker.get(f"/v1/models/{HUB_ID}").json
    assert one == listed["data"][0]
    assert (one["id"], one["dimensions"], one["licence"], len(one["sha256"])) == (MODEL, 384, "Apache-2.0", 64)
    missing = worker.get("/v1/models/none")
    assert (missing.status, openai(missing.json)) == (404, True)


def test_a_list_of_ten_thousand_is_refused(worker: Any) -> None:
    """413 with both numbers."""
    for path, body in (
        ("/v1/text/embed", {"texts": ["a"] * 10_000}),
        ("/v1/embeddings", {"input": ["a"] * 10_000, "model": MODEL}),
        ("/embed", {"inputs": ["a"] * 10_000}),
        ("/api/embed", {"model": MODEL, "input": ["a"] * 10_000}),
    ):
        answer = worker.post(path, body)
        assert answer.status == 413
        assert b"10000" in answer.body
        assert b"2048" in answer.body


def test_tei_embed(worker: Any) -> None:
    """A bare list of vectors; `normalize` false gives raw ones."""
    unit = worker.post("/embed", {"inputs": ["one", "two"]}).json
    raw = worker.post("/embed", {"inputs": ["one"], "normalize": False}).json
    assert [len(v) for v in unit] == [384, 384]
    assert np.linalg.norm(unit[0]) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(raw[0]) != pytest.approx(1, abs=1e-2)


def test_tei_truncation(worker: Any) -> None:
    """Cut by default, on the side asked for; refused with `truncate` false."""
    long = "A storm closed the harbour. " * 40 + "The bakery sells rye bread on Sundays. " * 40
    right = worker.post("/embed", {"inputs": long}).json[0]
    left = worker.post("/embed", {"inputs": long, "truncation_direction": "Left"}).json[0]
    refused = worker.post("/embed", {"inputs": long, "truncate": False})
    assert np.dot(right, left) < 0.9
    assert (refused.status, refused.json["error_type"]) == (400, "Validation")


def test_tei_embed_all(worker: Any) -> None:
    """One row a token, special tokens included."""
    matrices = worker.post("/embed_all", {"inputs": ["Hello world", "a"]}).json
    assert [(len(m), len(m[0])) for m in matrices] == [(4, 384), (3, 384)]


def test_tei_tokenize(worker: Any) -> None:
    """Ids, pieces and offsets."""
    tokens = worker.post("/tokenize", {"inputs": "Hello world"}).json[0]
    assert [t["text"] for t in tokens] == ["[CLS]", "hello", "world", "[SEP]"] or [t["text"] for t in tokens][1:3] == [
        "Hello",
        "world",
    ]
    assert [(t["start"], t["stop"]) for t in tokens[1:3]] == [(0, 5), (6, 11)]
    assert [t["special"] for t in tokens] == [True, False, False, True]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"inputs": ["é " * 524_289]}),
        ("/v1/text/tokenize", {"texts": ["é " * 262_144, "é " * 262_144, "é"]}),
    ],
)
def test_no_more_is_tokenised_than_an_answer_holds(worker: Any, path: str, body: dict[str, Any]) -> None:
    """Megabytes of letters would be hundreds of megabytes of tokens, made while others wait."""
    answer = worker.post(path, body)
    assert answer.status == 413
    assert b"1048576" in answer.body


@pytest.mark.parametrize(
    ("path", "field", "problem"), [("/embed_all", "inputs", "error"), ("/v1/text/embed-tokens", "texts", "detail")]
)
def test_an_answer_holds_so_many_vectors_of_tokens(worker: Any, path: str, field: str, problem: str) -> None:
    """Nothing is computed of what would be hundreds of megabytes; the sentence says what to send instead."""
    answer = worker.post(path, {field: ["a " * 300] * 43})
    assert answer.status == 413
    said = answer.json[problem]
    assert "11008 tokens with 384 numbers" in said
    assert "10922 tokens: send the texts in several requests" in said


def test_tei_similarity(worker: Any) -> None:
    """A bare list of cosines."""
    body = {"inputs": {"source_sentence": "a cat", "sentences": ["a cat", "a kitten", "a lorry"]}}
    same, near, far = worker.post("/similarity", body).json
    assert same == pytest.approx(1, abs=1e-4)
    assert near > far


def test_tei_info(worker: Any) -> None:
    """Both systems' fields, without a credential."""
    info = worker.get("/info", key=None).json
    assert {
        "worker_id",
        "device",
        "status",
        "model_id",
        "max_input_length",
        "max_batch_tokens",
        "embedding_dim",
        "version",
    } <= set(info)
    assert (info["embedding_dim"], info["max_input_length"]) == (384, 256)


def test_the_model_goes_by_ollamas_name_too(worker: Any) -> None:
    """Who comes from Ollama asks for `all-minilm`."""
    for name in ("all-minilm", "all-minilm:latest"):
        answer = worker.post("/api/embed", {"model": name, "input": "one"})
        assert (answer.status, answer.json["model"]) == (200, name)


def test_ollama_embed(worker: Any) -> None:
    """Unit vectors, counts, durations; `:latest` is the model."""
    answer = worker.post("/api/embed", {"model": f"{MODEL}:latest", "input": ["one", "two"]}).json
    assert answer["model"] == f"{MODEL}:latest"
    assert [len(v) for v in answer["embeddings"]] == [384, 384]
    assert answer["prompt_eval_count"] == 6
    assert answer["total_duration"] > 0


def test_ollama_empty_input_is_an_empty_answer(worker: Any) -> None:
    """The original loads the model and answers nothing."""
    assert worker.post("/api/embed", {"model": MODEL, "input": ""}).json["embeddings"] == []
    assert worker.post("/api/embeddings", {"model": MODEL, "prompt": ""}).json["embedding"] == []


def test_ollama_long_input_without_truncation_is_refused(worker: Any) -> None:
    """400 in the original's envelope."""
    answer = worker.post("/api/embed", {"model": MODEL, "input": "word " * 400, "truncate": False})
    assert (answer.status, ollama(answer.json)) == (400, True)


@pytest.mark.parametrize(
    "route", [route for dialect in DIALECTS for route in dialect.routes], ids=lambda route: str(route.path)
)
def test_null_stands_for_what_may_be_left_out(worker: Any, route: DialectRoute) -> None:
    """SDKs send null for options that their caller did not set."""

    def answer(body: dict[str, Any]) -> Any:
        found = worker.request(route.method, route.path, json_body=body)
        assert found.status == 200, found.body
        # What is remembered and how long it took differ from call to call.
        return (
            {k: v for k, v in found.json.items() if k not in ("cached", "total_duration")}
            if isinstance(found.json, dict)
            else found.json
        )

    example = route.examples[0]
    optional = [field.encode_name for field in msgspec.structs.fields(route.wire) if not field.required]
    assert answer(dict.fromkeys(optional) | example) == answer(example)


def test_nested_null_stands_for_what_may_be_left_out(worker: Any) -> None:
    """TEI's parameters have options of their own."""
    inputs = {"source_sentence": "a", "sentences": ["b"]}
    nulls = {"truncate": None, "truncation_direction": None, "prompt_name": None}
    assert worker.post("/similarity", {"inputs": inputs, "parameters": nulls}).status == 200


def test_dialects_ignore_what_the_original_ignores(worker: Any) -> None:
    """Unknown fields do not fail a dialect."""
    assert worker.post("/v1/embeddings", {"input": "a", "model": MODEL, "extra": 1}).status == 200
    assert worker.post("/api/embed", {"model": MODEL, "input": "a", "options": {"num_ctx": 8}, "x": 1}).status == 200


def test_canonical_partial_success(worker: Any) -> None:
    """One bad text does not fail the others."""
    answer = worker.post("/v1/text/embed", {"texts": ["good", "", "word " * 400], "truncate": "none"}).json
    assert [vector is None for vector in answer["embeddings"]] == [False, True, True]
    assert [item.get("error", {}).get("code") for item in answer["items"]] == [None, "invalid_request", "text_too_long"]
    assert answer["usage"]["tokens"] == 3


def test_canonical_truncation_is_reported(worker: Any) -> None:
    """How many tokens there were, how many were used."""
    item = worker.post("/v1/text/embed", {"texts": ["word " * 400]}).json["items"][0]
    assert (item["truncated"], item["used_tokens"]) == (True, 256)
    assert item["tokens"] > 256


@pytest.mark.parametrize("output", ["int8", "uint8", "binary", "ubinary"])
def test_canonical_quantised_outputs(worker: Any, output: str) -> None:
    """Small integers, or packed signs, in the range of their type."""
    (vector,) = worker.post("/v1/text/embed", {"texts": ["hello"], "output": output}).json["embeddings"]
    low, high = (-128, 127) if output in ("int8", "binary") else (0, 255)
    assert len(vector) == (384 if output.endswith("int8") else 48)
    assert all(isinstance(x, int) and low <= x <= high for x in vector)


def test_canonical_unknown_prompt(worker: Any) -> None:
    """400 that names the field."""
    answer = worker.post("/v1/text/embed", {"texts": ["a"], "prompt": "none"})
    assert (answer.status, answer.json["param"]) == (400, "prompt")
