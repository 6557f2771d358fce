"""Bundles travel whole, and a forged one is refused with its reason."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hub import FILES, Remembering, make_catalogue, make_entry, write_files
from phalanx.errors import Conflict, NotFound, Unavailable, UnreadableInput
from phalanx.models.catalogue import FileSource
from phalanx.models.store import ModelStore

WEIGHTS = "model.safetensors"
NOTHING = make_catalogue()


def doubling(folder: Path) -> list[str]:
    (folder / "model.onnx").write_bytes((folder / WEIGHTS).read_bytes() * 2)
    return ["model.onnx"]


def open_store(root: Path, *, share: Path | None = None, catalogued: bool = True) -> ModelStore:
    entry = make_entry([FileSource(path=str(share or root))], conversion="doubling")
    catalogue = make_catalogue(entry) if catalogued else NOTHING
    return ModelStore(root, catalogue=catalogue, converters={"doubling": doubling})


@pytest.fixture
def origin(tmp_path: Path) -> ModelStore:
    store = open_store(tmp_path / "origin", share=write_files(tmp_path / "share"))
    store.pull("tiny")
    return store


@pytest.fixture
def bundle(tmp_path: Path, origin: ModelStore) -> Path:
    return origin.export("tiny", tmp_path)


@pytest.fixture
def other(tmp_path: Path) -> ModelStore:
    return open_store(tmp_path / "other")


def test_a_bundle_brings_the_same_version_to_another_machine(
    bundle: Path, origin: ModelStore, other: ModelStore, heard: Remembering
) -> None:
    there, here = origin.active("tiny"), other.import_bundle(bundle, progress=heard)
    assert here == other.active("tiny")
    assert (here.version, here.sha256, here.files, here.text) == (
        there.version,
        there.sha256,
        there.files,
        there.text,
    )
    assert here.path("model.onnx").read_bytes() == FILES[WEIGHTS] * 2
    assert not any(report.problem for report in other.verify("tiny"))
    assert [file for file, _, _ in heard.transfers] == list(FILES)
    assert other.pull("tiny") == here


def test_importing_twice_changes_nothing(bundle: Path, other: ModelStore, heard: Remembering) -> None:
    first = other.import_bundle(bundle)
    manifest = (first.folder / "manifest.json").read_bytes()
    assert other.import_bundle(bundle, progress=heard) == first
    assert (first.folder / "manifest.json").read_bytes() == manifest
    assert heard.notes == [f"tiny: version {first.version} is here and verified"]


def test_importing_repairs_a_damaged_version(bundle: Path, other: ModelStore) -> None:
    other.import_bundle(bundle).path("config.json").write_bytes(b"")
    other.import_bundle(bundle)
    assert not any(report.problem for report in other.verify("tiny"))


def test_derived_files_stay_behind_so_that_all_of_a_bundle_is_pinned(bundle: Path) -> None:
    with tarfile.open(bundle) as tar:
        assert tar.getnames() == ["manifest.json", *FILES]


def test_the_same_version_gives_the_same_bytes(tmp_path: Path, origin: ModelStore, bundle: Path) -> None:
    again = origin.export("tiny", tmp_path / "again.tar")
    assert again.read_bytes() == bundle.read_bytes()
    assert bundle.name == f"tiny-{origin.active('tiny').version}.tar"


def test_a_variant_travels_with_its_own_graph(tmp_path: Path, origin: ModelStore, other: ModelStore) -> None:
    graph = write_files(tmp_path / "q", {"model.onnx": b"int8"}) / "model.onnx"
    made = origin.add_variant("tiny", origin.active("tiny").version, "int8", {"model.onnx": graph})
    here = other.import_bundle(origin.export("tiny", tmp_path / "q.tar", version=made.version))
    assert (here.version, here.variant_of) == (made.version, made.variant_of)
    assert here.path("model.onnx").read_bytes() == b"int8"


def test_a_model_that_is_not_catalogued_travels_by_its_manifest(tmp_path: Path, bundle: Path) -> None:
    here = open_store(tmp_path / "free", catalogued=False).import_bundle(bundle)
    assert (here.name, here.dimensions) == ("tiny", 4)
    assert here.path("model.onnx").read_bytes() == FILES[WEIGHTS] * 2


def test_an_existing_file_is_not_overwritten(bundle: Path, origin: ModelStore) -> None:
    with pytest.raises(Conflict, match="exists already"):
        origin.export("tiny", bundle)


def test_a_damaged_version_is_not_exported(tmp_path: Path, origin: ModelStore) -> None:
    origin.active("tiny").path("config.json").write_bytes(b"")
    with pytest.raises(Conflict, match=r"config\.json has 0 bytes, not 22"):
        origin.export("tiny", tmp_path / "b.tar")
    assert not list(tmp_path.glob("b.tar*"))


def test_exporting_to_nowhere_or_what_is_not_here_is_refused(tmp_path: Path, origin: ModelStore) -> None:
    with pytest.raises(NotFound, match="there is no folder"):
        origin.export("tiny", tmp_path / "no" / "b.tar")
    with pytest.raises(NotFound, match="no version 'zzz'"):
        origin.export("tiny", tmp_path / "b.tar", version="zzz")
    with pytest.raises(Unavailable, match="run: phalanx models pull tiny"):
        open_store(tmp_path / "empty").export("tiny", tmp_path / "b.tar")


Members = list[tuple[tarfile.TarInfo, bytes]]


def forge(bundle: Path, change: Callable[[dict[str, Any], Members], None]) -> Path:
    """Write the bundle again after `change` had its way with the manifest and the members after it."""
    members: Members = []
    with tarfile.open(bundle) as tar:
        for info in tar:
            stream = tar.extractfile(info)
            assert stream is not None
            members.append((info, stream.read()))
    manifest = msgspec.json.decode(members.pop(0)[1])
    change(manifest, members)
    forged = bundle.with_name("forged.tar")
    with tarfile.open(forged, "w") as tar:
        for info, data in [(tarfile.TarInfo("manifest.json"), msgspec.json.encode(manifest)), *members]:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return forged


def flip_a_byte(manifest: dict[str, Any], members: Members) -> None:
    info, data = members[0]
    members[0] = (info, b"!" + data[1:])


def shorten(manifest: dict[str, Any], members: Members) -> None:
    info, data = members[0]
    members[0] = (info, data[:-1])


def lose_a_file(manifest: dict[str, Any], members: Members) -> None:
    members.pop()


def add_a_file(manifest: dict[str, Any], members: Members) -> None:
    members.append((tarfile.TarInfo("extra.py"), b"print()"))


def add_an_upward_file(manifest: dict[str, Any], members: Members) -> None:
    members.append((tarfile.TarInfo("../../evil"), b"x"))


def repeat_a_file(manifest: dict[str, Any], members: Members) -> None:
    members.append(members[0])


def link_a_file(manifest: dict[str, Any], members: Members) -> None:
    info = tarfile.TarInfo(members[0][0].name)
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    members[0] = (info, b"")


def pin_an_upward_file(manifest: dict[str, Any], members: Members) -> None:
    manifest["files"]["../evil"] = manifest["files"]["config.json"]


def climb_by_name(manifest: dict[str, Any], members: Members) -> None:
    manifest["name"] = "../evil"


def climb_by_version(manifest: dict[str, Any], members: Members) -> None:
    manifest["version"] = "../evil"


def lie_about_the_version(manifest: dict[str, Any], members: Members) -> None:
    manifest["version"] = "0" * 12


def bring_derived_files(manifest: dict[str, Any], members: Members) -> None:
    manifest["derived"] = {"model.onnx": manifest["files"]["config.json"]}


def bring_another_config(manifest: dict[str, Any], members: Members) -> None:
    data = b"{}"
    sha256 = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    manifest["files"]["config.json"] = {"size": len(data), "sha256": sha256}
    members[1] = (members[1][0], data)


def pose_as_an_alias(manifest: dict[str, Any], members: Members) -> None:
    manifest["name"] = "known-as"


FORGERIES = [
    (flip_a_byte, r"forged\.tar: model\.safetensors has sha256 [0-9a-f]{64}, not [0-9a-f]{64}"),
    (shorten, r"model\.safetensors has 1023999 bytes, not 1024000"),
    (lose_a_file, r"lacks config\.json"),
    (add_a_file, r"has 'extra\.py', which is not in its manifest"),
    (add_an_upward_file, r"has '\.\./\.\./evil', which is not in its manifest"),
    (repeat_a_file, r"has 'model\.safetensors', a second time"),
    (link_a_file, r"model\.safetensors is no regular file"),
    (pin_an_upward_file, r"manifest\.json: .*files"),
    (climb_by_name, r"manifest\.json: .*\$\.name"),
    (climb_by_version, r"manifest\.json: .*\$\.version"),
    (lie_about_the_version, "is not named after the sha256"),
    (bring_derived_files, "derived files are made on import, never brought"),
    (bring_another_config, r"config\.json of tiny: the catalogue has [0-9a-f]{64}, the bundle 44136fa"),
    (pose_as_an_alias, "named 'known-as', which means tiny here"),
]


@pytest.mark.parametrize(("change", "told"), FORGERIES, ids=lambda value: getattr(value, "__name__", ""))
def test_a_forged_bundle_is_refused_and_leaves_nothing(
    tmp_path: Path, bundle: Path, change: Callable[[dict[str, Any], Members], None], told: str
) -> None:
    entry = make_entry([FileSource(path="/m")], conversion="doubling")
    entry = msgspec.structs.replace(entry, aliases=["known-as"])
    root = tmp_path / "deep" / "store"
    store = ModelStore(root, catalogue=make_catalogue(entry), converters={"doubling": doubling})
    with pytest.raises(UnreadableInput, match=told):
        store.import_bundle(forge(bundle, change))
    assert store.versions("tiny") == []
    assert {path.name for path in root.rglob("*")} <= {".work", ".locks", "tiny.lock"}
    assert {path.name for path in (tmp_path / "deep").glob("*")} <= {"store"}


@pytest.mark.parametrize("content", [b"", b"garbage" * 1000, b"\x1f\x8b" + b"\0" * 600])
def test_garbage_is_no_bundle(tmp_path: Path, other: ModelStore, content: bytes) -> None:
    (tmp_path / "b.tar").write_bytes(content)
    with pytest.raises(UnreadableInput, match=r"b\.tar"):
        other.import_bundle(tmp_path / "b.tar")


def test_another_tar_is_no_bundle(tmp_path: Path, other: ModelStore) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("readme"))
    with pytest.raises(UnreadableInput, match=r"does not begin with manifest\.json"):
        other.import_bundle(tmp_path / "b.tar")


@pytest.mark.parametrize("kept", [100, 700, 5000, 600_000])
def test_a_truncated_bundle_is_refused(bundle: Path, other: ModelStore, kept: int) -> None:
    bundle.write_bytes(bundle.read_bytes()[:kept])
    with pytest.raises(UnreadableInput):
        other.import_bundle(bundle)
    assert other.versions("tiny") == []


def test_no_file_is_not_found(tmp_path: Path, other: ModelStore) -> None:
    with pytest.raises(NotFound, match="there is no file"):
        other.import_bundle(tmp_path / "none.tar")


def test_a_manifest_too_long_to_be_one_is_not_read(tmp_path: Path, other: ModelStore) -> None:
    with tarfile.open(tmp_path / "b.tar", "w") as tar:
        info = tarfile.TarInfo("manifest.json")
        info.size = 2 << 20
        tar.addfile(info, io.BytesIO(b"\0" * info.size))
    with pytest.raises(UnreadableInput, match="does not begin with"):
        other.import_bundle(tmp_path / "b.tar")
