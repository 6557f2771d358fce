"""Passwords: what is too weak, and hashing by Argon2id off the event loop."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import Parameters, PasswordHasher, Type
from argon2.exceptions import Argon2Error

from phalanx.errors import InvalidRequest, Overloaded

T = TypeVar("T")

MIN_CHARS = 10
AT_ONCE = 2
MAX_WAITING = 32
RETRY_AFTER_S = 2.0

OWASP = Parameters(
    type=Type.ID, version=19, salt_len=16, hash_len=32, time_cost=2, memory_cost=19 * 1024, parallelism=1
)
"""Argon2id with 19 MiB, two passes, one lane: from the OWASP Password Storage Cheat Sheet. 25 ms on one core; a worker
that computes beside it on two cores would feel the 64 MiB and four lanes of RFC 9106's second choice."""

MOST_COMMON = """
0123456789 0987654321 1111111111 1122334455 1212121212 123123123123 1234512345 123456123456 1234567890
12345678900 12345678901 12345678910 123456789a 123456789q 1234567891 123456789123 1234qwerasdf 1q2w3e4r5t
1q2w3e4r5t6y 1qaz2wsx3edc 9876543210 a123456789 aa12345678 abc123456789 abcd123456 abcdefghij administrator
adminadmin adminadmin123 asdfghjkl1 asdfghjkl123 baseball123 basketball changeme123 charlie123 chocolate1
computer123 correcthorsebatterystaple dragon12345 football123 iloveyou12 iloveyou123 letmein123 letmein1234
letmeinplease liverpool1 manchester master12345 michael123 monkey12345 passw0rd123 password01 password10
password11 password12 password123 password1234 password12345 password123! password1! password2024 password2025
passwordpassword princess123 q1w2e3r4t5 q1w2e3r4t5y6 qazwsxedcrfv qwer123456 qwerty12345 qwerty123456
qwerty1234 qwertyqwerty qwertyuiop qwertyuiop123 qwertyuiop[] secret1234 sunshine123 superman123 testtest123
trustno1trustno1 welcome123 welcome1234 welcome12345 zaq12wsxcde3 zxcvbnm123
"""
COMMON = frozenset(MOST_COMMON.split())
"""Those of the most common passwords that are long enough; in lower case."""


class Passwords:
    """Hashes and verifies passwords, at most two at a time, in threads; a few dozen more may wait.

    Passwords are compared in Unicode's normal form KC, so that it does not matter how a keyboard composes a letter.
    """

    def __init__(self, parameters: Parameters = OWASP, *, max_waiting: int = MAX_WAITING) -> None:
        self._hasher = PasswordHasher.from_parameters(parameters)
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="passwords")
        self._room = AT_ONCE + max_waiting
        self._under_way = 0
        self._nobody: str | None = None

    async def hash(self, password: str) -> str:
        """Return the hash to store, in the PHC string format, with a salt of its own. Raises `Overloaded`."""
        return await self._in_thread(lambda: self._hasher.hash(_normal(password)))

    async def verify(self, stored: str | None, password: str) -> bool:
        """Whether a password is the one that `stored` is the hash of. Raises `Overloaded`.

        None stands for a user that there is not: never true, and no sooner known than a wrong password.
        """
        return await self._in_thread(lambda: self._matches(stored, _normal(password)))

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        """Drop what waits; what is being hashed ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _matches(self, stored: str | None, password: bytes) -> bool:
        if self._nobody is None:
            # Made by the first call, whoever it is for, rather than by every start of a process.
            self._nobody = self._hasher.hash(b"")
        try:
            return self._hasher.verify(stored or self._nobody, password) and stored is not None
        except (Argon2Error, ValueError):
            return False

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self._under_way >= self._room:
            raise Overloaded("too many passwords are being checked", retry_after_s=RETRY_AFTER_S)
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._under_way -= 1


def require_strong(password: str, *, email: str, param: str = "password") -> None:
    """Raise `InvalidRequest` for a password that is too short, very common or made of the email.

    After NIST SP 800-63B §5.1.1.2: length counts, and what attackers try first is refused; no rules of composition.
    """
    text = _normal(password).decode("utf-8", "replace").casefold()
    if len(text) < MIN_CHARS:
        raise InvalidRequest(f"a password has {MIN_CHARS} characters or more; this one has {len(text)}", param=param)
    address = email.casefold()
    if text in (address, address.split("@")[0]):
        raise InvalidRequest("the password is the email address; choose another", param=param)
    if text in COMMON or len(set(text)) == 1:
        raise InvalidRequest("the password is one of the most common; choose another", param=param)


def _normal(password: str) -> bytes:
    return unicodedata.normalize("NFKC", password).encode("utf-8", "surrogatepass")
