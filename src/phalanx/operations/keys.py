"""Rows about API keys."""

from __future__ import annotations

from phalanx.contract import keys
from phalanx.operations.row import Body, Operation

KEYS: tuple[Operation, ...] = (
    Operation(
        name="keys.create", request=keys.CreateKeyRequest, response=keys.CreateKeyResponse, scope="keys",
        http="POST /v1/keys", grpc="Keys/Create", run=lambda s, t, r: s.keys.create(t, r),
        summary="Create an API key; the key itself is shown only once.",
        metered=False, audit=True,
        examples=({"email": "ann@example.org", "name": "laptop", "tier": "scale", "scopes": ["text"]},),
    ),
    Operation(
        name="keys.list", request=keys.ListKeysRequest, response=keys.ListKeysResponse, scope="keys",
        http="GET /v1/keys", grpc="Keys/List", bodies=(Body.NONE,), run=lambda s, t, r: s.keys.list(t, r),
        summary="List keys.", metered=False, examples=({},),
    ),
    Operation(
        name="keys.revoke", request=keys.RevokeKeyRequest, response=keys.KeyView, scope="keys",
        http="DELETE /v1/keys/{id}", grpc="Keys/Revoke", bodies=(Body.NONE,), run=lambda s, t, r: s.keys.revoke(t, r),
        summary="Revoke a key.", metered=False, audit=True,
    ),
    Operation(
        name="keys.rotate", request=keys.RotateKeyRequest, response=keys.CreateKeyResponse, scope="keys",
        http="POST /v1/keys/{id}/rotate", grpc="Keys/Rotate", run=lambda s, t, r: s.keys.rotate(t, r), metered=False,
        audit=True, summary="Replace a key; the old one still works for the time that is asked for.",
    ),
)  # fmt: skip
