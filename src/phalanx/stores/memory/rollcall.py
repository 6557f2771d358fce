"""What the workers of one process say of what they do together."""

from __future__ import annotations

from phalanx.ports import Clock

ALIVE_S = 10.0


class MemoryRollcall:
    """`Rollcall` in a dictionary. One that has said nothing for `alive_s` (seconds) is taken for dead."""

    def __init__(self, clock: Clock, *, alive_s: float = ALIVE_S) -> None:
        self._clock = clock
        self._alive_s = alive_s
        self._words: dict[str, dict[str, tuple[float, str]]] = {}

    async def say(self, matter: str, worker_id: str, word: str) -> dict[str, str]:
        """Say one's word and return everyone's."""
        now = self._clock.monotonic()
        words = self._words.get(matter, {}) | {worker_id: (now, word)}
        self._words[matter] = {name: said for name, said in words.items() if now - said[0] < self._alive_s}
        return {name: word for name, (_, word) in self._words[matter].items()}

    async def leave(self, matter: str, worker_id: str) -> None:
        """Have no word any more."""
        self._words.get(matter, {}).pop(worker_id, None)
