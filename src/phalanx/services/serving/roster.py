"""Which models take traffic: each by name and alias, in one version or in several that share the callers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from phalanx.contract.models import Model
from phalanx.engines.runner import Runner
from phalanx.errors import ModelNotFound, Unavailable

RETRY_S = 5.0
"""After how many seconds a caller may ask again for a model that is not ready."""


class ServedModel(Protocol):
    """One version of a model in memory, with the runner that feeds it.

    Calls under way hold it; once it is out of traffic and nobody does, it is freed.
    """

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def version(self) -> str:
        """The version's name."""
        ...

    @property
    def aliases(self) -> tuple[str, ...]:
        """Other names of the model."""
        ...

    @property
    def runner(self) -> Runner[Any, Any]:
        """What feeds it."""
        ...

    @property
    def threads(self) -> int:
        """How many threads one batch is computed on; 0 where that is not on this machine's processors."""
        ...

    def describe(self) -> Model:
        """Return its facts as `/v1/models` shows them."""
        ...

    def canary(self) -> Any:
        """Return an item for the runner, prepared: always the same one."""
        ...

    def strays(self, first: Any, now: Any) -> str | None:
        """Return what is wrong with the canary's result, None where it is as near the first one as it should be."""
        ...

    @property
    def release(self) -> Callable[[], None]:
        """What lets go of all that is not memory, once the runner has stopped. It does not hold this object."""
        ...


S = TypeVar("S", bound=ServedModel)


def nothing() -> None:
    """Let go of nothing."""


class Share(NamedTuple, Generic[S]):
    """A version with its weight, more than 0, relative to those of the others."""

    served: S
    weight: float = 1.0


class Rollout(Generic[S]):
    """The versions of one model that share its callers. Never empty."""

    def __init__(self, shares: Sequence[Share[S]]) -> None:
        self.shares = tuple(shares)
        self.heaviest = max(shares, key=lambda share: share.weight).served
        total = sum(share.weight for share in shares)
        self.weights = {share.served.version: share.weight / total for share in shares}

    def choose(self, caller: str) -> S:
        """Return the version for a caller: always the same one while the weights stand.

        Callers lie on a line by their digest, and each version has a part of it in the order of the shares. Where
        weights change, only callers at the borders move.
        """
        if len(self.shares) == 1:
            return self.heaviest
        digest = hashlib.blake2b(f"{self.heaviest.name}\x1f{caller}".encode(), digest_size=8).digest()
        place = int.from_bytes(digest) / 2**64
        for served, _ in self.shares:
            place -= self.weights[served.version]
            if place < 0:
                return served
        return self.shares[-1].served

    def without(self, versions: frozenset[str]) -> Rollout[S] | None:
        """Return the rollout without some versions, None if nothing is left."""
        left = [share for share in self.shares if share.served.version not in versions]
        return Rollout(left) if left else None


class Roster(Generic[S]):
    """The models of one kind. One that could not be loaded is known with the reason, and refuses with it.

    `kind` is how messages name them, such as "model"; a worker that `is_required` to have them is not ready without.
    `missing` has the reasons by name, `absent` those of models that nobody pulled and the worker does without, and
    `pending` the names of those that are loading for the first time. `stand_ins` answer, as such, for models that are
    missing or fail, where the operator wants that.
    """

    def __init__(self, kind: str, *, is_required: bool = False) -> None:
        self.default = ""
        self.missing: dict[str, str] = {}
        self.absent: dict[str, str] = {}
        self.pending: set[str] = set()
        self.stand_ins: dict[str, S] = {}
        self.is_required = is_required
        self._kind = kind
        self._rollouts: dict[str, Rollout[S]] = {}
        self._healthy: dict[str, Rollout[S]] = {}
        self._sick: dict[str, frozenset[str]] = {}
        self._names: dict[str, str] = {}

    def know(self, name: str, aliases: Sequence[str] = ()) -> None:
        """Know a model by its name and aliases; the first one is the default."""
        self.default = self.default or name
        for known in (name, *aliases):
            self._names[known.lower()] = name

    def expect(self, name: str, aliases: Sequence[str] = ()) -> None:
        """Know a model that is being loaded for the first time."""
        self.miss(name, "it is loading", aliases)
        self.pending.add(name)

    def serve(self, expected: str, shares: Sequence[Share[S]]) -> None:
        """Have these versions of a model share all its callers from now on, in place of what did.

        `expected` is the name under which it was waited for, in case its files give it another.
        """
        rollout = Rollout(shares)
        name = rollout.heaviest.name
        if expected == self.default:
            self.default = name
        self.know(name, [expected, *(alias for share in shares for alias in share.served.aliases)])
        for known in (expected, name):
            self._forget(known)
        self._rollouts[name] = self._healthy[name] = rollout
        self._sick[name] = frozenset()

    def miss(self, name: str, reason: str, aliases: Sequence[str] = ()) -> None:
        """Serve a model no more, or not yet: `reason` says which command mends it."""
        self.know(name, aliases)
        self._forget(name)
        self.missing[name] = reason

    def lack(self, name: str, reason: str, aliases: Sequence[str] = ()) -> None:
        """Do without a model; `reason` says which command brings it."""
        self.know(name, aliases)
        self._forget(name)
        self.absent[name] = reason

    def _forget(self, name: str) -> None:
        for facts in (self._rollouts, self._healthy, self.missing, self.absent):
            facts.pop(name, None)
        self.pending.discard(name)

    def mark(self, name: str, version: str, *, sick: bool) -> None:
        """Keep a version from traffic as long as another one can take it, or no longer."""
        rollout, was = self._rollouts.get(name), self._sick.get(name, frozenset())
        now = was | {version} if sick else was - {version}
        if rollout is not None and now != was:
            self._sick[name] = now
            self._healthy[name] = rollout.without(now) or rollout

    def choose(self, name: str | None, caller: str) -> S:
        """Return the model of that name or alias, or the default, in the caller's version.

        Raises `ModelNotFound`, `Unavailable`.
        """
        found = self._find(name)
        rollout = self._healthy.get(found)
        stand_in = self.stand_ins.get(found)
        if stand_in is not None and found not in self.pending and self._fails(found):
            return stand_in
        if rollout is None:
            raise self._refusal(found)
        return rollout.choose(caller)

    def _fails(self, name: str) -> bool:
        """Whether no version of a model can serve."""
        rollout = self._rollouts.get(name)
        return rollout is None or len(self._sick[name]) == len(rollout.shares)

    def heaviest(self, name: str | None, fits: Callable[[S], bool] = lambda served: True) -> S:
        """Return the version with most weight of those that `fits`, never a stand-in.

        Raises `ModelNotFound`, `Unavailable`.
        """
        rollout = self.rollout(name)
        fitting = [share for share in rollout.shares if fits(share.served)]
        if not fitting:
            here = ", ".join(rollout.weights)
            raise Unavailable(
                f"no active version of the {self._kind} {rollout.heaviest.name!r} is the one that is wanted; "
                f"active: {here}", retry_after_s=RETRY_S,
            )  # fmt: skip
        return max(fitting, key=lambda share: share.weight).served

    def exact(self, name: str | None, version: str) -> S:
        """Return one active version of a model. Raises `ModelNotFound`, `Unavailable`."""
        return self.heaviest(name, lambda served: served.version == version)

    def rollout(self, name: str | None) -> Rollout[S]:
        """Return the versions that share a model's callers. Raises `ModelNotFound`, `Unavailable`."""
        found = self._find(name)
        rollout = self._rollouts.get(found)
        if rollout is None:
            raise self._refusal(found)
        return rollout

    def rollouts(self) -> Mapping[str, Rollout[S]]:
        """Return what is served, by name."""
        return self._rollouts

    def find(self, name: str) -> str | None:
        """Return the name of the model with that name or alias, None if there is none."""
        return self._names.get(name.lower())

    def _find(self, name: str | None) -> str:
        wanted = name or self.default
        found = self.find(wanted)
        if found is None:
            there = ", ".join(sorted({*self._rollouts, *self.missing})) or "none"
            raise ModelNotFound(
                f"this worker does not serve the {self._kind} {wanted!r}; it serves {there}", param="model"
            )
        return found

    def _refusal(self, name: str) -> Unavailable:
        reason = self.missing.get(name) or self.absent.get(name) or "it is loading"
        return Unavailable(f"the {self._kind} {name!r} is not ready: {reason}", retry_after_s=RETRY_S)
