"""`phalanx models`, as typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from hub import Hub, make_catalogue, make_entry, write_files
from phalanx.cli.model_store import StoreOptions, listening, pull_model
from phalanx.cli.models import app
from phalanx.errors import Conflict, InvalidRequest, ModelNotFound, Unavailable, UpstreamFailed
from phalanx.models.catalogue import FileSource
from phalanx.models.sources import Access
from phalanx.models.store import ModelStore
from phalanx.settings import Settings

NAME = "all-MiniLM-L6-v2"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with one model, two versions of it, that no catalogue knows."""
    folder = tmp_path / "models"
    share = FileSource(path=str(write_files(tmp_path / "share")))
    store = ModelStore(folder, catalogue=make_catalogue(make_entry([share])))
    version = store.pull("tiny").version
    store.add_variant("tiny", version, "int8", {"model.onnx": write_files(tmp_path, {"q": b"int8"}) / "q"})
    return folder


def run(root: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["--model-dir", str(root), *words])


def said(result: Result) -> str:
    assert result.exit_code == 0, result.exception
    return result.stdout


def versions(root: Path) -> tuple[str, str]:
    models = json.loads(said(run(root, "list", "--json")))
    first, second = next(model["versions"] for model in models if model["name"] == "tiny")
    return first["version"], second["version"]


def test_list_shows_what_is_catalogued_what_is_here_and_what_is_active(root: Path) -> None:
    first, second = versions(root)
    table = said(run(root, "list"))
    for word in (NAME, "not pulled", "Apache-2.0", "tiny", f"* {first}", f"  {second}", "CC0-1.0"):
        assert word in table
    by_name = {model["name"]: model for model in json.loads(said(run(root, "list", "--json")))}
    known, tiny = by_name[NAME], by_name["tiny"]
    assert (known["name"], known["dimensions"], known["catalogue_version"]) == (NAME, 384, "53aa51172d14")
    assert known["aliases"] == [f"sentence-transformers/{NAME}", "all-minilm"]
    assert (known["versions"], known["active"]) == ([], {})
    assert tiny["active"] == {first: 1.0}
    assert tiny["versions"][1]["variant_of"] == first


def test_verify_reads_all_files_and_fails_on_a_damaged_one(root: Path) -> None:
    first, second = versions(root)
    assert said(run(root, "verify")).count(" ok\n") == 4
    assert said(run(root, "verify", "tiny", "--version", second)).count(" ok\n") == 2
    (root / "tiny" / first / "config.json").write_bytes(b"!")
    damaged = run(root, "verify", "tiny")
    assert damaged.exit_code == 1
    assert f"tiny {first} config.json has 1 bytes, not 22" in damaged.stdout
    as_json = run(root, "verify", "--json")
    assert as_json.exit_code == 1
    assert [one["file"] for one in json.loads(as_json.stdout) if one["problem"]] == ["config.json"]


def test_activate_rollback_and_rm(root: Path) -> None:
    first, second = versions(root)
    assert said(run(root, "activate", "tiny", second)) == f"tiny {second} is active\n"
    assert said(run(root, "rollback", "tiny")) == f"tiny {first} is active\n"
    assert isinstance(run(root, "rm", "tiny", first).exception, Conflict)
    assert said(run(root, "rm", "tiny", second)) == f"tiny {second} is removed\n"
    assert said(run(root, "rm", "tiny", first, "--force")) == f"tiny {first} is removed\n"
    assert not (root / "tiny" / first).exists()


def test_export_and_import(root: Path, tmp_path: Path) -> None:
    first, _ = versions(root)
    written = run(root, "export", "tiny", str(tmp_path))
    assert said(written) == f"{tmp_path / f'tiny-{first}.tar'}\n"
    assert "model.safetensors: 1,024,000 bytes" in written.stderr
    assert said(run(tmp_path / "other", "import", written.stdout.strip())) == f"tiny {first} is ready\n"
    assert (tmp_path / "other" / "tiny" / first / "config.json").is_file()


def test_pull_shows_the_licence_and_asks_the_source_that_is_given(tmp_path: Path, hub: Hub) -> None:
    result = run(tmp_path, "pull", f"sentence-transformers/{NAME}", "--from", f"{hub.endpoint}/nothing")
    assert isinstance(result.exception, UpstreamFailed)
    assert "licence: Apache-2.0 (https://" in result.stderr
    assert [one.path for one in hub.asked] == ["/nothing/model.safetensors"]


@pytest.mark.parametrize(
    ("words", "error", "told"),
    [
        (["pull", "nothing"], ModelNotFound, "there is no model 'nothing'"),
        (["pull", NAME, "--from", "zzz:1"], InvalidRequest, "write hf:REPOSITORY@REVISION"),
        (["export", NAME, "x.tar"], Unavailable, f"run: phalanx models pull {NAME}"),
        (["rollback", NAME], Conflict, "no earlier active version"),
    ],
)
def test_errors_name_what_to_do(root: Path, words: list[str], error: type[Exception], told: str) -> None:
    result = run(root, *words)
    assert result.exit_code == 1
    assert isinstance(result.exception, error)
    assert told in str(result.exception)


@pytest.mark.parametrize("command", ["list", "pull", "verify", "activate", "rollback", "rm", "export", "import"])
def test_help_has_an_example(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert f"phalanx models {command}" in " ".join(result.stdout.split())


def test_the_root_command_can_set_the_store(root: Path) -> None:
    outer = typer.Typer()
    outer.add_typer(app, name="models")

    @outer.callback()
    def choose(context: typer.Context) -> None:
        context.obj = StoreOptions(root, Access())

    assert "tiny" in said(CliRunner().invoke(outer, ["models", "list"]))


def test_settings_say_where_the_store_and_the_hub_are(tmp_path: Path) -> None:
    settings = Settings(model_dir=tmp_path, hf_endpoint="https://mirror.example.org")
    options = StoreOptions.of(settings)
    assert (options.root, options.access.hub_endpoint, options.access.hub_token) == (
        tmp_path,
        "https://mirror.example.org",
        None,
    )
    with pytest.raises(ModelNotFound):
        pull_model(settings, "nothing")


def test_a_terminal_gets_bars(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Console, "is_terminal", True)
    with listening() as progress:
        progress.start("[odd] name", 100)
        progress.advance(100)
        progress.finish()
        progress.note("one [note]")
    shown = capsys.readouterr().err
    assert "[odd] name" in shown
    assert "100/100 bytes" in shown
    assert "one [note]" in shown


def test_several_versions_share_the_callers_by_weight(root: Path) -> None:
    first, second = versions(root)
    shown = said(run(root, "activate", "tiny", f"{first}=90", f"{second}=10"))
    assert shown.splitlines() == [f"tiny {first} has 0.9 of the callers", f"tiny {second} has 0.1 of the callers"]
    store = ModelStore(root)
    assert [(one.version.version, one.weight) for one in store.active_versions("tiny")] == [(first, 90), (second, 10)]
    assert store.active("tiny").version == first
    listed = said(run(root, "list"))
    assert f"* {first} 90%" in listed
    assert "10%" in listed
    assert said(run(root, "rollback", "tiny")) == f"tiny {first} is active\n"
    assert len(store.active_versions("tiny")) == 1


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["{0}", "{1}"], "has no weight"),
        (["{0}=90", "{0}=10"], "named twice"),
        (["{0}=many", "{1}=10"], "'many' is no weight"),
        (["{0}=0", "{1}=10"], "must be more than 0"),
        (["{0}=nan", "{1}=10"], "must be more than 0"),
        (["{0}=-1"], "must be more than 0"),
    ],
)
def test_weights_that_mean_nothing_are_refused(root: Path, words: list[str], problem: str) -> None:
    before = ModelStore(root).pointer("tiny")
    result = run(root, "activate", "tiny", *(word.format(*versions(root)) for word in words))
    assert isinstance(result.exception, InvalidRequest)
    assert problem in str(result.exception)
    assert ModelStore(root).pointer("tiny") == before


def test_one_damaged_version_of_several_is_refused(root: Path) -> None:
    first, second = versions(root)
    (root / "tiny" / second / "model.onnx").write_bytes(b"else")
    result = run(root, "activate", "tiny", f"{first}=1", f"{second}=1")
    assert isinstance(result.exception, Conflict)
    assert len(ModelStore(root).active_versions("tiny")) == 1


def test_a_change_of_the_pointer_changes_its_mark(root: Path) -> None:
    first, second = versions(root)
    store = ModelStore(root)
    marks = store.pointer_marks()
    assert marks.keys() == {"tiny"}
    assert store.pointer_marks() == marks
    store.activate_shares("tiny", {first: 1, second: 2})
    assert store.pointer_marks() != marks
