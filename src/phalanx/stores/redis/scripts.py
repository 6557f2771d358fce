"""Lua scripts, and a connection that runs several of them in one round trip."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, NamedTuple

from redis.asyncio import Connection, Redis
from redis.exceptions import NoScriptError, ResponseError

from phalanx.stores.redis.client import redis_failures

ROUND_TRIP_S = 0.4


class Script:
    """A Lua script, which Redis names by its digest."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha1 = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def load_script(name: str) -> Script:
    """Return the script in the file `lua/<name>.lua`."""
    return Script(files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8"))


class ScriptCall(NamedTuple):
    """A script with what it is called with."""

    script: Script
    keys: Sequence[str | bytes]
    args: Sequence[str | bytes | int]


class ScriptConnection:
    """A connection of its own to Redis, on which scripts run in the order in which they are handed in.

    It costs a third less than the client's pipeline, which asks the pool for a connection and measures each command.
    One task at a time may use it. It connects when it is used, and again after a failure, and hands its scripts in.
    """

    def __init__(self, redis: Redis, scripts: Sequence[Script], *, round_trip_s: float = ROUND_TRIP_S) -> None:
        self._pool = redis.connection_pool
        self._scripts = scripts
        self._round_trip_s = round_trip_s
        self._connection: Connection | None = None

    async def run(self, calls: Sequence[ScriptCall]) -> list[Any]:
        """Run scripts and return their answers in order; an answer may be a `ResponseError`.

        Raises `Unavailable` when there are no answers within 0.4 seconds, connecting included. Then any of the scripts
        may have run all the same.
        """
        try:
            with redis_failures():
                async with _patience(self._round_trip_s):
                    answers = await self._ask([_evalsha(call) for call in calls])
                    unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
                    if unknown:
                        # Somebody flushed the scripts; these have not run.
                        await self._hand_in()
                        again = await self._ask([_evalsha(calls[index]) for index in unknown])
                        answers = _replaced(answers, unknown, again)
                    return answers
        except BaseException:
            # Answers may be under way that nobody waits for: they must not be taken for those of later scripts.
            await self.close(nowait=True)
            raise

    async def close(self, *, nowait: bool = False) -> None:
        """Let go of the connection, and wait until its socket is closed unless `nowait`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=nowait)

    async def _hand_in(self) -> None:
        await self._ask([("SCRIPT", "LOAD", script.text) for script in self._scripts])

    async def _ask(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
            # The round trip has a limit; another one for each write and read would cost a task and two timers.
            connection.socket_timeout = None
            await connection.connect()
            await self._hand_in()
        packed = b"".join(part for command in commands for part in connection.pack_command(*command))
        await connection.send_packed_command(packed, check_health=False)
        return [await _answer(connection) for _ in commands]


@asynccontextmanager
async def _patience(seconds: float) -> AsyncIterator[None]:
    """Raise TimeoutError when the body takes longer.

    The limit comes in two halves, so that an event loop that was itself held up looks at the socket before it gives up.
    """
    loop = asyncio.get_running_loop()
    half = seconds / 2
    async with asyncio.timeout(None) as limit:
        timer = loop.call_later(half, lambda: limit.reschedule(loop.time() + half))
        try:
            yield
        finally:
            timer.cancel()


def _evalsha(call: ScriptCall) -> tuple[Any, ...]:
    return ("EVALSHA", call.script.sha1, len(call.keys), *call.keys, *call.args)


async def _answer(connection: Connection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def _replaced(answers: Sequence[Any], indexes: Sequence[int], others: Sequence[Any]) -> list[Any]:
    found = dict(zip(indexes, others, strict=True))
    return [found.get(index, answer) for index, answer in enumerate(answers)]
