"""Models: what a worker serves, in OpenAI's list form with the facts that tell two versions apart."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct


class ListModelsRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for all models of the worker."""


class GetModelRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Name one model, by its name or an alias such as the hub's id."""

    id: str


class Model(Struct, frozen=True, kw_only=True):
    """A served model. `sha256` is that of its weights; `prompts` are the names that `prompt` may carry.

    `weights` are the active versions, each with its share of the callers, 0 to 1; the other facts are those of the one
    with the largest share. One that is `simulated` is missing or fails, and a stand-in answers for it.
    """

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "phalanx"
    task: str = ""
    version: str = ""
    sha256: str = ""
    dimensions: int = 0
    max_tokens: int = 0
    licence: str = ""
    device: str = ""
    precision: str = ""
    aliases: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()
    weights: dict[str, float] = {}
    ready: bool = True
    simulated: bool = False


class ListModelsResponse(Struct, frozen=True, kw_only=True):
    """The models of this worker."""

    data: list[Model]
    object: Literal["list"] = "list"
