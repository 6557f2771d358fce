"""The text models of this worker, and the list of all its models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from phalanx.contract.models import GetModelRequest, ListModelsRequest, ListModelsResponse, Model
from phalanx.contract.vector import Vector
from phalanx.engines.runner import Runner
from phalanx.engines.text.model import PreparedText, TextModel
from phalanx.errors import ModelNotFound, PhalanxError
from phalanx.services.serving.roster import Roster, ServedModel, Share, nothing
from phalanx.services.ticket import Ticket

CANARY_TEXT = "The canary still sings."
CANARY_MIN_COSINE = 0.999

IsReady = Callable[[str, str], bool]
"""Whether a model's version, by both names, is ready."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class ServedText:
    """A text model with the runner that feeds it."""

    model: TextModel
    runner: Runner[PreparedText, np.ndarray]
    aliases: tuple[str, ...] = ()
    licence: str = ""
    created: int = 0
    is_simulated: bool = False

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.spec.name

    @property
    def version(self) -> str:
        """The version's name."""
        return self.model.spec.version

    @property
    def threads(self) -> int:
        """How many threads one batch is computed on."""
        return self.model.backend.threads

    def describe(self) -> Model:
        """Return its facts."""
        spec, backend = self.model.spec, self.model.backend
        return Model(
            id=spec.name, created=self.created, task="text-embedding", version=spec.version, sha256=spec.sha256,
            dimensions=spec.dimensions, max_tokens=spec.max_tokens, licence=self.licence, device=backend.device,
            precision=backend.precision, aliases=self.aliases, prompts=tuple(spec.prompts),
        )  # fmt: skip

    def canary(self) -> PreparedText:
        """Return the canary's text, prepared."""
        return self.model.prepare(CANARY_TEXT, truncate="end", prompt=None)

    def strays(self, first: Vector, now: Vector) -> str | None:
        """Return the cosine of two vectors when it is too low."""
        return stray_cosine(first, now)

    @property
    def release(self) -> Callable[[], None]:
        """There is nothing but memory."""
        return nothing


def stray_cosine(first: Vector, now: Vector) -> str | None:
    """Return the cosine of two vectors, in words, when it is too low for the same input; a NaN is."""
    cosine = float(first @ now) / max(float(np.linalg.norm(first)) * float(np.linalg.norm(now)), 1e-12)
    return None if cosine >= CANARY_MIN_COSINE else f"cosine {cosine:.6f}"


class ModelRegistry(Roster[ServedText]):
    """The text models."""

    def __init__(self, default: str, aliases: Sequence[str] = ()) -> None:
        super().__init__("model", is_required=True)
        self.expect(default, aliases)

    def add(self, served: ServedText) -> None:
        """Serve one version of a model to all its callers."""
        self.serve(served.name, [Share(served)])

    def text(self, name: str | None, caller: str | None = None) -> ServedText:
        """Return the text model of that name or alias, or the default, in the version for a caller.

        Without one, in the version with most weight. Raises `ModelNotFound` or `Unavailable`.
        """
        return self.heaviest(name) if caller is None else self.choose(name, caller)


class ModelService:
    """List the models."""

    def __init__(self, rosters: Sequence[Roster[Any]], *, is_ready: IsReady) -> None:
        self._rosters = rosters
        self._is_ready = is_ready

    async def list(self, ticket: Ticket, request: ListModelsRequest) -> ListModelsResponse:
        """Return all models, those that are missing too."""
        names = [(roster, name) for roster in self._rosters for name in (*roster.rollouts(), *roster.missing)]
        return ListModelsResponse(data=[self._view(roster, name) for roster, name in names])

    async def get(self, ticket: Ticket, request: GetModelRequest) -> Model:
        """Return one model. Raises `ModelNotFound`."""
        for roster in self._rosters:
            if (name := roster.find(request.id)) is not None:
                return self._view(roster, name)
        names = sorted(name for roster in self._rosters for name in (*roster.rollouts(), *roster.missing))
        there = ", ".join(names) or "none"
        raise ModelNotFound(f"this worker does not serve the model {request.id!r}; it serves {there}", param="id")

    def _view(self, roster: Roster[ServedModel], name: str) -> Model:
        try:
            rollout = roster.rollout(name)
        except PhalanxError:
            stand_in = roster.stand_ins.get(name)
            if stand_in is not None and name not in roster.pending:
                return replace(stand_in.describe(), ready=False, simulated=True)
            return Model(id=name, ready=False)
        shown = rollout.heaviest.describe()
        ready = any(self._is_ready(name, version) for version in rollout.weights)
        return replace(shown, ready=ready, weights=rollout.weights)
