"""The models that this worker serves, by name and alias."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from phalanx.contract.models import GetModelRequest, ListModelsRequest, ListModelsResponse, Model
from phalanx.engines.runner import Runner
from phalanx.engines.text.model import PreparedText, TextModel
from phalanx.errors import ModelNotFound, Unavailable
from phalanx.services.ticket import Ticket


@dataclass(frozen=True, slots=True)
class ServedText:
    """A text model with the runner that feeds it. `canary` is a text with its unit vector, the golden check's first."""

    model: TextModel
    runner: Runner[PreparedText, np.ndarray]
    aliases: tuple[str, ...] = ()
    licence: str = ""
    created: int = 0

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.spec.name


class ModelRegistry:
    """Which models are there. One that could not be loaded stays listed with the reason, and refuses with it."""

    def __init__(self, default: str) -> None:
        self.default = default
        self._served: dict[str, ServedText] = {}
        self._names: dict[str, str] = {}
        self.missing: dict[str, str] = {}

    def add(self, served: ServedText, *, instead_of: str | None = None) -> None:
        """Serve a model under its name and its aliases; `instead_of` is the name under which it was waited for."""
        if instead_of is not None:
            self.missing.pop(instead_of, None)
            self._names[instead_of.lower()] = served.name
            if self.default == instead_of:
                self.default = served.name
        self._served[served.name] = served
        for name in (served.name, *served.aliases):
            self._names[name.lower()] = served.name
        self.missing.pop(served.name, None)

    def mark_missing(self, name: str, reason: str, aliases: tuple[str, ...] = ()) -> None:
        """Remember that a model should be here and is not; `reason` says which command mends it."""
        self.missing[name] = reason
        for known in (name, *aliases):
            self._names[known.lower()] = name

    def text(self, name: str | None) -> ServedText:
        """Return the text model of that name or alias, or the default. Raises `ModelNotFound` or `Unavailable`."""
        wanted = name or self.default
        found = self._names.get(wanted.lower())
        if found is None:
            there = ", ".join(sorted({*self._served, *self.missing})) or "none"
            raise ModelNotFound(f"this worker does not serve the model {wanted!r}; it serves {there}", param="model")
        served = self._served.get(found)
        if served is None:
            raise Unavailable(f"the model {found!r} is not ready: {self.missing[found]}", retry_after_s=5)
        return served

    def served(self) -> list[ServedText]:
        """Return every loaded model."""
        return list(self._served.values())


class ModelService:
    """List the models."""

    def __init__(self, registry: ModelRegistry, *, is_ready: Callable[[str], bool]) -> None:
        self._registry = registry
        self._is_ready = is_ready

    async def list(self, ticket: Ticket, request: ListModelsRequest) -> ListModelsResponse:
        """Return all models, those that are missing too."""
        return ListModelsResponse(
            data=[*map(self._view, self._registry.served()), *map(_absent, self._registry.missing)]
        )

    async def get(self, ticket: Ticket, request: GetModelRequest) -> Model:
        """Return one model. Raises `ModelNotFound`."""
        try:
            return self._view(self._registry.text(request.id))
        except Unavailable:
            return _absent(request.id)

    def _view(self, served: ServedText) -> Model:
        spec, backend = served.model.spec, served.model.backend
        return Model(
            id=spec.name, created=served.created, task="text-embedding", version=spec.version, sha256=spec.sha256,
            dimensions=spec.dimensions, max_tokens=spec.max_tokens, licence=served.licence, device=backend.device,
            precision=backend.precision, aliases=served.aliases, prompts=tuple(spec.prompts),
            ready=self._is_ready(spec.name),
        )  # fmt: skip


def _absent(name: str) -> Model:
    return Model(id=name, ready=False)
