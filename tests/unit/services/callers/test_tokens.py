"""Access and refresh tokens: what is accepted, and all that is not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import stat
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from clocks import HandClock
from people import keys_of
from phalanx.contract.users import SessionRecord
from phalanx.errors import Unauthenticated
from phalanx.services.callers import tokens as module
from phalanx.services.callers.signing import SigningKeys, load_secret, signing_keys
from phalanx.services.callers.tokens import AccessClaims, TokenSigner, TokenVerifier, read_refresh_token, refresh_token
from phalanx.settings import Secret, Settings, SettingsError

SECRET, OTHER = "s" * 40, "o" * 40
SESSION = SessionRecord(
    id=str(uuid.UUID(int=7)), user_id="user-1", organisation="org-1", counter=3, secret=b"k" * 32,
    created_at=0.0, refreshed_at=0.0, expires_at=2e9, address="192.0.2.1", user_agent="tests",
)  # fmt: skip


def private_pem(key: Any = None) -> str:
    key = key or Ed25519PrivateKey.generate()
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode().strip())


def public_pem(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode().strip()


class Desk:
    """A signer and a verifier on one clock."""

    def __init__(self, keys: SigningKeys | None = None, *, accepts: SigningKeys | None = None) -> None:
        self.keys = keys or keys_of(SECRET)
        self.clock = HandClock()
        self.signer = TokenSigner(self.keys, issuer="phalanx", clock=self.clock)
        self.verifier = TokenVerifier(accepts or self.keys, issuer="phalanx", clock=self.clock)

    def token(self, life_s: float = 900.0) -> str:
        return str(self.signer.sign(SESSION, expires_at=self.clock.now() + life_s))

    def forge(self, claims: dict[str, Any] | None = None, headers: dict[str, Any] | None = None, **how: Any) -> str:
        """Sign other claims and headers than the signer would; None takes one away."""
        now = int(self.clock.now())
        said = {
            "iss": "phalanx", "aud": "phalanx", "sub": "user-1", "sid": SESSION.id, "org": "org-1", "iat": now,
            "nbf": now, "exp": now + 900, "token_use": "access", **(claims or {}),
        }  # fmt: skip
        heads = {"typ": "at+jwt", "kid": self.keys.current.kid, **(headers or {})}
        said, heads = ({name: value for name, value in one.items() if value is not None} for one in (said, heads))
        key = how.get("key", self.keys.current.private)
        payload = json.dumps(said).encode()
        return jwt.PyJWS().encode(payload, key, how.get("algorithm", self.keys.current.algorithm), headers=heads)

    def refusal(self, token: str) -> str:
        with pytest.raises(Unauthenticated) as refused:
            self.verifier.verify(token)
        return refused.value.detail


def raw_token(header: dict[str, Any], payload: bytes, signature: bytes = b"") -> str:
    parts = (json.dumps(header).encode(), payload, signature)
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts).decode()


def payload_of(token: str) -> bytes:
    part = token.split(".")[1]
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


@pytest.mark.parametrize("secret", [SECRET, private_pem()])
def test_a_token_says_who_calls(secret: str) -> None:
    """HS256 with a secret, EdDSA with an Ed25519 key; what it says are RFC 9068's claims."""
    desk = Desk(keys_of(secret))
    claims = desk.verifier.verify(desk.token())
    assert (claims.user_id, claims.session_id, claims.organisation) == ("user-1", SESSION.id, "org-1")
    said = json.loads(payload_of(desk.token()))
    now = int(desk.clock.now())
    assert said == {
        "iss": "phalanx", "aud": "phalanx", "sub": "user-1", "sid": SESSION.id, "org": "org-1", "iat": now, "nbf": now,
        "exp": now + 900, "token_use": "access",
    }  # fmt: skip
    header = jwt.get_unverified_header(desk.token())
    assert header == {"typ": "at+jwt", "alg": desk.keys.current.algorithm, "kid": desk.keys.current.kid}


def test_any_library_can_read_it() -> None:
    """With the secret, and the checks that it makes by itself."""
    desk = Desk()
    desk.clock.epoch = time.time()
    assert (
        jwt.decode(desk.token(), SECRET, algorithms=["HS256"], audience="phalanx", issuer="phalanx")["sub"] == "user-1"
    )


def test_the_kid_tells_keys_apart_and_nothing_of_them() -> None:
    assert keys_of(SECRET).current.kid == hashlib.sha256(SECRET.encode()).hexdigest()[:8]
    assert keys_of(SECRET).current.kid != keys_of(OTHER).current.kid
    assert SECRET not in repr(keys_of(SECRET))


@pytest.mark.parametrize("former", [SECRET, private_pem()])
@pytest.mark.parametrize("today", [OTHER, private_pem()])
def test_a_secret_rotates_without_logging_anyone_out(former: str, today: str) -> None:
    """Also from one algorithm to the other. Without the former secret its tokens end."""
    before, after = Desk(keys_of(former)), Desk(keys_of(today, former))
    assert after.verifier.verify(before.token()).user_id == "user-1"
    assert after.verifier.verify(after.token()).user_id == "user-1"
    assert "no key that is in use" in Desk(keys_of(today)).refusal(before.token())
    # Workers that do not know the new secret yet refuse its tokens: they get it as a previous one first.
    assert "no key that is in use" in before.refusal(after.token())
    assert Desk(keys_of(former, today)).verifier.verify(after.token()).user_id == "user-1"


def test_a_former_key_may_be_the_public_half() -> None:
    key = Ed25519PrivateKey.generate()
    before, after = Desk(keys_of(private_pem(key))), Desk(keys_of(OTHER, public_pem(key)))
    assert after.verifier.verify(before.token()).user_id == "user-1"


def test_a_key_with_escaped_line_breaks_is_read() -> None:
    """As it stands in a file of variables."""
    assert keys_of(private_pem().replace("\n", "\\n")).current.algorithm == "EdDSA"


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
def test_a_token_without_signature_is_refused(algorithm: str) -> None:
    desk = Desk()
    header = {"typ": "at+jwt", "alg": algorithm, "kid": desk.keys.current.kid}
    assert "another algorithm" in desk.refusal(raw_token(header, payload_of(desk.token())))
    assert "another algorithm" in desk.refusal(raw_token(header, payload_of(desk.token()), b"x" * 32))


def test_a_public_key_is_no_secret() -> None:
    """The classic swap: HS256, keyed with the public key that everybody has."""
    key = Ed25519PrivateKey.generate()
    desk = Desk(keys_of(private_pem(key)))
    for known in (public_pem(key), public_pem(key) + "\n", key.public_key().public_bytes_raw()):
        mac_key = known.encode() if isinstance(known, str) else known
        head, body = raw_token(
            {"typ": "at+jwt", "alg": "HS256", "kid": desk.keys.current.kid}, payload_of(desk.token())
        ).split(".")[:2]
        signature = hmac.digest(mac_key, f"{head}.{body}".encode(), "sha256")
        forged = f"{head}.{body}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"
        assert "another algorithm" in desk.refusal(forged)


def test_the_key_decides_the_algorithm_where_both_are_in_use() -> None:
    """A token that names the secret is not verified as EdDSA, nor the other way round; HS512 is not HS256."""
    pem = private_pem()
    desk = Desk(keys_of(SECRET, pem))
    other = next(key for key in desk.keys.accepted.values() if key.algorithm == "EdDSA")
    swapped = desk.forge(headers={"kid": desk.keys.current.kid}, key=other.private, algorithm="EdDSA")
    assert "another algorithm" in desk.refusal(swapped)
    assert "another algorithm" in desk.refusal(desk.forge(headers={"kid": other.kid}))
    assert "another algorithm" in desk.refusal(desk.forge(key=b"s" * 64, algorithm="HS512"))


def test_keys_that_a_token_brings_along_are_ignored() -> None:
    """`jwk`, `jku` and `x5u` of a stranger's key: only what `kid` names among ours counts."""
    desk = Desk()
    stranger = b"x" * 40
    jwk = {"kty": "oct", "k": base64.urlsafe_b64encode(stranger).decode()}
    brought = {"jwk": jwk, "jku": "https://192.0.2.9/keys", "x5u": "https://192.0.2.9/chain"}
    assert "signature is wrong" in desk.refusal(desk.forge(headers=brought, key=stranger))
    assert "no key that is in use" in desk.refusal(desk.forge(headers={**brought, "kid": "stranger"}, key=stranger))
    assert desk.verifier.verify(desk.forge(headers=brought)).user_id == "user-1"


@pytest.mark.parametrize("kid", [None, "", "00000000", "../../dev/null"])
def test_a_token_that_names_no_key_of_ours_is_refused(kid: str | None) -> None:
    desk = Desk()
    assert "no key that is in use" in desk.refusal(desk.forge(headers={"kid": kid}))


def test_a_kid_that_is_no_text_is_refused() -> None:
    desk = Desk()
    for kid in (1, ["a"], {"a": 1}):
        desk.refusal(raw_token({"typ": "at+jwt", "alg": "HS256", "kid": kid}, payload_of(desk.token()), b"x" * 32))


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"aud": "another"}, "for somebody else"),
        ({"iss": "another"}, "issued by somebody else"),
        ({"aud": None}, "does not say"),
        ({"aud": ["phalanx"]}, "does not say"),
        ({"iss": None}, "does not say"),
        ({"sid": None}, "does not say"),
        ({"sub": 7}, "does not say"),
        ({"exp": None}, "does not say"),
        ({"exp": "never"}, "does not say"),
        ({"exp": 1e300}, "does not say"),
        ({"nbf": None}, "does not say"),
        ({"token_use": "refresh"}, "does not say"),
        ({"token_use": None}, "does not say"),
    ],
)
def test_a_token_that_is_signed_by_us_but_for_something_else_is_refused(claims: dict[str, Any], said: str) -> None:
    desk = Desk()
    assert said in desk.refusal(desk.forge(claims))


@pytest.mark.parametrize("kind", [None, "JWT", "rt+jwt", "dpop+jwt"])
def test_another_type_of_token_is_refused(kind: str | None) -> None:
    desk = Desk()
    # PyJWS fills in JWT for none.
    assert "not an access token" in desk.refusal(desk.forge(headers={"typ": kind or "JWT"}))


def test_a_refresh_token_is_no_access_token() -> None:
    desk = Desk()
    assert "not well formed" in desk.refusal(refresh_token(SESSION))
    with pytest.raises(Unauthenticated):
        read_refresh_token(desk.token())


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_tampered_token_is_refused(part: int) -> None:
    """Any one character of any part; the last of a part holds bits that do not count, and changing these is refused, too."""
    desk = Desk()
    token = desk.token()
    parts = token.split(".")
    for place in range(len(parts[part])):
        for other in "A", "B", "_":
            if parts[part][place] != other:
                changed = parts[part][:place] + other + parts[part][place + 1 :]
                desk.refusal(".".join([*parts[:part], changed, *parts[part + 1 :]]))
    assert desk.verifier.verify(token)


def test_a_payload_put_under_another_signature_is_refused() -> None:
    desk = Desk()
    head, _, signature = desk.token().split(".")
    body = desk.forge({"sub": "somebody-else"}).split(".")[1]
    assert "signature is wrong" in desk.refusal(f"{head}.{body}.{signature}")


def test_time_counts_with_a_small_leeway_for_clocks_that_differ() -> None:
    """Also for a token that was verified before, and when the clock is set back."""
    desk = Desk()
    token = desk.token(900)
    desk.verifier.verify(token)
    desk.clock.advance(904)
    desk.verifier.verify(token)
    desk.clock.advance(1)
    assert "expired" in desk.refusal(token)
    assert "expired" in desk.refusal(token)
    desk.clock.advance(-905 - 5)
    desk.verifier.verify(token)
    desk.clock.advance(-1)
    assert "not valid yet" in desk.refusal(token)


def test_a_token_of_the_future_is_refused() -> None:
    desk = Desk()
    assert "not valid yet" in desk.refusal(desk.forge({"nbf": int(desk.clock.now()) + 60}))


def test_what_is_too_long_is_not_looked_at() -> None:
    desk = Desk()
    assert "4096" in desk.refusal("eyJ" + "x" * 2**20)
    assert "4096" in desk.refusal(desk.forge({"padding": "x" * 4096}))


@given(st.one_of(st.text(max_size=300), st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")), st.lists(st.text(max_size=60), max_size=5).map(".".join)))  # fmt: skip
def test_any_other_text_is_refused(text: str) -> None:
    """And nothing but refused: no other error."""
    Desk().refusal(text)


@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk"]), st.one_of(st.text(max_size=8), st.booleans(), st.none(), st.just("HS256"), st.lists(st.just("b64")))), st.binary(max_size=40))  # fmt: skip
def test_any_header_is_refused_without_its_signature(header: dict[str, Any], payload: bytes) -> None:
    desk = Desk()
    desk.refusal(raw_token(header, payload, b"x" * 32))
    desk.refusal(raw_token({**header, "kid": desk.keys.current.kid}, payload, b"x" * 32))


def test_a_verified_token_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it expires; of those that were verified the newest are kept, and a refused one never."""
    monkeypatch.setattr(module, "MAX_VERIFIED", 2)
    desk = Desk()
    checked: list[str] = []
    check = desk.verifier._check

    def count(text: str) -> AccessClaims:
        checked.append(text)
        return check(text)

    monkeypatch.setattr(desk.verifier, "_check", count)
    first, second, third = (desk.forge({"sub": name}) for name in "abc")
    for token in (first, first, second, second, first, third, second, first):
        desk.verifier.verify(token)
    assert checked == [first, second, third, first]
    wrong = first[:-4] + "AAAA"
    desk.refusal(wrong)
    desk.refusal(wrong)
    assert checked[-2:] == [wrong, wrong]


class TestRefreshTokens:
    """Session, counter and MAC in one text."""

    def test_it_says_its_session_and_counter(self) -> None:
        token = read_refresh_token(refresh_token(SESSION))
        assert (token.session_id, token.counter) == (SESSION.id, 3)
        assert token.is_genuine(SESSION)

    def test_its_form_is_the_documented_one(self) -> None:
        """Version, UUID, varint, 16 bytes of HMAC-SHA-256, 4 of SHA-256; base64url without padding."""
        session = replace(SESSION, counter=300)
        statement = b"\0" + uuid.UUID(session.id).bytes + bytes([0b10101100, 0b10])
        signed = statement + hmac.digest(b"k" * 32, statement, "sha256")[:16]
        raw = signed + hashlib.sha256(signed).digest()[:4]
        assert refresh_token(session) == base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    @given(st.integers(0, 2**63 - 1))
    def test_any_counter_comes_back(self, counter: int) -> None:
        session = replace(SESSION, counter=counter)
        token = read_refresh_token(refresh_token(session))
        assert (token.counter, token.is_genuine(session)) == (counter, True)

    def test_one_of_another_session_or_secret_is_not_genuine(self) -> None:
        token = read_refresh_token(refresh_token(SESSION))
        assert not token.is_genuine(replace(SESSION, secret=b"x" * 32))
        assert not token.is_genuine(replace(SESSION, id=str(uuid.UUID(int=8))))
        assert not token._replace(counter=4).is_genuine(SESSION)

    def test_one_wrong_character_is_refused_before_any_look_up(self) -> None:
        text = str(refresh_token(SESSION))
        for place in range(len(text)):
            for other in "A", "b", "-":
                if text[place] != other:
                    with pytest.raises(Unauthenticated):
                        read_refresh_token(text[:place] + other + text[place + 1 :])

    @given(
        st.one_of(st.text(max_size=100), st.binary(max_size=60).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
    )
    def test_any_other_text_is_refused(self, text: str) -> None:
        with pytest.raises(Unauthenticated):
            read_refresh_token(text)

    @given(st.binary(min_size=1, max_size=12))
    def test_a_number_has_one_way_to_be_written(self, written: bytes) -> None:
        """Padded and endless varints do not pass, although their checksum is right."""
        statement = b"\0" + uuid.UUID(SESSION.id).bytes + written
        signed = statement + hmac.digest(SESSION.secret, statement, "sha256")[:16]
        raw = signed + hashlib.sha256(signed).digest()[:4]
        text = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
        try:
            token = read_refresh_token(text)
        except Unauthenticated:
            return
        assert refresh_token(replace(SESSION, counter=token.counter)) == text


def test_nothing_secret_shows_itself() -> None:
    """In a repr, and so in a log or a traceback."""
    desk = Desk()
    shown = repr([desk.keys, SESSION, desk.signer.sign(SESSION, expires_at=2e9), refresh_token(SESSION)])
    for secret in (SECRET, "kkkk", "eyJ", str(refresh_token(SESSION))[:12]):
        assert secret not in shown


class TestSecret:
    """Where the secret comes from."""

    def test_a_set_one_is_taken(self, tmp_path: Path) -> None:
        assert load_secret(Settings(data_dir=tmp_path, jwt_secret=Secret(SECRET))) == SECRET
        assert list(tmp_path.iterdir()) == []

    def test_else_one_is_made_once_for_its_owners_eyes(self, tmp_path: Path) -> None:
        settings = Settings(data_dir=tmp_path / "new")
        secret = load_secret(settings)
        assert len(secret) >= 43
        assert load_secret(settings) == secret
        assert repr(secret) == "'[REDACTED]'"
        made = list((tmp_path / "new").iterdir())
        assert [path.name for path in made] == ["jwt-secret"]
        assert stat.S_IMODE(made[0].stat().st_mode) == 0o600
        assert load_secret(Settings(data_dir=tmp_path / "other")) != secret

    def test_several_processes_that_start_at_once_make_one(self, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path; from phalanx.settings import Settings; "
            "from phalanx.services.callers.signing import load_secret; print(load_secret(Settings(data_dir=Path(sys.argv[1]))))"
        )
        command = [sys.executable, "-c", program, str(tmp_path)]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
        found = [process.communicate(timeout=60)[0] for process in processes]
        assert len(found[0].strip()) >= 43
        assert len(set(found)) == 1
        assert [path.name for path in tmp_path.iterdir()] == ["jwt-secret"]

    @pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64])
    def test_a_damaged_file_is_told(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "jwt-secret").write_bytes(content)
        with pytest.raises(SettingsError, match="jwt-secret"):
            load_secret(Settings(data_dir=tmp_path))

    def test_a_place_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(SettingsError, match=r"DATA_DIR: .*/file' cannot be used .*JWT_SECRET"):
            load_secret(Settings(data_dir=tmp_path / "file"))

    @pytest.mark.parametrize(
        ("secret", "said"),
        [
            ("-----BEGIN PRIVATE KEY-----\nrubbish\n-----END PRIVATE KEY-----", "not an Ed25519 key"),
            (private_pem(rsa.generate_private_key(65537, 2048)), "not an Ed25519 key"),
            (public_pem(Ed25519PrivateKey.generate()), "cannot sign"),
        ],
    )
    def test_what_is_no_key_is_told_and_not_shown(self, secret: str, said: str) -> None:
        with pytest.raises(SettingsError, match=said) as refused:
            signing_keys(Settings(jwt_secret=Secret(secret)))
        assert secret.split("\n")[1] not in str(refused.value)

    def test_a_short_former_secret_is_told(self) -> None:
        with pytest.raises(SettingsError, match="JWT_PREVIOUS_SECRETS: a secret has 5 characters"):
            keys_of(SECRET, "short")
