"""What a row of the table says."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from phalanx.contract.services import ServiceName
from phalanx.services.callers.audit import AuditService
from phalanx.services.callers.keys import KeyService
from phalanx.services.callers.organisations import OrganisationService
from phalanx.services.callers.users import UserService
from phalanx.services.collections.face_reembedding import FaceReembedService
from phalanx.services.collections.gallery import GalleryService
from phalanx.services.collections.points import PointService
from phalanx.services.collections.reembedding import ReembedService
from phalanx.services.collections.service import CollectionService
from phalanx.services.faces.service import FaceService
from phalanx.services.gate import Admits
from phalanx.services.images import ImageService
from phalanx.services.jobs.service import JobService
from phalanx.services.metering.usage import UsageService
from phalanx.services.serving.health import HealthService
from phalanx.services.serving.text_models import ModelService
from phalanx.services.text import TextService
from phalanx.services.ticket import Ticket
from phalanx.services.vectors import VectorService


class Kind(enum.Enum):
    """How many messages go each way. A client stream is answered message by message, so that it can be bulk work."""

    UNARY = "unary"
    SERVER_STREAM = "server stream"
    CLIENT_STREAM = "client stream"


class Body(enum.Enum):
    """What a row reads besides path and query: nothing, JSON, an image (raw or multipart), or binary vectors."""

    NONE = "none"
    JSON = "json"
    IMAGE = "image"
    VECTORS = "vectors"


@dataclass(frozen=True, slots=True)
class Services:
    """What rows run on. `extra` holds what plug-ins bring, by their own names."""

    text: TextService
    images: ImageService
    faces: FaceService
    gallery: GalleryService
    vectors: VectorService
    collections: CollectionService
    points: PointService
    reembedding: ReembedService
    face_reembedding: FaceReembedService
    models: ModelService
    keys: KeyService
    users: UserService
    organisations: OrganisationService
    usage: UsageService
    audit: AuditService
    health: HealthService
    jobs: JobService
    extra: dict[str, Any] = field(default_factory=dict)


SERVICE_OF: dict[str, ServiceName] = {
    "text": "text", "faces": "face-embedding", "faces.detect": "face-detection", "images": "image-processing",
    "vectors": "similarity",
}  # fmt: skip
"""The service of a row, by its name or else its noun."""
COLLECTIONS_PATH = "/v1/collections"
"""Below it everything is part of the service of collections, faces too."""

Run = Callable[[Services, Ticket, Any], Any]
Unit = Literal["request", "token", "image", "vector", "message"]
CacheRule = Literal["none", "content", "revalidate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One row.

    `scope` None admits any caller with a credential, `open` also those without one, who are limited by address. A row
    that is not `metered` is about keys, users and the like: it takes no quota and is not billed. One with `audit` is an
    administrative act and leaves an entry in the audit log. `cache` is `content` where the service keeps results by what was
    sent, `revalidate` where a client may keep the answer and ask again with its ETag, and `none` otherwise. `computed` rows
    count against MAX_CONCURRENT_REQUESTS and REQUEST_TIMEOUT. A row that `answers` with an image has a response with
    `image` and `format`; a caller who accepts only images gets the image alone. `status` is the HTTP status of an answer.
    `max_body_bytes` replaces MAX_REQUEST_SIZE_BYTES where the operator has not set that. `examples` are requests that work;
    the docs show them and the edges' tests send them. A `job` row can be queued; `job_names` are other names for its fields,
    used by applications in their jobs. `run` returns an awaitable (unary) or an async iterator (streams).
    """

    name: str
    request: type[msgspec.Struct]
    response: type[msgspec.Struct]
    scope: Admits
    http: str
    run: Run
    summary: str
    unit: Unit = "request"
    grpc: str | None = None
    job: bool = False
    job_names: Mapping[str, str] = field(default_factory=dict)
    status: int = 200
    kind: Kind = Kind.UNARY
    bodies: tuple[Body, ...] = (Body.JSON,)
    answers: tuple[Body, ...] = (Body.JSON,)
    cache: CacheRule = "none"
    computed: bool = False
    metered: bool = True
    audit: bool = False
    max_body_bytes: int | None = None
    examples: tuple[dict[str, Any], ...] = ()

    @property
    def method(self) -> str:
        """The HTTP method of its route."""
        return self.http.split(" ", 1)[0]

    @property
    def path(self) -> str:
        """The path of its route, with `{parameters}`."""
        return self.http.split(" ", 1)[1]

    @property
    def noun(self) -> str:
        """What it is about: the name's first part."""
        return self.name.split(".", 1)[0]

    @property
    def service(self) -> ServiceName | None:
        """Which of a worker's services it is part of; None for what every worker has: rows about keys, usage or itself."""
        if self.path.startswith(COLLECTIONS_PATH):
            return "collections"
        return SERVICE_OF.get(self.name) or SERVICE_OF.get(self.noun)
