"""The catalogue that ships is right, and a wrong one is refused with its file and field."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hub import make_catalogue, make_entry
from phalanx.errors import ModelNotFound
from phalanx.models.catalogue import (
    FileSource,
    HubSource,
    InvalidCatalogue,
    PypiSource,
    load_catalogue,
    paths_in,
    read_entry,
    version_name,
)

GOOD = """
name = "tiny"
summary = "tiny"
task = "text-embedding"
dimensions = 4
primary = "model.safetensors"
licence = { spdx = "CC0-1.0", url = "https://example.org", notice = "none" }
text = { max_tokens = 8, positions = 16, pooling = "mean", normalise = true, prompts = { query = "query: " } }

[files."model.safetensors"]
size = 3
sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"

[[sources]]
kind = "hf"
repository = "org/tiny"
revision = "main"
"""


def test_minilm_is_catalogued_under_its_own_name_and_the_hubs_id() -> None:
    entry = load_catalogue().get("sentence-transformers/all-MiniLM-L6-v2")
    assert entry == load_catalogue().get("all-MiniLM-L6-v2")
    assert (entry.dimensions, entry.licence.spdx, entry.conversion) == (384, "Apache-2.0", "bert")
    assert entry.text is not None
    assert (entry.text.max_tokens, entry.text.positions, entry.text.pooling) == (256, 512, "mean")
    assert entry.pinned_version == "53aa51172d14"
    assert isinstance(entry.sources[0], PypiSource)
    assert isinstance(entry.sources[1], HubSource)


def test_the_default_face_models_are_catalogued_with_what_their_engines_need() -> None:
    catalogue = load_catalogue()
    sizes = {}
    for name in ("blazeface-full-range", "blazeface-short-range"):
        entry = catalogue.get(name)
        assert entry.detection is not None
        assert entry.detection.architecture == name
        sizes[name] = entry.detection.input_size
        assert isinstance(entry.sources[0], PypiSource)
        assert entry.sources[0].target is not None, "a wheel of another platform is only unpacked"
    assert sizes == {"blazeface-full-range": 192, "blazeface-short-range": 128}
    dlib, sface = catalogue.get("dlib-resnet-v1"), catalogue.get("SFace")
    assert dlib.face is not None
    assert sface.face is not None
    assert (dlib.conversion, dlib.licence.spdx, dlib.dimensions) == ("dlib-resnet", "CC0-1.0", 128)
    assert (dlib.face.input_size, dlib.face.template, dlib.face.metric, dlib.face.threshold) == (
        150,
        "dlib",
        "euclidean",
        0.6,
    )
    assert (sface.face.input_size, sface.face.template, sface.face.metric) == (112, "arcface", "cosine")


FACE = """
name = "tiny"
summary = "tiny"
task = "face-embedding"
dimensions = 4
primary = "model.onnx"
licence = { spdx = "CC0-1.0", url = "https://example.org", notice = "none" }
face = { input_size = 112, template = "arcface", metric = "cosine", threshold = 0.4, meaning = "none" }
files = { "model.onnx" = { size = 3, sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" } }
sources = [{ kind = "file", path = "/m" }]
"""


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("dimensions = 4\n", "", "dimensions is needed"),
        ('task = "face-embedding"', 'task = "face-detection"', "detection is for the task face-detection"),
        ("input_size = 112", "input_size = 0", "$.face.input_size"),
        ('template = "arcface"', 'template = "mtcnn"', "$.face.template"),
        ('metric = "cosine"', 'metric = "dot"', "$.face.metric"),
        ("threshold = 0.4", "threshold = 1.0", "1.0 is no cosine below 1"),
        ("threshold = 0.4", "threshold = 0.4, scale = 0.0", "$.face.scale"),
        ('meaning = "none"', 'meanings = "none"', "$.face"),
    ],
)
def test_a_wrong_entry_of_a_face_model_is_refused(tmp_path: Path, old: str, new: str, told: str) -> None:
    read_entry(write(tmp_path, FACE))
    assert old in FACE
    with pytest.raises(InvalidCatalogue) as refusal:
        read_entry(write(tmp_path, FACE.replace(old, new)))
    assert told in refusal.value.detail


def test_every_shipped_entry_pins_hub_revisions_by_commit() -> None:
    for entry in load_catalogue():
        for source in entry.sources:
            assert not isinstance(source, HubSource) or len(source.revision) == 40, entry.name


def write(tmp_path: Path, text: str, name: str = "tiny.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_complete_entry_is_read(tmp_path: Path) -> None:
    entry = read_entry(write(tmp_path, GOOD))
    assert entry.text is not None
    assert entry.text.prompts == {"query": "query: "}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('name = "tiny"', 'name = "../tiny"', "$.name"),
        ("dimensions = 4", "dimensions = 0", "$.dimensions"),
        ("dimensions = 4", "dimension = 4", "unknown field `dimension`"),
        ("dimensions = 4\n", "", "dimensions is needed"),
        ('task = "text-embedding"', 'task = "dreaming"', "$.task"),
        ('task = "text-embedding"', 'task = "face-detection"', "text is for the task text-embedding"),
        ("size = 3", "size = -1", "$.files"),
        ('sha256 = "ba78', 'sha256 = "BA78', "$.files"),
        ('primary = "model.safetensors"', 'primary = "model.onnx"', "'model.onnx' is none of files"),
        ("max_tokens = 8", "max_tokens = 17", "17 is over text.positions 16"),
        ('pooling = "mean"', 'pooling = "max"', "$.text.pooling"),
        ('kind = "hf"', 'kind = "ftp"', "$.sources[0]"),
        ('revision = "main"', 'members = { "x.bin" = "x.bin" }', "sources[0].members names x.bin"),
        ('[files."model.safetensors"]', '[files."../model.safetensors"]', "$.files"),
        ('revision = "main"', 'revision = "a b"', "$.sources[0].revision"),
        ("[[sources]]", "[[sources", "tiny.toml: "),
        ("licence = {", "licenze = {", "licenze"),
    ],
)
def test_a_wrong_entry_is_refused_naming_file_and_field(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(InvalidCatalogue) as refusal:
        read_entry(write(tmp_path, GOOD.replace(old, new)))
    assert refusal.value.detail.startswith("tiny.toml: ")
    assert told in refusal.value.detail


def test_a_file_that_no_source_has_is_refused(tmp_path: Path) -> None:
    more = '\n[files."config.json"]\nsize = 0\nsha256 = "' + "0" * 64 + '"\n'
    only = GOOD.replace('revision = "main"', 'members = { "model.safetensors" = "m.bin" }')
    with pytest.raises(InvalidCatalogue, match=r"none of them has config\.json"):
        read_entry(write(tmp_path, only + more))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidCatalogue, match=r"tiny\.toml"):
        read_entry(tmp_path / "tiny.toml")


def test_a_file_named_otherwise_than_its_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidCatalogue, match="the file is named 'other'"):
        load_catalogue(write(tmp_path, GOOD, "other.toml").parent)


def test_an_alias_of_two_models_is_refused() -> None:
    first = make_entry([FileSource(path="/m")], name="first")
    second = msgspec.structs.replace(make_entry([FileSource(path="/m")], name="second"), aliases=["org/first"])
    with pytest.raises(InvalidCatalogue, match="second: aliases: 'org/first' means first already"):
        make_catalogue(first, second)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ModelNotFound, match="did you mean all-MiniLM-L6-v2"):
        load_catalogue().get("all-MiniLM-L6")
    with pytest.raises(ModelNotFound, match="there are: all-MiniLM-L6-v2"):
        load_catalogue().get("zzz")


def test_a_source_gives_the_wanted_files_at_its_own_paths() -> None:
    files = make_entry([FileSource(path="/m")]).files
    source = HubSource(repository="org/tiny", members={"config.json": "sub/config.json"})
    assert paths_in(source, files) == {"config.json": "sub/config.json"}
    assert paths_in(HubSource(repository="org/tiny"), files) == {name: name for name in files}


def test_a_version_is_named_after_its_weights() -> None:
    assert version_name("ab" * 32) == "abababababab"
    assert version_name("ab" * 32, "int8") == "abababababab-int8"
