from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from phalanx.engines.backends import Backend, EngineName, Ids, open_backend
from phalanx.engines.text.model import PreparedText, TextModel
from phalanx.engines.text.spec import Pooling, TextSpec
from phalanx.engines.text.tokenizer import TextTokenizer
from phalanx.engines.text.vectors import unit
from phalanx.errors import InvalidRequest, TextTooLong

TEXTS = [
    "the cat",
    "a dog sees the big red house, and runs!",
    "日本",
    "z",
    "one " * 30,
    "unknownly " * 12,
    "blue? blue. blue",
]


def text_model(version: Path, backend: Backend, *, pooling: Pooling = "mean", max_tokens: int = 48) -> TextModel:
    spec = TextSpec(
        name="tiny", version="0123456789ab", sha256="0" * 64, dimensions=64, max_tokens=max_tokens, positions=64,
        pooling=pooling, prompts={"query": "the cat "},
    )  # fmt: skip
    return TextModel(spec, TextTokenizer(version / "tokenizer.json", max_tokens=max_tokens), backend)


@pytest.fixture(scope="module", params=["openvino", "onnxruntime"])
def model(request: pytest.FixtureRequest, version: Path) -> TextModel:
    engine: EngineName = request.param
    return text_model(version, open_backend(version / "model.onnx", engine=engine, device="cpu", threads=1))


class Recording:
    """A backend that passes calls on and keeps the shapes."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self.name, self.device = inner.name, inner.device
        self.precision, self.threads = inner.precision, inner.threads
        self.pooled, self.dimensions = inner.pooled, inner.dimensions
        self.shapes: list[tuple[int, ...]] = []

    def infer(self, input_ids: Ids, attention_mask: Ids) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        self.shapes.append(input_ids.shape)
        return self._inner.infer(input_ids, attention_mask)


def test_a_text_gives_the_same_vector_alone_and_in_any_batch(model: TextModel) -> None:
    prepared = [model.prepare(text) for text in TEXTS]
    alone = np.stack([model.run([item])[0] for item in prepared])
    together = np.stack(model.run(prepared))
    reversed_order = np.stack(model.run(prepared[::-1]))[::-1]
    many = np.stack(model.run(prepared * 9))[: len(TEXTS)]
    for found in (together, reversed_order, many):
        assert np.einsum("nd,nd->n", unit(alone), unit(found)).min() >= 0.999999


def test_the_pooled_vector_is_the_mean_of_the_token_vectors(model: TextModel) -> None:
    for text in TEXTS:
        (vector,) = model.run([model.prepare(text)])
        (rows,) = model.run([model.prepare(text, want_tokens=True)])
        assert rows.shape == (model.prepare(text).used_tokens, 64)
        np.testing.assert_allclose(vector, rows.mean(axis=0), atol=1e-5)


def test_both_kinds_of_result_come_from_one_batch_in_order(model: TextModel) -> None:
    batch = [model.prepare(text, want_tokens=index % 2 == 0) for index, text in enumerate(TEXTS)]
    results = model.run(batch)
    assert [result.ndim for result in results] == [2 if item.want_tokens else 1 for item in batch]
    for item, result in zip(batch, results, strict=True):
        np.testing.assert_allclose(result, model.run([item])[0], atol=1e-5)


def test_results_are_not_overwritten_by_the_next_batch(model: TextModel) -> None:
    first = model.run([model.prepare("the cat"), model.prepare("the cat", want_tokens=True)])
    kept = [result.copy() for result in first]
    model.run([model.prepare("blue house"), model.prepare("blue house", want_tokens=True)])
    for result, copy in zip(first, kept, strict=True):
        np.testing.assert_array_equal(result, copy)


def test_cls_pooling_takes_the_first_token(version: Path, model: TextModel) -> None:
    first = text_model(version, model.backend, pooling="cls")
    for text in TEXTS:
        (vector,) = first.run([first.prepare(text)])
        (rows,) = first.run([first.prepare(text, want_tokens=True)])
        np.testing.assert_allclose(vector, rows[0], atol=1e-5)


def test_the_backends_agree(version: Path) -> None:
    graph = version / "model.onnx"
    one, other = (
        text_model(version, open_backend(graph, engine=name, device="cpu", threads=1))
        for name in ("openvino", "onnxruntime")
    )
    found = [np.stack(each.run([each.prepare(text) for text in TEXTS])) for each in (one, other)]
    np.testing.assert_allclose(found[0], found[1], atol=2e-5)


def test_nothing_is_run_for_nothing(model: TextModel) -> None:
    assert model.run([]) == []


def test_the_backend_sees_few_shapes_whatever_comes(version: Path) -> None:
    backend = Recording(open_backend(version / "model.onnx", engine="onnxruntime", device="cpu", threads=1))
    model = text_model(version, backend)
    rng = np.random.default_rng(0)
    for _ in range(60):
        lengths = rng.integers(3, 49, size=int(rng.integers(1, 40)))
        model.run([PreparedText(np.full(n, 6, dtype=np.int64), int(n), truncated=False) for n in lengths])
    assert {shape[1] for shape in backend.shapes} <= {8, 16, 32, 48}
    assert {shape[0] for shape in backend.shapes} <= {*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64}


def test_counts_say_what_was_sent_and_what_was_used(model: TextModel) -> None:
    whole, cut = model.prepare("the cat"), model.prepare("cat " * 60, truncate="end")
    assert (whole.tokens, whole.used_tokens, whole.length, whole.truncated) == (4, 4, 4, False)
    assert (cut.tokens, cut.used_tokens, cut.length, cut.truncated) == (62, 48, 48, True)
    with pytest.raises(TextTooLong, match="62 tokens or more, 48 are allowed"):
        model.prepare("cat " * 60, truncate="none")


def test_a_prompt_is_put_before_the_text(model: TextModel) -> None:
    with_prompt = model.prepare("sees a dog", prompt="query")
    assert with_prompt.ids.tolist() == model.prepare("the cat sees a dog").ids.tolist()
    ids = [7, 8]
    assert model.prepare(ids, prompt="query").ids.tolist()[-3:-1] == ids
    tokens = model.tokenize("dog", prompt="query")
    assert [(token.text, token.start) for token in tokens if not token.special] == [
        ("the", None),
        ("cat", None),
        ("dog", 0),
    ]


def test_an_unknown_prompt_is_named_with_those_there_are(model: TextModel) -> None:
    with pytest.raises(InvalidRequest, match="has no prompt 'passage'; it has query"):
        model.prepare("the cat", prompt="passage")


def test_token_ids_give_the_vector_of_their_text(model: TextModel) -> None:
    prepared = model.prepare("the big cat")
    again = model.prepare(prepared.ids.tolist())
    assert again.ids.tolist() == prepared.ids.tolist()
    with pytest.raises(InvalidRequest, match="token id 5000"):
        model.prepare([5000])


def test_warming_runs_every_length(version: Path) -> None:
    backend = Recording(open_backend(version / "model.onnx", engine="onnxruntime", device="cpu", threads=1))
    text_model(version, backend).warm()
    assert {(1, 16), (1, 32), (1, 48)} <= set(backend.shapes)


def test_the_fingerprint_follows_what_decides_a_vector() -> None:
    facts = {"name": "m", "version": "v", "sha256": "s", "dimensions": 4, "max_tokens": 8, "positions": 16}
    base = TextSpec(**facts)  # type: ignore[arg-type]
    same = TextSpec(**facts | {"name": "alias"})  # type: ignore[arg-type]
    assert base.fingerprint == same.fingerprint
    for change in (
        {"version": "w"}, {"sha256": "t"}, {"tokenizer_sha256": "u"}, {"max_tokens": 9}, {"pooling": "cls"},
        {"prompts": {"q": "x"}}, {"arithmetic": "onnxruntime cpu f32"},
    ):  # fmt: skip
        assert TextSpec(**facts | change).fingerprint != base.fingerprint  # type: ignore[arg-type]
