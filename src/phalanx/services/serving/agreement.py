"""Changes that all workers make together: none before the last is ready for it, and none if one of them is not able to."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from phalanx.errors import Unavailable
from phalanx.ports import Rollcall
from phalanx.telemetry import Log

BEAT_S = 2.0
"""Seconds between two words of a worker; it is taken for dead after ten."""
ASK_S = 0.25
"""Seconds between two looks at whether the others are ready."""
UNAWARE_S = 60.0
"""For how long to wait for workers that do not even begin: they may have a store of their own that nobody changed."""
LOADING_S = 600.0
"""For how long to wait for workers that are loading."""


class Agreement:
    """What this worker serves, loads, has warm or refuses of each model, and what the others do.

    `plan` is a text that names the versions with their weights. A worker that dies is waited for no more after ten
    seconds. While Redis is lost, a change is made after a minute without it.
    """

    def __init__(
        self,
        rollcall: Rollcall,
        worker_id: str,
        *,
        log: Log,
        unaware_s: float = UNAWARE_S,
        loading_s: float = LOADING_S,
        beat_s: float = BEAT_S,
        ask_s: float = ASK_S,
    ) -> None:
        self._rollcall = rollcall
        self._worker_id = worker_id
        self._log = log
        self._unaware_s = unaware_s
        self._loading_s = loading_s
        self._beat_s = beat_s
        self._ask_s = ask_s
        self._words: dict[str, str] = {}

    async def beat(self) -> None:
        """Say one's words again and again, until cancelled."""
        while True:
            for model, word in list(self._words.items()):
                with suppress(Unavailable):
                    await self._rollcall.say(model, self._worker_id, word)
            await asyncio.sleep(self._beat_s)

    async def serves(self, model: str, plan: str) -> None:
        """Tell the others what serves here."""
        await self._say(model, f"serves {plan}")

    async def loads(self, model: str, plan: str) -> None:
        """Tell the others to wait."""
        await self._say(model, f"loads {plan}")

    async def refuses(self, model: str, plan: str, reason: str) -> None:
        """Tell the others that this worker cannot."""
        await self._say(model, f"refuses {plan}: {reason}")

    async def reach(self, model: str, plan: str) -> str | None:
        """Return None once every worker has a plan warm or serves it already, or why one of them cannot.

        Those that do not even load it are waited for up to `unaware_s`, those that do up to `loading_s`.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            words = await self._say(model, f"warm {plan}")
            if refusals := [word for word in words.values() if word.startswith(f"refuses {plan}: ")]:
                return f"another worker could not: {refusals[0].partition(': ')[2]}"
            late = [name for name, word in words.items() if word not in (f"warm {plan}", f"serves {plan}")]
            if words and not late:
                return None
            is_loading = f"loads {plan}" in words.values()
            if loop.time() - began > (self._loading_s if is_loading else self._unaware_s):
                self._log.warning("model swapped before all workers have it", model=model, late=late)
                return None
            await asyncio.sleep(self._ask_s)

    async def close(self) -> None:
        """Be waited for no more."""
        for model in self._words:
            await self._rollcall.leave(model, self._worker_id)
        self._words.clear()

    async def _say(self, model: str, word: str) -> dict[str, str]:
        """Say a word and return everyone's; nothing while it cannot be said."""
        self._words[model] = word
        try:
            return await self._rollcall.say(model, self._worker_id, word)
        except Unavailable:
            return {}
