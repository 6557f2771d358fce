"""Supervisors of fake workers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from phalanx.supervisor.supervisor import Patience
from unit.supervisor.fakes import WORKER, Fleet, MakeFleet


@pytest.fixture
def fleet(tmp_path: Path) -> MakeFleet:
    """Make a supervisor of fake workers, or of another command."""

    def make(workers: int = 2, *, command: Sequence[str] = (), **patience: Any) -> Fleet:
        chosen = Patience(**{"first_pause_s": 0.02, "longest_pause_s": 0.1, "drain_s": 10.0, **patience})
        return Fleet(tmp_path, workers, chosen, command or [sys.executable, str(WORKER), str(tmp_path)])

    return make
