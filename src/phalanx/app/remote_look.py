"""What `phalanx doctor` says of the workers that TEXT_URL and its kin name."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from phalanx.app.remote import service_of
from phalanx.contract.models import ListModelsResponse
from phalanx.edges.grpc.schema import Method, Schema, SchemaNotBuilt
from phalanx.edges.grpc.shapes import SchemaMismatch
from phalanx.errors import InvalidRequest
from phalanx.operations import Kind, Operation, table
from phalanx.settings import Settings
from phalanx.settings.remote import ServiceUrl
from phalanx.upstreams.remote_address import ClientTls
from phalanx.upstreams.remote_look import Look, look

MODELS = "models.list"

REFUSALS = {
    "unauthenticated": ("does not know SERVICE_KEY", "make one there: phalanx keys create NAME --scope {scope}"),
    "forbidden": ("lets SERVICE_KEY do other things only", "make one there with --scope {scope}"),
    "quota_exceeded": ("says that the month's quota of SERVICE_KEY is used up", "give its key tier scale there"),
    "rate_limited": ("limits SERVICE_KEY's rate", "give its key tier scale there"),
    "tls_required": ("takes calls over TLS only", "name it by grpcs://"),
}
"""What a worker has against the key, and what helps."""


class Seen(NamedTuple):
    """One thing found: whether it is well (None: worth a note), in a sentence, and what to do about it."""

    well: bool | None
    found: str
    remedy: str = ""


async def look_at_remote(settings: Settings) -> list[Seen]:
    """Return what is found at each address of TEXT_URL and its kin."""
    return [seen for setting in sorted(set(settings.remote.values())) for seen in await _look_at(settings, setting)]


async def _look_at(settings: Settings, setting: str) -> list[Seen]:
    """Return what is found at the addresses of one variable, and whether they serve the same."""
    rows = table()
    mine = {name: row for name, row in rows.items() if row.service and settings.remote.get(row.service) == setting}
    try:
        methods = Schema({name: row for name, row in {**mine, MODELS: rows[MODELS]}.items() if row.grpc}).methods
    except (SchemaNotBuilt, SchemaMismatch) as error:
        return [Seen(False, f"{setting}: {error}")]
    paths = {name: methods[name].path for name, row in mine.items() if row.grpc and row.kind is Kind.UNARY}
    service, scope = service_of(setting, methods), _scopes(mine.values())
    tls = ClientTls(settings.service_tls_ca_file, settings.service_tls_cert_file, settings.service_tls_key_file)
    seen: list[Seen] = []
    serving: dict[str, list[str]] = {}
    urls: tuple[ServiceUrl, ...] = getattr(settings, setting.lower())
    for url in dict.fromkeys(urls):
        found = await look(
            url, service, rows=paths, models_path=methods[MODELS].path, key=settings.service_key, tls=tls
        )
        seen.append(_told(f"{setting}: {url.target}", found, url, scope, has_key=bool(settings.service_key)))
        if found.models is not None:
            serving.setdefault(_listed(methods[MODELS], found.models), []).append(url.target)
    if len(serving) > 1:
        parts = "; ".join(f"{', '.join(at)} has {said}" for said, at in serving.items())
        remedy = "serve the same everywhere, or one text has two vectors"
        seen.append(Seen(None, f"{setting}: its addresses serve different models: {parts}", remedy))
    return seen


def _scopes(rows: Collection[Operation]) -> str:
    """Return the scopes that a key needs for rows, as `phalanx keys create` is told them."""
    found = dict.fromkeys(str(row.scope) for row in rows)
    if any(row.service == "collections" for row in rows):
        found["admin"] = None
    return " --scope ".join(found)


def _listed(method: Method, data: bytes) -> str:
    """Return the models of a worker in words."""
    try:
        answer: ListModelsResponse = method.response_of(data)
    except (InvalidRequest, ValueError):
        return "models that it lists as another version does"
    return ", ".join(sorted(f"{one.id} {one.version}" for one in answer.data if one.ready)) or "no model"


def _told(at: str, found: Look, url: ServiceUrl, scope: str, *, has_key: bool) -> Seen:
    """Return a look in words."""
    if not found.is_listening:
        remedy = "is it running with GRPC_PORT, and on an APP_HOST that this machine may reach?"
        return Seen(False, f"{at}: nobody takes connections there", remedy)
    if not found.is_speaking:
        spoken, other = ("TLS", "grpc://") if url.is_tls else ("gRPC in clear", "grpcs://")
        remedy = f"is that GRPC_PORT, and should it be {other}?"
        if url.is_tls:
            remedy += " Do SERVICE_TLS_CA_FILE, and for mutual TLS SERVICE_TLS_CERT_FILE, fit?"
        return Seen(False, f"{at} takes connections, but does not speak {spoken} with this machine", remedy)
    if not found.health:
        return Seen(False, f"{at} speaks gRPC, but is no worker of Phalanx", "name the GRPC_PORT of a worker")
    if found.elsewhere:
        return Seen(False, f"{at} does not have {', '.join(found.elsewhere)}", "look at SERVICES there")
    if found.unknown:
        remedy = "it is of another version: replace the workers behind first"
        return Seen(False, f"{at} does not know {', '.join(found.unknown)}", remedy)
    if found.refused == "unauthenticated" and not has_key:
        remedy = REFUSALS[found.refused][1].format(scope=scope)
        return Seen(False, f"{at} wants a key, and SERVICE_KEY is not set", remedy)
    if found.refused in REFUSALS:
        said, remedy = REFUSALS[found.refused]
        return Seen(False, f"{at} {said}", remedy.format(scope=scope))
    if found.health != "SERVING":
        return Seen(None, f"{at} answers, but is not ready: {found.health}", "look at /readyz and /health there")
    return Seen(True, f"{at} serves the calls of this worker")
