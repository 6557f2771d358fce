"""API keys: their text, and who may do what with them."""

from __future__ import annotations

import asyncio
import hashlib
import string
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from people import STAFF, People
from phalanx.contract.keys import CreateKeyRequest, ListKeysRequest, RevokeKeyRequest, RotateKeyRequest
from phalanx.errors import Conflict, Forbidden, InvalidRequest, NotFound
from phalanx.services.callers.keys import is_well_formed, key_digest, new_key_text
from phalanx.services.ticket import Caller


def test_a_new_key_has_the_wires_form() -> None:
    """Prefix, 43 base62 characters, 6 of checksum."""
    text = new_key_text("fe_")
    assert len(text) == 3 + 43 + 6
    assert set(text[3:]) <= set(string.ascii_letters + string.digits)
    assert is_well_formed(text, "fe_")


def test_keys_differ() -> None:
    """256 random bits."""
    assert len({new_key_text("fe_") for _ in range(1000)}) == 1000


def test_the_checksum_is_crc32_in_base62() -> None:
    """A value computed by hand: digits 0-9, A-Z, a-z, zero-padded, over prefix and body."""
    body = "fe_" + "A" * 43
    number, expected = zlib.crc32(body.encode()), ""
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    while number:
        number, digit = divmod(number, 62)
        expected = digits[digit] + expected
    assert is_well_formed(body + expected.rjust(6, "0"), "fe_")


@given(st.integers(0, 51), st.sampled_from(string.ascii_letters + string.digits))
def test_one_wrong_character_is_noticed(position: int, character: str) -> None:
    """A typing error does not reach the store."""
    text = new_key_text("fe_")
    wrong = text[:position] + character + text[position + 1 :]
    assert is_well_formed(wrong, "fe_") == (wrong == text)


@given(st.text(max_size=80))
def test_any_other_text_is_refused(text: str) -> None:
    """Whatever it is made of."""
    assert not is_well_formed(text, "fe_")


def test_another_prefix_is_refused() -> None:
    """Keys of another installation."""
    assert not is_well_formed(new_key_text("sk_"), "fe_")


@pytest.mark.parametrize("text", ["a", "fe_x", "\ud800"])
def test_the_digest_is_sha256(text: str) -> None:
    """Of the whole text, lone surrogates too."""
    assert key_digest(text) == hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class TestKeyService:
    """Who makes, sees, replaces and ends which keys."""

    def test_an_operators_key_belongs_to_the_organisation_named_as_its_email(self) -> None:
        """Which is made at need, and only then."""

        async def scenario() -> None:
            people = People()
            for tier, name in (("pro", "one"), (None, "two"), ("scale", "three")):
                request = CreateKeyRequest(email="Ann@Example.org", name=name, tier=tier)  # type: ignore[arg-type]
                made = await people.keys.create(people.ticket(STAFF), request)
                assert made.record.organisation == "ann@example.org"
                assert made.record.tier == (tier or "pro")
                assert is_well_formed(made.key, "fe_")
                stored = await people.key_store.find(key_digest(made.key))
                assert stored is not None
                assert stored.id == made.record.id
            assert people.directory.organisations["ann@example.org"].tier == "pro"
            assert len(people.directory.organisations) == 1

        asyncio.run(scenario())

    def test_an_operator_may_name_the_organisation(self) -> None:
        async def scenario() -> None:
            people = People()
            ann = await people.join("ann@example.org")
            request = CreateKeyRequest(email="ann@example.org", organisation=ann.caller.organisation)
            made = await people.keys.create(people.ticket(STAFF), request)
            assert (made.record.organisation, made.record.tier) == (ann.caller.organisation, "free")
            request = CreateKeyRequest(email="ann@example.org", organisation="none")
            with pytest.raises(NotFound):
                await people.keys.create(people.ticket(STAFF), request)

        asyncio.run(scenario())

    def test_a_user_makes_keys_of_their_organisation_and_tier_only(self) -> None:
        async def scenario() -> None:
            people = People()
            ann, bob = await people.join("ann@example.org"), await people.join("bob@example.org")
            wanted = CreateKeyRequest(email="bob@example.org", organisation=bob.caller.organisation)
            made = await people.keys.create(ann, wanted)
            assert (made.record.organisation, made.record.tier) == (ann.caller.organisation, "free")
            for fields in {"tier": "scale"}, {"scopes": ("admin",)}:
                with pytest.raises(Forbidden):
                    await people.keys.create(ann, CreateKeyRequest(email="ann@example.org", **fields))
            with pytest.raises(NotFound):
                await people.keys.revoke(bob, RevokeKeyRequest(id=made.record.id))
            with pytest.raises(NotFound):
                await people.keys.rotate(bob, RotateKeyRequest(id=made.record.id))
            assert (await people.keys.list(bob, ListKeysRequest(organisation=ann.caller.organisation))).keys == []
            assert len((await people.keys.list(ann, ListKeysRequest())).keys) == 1

        asyncio.run(scenario())

    def test_a_key_is_the_callers_own_unless_somebody_is_named(self) -> None:
        async def scenario() -> None:
            people = People()
            ann, boss = await people.join("ann@example.org"), await people.join("boss@example.org")
            made = (await people.keys.create(ann, CreateKeyRequest(name="laptop"))).record
            assert (made.email, made.organisation) == ("ann@example.org", ann.caller.organisation)
            staff = people.ticket(replace(boss.caller, scopes=boss.caller.scopes | {"admin"}))
            own = (await people.keys.create(staff, CreateKeyRequest())).record
            assert (own.email, own.organisation) == ("boss@example.org", boss.caller.organisation)
            theirs = (await people.keys.create(staff, CreateKeyRequest(organisation=ann.caller.organisation))).record
            assert (theirs.email, theirs.organisation) == ("boss@example.org", ann.caller.organisation)
            nobody = people.ticket(replace(boss.caller, email=""))
            with pytest.raises(InvalidRequest, match="whose key"):
                await people.keys.create(nobody, CreateKeyRequest())

        asyncio.run(scenario())

    def test_a_revoked_key_is_told_at_once(self) -> None:
        async def scenario() -> None:
            people = People()
            ann = await people.join("ann@example.org")
            made = await people.keys.create(ann, CreateKeyRequest(email="ann@example.org"))
            people.told.subjects.clear()
            view = await people.keys.revoke(ann, RevokeKeyRequest(id=made.record.id))
            assert view.revoked_at == people.clock.now()
            assert people.told.subjects == [f"key:{key_digest(made.key)}"]
            people.clock.advance(5)
            assert (await people.keys.revoke(ann, RevokeKeyRequest(id=made.record.id))).revoked_at == view.revoked_at

        asyncio.run(scenario())

    @pytest.mark.parametrize("grace", [0, 3600])
    def test_a_rotated_key_goes_on_for_its_grace(self, grace: int) -> None:
        """The new one can do the same, for as long as the old one was to live."""

        async def scenario() -> None:
            people = People()
            ann = await people.join("ann@example.org")
            request = CreateKeyRequest(email="ann@example.org", name="laptop", scopes=("text",), expires_in_days=30)
            old = await people.keys.create(ann, request)
            people.clock.advance(86_400)
            people.told.subjects.clear()
            new = await people.keys.rotate(ann, RotateKeyRequest(id=old.record.id, grace_seconds=grace))
            assert new.key != old.key
            assert is_well_formed(new.key, "fe_")
            before, after = people.directory.keys[old.record.id], people.directory.keys[new.record.id]
            assert before.expires_at == people.clock.now() + grace
            assert after.expires_at == people.clock.now() + 30 * 86_400
            same = ("email", "organisation", "name", "tier", "scopes")
            assert [getattr(before, field) for field in same] == [getattr(after, field) for field in same]
            assert after.digest == key_digest(new.key)
            assert people.told.subjects == [f"key:{before.digest}"]

        asyncio.run(scenario())

    def test_a_grace_does_not_make_a_key_live_longer(self) -> None:
        async def scenario() -> None:
            people = People()
            ann = await people.join("ann@example.org")
            old = await people.keys.create(ann, CreateKeyRequest(email="ann@example.org", expires_in_days=1))
            await people.keys.rotate(ann, RotateKeyRequest(id=old.record.id, grace_seconds=30 * 86_400))
            assert people.directory.keys[old.record.id].expires_at == old.record.expires_at

        asyncio.run(scenario())

    def test_a_key_that_has_ended_is_not_brought_back(self) -> None:
        async def scenario() -> None:
            people = People()
            ann = await people.join("ann@example.org")
            revoked = await people.keys.create(ann, CreateKeyRequest(email="ann@example.org"))
            expired = await people.keys.create(ann, CreateKeyRequest(email="ann@example.org", expires_in_days=1))
            await people.keys.revoke(ann, RevokeKeyRequest(id=revoked.record.id))
            people.clock.advance(86_400)
            for ended in revoked, expired:
                with pytest.raises(Conflict):
                    await people.keys.rotate(ann, RotateKeyRequest(id=ended.record.id))
            assert len(people.directory.keys) == 2

        asyncio.run(scenario())

    def test_rotating_gives_nobody_more_than_they_have(self) -> None:
        """A key with the scope keys alone cannot make the organisation's other keys its own."""

        async def scenario() -> None:
            people = People()
            ann = await people.join("ann@example.org")
            wide = await people.keys.create(ann, CreateKeyRequest(email="ann@example.org"))
            narrow = people.ticket(Caller(ann.tenant, ann.tenant, "key", "free", frozenset({"keys"})))
            with pytest.raises(Forbidden):
                await people.keys.rotate(narrow, RotateKeyRequest(id=wide.record.id))
            assert len(people.directory.keys) == 1

        asyncio.run(scenario())

    def test_the_text_is_shown_this_once(self) -> None:
        async def scenario() -> None:
            people = People()
            made = await people.keys.create(people.ticket(STAFF), CreateKeyRequest(email="ann@example.org"))
            assert made.key not in repr(made)
            listed = await people.keys.list(people.ticket(STAFF), ListKeysRequest())
            assert made.key not in repr(listed)
            assert listed.keys[0].hint == made.key[:9]

        asyncio.run(scenario())
