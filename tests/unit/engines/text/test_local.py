from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from phalanx.engines.choice import EngineChoice
from phalanx.engines.text.load import load_text_model
from phalanx.engines.text.local import LocalModel, find_local_model
from phalanx.errors import InvalidRequest, Unavailable
from phalanx.models.conversion import CONVERTERS

F32 = EngineChoice(precision="f32", threads=1)


@pytest.fixture
def folder(version: Path, tmp_path: Path) -> Path:
    """A user's folder with a graph that holds its own weights, as exporters write it."""
    target = tmp_path / "mine"
    target.mkdir()
    onnx.save(onnx.load(str(version / "model.onnx")), str(target / "model.onnx"))
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(version / name, target / name)
    return target


def find(path: Path, tmp_path: Path, **options: Any) -> LocalModel:
    return find_local_model(path, cache=tmp_path / "cache", convert=CONVERTERS["bert"], **options)


def embed(found: LocalModel, text: str = "the cat sees a dog", engine: Any = "openvino") -> np.ndarray[Any, Any]:
    choice = EngineChoice(precision="f32", threads=1, engine=engine, device="cpu")
    model = load_text_model(found.spec, found.files, choice)
    return model.run([model.prepare(text)])[0]


def test_file_folder_and_onnx_folder_give_the_same_vector(folder: Path, tmp_path: Path) -> None:
    below = tmp_path / "below"
    (below / "onnx").mkdir(parents=True)
    shutil.copy(folder / "model.onnx", below / "onnx/model.onnx")
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(folder / name, below / name)
    places = [folder, folder / "model.onnx", below, below / "onnx/model.onnx"]
    vectors = [embed(find(path, tmp_path)) for path in places]
    for vector in vectors[1:]:
        np.testing.assert_array_equal(vector, vectors[0])
    assert [find(path, tmp_path).spec.name for path in places] == ["mine", "mine", "below", "below"]


def test_published_weights_are_converted_into_the_cache(published: Path, folder: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in published.iterdir())
    found = find(published, tmp_path)
    assert found.files.graph.parent == tmp_path / "cache" / found.spec.version
    assert sorted(path.name for path in published.iterdir()) == before
    np.testing.assert_allclose(embed(found), embed(find(folder, tmp_path)), atol=1e-5)
    again = find(published, tmp_path)
    assert again == found


def test_facts_are_read_from_the_files_beside(folder: Path, tmp_path: Path) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling/config.json").write_text(
        json.dumps({"word_embedding_dimension": 64, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    )
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "the "}, "x": 1}')
    spec = find(folder, tmp_path).spec
    assert (spec.pooling, spec.max_tokens, spec.positions, spec.prompts) == ("cls", 24, 64, {"query": "the "})
    assert find(folder, tmp_path, max_tokens=64).spec.max_tokens == 64
    with pytest.raises(Unavailable, match="MAX_TOKENS is 65; the model in mine has room for 64"):
        find(folder, tmp_path, max_tokens=65)


def test_without_facts_pooling_is_mean_and_the_limit_the_positions(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    spec = find(folder, tmp_path).spec
    assert (spec.pooling, spec.max_tokens, spec.dimensions) == ("mean", 64, 0)
    assert load_text_model(spec, find(folder, tmp_path).files, F32).spec.dimensions == 64


def test_positions_that_hold_no_token_are_taken_off(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "xlm-roberta", "max_position_embeddings": 514}')
    assert find(folder, tmp_path).spec.positions == 512


def test_the_version_follows_the_bytes_of_graph_and_data(folder: Path, tmp_path: Path) -> None:
    first = find(folder, tmp_path).spec
    (folder / "model.onnx_data").write_bytes(b"weights")
    assert find(folder, tmp_path).spec.sha256 != first.sha256
    assert first.version == first.sha256[:12]


def rewrite(folder: Path, change: Any) -> None:
    model = onnx.load(str(folder / "model.onnx"))
    change(model.graph)
    onnx.save(model, str(folder / "model.onnx"))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_graph_that_wants_token_types_gets_zeros(folder: Path, tmp_path: Path, engine: str) -> None:
    expected = embed(find(folder, tmp_path))

    def change(graph: Any) -> None:
        graph.input.append(
            onnx.helper.make_tensor_value_info("token_type_ids", onnx.TensorProto.INT64, ["batch", "seq"])
        )
        gather = next(node for node in graph.node if node.op_type == "Gather")
        graph.node.insert(0, onnx.helper.make_node("Add", ["input_ids", "token_type_ids"], ["both"]))
        gather.input[1] = "both"

    rewrite(folder, change)
    np.testing.assert_allclose(embed(find(folder, tmp_path), engine=engine), expected, atol=1e-5)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_graph_that_pools_by_itself_is_believed(folder: Path, tmp_path: Path, engine: str) -> None:
    def change(graph: Any) -> None:
        graph.node.append(
            onnx.helper.make_node("ReduceMean", ["last_hidden_state"], ["sentence_embedding"], keepdims=0)
        )
        graph.node[-1].input.append("middle")
        graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "middle"))
        del graph.output[:]
        graph.output.append(
            onnx.helper.make_tensor_value_info("sentence_embedding", onnx.TensorProto.FLOAT, ["batch", 64])
        )

    rewrite(folder, change)
    found = find(folder, tmp_path)
    assert embed(found, engine=engine).shape == (64,)
    model = load_text_model(found.spec, found.files, F32)
    with pytest.raises(InvalidRequest, match="none for its tokens"):
        model.prepare("the cat", want_tokens=True)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("attention_mask", "padding_mask", "takes .*padding_mask.*must take"),
        ("last_hidden_state", "logits", "gives logits; it must give"),
    ],
)
def test_a_graph_of_another_kind_is_refused(
    folder: Path, tmp_path: Path, engine: Any, old: str, new: str, said: str
) -> None:
    def change(graph: Any) -> None:
        for port in (*graph.input, *graph.output):
            port.name = new if port.name == old else port.name
        for node in graph.node:
            node.input[:] = [new if name == old else name for name in node.input]
            node.output[:] = [new if name == old else name for name in node.output]

    rewrite(folder, change)
    found = find(folder, tmp_path)
    with pytest.raises(Unavailable, match=said):
        load_text_model(found.spec, found.files, EngineChoice(engine=engine, device="cpu", precision="f32"))


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_file_that_is_no_graph_is_refused(folder: Path, tmp_path: Path, engine: Any) -> None:
    (folder / "model.onnx").write_bytes(b"not a graph")
    found = find(folder, tmp_path)
    with pytest.raises(Unavailable, match=r"cannot (read|load) model\.onnx"):
        load_text_model(found.spec, found.files, EngineChoice(engine=engine, device="cpu", precision="f32"))


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("config.json", "[]", "config.json is no JSON object"),
        ("config.json", '{"max_position_embeddings": "x"}', "config.json cannot be used"),
        (
            "1_Pooling/config.json",
            '{"pooling_mode_max_tokens": true}',
            "asks for pooling_mode_max_tokens; mean and cls",
        ),
        ("sentence_bert_config.json", "{", "sentence_bert_config.json is no JSON object"),
    ],
)
def test_facts_that_cannot_be_used_are_named(folder: Path, tmp_path: Path, file: str, content: str, said: str) -> None:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_text(content)
    with pytest.raises(Unavailable, match=said):
        find(folder, tmp_path)


def test_a_folder_without_a_model_says_what_may_be_there(folder: Path, tmp_path: Path) -> None:
    (folder / "model.onnx").unlink()
    with pytest.raises(Unavailable, match=r"no folder with model\.onnx, onnx/model\.onnx, or model\.safetensors"):
        find(folder, tmp_path)
    with pytest.raises(Unavailable, match=r"elsewhere is no \.onnx file"):
        find(tmp_path / "elsewhere", tmp_path)


def test_a_missing_tokeniser_is_named(folder: Path, tmp_path: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Unavailable, match=r"mine has no tokenizer\.json"):
        find(folder, tmp_path)
