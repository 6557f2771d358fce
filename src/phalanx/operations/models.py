"""Rows about models."""

from __future__ import annotations

from phalanx.contract import models
from phalanx.operations.row import Body, Operation

MODELS: tuple[Operation, ...] = (
    Operation(
        name="models.list", request=models.ListModelsRequest, response=models.ListModelsResponse, scope=None,
        http="GET /v1/models", grpc="Models/List", bodies=(Body.NONE,), cache="revalidate", metered=False,
        run=lambda s, t, r: s.models.list(t, r), summary="List the models of this worker.", examples=({},),
    ),
    Operation(
        name="models.get", request=models.GetModelRequest, response=models.Model, scope=None,
        http="GET /v1/models/{id:path}", grpc="Models/Get", bodies=(Body.NONE,), cache="revalidate", metered=False,
        run=lambda s, t, r: s.models.get(t, r), summary="Describe one model.", examples=({"id": "all-MiniLM-L6-v2"},),
    ),
)  # fmt: skip
