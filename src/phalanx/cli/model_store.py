"""What the commands about models share: the store that is meant, and how transfers are shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from phalanx.models.catalogue import Source
from phalanx.models.progress import Progress
from phalanx.models.sources import Access
from phalanx.models.store import ModelStore
from phalanx.models.version import Version
from phalanx.settings import Settings, load

Name = Annotated[str, typer.Argument(help="Catalogue name or hub id, for example all-MiniLM-L6-v2.")]


@dataclass(frozen=True)
class StoreOptions:
    """Where the store is, and how its sources are reached."""

    root: Path
    access: Access

    @classmethod
    def of(cls, settings: Settings) -> StoreOptions:
        """Return what the settings say."""
        access = Access(hub_endpoint=settings.hf_endpoint, hub_token=settings.hf_token or None)
        return cls(settings.models_dir, access)

    def open(self) -> ModelStore:
        """Return the store."""
        return ModelStore(self.root, access=self.access)


def open_store(context: typer.Context) -> ModelStore:
    """Open the store of the `StoreOptions` in `context.obj`, else of the settings. Raises `SettingsError`."""
    options = context.obj or StoreOptions.of(load().settings)
    assert isinstance(options, StoreOptions), "the root command sets a StoreOptions or nothing"
    return options.open()


def pull_model(settings: Settings, name: str) -> Version:
    """Pull a model as `phalanx models pull` does, licence and progress on standard error."""
    return pull_into(StoreOptions.of(settings).open(), name)


def pull_into(store: ModelStore, name: str, *, force: bool = False, source: Source | None = None) -> Version:
    """Pull a model into a store, from all its sources or one."""
    licence = store.catalogue.get(name).licence
    with listening() as progress:
        progress.note(f"licence: {licence.spdx} ({licence.url}). {licence.notice}")
        return store.pull(name, progress=progress, force=force, source=source)


@contextmanager
def listening() -> Iterator[Progress]:
    """Show transfers on standard error: bars on a terminal, else a line for each file."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as bars:
        yield _TerminalBars(bars)


class _TerminalBars:
    def __init__(self, bars: Bars) -> None:
        self._bars = bars
        self._task = TaskID(-1)

    def note(self, message: str) -> None:
        self._bars.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def start(self, file: str, total_bytes: int | None) -> None:
        self._task = self._bars.add_task(file.replace("[", "\\["), total=total_bytes)

    def advance(self, count: int) -> None:
        self._bars.advance(self._task, count)

    def finish(self) -> None:
        self._bars.stop_task(self._task)


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._file = ""
        self._received = 0

    def note(self, message: str) -> None:
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def start(self, file: str, total_bytes: int | None) -> None:
        self._file, self._received = file, 0

    def advance(self, count: int) -> None:
        self._received += count

    def finish(self) -> None:
        self.note(f"{self._file}: {self._received:,} bytes")
