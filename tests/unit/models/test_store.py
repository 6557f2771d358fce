"""Pulls that are interrupted, repeated and repaired; versions that are activated, rolled back and removed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from hub import FILES, Fault, Hub, Remembering, make_catalogue, make_entry, write_files
from phalanx.errors import Conflict, InvalidRequest, ModelNotFound, NotFound, Unavailable, UpstreamFailed
from phalanx.models.catalogue import FileSource, HubSource, Source
from phalanx.models.install import require_space
from phalanx.models.sources import Access
from phalanx.models.store import ModelStore

WEIGHTS = "model.safetensors"
HUB = HubSource(repository="org/model", revision="abc123")
RUN = """
import sys
from pathlib import Path
from phalanx.models.sources import Access
from phalanx.models.store import ModelStore
from hub import *
from phalanx.models.catalogue import HubSource

class Telling(Remembering):
    def note(self, message):
        print(message, flush=True)

entry = make_entry([HubSource(repository="org/model", revision="abc123")])
access = Access(hub_endpoint=sys.argv[2])
store = ModelStore(Path(sys.argv[1]), catalogue=make_catalogue(entry), access=access)
store.pull("tiny", progress=Telling())
"""
REPOSITORY = Path(__file__).parents[3]


def doubling(folder: Path) -> list[str]:
    """A real conversion: the graph is the weights twice."""
    (folder / "model.onnx").write_bytes((folder / WEIGHTS).read_bytes() * 2)
    return ["model.onnx"]


def open_store(root: Path, sources: list[Source], access: Access | None = None, *, convert: bool = False) -> ModelStore:
    entry = make_entry(sources, conversion="doubling" if convert else None)
    return ModelStore(root, catalogue=make_catalogue(entry), converters={"doubling": doubling}, access=access)


@pytest.fixture
def share(tmp_path: Path) -> FileSource:
    return FileSource(path=str(write_files(tmp_path / "share")))


@pytest.fixture
def store(tmp_path: Path, share: FileSource) -> ModelStore:
    return open_store(tmp_path / "models", [share])


def start_pull(root: Path, hub: Hub) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(root), hub.endpoint]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY / "tests")


def wait_for(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_a_pull_makes_a_version_and_activates_the_first(tmp_path: Path, store: ModelStore) -> None:
    version = store.pull("org/tiny")
    assert version == store.active("tiny")
    assert (version.name, version.task, version.dimensions) == ("tiny", "text-embedding", 4)
    assert version.version == version.sha256[:12]
    assert version.text is not None
    assert version.folder == tmp_path / "models" / "tiny" / version.version
    assert {file: version.path(file).read_bytes() for file in version.files} == FILES
    pointer = json.loads((tmp_path / "models" / "tiny" / "active.json").read_bytes())
    assert pointer["versions"] == [{"version": version.version, "weight": 1.0}]
    assert list((tmp_path / "models" / ".work").iterdir()) == []


def test_the_manifest_says_what_where_from_and_when(tmp_path: Path, share: FileSource) -> None:
    version = open_store(tmp_path / "models", [share], convert=True).pull("tiny")
    manifest = json.loads((version.folder / "manifest.json").read_bytes())
    assert manifest["sources"] == [str(share)]
    assert manifest["licence"]["spdx"] == "CC0-1.0"
    assert set(manifest["files"]) == set(FILES)
    assert manifest["derived"]["model.onnx"]["size"] == 2 * len(FILES[WEIGHTS])
    assert manifest["made_at"].endswith("Z")
    assert version.path("model.onnx").read_bytes() == FILES[WEIGHTS] * 2


def test_a_second_pull_asks_nobody(tmp_path: Path, hub: Hub, access: Access, heard: Remembering) -> None:
    store = open_store(tmp_path, [HUB], access)
    version = store.pull("tiny")
    hub.close()
    asked = len(hub.asked)
    assert store.pull("tiny", progress=heard) == version
    assert len(hub.asked) == asked
    assert heard.notes == [f"tiny: version {version.version} is here and verified"]


def test_a_read_only_store_is_read_without_a_lock(tmp_path: Path, store: ModelStore) -> None:
    version = store.pull("tiny")
    shutil.rmtree(tmp_path / "models" / ".locks")
    shutil.rmtree(tmp_path / "models" / ".work")
    before = sorted((tmp_path / "models").rglob("*"))
    assert store.pull("tiny") == store.active("tiny") == version
    assert store.models()[0].versions == store.versions("tiny") == [version]
    assert not any(report.problem for report in store.verify("tiny"))
    assert sorted((tmp_path / "models").rglob("*")) == before


def test_force_fetches_all_again(tmp_path: Path, hub: Hub, access: Access) -> None:
    store = open_store(tmp_path, [HUB], access)
    assert store.pull("tiny") == store.pull("tiny", force=True)
    assert len(hub.fetches(WEIGHTS)) == 2
    assert not any(report.problem for report in store.verify("tiny"))


def test_the_next_source_is_asked_when_one_fails(
    tmp_path: Path, hub: Hub, access: Access, share: FileSource, heard: Remembering
) -> None:
    hub.files["config.json"] = b"{" + b" " * (len(FILES["config.json"]) - 1)
    hub.linked = {"X-Linked-Etag": ""}
    version = open_store(tmp_path / "models", [HUB, share], access).pull("tiny", progress=heard)
    assert version.path("config.json").read_bytes() == FILES["config.json"]
    sources = json.loads((version.folder / "manifest.json").read_bytes())["sources"]
    assert sources == [str(HUB), str(share)]
    assert any("config.json has sha256" in note for note in heard.notes)


def test_when_all_sources_fail_each_is_quoted_and_no_version_appears(tmp_path: Path, hub: Hub, access: Access) -> None:
    hub.files.clear()
    store = open_store(tmp_path, [HUB, FileSource(path="/nowhere")], access)
    with pytest.raises(UpstreamFailed) as failure:
        store.pull("tiny")
    assert "hf:org/model@abc123: " in failure.value.detail
    assert "answered 404" in failure.value.detail
    assert "file:/nowhere: there is no" in failure.value.detail
    with pytest.raises(Unavailable, match="run: phalanx models pull tiny"):
        store.active("tiny")


def test_another_source_can_be_asked_instead(tmp_path: Path, hub: Hub, access: Access, share: FileSource) -> None:
    open_store(tmp_path / "models", [HUB], access).pull("tiny", source=share)
    assert hub.asked == []


def test_a_damaged_file_is_repaired_and_only_that_is_fetched(
    tmp_path: Path, hub: Hub, access: Access, heard: Remembering
) -> None:
    store = open_store(tmp_path, [HUB], access)
    version = store.pull("tiny")
    version.path("config.json").write_bytes(b"damaged")
    assert [r.problem for r in store.verify("tiny") if r.problem] == ["has 7 bytes, not 22"]
    store.pull("tiny", progress=heard)
    assert not any(report.problem for report in store.verify("tiny"))
    assert len(hub.fetches(WEIGHTS)) == 1
    assert len(hub.fetches("config.json")) == 2
    assert "repairing" in heard.notes[0]


def test_a_damaged_derived_file_is_made_again_without_a_source(tmp_path: Path, share: FileSource) -> None:
    store = open_store(tmp_path / "models", [share], convert=True)
    version = store.pull("tiny")
    version.path("model.onnx").unlink()
    shutil.rmtree(share.path)
    assert store.pull("tiny").path("model.onnx").read_bytes() == FILES[WEIGHTS] * 2


def test_a_damaged_manifest_is_repaired(tmp_path: Path, store: ModelStore) -> None:
    version = store.pull("tiny")
    (version.folder / "manifest.json").write_bytes(b"{")
    with pytest.raises(Unavailable, match="run: phalanx models pull tiny --force"):
        store.active("tiny")
    store.pull("tiny")
    assert store.active("tiny") == version


def test_a_conversion_that_is_not_known_is_named(tmp_path: Path, share: FileSource) -> None:
    entry = make_entry([share], conversion="future")
    store = ModelStore(tmp_path / "models", catalogue=make_catalogue(entry), converters={"doubling": doubling})
    with pytest.raises(Unavailable, match="needs the conversion 'future'; this version of Phalanx has: doubling"):
        store.pull("tiny")
    assert store.versions("tiny") == []


def test_a_conversion_that_fails_keeps_the_downloads(tmp_path: Path, hub: Hub, access: Access) -> None:
    def failing(folder: Path) -> list[str]:
        raise InvalidRequest("no such architecture")

    entry = make_entry([HUB], conversion="doubling")
    for conversion, ends in ((failing, "raises"), (doubling, "works")):
        converters = {"doubling": conversion}
        store = ModelStore(tmp_path, catalogue=make_catalogue(entry), converters=converters, access=access)
        if ends == "raises":
            with pytest.raises(InvalidRequest):
                store.pull("tiny")
        else:
            store.pull("tiny")
    assert len(hub.fetches(WEIGHTS)) == 1


def test_a_killed_pull_leaves_no_version_and_is_gone_on_with(tmp_path: Path, hub: Hub, access: Access) -> None:
    hold = threading.Event()
    hub.faults[WEIGHTS] = [Fault(cut_after=600_000, hold=hold)]
    process = start_pull(tmp_path, hub)
    part = next(iter(make_entry([HUB]).files.values()))
    work = tmp_path / ".work" / f"tiny-{part.sha256[:12]}"
    wait_for(lambda: (work / f"{WEIGHTS}.part").is_file() and (work / f"{WEIGHTS}.part").stat().st_size > 0)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hold.set()
    store = open_store(tmp_path, [HUB], access)
    assert store.versions("tiny") == []
    kept = (work / f"{WEIGHTS}.part").stat().st_size
    store.pull("tiny")
    assert hub.fetches(WEIGHTS)[-1].headers["Range"] == f"bytes={kept}-"
    assert not any(report.problem for report in store.verify("tiny"))


def test_of_two_pulls_one_waits_says_so_and_finds_it_done(tmp_path: Path, hub: Hub) -> None:
    hold = threading.Event()
    hub.faults[WEIGHTS] = [Fault(cut_after=600_000, hold=hold)]
    first = start_pull(tmp_path, hub)
    wait_for(lambda: hub.fetches(WEIGHTS))
    second = start_pull(tmp_path, hub)
    assert second.stdout is not None
    assert second.stdout.readline() == "another process is changing tiny; waiting for it to finish\n"
    hold.set()
    assert first.communicate(timeout=20)[0].count("ended after") == 1
    assert "is here and verified" in second.communicate(timeout=20)[0]
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(hub.fetches("config.json")) == 1


def test_a_full_disk_is_reported_with_both_numbers(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(Unavailable, match=r"bytes free, .* are needed"):
        require_space(tmp_path, free * 2)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, share: FileSource) -> None:
    write_files(tmp_path, {"models": b"a file"})
    with pytest.raises(Unavailable, match=r"the model folder .*models cannot be changed"):
        open_store(tmp_path / "models", [share]).pull("tiny")


def test_unknown_names_are_refused_everywhere(store: ModelStore) -> None:
    for name in ("nothing", "../tiny", "", "tiny/../../etc"):
        for call in (store.pull, store.active, store.versions, store.verify, store.pointer, store.rollback):
            with pytest.raises(ModelNotFound):
                call(name)


def variant(store: ModelStore, tmp_path: Path, suffix: str = "int8") -> str:
    quantized = write_files(tmp_path / "quantized", {"model.onnx": suffix.encode()}) / "model.onnx"
    version = store.versions("tiny")[0].version
    return store.add_variant("tiny", version, suffix, {"model.onnx": quantized}).version


def test_a_variant_has_its_own_weights_and_the_rest_of_its_origin(tmp_path: Path, store: ModelStore) -> None:
    origin = store.pull("tiny")
    name = variant(store, tmp_path)
    made = store.versions("tiny")[1]
    assert made.version == name == f"{made.sha256[:12]}-int8"
    assert made.variant_of == origin.version
    assert set(made.files) == {"config.json", "model.onnx"}
    assert made.path("model.onnx").read_bytes() == b"int8"
    assert made.path("config.json").read_bytes() == FILES["config.json"]
    assert made.text == origin.text
    assert store.active("tiny") == origin
    with pytest.raises(Unavailable, match=r"has no model\.safetensors; it has: "):
        made.path(WEIGHTS)
    with pytest.raises(Conflict, match="exists already"):
        variant(store, tmp_path)


@pytest.mark.parametrize("suffix", ["", "../x", "INT8", "a b", "x" * 40])
def test_a_variant_with_a_bad_suffix_is_refused(tmp_path: Path, store: ModelStore, suffix: str) -> None:
    store.pull("tiny")
    with pytest.raises(InvalidRequest, match="its suffix is like 'int8'"):
        variant(store, tmp_path, suffix)


def test_activation_and_rollback_swap_back_and_forth(tmp_path: Path, store: ModelStore) -> None:
    first = store.pull("tiny").version
    second = variant(store, tmp_path)
    with pytest.raises(Conflict, match="no earlier active version"):
        store.rollback("tiny")
    assert store.activate("tiny", second).version == second
    store.activate("tiny", second)
    assert [store.rollback("tiny").version for _ in range(3)] == [first, second, first]
    pointer = store.pointer("tiny")
    assert pointer is not None
    assert [one.version for one in pointer.previous] == [second]


def test_a_damaged_or_unknown_version_is_not_activated(tmp_path: Path, store: ModelStore) -> None:
    first = store.pull("tiny").version
    second = variant(store, tmp_path)
    (tmp_path / "models" / "tiny" / second / "model.onnx").write_bytes(b"intX")
    with pytest.raises(Conflict, match=r"is damaged: model\.onnx has sha256"):
        store.activate("tiny", second)
    with pytest.raises(NotFound, match=f"no version 'zzz' of tiny here; there are: .*{first}"):
        store.activate("tiny", "zzz")
    assert store.active("tiny").version == first


def test_a_damaged_pointer_names_its_remedy(tmp_path: Path, store: ModelStore) -> None:
    version = store.pull("tiny").version
    (tmp_path / "models" / "tiny" / "active.json").write_bytes(b'{"versions": []}')
    with pytest.raises(Unavailable, match="run: phalanx models activate tiny VERSION"):
        store.active("tiny")
    store.activate("tiny", version)
    assert store.active("tiny").version == version


def test_the_active_version_is_removed_only_by_force(tmp_path: Path, store: ModelStore) -> None:
    first = store.pull("tiny").version
    second = variant(store, tmp_path)
    store.activate("tiny", second)
    store.remove("tiny", first)
    assert [version.version for version in store.versions("tiny")] == [second]
    with pytest.raises(Conflict, match=f"version {first} of tiny was removed"):
        store.rollback("tiny")
    with pytest.raises(Conflict, match="is active; activate another one first, or use --force"):
        store.remove("tiny", second)
    store.remove("tiny", second, force=True)
    with pytest.raises(Unavailable, match="run: phalanx models pull tiny"):
        store.active("tiny")
    assert store.pointer("tiny") is None


@pytest.mark.parametrize("version", ["..", ".", "", "../..", "nothing"])
def test_only_versions_can_be_removed(tmp_path: Path, store: ModelStore, version: str) -> None:
    store.pull("tiny")
    with pytest.raises(NotFound):
        store.remove("tiny", version, force=True)
    assert store.active("tiny")


def test_a_version_deleted_by_hand_is_pulled_again(store: ModelStore) -> None:
    version = store.pull("tiny")
    shutil.rmtree(version.folder)
    with pytest.raises(Unavailable, match=f"version {version.version} of tiny is gone"):
        store.active("tiny")
    assert store.pull("tiny") == store.active("tiny") == version


def test_a_new_catalogue_version_does_not_take_over_by_itself(tmp_path: Path, store: ModelStore) -> None:
    first = store.pull("tiny").version
    newer = {**FILES, WEIGHTS: b"newer"}
    source = FileSource(path=str(write_files(tmp_path / "newer", newer)))
    upgraded = ModelStore(tmp_path / "models", catalogue=make_catalogue(make_entry([source], newer)))
    second = upgraded.pull("tiny").version
    assert second != first
    assert upgraded.active("tiny").version == first
    assert [version.version for version in upgraded.versions("tiny")] == [first, second]


def test_other_pins_under_the_same_weights_replace_the_version(tmp_path: Path, store: ModelStore) -> None:
    first = store.pull("tiny")
    other = {**FILES, "config.json": b"{}"}
    source = FileSource(path=str(write_files(tmp_path / "other", other)))
    upgraded = ModelStore(tmp_path / "models", catalogue=make_catalogue(make_entry([source], other)))
    assert upgraded.pull("tiny").version == first.version
    assert upgraded.active("tiny").path("config.json").read_bytes() == b"{}"


def test_files_in_folders_are_kept_in_folders(tmp_path: Path) -> None:
    files = {WEIGHTS: b"w", "1_Pooling/config.json": b"{}"}
    source = FileSource(path=str(write_files(tmp_path / "share", files)))
    store = ModelStore(tmp_path / "models", catalogue=make_catalogue(make_entry([source], files)))
    assert store.pull("tiny").path("1_Pooling/config.json").read_bytes() == b"{}"


def test_manifests_that_contradict_themselves_are_refused(store: ModelStore) -> None:
    version = store.pull("tiny")
    path = version.folder / "manifest.json"
    good = path.read_bytes()
    for old, new in ((version.version.encode(), b"0" * 12), (b'"primary": "model.s', b'"primary": "s')):
        path.write_bytes(good.replace(old, new, 1))
        with pytest.raises(Unavailable, match="cannot be read"):
            store.active("tiny")
    assert msgspec.json.decode(good)["version"] == version.version
