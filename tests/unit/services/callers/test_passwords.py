"""Passwords: what is refused, and hashing off the loop."""

from __future__ import annotations

import asyncio
import threading
import time
import unicodedata
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from people import CHEAP
from phalanx.contract.users import LoginRequest, SignupRequest
from phalanx.errors import InvalidRequest, Overloaded
from phalanx.services.callers.passwords import AT_ONCE, COMMON, MIN_CHARS, OWASP, Passwords, require_strong


def test_a_hash_is_argon2id_with_owasps_parameters_and_a_salt_of_its_own() -> None:
    async def scenario() -> None:
        passwords = Passwords()
        first, second = await passwords.hash("three blind mice"), await passwords.hash("three blind mice")
        assert first.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
        assert first != second
        assert await passwords.verify(first, "three blind mice")
        assert not await passwords.verify(first, "three blind mouse")

    asyncio.run(scenario())


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40), st.text(max_size=40))
def test_a_password_fits_its_own_hash_only(password: str, other: str) -> None:
    async def scenario() -> None:
        passwords = Passwords(CHEAP)
        stored = await passwords.hash(password)
        assert await passwords.verify(stored, password)
        same = unicodedata.normalize("NFKC", other) == unicodedata.normalize("NFKC", password)
        assert await passwords.verify(stored, other) == same

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("typed", "stored"),
    [("Ωmegaåabcdef", "Ωmegaåabcdef"), ("ｆｕｌｌｗｉｄｔｈ!", "fullwidth!"), ("ﬁne passwords", "fine passwords")],
)
def test_how_a_keyboard_composes_a_letter_does_not_matter(typed: str, stored: str) -> None:
    """Unicode's normal form KC."""

    async def scenario() -> None:
        passwords = Passwords(CHEAP)
        assert await passwords.verify(await passwords.hash(stored), typed)

    asyncio.run(scenario())


def test_lone_surrogates_and_nul_are_only_characters() -> None:
    """What a terminal hands on when bytes are no UTF-8."""

    async def scenario() -> None:
        passwords = Passwords(CHEAP)
        stored = await passwords.hash("caf\udce9\0 and more")
        assert await passwords.verify(stored, "caf\udce9\0 and more")
        assert not await passwords.verify(stored, "caf\udce9")

    asyncio.run(scenario())


def test_nobody_has_no_password_and_costs_as_much_as_somebody() -> None:
    """Not even the empty one that the stand-in is made of."""

    async def scenario() -> None:
        passwords = Passwords()
        stored = await passwords.hash("three blind mice")
        assert not await passwords.verify(None, "")

        async def seconds(of: str | None) -> float:
            took = []
            for _ in range(5):
                begun = time.perf_counter()
                await passwords.verify(of, "three blind mouse")
                took.append(time.perf_counter() - begun)
            return min(took)

        somebody, nobody = await seconds(stored), await seconds(None)
        assert 0.5 < nobody / somebody < 2

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "stored", ["", "rubbish", "$argon2id$", "$argon2id$v=19$m=8,t=1,p=1$AAAA$", "$2b$12$abcdefghijklmnopqrstuv", "é"]
)
def test_a_damaged_hash_fits_no_password(stored: str) -> None:
    async def scenario() -> None:
        assert not await Passwords(CHEAP).verify(stored, "three blind mice")

    asyncio.run(scenario())


def test_a_hash_of_other_parameters_is_outdated_and_still_verifies() -> None:
    async def scenario() -> None:
        former, today = Passwords(CHEAP), Passwords(replace(CHEAP, time_cost=2))
        stored = await former.hash("three blind mice")
        assert today.is_outdated(stored)
        assert not former.is_outdated(stored)
        assert await today.verify(stored, "three blind mice")

    asyncio.run(scenario())


def test_two_are_hashed_at_a_time_off_the_loop_and_the_rest_waits_up_to_a_bound() -> None:
    """Past it 503 that says when to come back, and once there is room again the next is let in."""

    async def scenario() -> None:
        passwords = Passwords(CHEAP, max_waiting=3)
        held, under_way = threading.Event(), []

        def hash_slowly(_password: bytes) -> str:
            under_way.append(threading.current_thread().name)
            held.wait(10)
            return "hash"

        passwords._hasher = SimpleNamespace(hash=hash_slowly)  # type: ignore[assignment]
        tasks = [asyncio.create_task(passwords.hash("a")) for _ in range(AT_ONCE + 3)]
        await asyncio.sleep(0.05)
        assert len(under_way) == AT_ONCE
        assert all(name.startswith("passwords") for name in under_way)
        with pytest.raises(Overloaded) as refused:
            await passwords.hash("a")
        assert refused.value.retry_after_s
        held.set()
        assert await asyncio.gather(*tasks) == ["hash"] * 5
        assert await passwords.hash("a") == "hash"

    asyncio.run(scenario())


def test_who_leaves_while_waiting_makes_room() -> None:
    async def scenario() -> None:
        passwords = Passwords(CHEAP, max_waiting=1)
        held = threading.Event()
        passwords._hasher = SimpleNamespace(hash=lambda _: held.wait(10) and "hash")  # type: ignore[assignment]
        tasks = [asyncio.create_task(passwords.hash("a")) for _ in range(AT_ONCE + 1)]
        await asyncio.sleep(0.02)
        tasks[-1].cancel()
        await asyncio.sleep(0)
        late = asyncio.create_task(passwords.hash("a"))
        await asyncio.sleep(0.02)
        held.set()
        assert await late == "hash"
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "password",
    ["", "short", "123456789", "1234567890", "Password123", "PASSWORD1234", "qwertyuiop", "aaaaaaaaaaaaaaaa", "          ",
     "ann@example.org", "Ann@Example.org", "ＡＮＮ@example.org", "ｐａｓｓｗｏｒｄ123"],
)  # fmt: skip
def test_a_weak_password_is_refused_with_its_field(password: str) -> None:
    """Too short, common, one character, the email; however it is written."""
    with pytest.raises(InvalidRequest) as refused:
        require_strong(password, email="ann@example.org", param="new_password")
    assert refused.value.param == "new_password"
    assert not password or password not in refused.value.detail


def test_the_name_in_an_email_is_no_password() -> None:
    with pytest.raises(InvalidRequest):
        require_strong("bartholomew", email="Bartholomew@example.org")


@pytest.mark.parametrize(
    "password", ["three blind mice", "日本語のパスワードです", "0" * 9 + "1", "a" * 1023 + "b", "nocapitalsnodigits"]
)
def test_length_is_what_counts(password: str) -> None:
    """No rules of composition (NIST SP 800-63B)."""
    require_strong(password, email="ann@example.org")


def test_the_common_ones_are_those_that_length_would_let_through() -> None:
    assert all(len(word) >= MIN_CHARS and word == word.casefold() for word in COMMON)
    assert (OWASP.memory_cost, OWASP.time_cost, OWASP.parallelism) == (19 * 1024, 2, 1)


@pytest.mark.parametrize("request_type", [SignupRequest, LoginRequest])
@pytest.mark.parametrize("fields", [{"password": "x" * 2**20}, {"password": ""}, {"email": "nobody"}, {"email": "a b@c"}, {"email": "a@b@c"}, {"email": "a\0@b.org"}, {"email": "a" * 250 + "@b.org"}, {"email": "@b"}])  # fmt: skip
def test_what_is_no_email_or_no_password_does_not_decode(request_type: type, fields: dict[str, str]) -> None:
    """A password of 1 MB is refused before it is hashed."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"email": "ann@example.org", "password": "three blind mice", **fields}, request_type)
