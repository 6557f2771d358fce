"""`phalanx serve` with models that take ten minutes to load, in a thread that nobody can stop."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import phalanx.services.serving.rollouts as rollouts
from phalanx.cli import main


def sleep_long() -> None:
    """Compute for ten minutes."""
    time.sleep(600)


async def _load_for_long(*_: Any) -> str:
    print('{"event": "loading"}', flush=True)  # noqa: T201
    await asyncio.to_thread(sleep_long)
    return "never"


if __name__ == "__main__":
    vars(rollouts)["Rollouts"]._try = _load_for_long
    sys.argv = ["phalanx", "serve"]
    main()
