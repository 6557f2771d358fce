"""Settings: every problem at once, files, .env, misspellings."""

from __future__ import annotations

from pathlib import Path

import pytest

from phalanx.contract.services import ALL_SERVICES
from phalanx.settings import Secret, SettingsError, load, reference, variables
from phalanx.settings.queues import QueueSpec, chosen, queues


def problems(environ: dict[str, str], folder: Path) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(environ, folder=folder)
    return caught.value.problems


def test_nothing_set_gives_the_defaults(tmp_path: Path) -> None:
    """An empty environment is a working one."""
    settings = load({}, folder=tmp_path).settings
    assert (settings.port, settings.app_host, settings.model_name) == (8000, "127.0.0.1", "all-MiniLM-L6-v2")
    assert settings.database.startswith("sqlite:///")


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """Three wrong values are three sentences, each naming its variable."""
    found = problems({"PORT": "eighty", "AUTH": "maybe", "L1_CACHE_SIZE": "-1"}, tmp_path)
    assert [sentence.split(":")[0] for sentence in found] == ["PORT", "AUTH", "L1_CACHE_SIZE"]
    assert "'eighty' is not a whole number from 0 to 65535" in found[0]


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.1", "example.org"])
def test_open_doors_are_refused_off_loopback(tmp_path: Path, host: str) -> None:
    """AUTH=off needs an address that other machines cannot reach."""
    assert "AUTH=off is accepted on a loopback address only" in problems({"AUTH": "off", "APP_HOST": host}, tmp_path)[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_open_doors_are_allowed_on_loopback(tmp_path: Path, host: str) -> None:
    """All of 127/8 and ::1 are loopback."""
    assert load({"AUTH": "off", "APP_HOST": host}, folder=tmp_path).settings.auth == "off"


def test_production_refuses_open_doors(tmp_path: Path) -> None:
    """Not even on loopback."""
    assert "production" in problems({"AUTH": "off", "APP_ENV": "production"}, tmp_path)[0]


def test_a_value_may_come_from_a_file(tmp_path: Path) -> None:
    """NAME_FILE is read and stripped."""
    (tmp_path / "token").write_text("hf_secret\n")
    assert load({"HF_TOKEN_FILE": str(tmp_path / "token")}, folder=tmp_path).settings.hf_token == "hf_secret"


def test_a_missing_file_is_a_problem(tmp_path: Path) -> None:
    """The sentence names the variable and the file."""
    assert "HF_TOKEN_FILE" in problems({"HF_TOKEN_FILE": str(tmp_path / "none")}, tmp_path)[0]


def test_dotenv_is_read_below_the_environment(tmp_path: Path) -> None:
    """What is really set wins."""
    (tmp_path / ".env").write_text('PORT=9001\nAPP_NAME="From file"\n')
    settings = load({"PORT": "9002"}, folder=tmp_path).settings
    assert (settings.port, settings.app_name) == (9002, "From file")


def test_env_file_must_exist(tmp_path: Path) -> None:
    """A named file that is not there is no default."""
    assert "ENV_FILE" in problems({"ENV_FILE": str(tmp_path / "nowhere")}, tmp_path)[0]


@pytest.mark.parametrize(
    ("wrong", "right"), [("MODEL_NAM", "MODEL_NAME"), ("DATABSE_URL", "DATABASE_URL"), ("PROT", "PORT")]
)
def test_a_name_one_edit_away_is_pointed_out(tmp_path: Path, wrong: str, right: str) -> None:
    """A dropped, a missing and two swapped letters."""
    assert load({wrong: "1"}, folder=tmp_path).remarks == [f"{wrong} is not a setting; did you mean {right}?"]


def test_a_name_of_a_later_version_is_pointed_out(tmp_path: Path) -> None:
    """UPSTREAMS_FILE does nothing yet, and says so."""
    assert "UPSTREAMS_FILE is set, but" in load({"UPSTREAMS_FILE": "text"}, folder=tmp_path).remarks[0]


def test_an_unrelated_name_is_left_alone(tmp_path: Path) -> None:
    """Environments are full of other programs' names."""
    assert load({"EDITOR": "vi", "LANG": "C"}, folder=tmp_path).remarks == []


def test_an_alias_is_read(tmp_path: Path) -> None:
    """APP_PORT is PORT."""
    assert load({"APP_PORT": "8123"}, folder=tmp_path).settings.port == 8123


@pytest.mark.parametrize(("filter_", "level"), [("info,api=debug", "info"), ("warn", "warn"), ("api=trace", "info")])
def test_rust_log_sets_the_level(tmp_path: Path, filter_: str, level: str) -> None:
    """A Rust log filter's own level counts, not its targets'."""
    assert load({"RUST_LOG": filter_}, folder=tmp_path).settings.log_level == level


def test_log_level_wins_over_rust_log(tmp_path: Path) -> None:
    """The platform's own name comes first."""
    assert load({"RUST_LOG": "debug", "LOG_LEVEL": "error"}, folder=tmp_path).settings.log_level == "error"


def test_secrets_do_not_show_themselves(tmp_path: Path) -> None:
    """Neither in a repr of the settings nor in a problem."""
    settings = load({"HF_TOKEN": "hf_secret", "DATABASE_URL": "sqlite:///x.db"}, folder=tmp_path).settings
    assert "hf_secret" not in repr(settings)
    assert "x.db" not in repr(settings)
    assert repr(Secret("a")) == "'[REDACTED]'"


SHARED = {"DATABASE_URL": "postgres://u:p@localhost/x", "REDIS_URL": "redis://localhost"}


@pytest.mark.parametrize(
    ("environ", "sentence"),
    [
        ({"DATABASE_URL": "mysql://u:hidden@localhost/x"}, "DATABASE_URL: it begins with none of"),
        ({"REDIS_URL": "localhost:6379"}, "REDIS_URL: it begins with none of"),
        ({"WORKERS": "2"}, "set DATABASE_URL to a PostgreSQL database and REDIS_URL"),
        ({"WORKERS": "2", "DATABASE_URL": SHARED["DATABASE_URL"]}, "WORKERS"),
        ({**SHARED, "SERVICES": "text,collections"}, "set QDRANT_URL, or leave them out"),
        ({**SHARED, "SERVICES": "vectors", "WORKERS": "2"}, "set QDRANT_URL, or leave them out"),
        ({"DATABASE_MIN_CONNECTIONS": "9", "DATABASE_MAX_CONNECTIONS": "8"}, "DATABASE_MIN_CONNECTIONS"),
        ({"USAGE_JOURNAL": "redis"}, "needs REDIS_URL"),
        ({"ALLOWED_ORIGINS": "*", "CORS_ALLOW_CREDENTIALS": "true"}, "name the origins"),
        ({"ALLOWED_ORIGINS": "example.org"}, "is no origin"),
        ({"IMAGE_URL_ALLOW": "images.example.org,https://example.org"}, "'https://example.org' is no host"),
        ({"IMAGE_URL_ALLOW": "example.org:8080"}, "is no host"),
        ({"IMAGE_URL_ALLOW": "*.example.org"}, "nor .example.org for all below"),
        ({"TRUSTED_PROXY_IPS": "10.0.0.0/33"}, "TRUSTED_PROXY_IPS"),
        ({"TRUSTED_PROXY_IPS": "*"}, "choose its own address"),
        ({"JWT_SECRET": "short"}, "JWT_SECRET has 5 characters"),
        ({"APP_ENV": "production"}, "JWT_SECRET must be set"),
        ({"TIERS_FILE": "/nowhere/tiers.toml"}, "TIERS_FILE: there is no file"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, environ: dict[str, str], sentence: str) -> None:
    """By name, and without showing a password."""
    found = problems(environ, tmp_path)
    assert sentence in found[0]
    assert "hidden" not in found[0]


def test_shared_stores_allow_several_workers(tmp_path: Path) -> None:
    """PostgreSQL and Redis."""
    assert load({**SHARED, "WORKERS": "3"}, folder=tmp_path).settings.is_shared


def test_an_option_of_a_command_wins(tmp_path: Path) -> None:
    """And is held to the same rules, by the same name."""
    given = {"WORKERS": "2"}
    assert load({**SHARED, "WORKERS": "3"}, folder=tmp_path, given=given).settings.workers == 2
    for refused, reason in (("2", "needs shared stores"), ("0", "is not a whole number")):
        with pytest.raises(SettingsError) as problems:
            load({}, folder=tmp_path, given={"WORKERS": refused})
        assert problems.value.problems[0].startswith("WORKERS")
        assert reason in problems.value.problems[0]


def test_every_variable_is_documented() -> None:
    """The reference has a sentence for each."""
    rows = reference()
    assert len(rows) == len(variables())
    assert all(meaning for _, _, meaning in rows)
    assert len({name for name, _, _ in rows}) == len(rows)


@pytest.mark.parametrize("raw", ["fe", "_", "a-b_", "x" * 20 + "_"])
def test_key_prefixes_are_checked(tmp_path: Path, raw: str) -> None:
    """Letters, digits and one underscore at the end."""
    assert "API_KEY_PREFIX" in problems({"API_KEY_PREFIX": raw}, tmp_path)[0]


def test_tls_files_go_together(tmp_path: Path) -> None:
    """A certificate without its key cannot serve."""
    (tmp_path / "cert.pem").write_text("")
    assert "go together" in problems({"TLS_CERT_FILE": str(tmp_path / "cert.pem")}, tmp_path)[0]


@pytest.mark.parametrize(
    ("raw", "served"),
    [
        ("", ALL_SERVICES), ("all", ALL_SERVICES), ("text, ALL", ALL_SERVICES), ("text", ("text",)),
        ("faces", ("face-detection", "face-embedding")), ("similarity,images", ("image-processing", "similarity")),
        ("vectors", ("similarity", "collections")), ("faces,Face-Detection", ("face-detection", "face-embedding")),
    ],
)  # fmt: skip
def test_services_are_named_alone_or_in_groups(tmp_path: Path, raw: str, served: tuple[str, ...]) -> None:
    settings = load({"SERVICES": raw}, folder=tmp_path).settings
    assert settings.served == set(served)
    assert settings.services == (() if served == ALL_SERVICES else served)


def test_a_service_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"SERVICES: face, x: no such service; there are text, face-detection"):
        load({"SERVICES": "face,text,x"}, folder=tmp_path)


@pytest.mark.parametrize(
    ("environ", "port"),
    [({}, 8001), ({"PORT": "9"}, 9), ({"APP_PORT": "9"}, 9), ({"PORT": ""}, 8001), ({"PORT": "9", "APP_PORT": "8"}, 9)],
)
def test_a_commands_own_default_gives_way_to_the_environment(
    tmp_path: Path, environ: dict[str, str], port: int
) -> None:
    assert load(environ, folder=tmp_path, otherwise={"PORT": "8001"}).settings.port == port
    given = load(environ, folder=tmp_path, otherwise={"PORT": "8001"}, given={"PORT": "7"}).settings
    assert given.port == 7


def test_a_commands_own_default_gives_way_to_a_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=9\n")
    assert load({}, folder=tmp_path, otherwise={"PORT": "8001"}).settings.port == 9
    (tmp_path / "port").write_text("10")
    named = {"PORT_FILE": str(tmp_path / "port"), "ENV_FILE": str(tmp_path / ".env")}
    (tmp_path / ".env").write_text("")
    assert load(named, folder=tmp_path, otherwise={"PORT": "8001"}).settings.port == 10


def test_an_empty_value_hides_nothing(tmp_path: Path) -> None:
    """Compose passes on what is not set as empty: the file or the alias counts then."""
    (tmp_path / "token").write_text("hf_secret")
    empty = {"HF_TOKEN": "", "HF_TOKEN_FILE": str(tmp_path / "token"), "PORT": " ", "APP_PORT": "9100"}
    settings = load(empty, folder=tmp_path).settings
    assert (settings.hf_token, settings.port) == ("hf_secret", 9100)
    assert load({"HF_TOKEN": "own", "HF_TOKEN_FILE": ""}, folder=tmp_path).settings.hf_token == "own"
    allowed = "images.example.org, .example.net,2606:4700::1111,10.0.0.5"
    hosts = ("images.example.org", ".example.net", "2606:4700::1111", "10.0.0.5")
    assert load({"IMAGE_URL_ALLOW": allowed}, folder=tmp_path).settings.image_url_allow == hosts


def test_a_queue_that_is_named_keeps_the_key_that_it_is_bound_to() -> None:
    known = queues("app=key-1,own:app=key-2,other")
    assert chosen((), known) == known
    assert chosen(("app",), known) == (QueueSpec("app", key_id="key-1"),)
    assert chosen(("own:app", "new"), known) == (QueueSpec("app", "own", "key-2"), QueueSpec("new"))
    assert chosen(("app=key-3",), known) == (QueueSpec("app", key_id="key-3"),)
    with pytest.raises(ValueError, match="none of name"):
        chosen(("a b",), known)
