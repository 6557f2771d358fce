"""Who may call, as the hot path asks it: keys and sessions in memory, kept up to date by the news about them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

from phalanx.contract.keys import KeyRecord
from phalanx.contract.users import Standing
from phalanx.errors import PhalanxError
from phalanx.ports import Broadcast, ChangeFeed, Clock, KeyStore, SessionStore
from phalanx.services.callers.ring import MAX_RECORDS, Ring
from phalanx.telemetry import Log

POLL_S = 2.0
POLL_ALONE_S = 0.5
"""Where no other process can broadcast, a revocation on the command line is read from the feed alone."""
FEED_TIMEOUT_S = 5.0
TOUCH_S = 60.0
CLOSE_TIMEOUT_S = 5.0
KEY, SESSION = "key:", "session:"


class Keyring:
    """Keys by digest and sessions by id, in a `Ring` each, which hear of changes from a broadcast and a change feed.

    The broadcast is quick and may lose messages; after each gap it says so, and then every record is checked before it is
    used again. The feed loses nothing and is read every two seconds, or twice a second where there is no other process to
    broadcast. While neither can be had, a change counts once a record is no longer fresh.

    It also collects when keys were last used, and writes that once a minute.
    """

    def __init__(
        self,
        keys: KeyStore,
        sessions: SessionStore,
        clock: Clock,
        *,
        log: Log,
        on_check: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        """`on_check` is told what became of each look-up in the store: `found`, `unknown` or `unavailable`."""
        self._store = keys
        self._log = log
        self._keys: Ring[KeyRecord] = Ring(keys.find, clock, log=log, on_check=on_check)
        self._sessions: Ring[Standing] = Ring(sessions.standing, clock, log=log, on_check=on_check)
        self._used: dict[str, float] = {}
        self._digests: dict[str, str] = {}
        self._version: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.peek_key = self._keys.peek
        self.find_key = self._keys.find
        self.find_session = self._sessions.find

    def __contains__(self, digest: str) -> bool:
        """Whether there is, or was a while ago, a key of this digest."""
        return digest in self._keys

    async def find_key_by_id(self, key_id: str) -> KeyRecord | None:
        """Return the key of that id as `find_key` would, or None. Raises `Unavailable`. An id's digest never changes."""
        digest = self._digests.get(key_id)
        if digest is None:
            record = await self._store.get(key_id)
            if record is None:
                return None
            if len(self._digests) >= MAX_RECORDS:
                self._digests.clear()
            digest = self._digests[key_id] = record.digest
        return await self.find_key(digest)

    def used(self, key_id: str, at: float) -> None:
        """Note that a key was used, in epoch seconds."""
        self._used[key_id] = at

    def forget(self, subjects: Iterable[str]) -> None:
        """Hear that subjects changed (`key:<digest>`, `session:<id>`): what is known of them counts no longer."""
        subjects = list(subjects)
        self._keys.forget(subject[len(KEY) :] for subject in subjects if subject.startswith(KEY))
        self._sessions.forget(subject[len(SESSION) :] for subject in subjects if subject.startswith(SESSION))

    def distrust(self) -> None:
        """Hear that anything may have changed: everything is checked before it is used again."""
        self._keys.distrust()
        self._sessions.distrust()

    async def start(self, feed: ChangeFeed, broadcast: Broadcast, *, is_shared: bool = False) -> None:
        """Follow the news until `close`; `is_shared` says that other processes publish to this broadcast, too."""
        poll_s = POLL_S if is_shared else POLL_ALONE_S
        self._tasks = [
            asyncio.create_task(self._every(poll_s, lambda: self._listen(broadcast)), name="keyring broadcast"),
            asyncio.create_task(self._every(poll_s, lambda: self.read_feed(feed)), name="keyring feed"),
            asyncio.create_task(self._every(TOUCH_S, self.write_uses), name="keyring uses"),
        ]

    async def close(self) -> None:
        """End all work and write down the last uses. What the store does not take within five seconds is lost."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._keys.close()
        await self._sessions.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await self.write_uses()
        except (PhalanxError, TimeoutError) as error:
            self._log.warning("the last uses of keys were not written", error=type(error).__name__)

    async def read_feed(self, feed: ChangeFeed) -> None:
        """Hear what the feed says since it was read last. Raises `Unavailable`."""
        async with asyncio.timeout(FEED_TIMEOUT_S):
            changes = None if self._version is None else await feed.since(self._version)
            if changes is not None:
                self._version = changes.version
                self.forget(changes.subjects)
                return
            # In this order: what changes in between is distrusted and told again, never missed.
            self._version = await feed.version()
            self.distrust()

    async def write_uses(self) -> None:
        """Write down when keys were last used. Raises `Unavailable`, and keeps them for the next time."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            await self._store.touch(used)
        except BaseException:
            self._used = {**used, **self._used}
            raise

    async def _listen(self, broadcast: Broadcast) -> None:
        async for subjects in broadcast.messages():
            if subjects is None:
                self.distrust()
            else:
                self.forget(subjects)

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        """Do a piece of work again and again. That it fails is logged once, until it succeeds."""
        failing = False
        while True:
            try:
                await work()
                failing = False
            except Exception as error:
                if not failing:
                    self._log.warning("the keyring goes on without its store", error=type(error).__name__)
                failing = True
            await asyncio.sleep(seconds)


class HeardHere:
    """A `Broadcast` whose news this worker's own keyring hears first, also while nobody else can be told."""

    def __init__(self, keyring: Keyring, broadcast: Broadcast) -> None:
        self._keyring = keyring
        self._broadcast = broadcast

    async def publish(self, subjects: Sequence[str]) -> None:
        """Tell this worker, then all others, that subjects changed. Never raises."""
        self._keyring.forget(subjects)
        await self._broadcast.publish(subjects)

    def messages(self) -> AsyncIterator[Sequence[str] | None]:
        """Yield what was broadcast; see the port."""
        return self._broadcast.messages()
