"""Which workers live, for those of one process."""

from __future__ import annotations

from phalanx.ports import Clock

ALIVE_S = 10.0


class MemoryWorkers:
    """`Workers` in a dictionary. One that has not beaten for `alive_s` (seconds) is taken for dead."""

    def __init__(self, clock: Clock, *, alive_s: float = ALIVE_S) -> None:
        self._clock = clock
        self._alive_s = alive_s
        self._beats: dict[str, float] = {}

    async def beat(self, worker_id: str) -> int:
        """Say that this worker lives and return how many do, this one included."""
        now = self._clock.monotonic()
        self._beats[worker_id] = now
        self._beats = {name: at for name, at in self._beats.items() if now - at < self._alive_s}
        return len(self._beats)

    async def leave(self, worker_id: str) -> None:
        """Say that this worker goes."""
        self._beats.pop(worker_id, None)
