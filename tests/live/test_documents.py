"""What the documents show as a session in a shell is run as it stands, and answers what they say."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from pictures import astronaut, saved
from servers.worker import PHALANX, WorkerProcess

REPOSITORY = Path(__file__).parents[2]
FENCE = re.compile(r"^```console\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")
SCOPES = ("text", "images", "faces", "vectors", "jobs", "usage")


class Example(NamedTuple):
    """A command, and what the document shows of its output: nothing, or lines in which … stands for anything."""

    command: str
    shown: str


def examples(path: Path) -> list[Example]:
    """Return the commands of a document's fenced `console` blocks; those with … in them are the reader's to fill in."""
    found = []
    for block in FENCE.findall(path.read_text()):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            lines = part.splitlines()
            # A command goes on while the shell would ask for more.
            end = next(
                at for at in range(1, len(lines) + 1) if not lines[at - 1].endswith("\\") and is_whole(lines[:at])
            )
            found.append(Example("\n".join(lines[:end]), "\n".join(lines[end:])))
    return [one for one in found if "…" not in one.command]


def is_whole(lines: list[str]) -> bool:
    """Whether the shell can read this to its end."""
    return subprocess.run(["bash", "-n", "-c", "\n".join(lines)], capture_output=True, check=False).returncode == 0


def differs(shown: str, said: str) -> str:
    """Return what of an output is not as it is shown, or nothing: numbers with a point may be 2 % or 0.02 off."""
    shown, said = (re.sub(r"[ \t]+", " ", re.sub(r"\s*\n\s*", "", text.strip())) for text in (shown, said))
    numbers = NUMBER.findall(shown)
    pattern = r"(-?\d+(?:\.\d+)?(?:e-?\d+)?)".join(
        ".*?".join(map(re.escape, part.split("…"))) for part in NUMBER.split(shown)
    )
    match = re.fullmatch(pattern, said, re.S)
    if match is None:
        return f"shown: {shown}\nsaid:  {said[:4000]}"
    for number, answered in zip(numbers, match.groups(), strict=True):
        value, off = float(number), abs(float(number) - float(answered))
        if off > (0.02 + 0.02 * abs(value) if "." in number else 0):
            return f"shown {number}, said {answered}"
    return ""


@pytest.fixture(scope="module")
def worker(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WorkerProcess]:
    """A worker with all models and both edges."""
    worker = WorkerProcess(tmp_path_factory.mktemp("documents"), models_dir, {"GRPC_PORT": "0"})
    worker.wait_ready()
    yield worker
    assert worker.stop() == 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the documents suppose in the folder where they are read."""
    portrait = saved(astronaut(), "JPEG", quality=92)
    for name in ("photo.jpg", "door.jpg", "photos/1.jpg", "people/eileen/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(portrait)
    (tmp_path / "password.txt").write_text("four words and more")
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    return tmp_path


@pytest.mark.parametrize(
    "document",
    [
        path
        for path in (REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/*.md")))
        if FENCE.search(path.read_text())
    ],
    ids=lambda path: path.stem,
)
def test_what_a_document_shows_is_so(document: Path, worker: WorkerProcess, folder: Path) -> None:
    """Each as an organisation of its own."""
    key = worker.key(f"{document.stem.lower()}@example.org", scopes=SCOPES)
    (folder / "key.txt").write_text(key)
    environ = {
        **worker.environ, "PHALANX_URL": worker.url, "PHALANX_KEY": key,
        "PATH": f"{Path(PHALANX).parent}:{worker.environ['PATH']}",
    }  # fmt: skip
    grpc_port = worker.wait_for_line("listening")["grpc_port"]
    shown = examples(document)
    assert shown
    for command, output in shown:
        words = re.sub(r"\bcurl ", "curl -sS ", command).replace("localhost:9000", f"localhost:{grpc_port}")
        done = subprocess.run(
            ["bash", "-c", words], env=environ, cwd=folder, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, f"$ {command}\n{done.stderr}"
        assert '"code":' not in done.stdout, f"$ {command}\n{done.stdout}"
        if output:
            said = done.stdout.strip() or done.stderr.strip().splitlines()[-1]
            assert not (wrong := differs(output, said)), f"$ {command}\n{wrong}\n{done.stderr}"


@pytest.mark.parametrize(
    ("shown", "said", "is_same"),
    [
        ('{"a":0.5,…}', '{"a":0.505,"b":1}', True),
        ('{"a":0.5,…}', '{"a":0.6,"b":1}', False),
        ('{"a":5,…}', '{"a":6,"b":1}', False),
        ("two\n  lines", "twolines\n", True),
        ("all of it", "all of it, and more", False),
    ],
)
def test_outputs_are_compared(shown: str, said: str, is_same: bool) -> None:
    assert (differs(shown, said) == "") is is_same
