"""Which version of a model a caller gets."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import pytest

from phalanx.errors import ModelNotFound, Unavailable
from phalanx.services.serving.roster import Rollout, Roster, Share

CALLERS = [f"organisation {number}" for number in range(4000)]


class Version(NamedTuple):
    """As much of a served model as rosters look at."""

    name: str
    version: str
    aliases: tuple[str, ...] = ()


def rollout(**weights: float) -> Rollout[Any]:
    return Rollout([Share(Version("model", version), weight) for version, weight in weights.items()])


def assigned(one: Rollout[Any]) -> dict[str, str]:
    return {caller: one.choose(caller).version for caller in CALLERS}


def test_callers_are_shared_out_by_weight() -> None:
    counts = Counter(assigned(rollout(a=90, b=10)).values())
    assert counts["b"] / len(CALLERS) == pytest.approx(0.1, abs=0.02)
    thirds = Counter(assigned(rollout(a=1, b=1, c=1)).values())
    assert all(count / len(CALLERS) == pytest.approx(1 / 3, abs=0.03) for count in thirds.values())


def test_a_caller_stays_with_its_version() -> None:
    """Also when the weights move: only callers from the part that moved change."""
    before, after = assigned(rollout(a=90, b=10)), assigned(rollout(a=80, b=20))
    moved = [caller for caller in CALLERS if before[caller] != after[caller]]
    assert assigned(rollout(a=0.9, b=0.1)) == before
    assert {(before[caller], after[caller]) for caller in moved} == {("a", "b")}
    assert len(moved) / len(CALLERS) == pytest.approx(0.1, abs=0.02)


def test_models_share_callers_out_differently() -> None:
    """Whoever gets the new version of one need not get that of all."""
    shares: list[Share[Any]] = [Share[Any](Version("other", version), 1) for version in ("a", "b")]
    both = Counter(zip(assigned(rollout(a=1, b=1)).values(), assigned(Rollout(shares)).values(), strict=True))
    assert all(count / len(CALLERS) == pytest.approx(1 / 4, abs=0.03) for count in both.values())


def test_the_heaviest_is_the_one_that_fits() -> None:
    roster: Roster[Any] = Roster("model")
    roster.serve(
        "model", [Share(Version("model", version), weight) for version, weight in (("a", 1), ("b", 7), ("c", 2))]
    )
    assert roster.heaviest(None).version == "b"
    assert roster.heaviest("MODEL", lambda one: one.version in "ac").version == "c"
    assert roster.exact("model", "a").version == "a"
    with pytest.raises(Unavailable, match="active: a, b, c"):
        roster.exact("model", "d")


def test_a_sick_version_takes_no_traffic_while_another_can() -> None:
    roster: Roster[Any] = Roster("model")
    roster.serve("model", [Share(Version("model", "a"), 1), Share(Version("model", "b"), 1)])
    roster.mark("model", "b", sick=True)
    assert {roster.choose(None, caller).version for caller in CALLERS} == {"a"}
    roster.mark("model", "a", sick=True)
    assert {roster.choose(None, caller).version for caller in CALLERS} == {"a", "b"}
    roster.mark("model", "b", sick=False)
    assert {roster.choose(None, caller).version for caller in CALLERS} == {"b"}


def test_names_lead_to_the_model_or_to_the_reason() -> None:
    roster: Roster[Any] = Roster("model")
    roster.expect("model", ["Alias"])
    with pytest.raises(Unavailable, match="'model' is not ready: it is loading"):
        roster.choose("alias", "me")
    assert roster.pending == {"model"}
    roster.miss("model", "run: this")
    with pytest.raises(Unavailable, match="run: this"):
        roster.heaviest(None)
    roster.serve("model", [Share(Version("model", "a", ("another",)))])
    assert (roster.missing, roster.pending) == ({}, set())
    assert roster.choose("ANOTHER", "me") is roster.choose("alias", "me") is roster.heaviest(None)
    with pytest.raises(ModelNotFound, match="it serves model"):
        roster.choose("third", "me")


def test_files_may_give_another_name_than_was_expected() -> None:
    """As those of MODEL_PATH do."""
    roster: Roster[Any] = Roster("model")
    roster.expect("model.onnx")
    roster.serve("model.onnx", [Share(Version("mine", "a"))])
    assert roster.default == "mine"
    assert roster.heaviest(None) is roster.heaviest("model.onnx") is roster.heaviest("mine")
    assert roster.missing == {}


def test_a_stand_in_answers_for_what_is_missing_or_fails_and_for_nothing_else() -> None:
    roster: Roster[Any] = Roster("model")
    roster.expect("model")
    roster.stand_ins["model"] = stand_in = Version("model", "simulated")
    with pytest.raises(Unavailable, match="it is loading"):
        roster.choose(None, "me")
    roster.miss("model", "run: this")
    assert roster.choose(None, "me") is stand_in
    with pytest.raises(Unavailable, match="run: this"):
        roster.heaviest(None)
    with pytest.raises(ModelNotFound):
        roster.choose("another", "me")
    roster.serve("model", [Share(Version("model", "a")), Share(Version("model", "b"))])
    assert roster.choose(None, "me") is not stand_in
    roster.mark("model", "a", sick=True)
    assert roster.choose(None, "me").version == "b"
    roster.mark("model", "b", sick=True)
    assert roster.choose(None, "me") is stand_in
    roster.mark("model", "a", sick=False)
    assert roster.choose(None, "me").version == "a"
