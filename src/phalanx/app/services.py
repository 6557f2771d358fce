"""The services of a worker, over its stores and models."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from phalanx.app.stores import Stores, Surroundings
from phalanx.errors import PhalanxError
from phalanx.operations import Services
from phalanx.ports import Broadcast, ResultCache, VectorCache
from phalanx.services.callers.audit import AuditService
from phalanx.services.callers.keys import KeyService
from phalanx.services.callers.organisations import OrganisationService
from phalanx.services.callers.passwords import Passwords
from phalanx.services.callers.sessions import Sessions
from phalanx.services.callers.signing import SigningKeys
from phalanx.services.callers.throttle import Throttle
from phalanx.services.callers.tokens import TokenSigner
from phalanx.services.callers.users import UserService
from phalanx.services.collections.contracts import Contracts
from phalanx.services.collections.face_moving import FaceCarrier
from phalanx.services.collections.face_reembedding import FaceReembedService
from phalanx.services.collections.gallery import GalleryService
from phalanx.services.collections.moving import Carrier, TextVectors
from phalanx.services.collections.points import PointService
from phalanx.services.collections.reembedding import Moves, ReembedService
from phalanx.services.collections.registry import CollectionRegistry
from phalanx.services.collections.service import CollectionService
from phalanx.services.faces.finding import FaceFinder
from phalanx.services.faces.service import FaceService
from phalanx.services.images import ImageIntake, ImageService
from phalanx.services.jobs.service import JobKind, JobService
from phalanx.services.jobs.tokens import JobTokens
from phalanx.services.jobs.webhooks import Webhooks
from phalanx.services.metering.usage import UsageService
from phalanx.services.results import Results
from phalanx.services.serving.face_models import FaceModels
from phalanx.services.serving.health import HealthService
from phalanx.services.serving.text_models import ModelRegistry, ModelService
from phalanx.services.text import TextService
from phalanx.services.threads import BoundedThreads
from phalanx.services.vectors import VectorService
from phalanx.upstreams.fetch import Fetcher
from phalanx.upstreams.webhooks import Poster

TIDY_EVERY_S = 3600.0
COMPARED_AT_ONCE, COMPARED_WAITING = 2, 64


def open_services(
    around: Surroundings, stores: Stores, registry: ModelRegistry, face_models: FaceModels, health: HealthService,
    news: Broadcast, signing: SigningKeys, job_tokens: JobTokens, kinds: Callable[[], Mapping[str, JobKind]],
    webhooks: Webhooks,
) -> Services:  # fmt: skip
    """Return what the rows run on. `news` is told of every change of keys and sessions; `kinds` are rows that take jobs."""
    settings, clock, new_id = around.settings, around.clock, around.new_id
    sessions = Sessions(
        stores.sessions, news, TokenSigner(signing, issuer=settings.jwt_issuer, clock=clock), clock=clock,
        new_id=new_id, access_ttl_s=settings.jwt_access_ttl_secs, refresh_ttl_s=settings.jwt_refresh_ttl_secs,
    )  # fmt: skip
    if around.is_serving:
        around.closing.keep_running(_tidy(sessions))
    passwords = Passwords()
    around.closing.callback(passwords.close)
    intake, text = _image_intake(around), _text_service(around, registry, stores.cache)
    contracts = Contracts(registry, face_models)
    collections = CollectionRegistry(stores.collections, stores.vectors, clock)
    text_vectors = TextVectors(text, contracts)
    carrier, moves = Carrier(stores.vectors, text_vectors), Moves()
    around.closing.close_with(moves.close)
    finder = FaceFinder(face_models, intake)
    faces = FaceService(face_models, finder, intake, _results(around, stores.results))
    face_carrier = FaceCarrier(stores.vectors, face_models, finder, faces)
    moved_faces = FaceReembedService(collections, contracts, face_carrier, faces, around.log)
    return Services(
        text=text,
        images=ImageService(intake, finder.largest),
        faces=faces, gallery=GalleryService(collections, face_models, finder, faces, face_carrier, clock),
        vectors=_vector_service(around),
        collections=CollectionService(collections, contracts, clock),
        points=PointService(collections, text_vectors, carrier),
        reembedding=ReembedService(collections, text_vectors, carrier, moves, moved_faces, around.log),
        face_reembedding=moved_faces,
        models=ModelService(
            (registry, face_models.detectors, face_models.embedders), is_ready=health.is_model_ready
        ),
        keys=KeyService(
            stores.keys, stores.organisations, news, clock=clock, prefix=settings.api_key_prefix, new_id=new_id
        ),
        users=UserService(
            stores.users, stores.organisations, sessions, passwords,
            Throttle(stores.limiter, clock=clock, new_id=new_id), clock=clock, new_id=new_id,
            is_signup_open=settings.signup == "open",
        ),
        organisations=OrganisationService(
            stores.organisations, stores.users, sessions, clock=clock, new_id=new_id
        ),
        usage=UsageService(stores.usage, clock), audit=AuditService(stores.audit), health=health,
        jobs=JobService(stores.jobs, stores.queues, job_tokens, kinds, webhooks, clock, new_id),
    )  # fmt: skip


def open_webhooks(around: Surroundings, stores: Stores, tokens: JobTokens) -> Webhooks:
    """Return what tells of the end of jobs; where there is a secret to sign with, it is kept running."""
    settings = around.settings
    poster = Poster(settings.webhook_allow, settings.webhook_networks)
    around.closing.close_with(poster.close)
    webhooks = Webhooks(
        stores.outbox, poster, tokens, settings.webhook_secret, clock=around.clock, log=around.log,
        metrics=around.metrics,
    )  # fmt: skip
    if around.is_serving and webhooks.is_on:
        around.closing.keep_running(webhooks.run())
    return webhooks


def _image_intake(around: Surroundings) -> ImageIntake:
    settings = around.settings
    fetcher = Fetcher(settings.image_url_allow, max_bytes=settings.max_request_size_bytes)
    around.closing.close_with(fetcher.close)
    intake = ImageIntake(
        fetcher, around.clock, max_bytes=settings.max_request_size_bytes, max_pixels=settings.max_image_pixels
    )
    around.closing.callback(intake.close)
    return intake


def _vector_service(around: Surroundings) -> VectorService:
    threads = BoundedThreads("vectors", around.clock, at_once=COMPARED_AT_ONCE, max_waiting=COMPARED_WAITING)
    around.closing.callback(threads.close)
    return VectorService(threads)


def _results(around: Surroundings, cache: ResultCache) -> Results:
    is_shared = around.settings.cache_scope == "shared"
    return Results(cache, around.clock, share=is_shared, on_lookup=_counting_lookups(around))


def _text_service(around: Surroundings, registry: ModelRegistry, cache: VectorCache) -> TextService:
    is_shared = around.settings.cache_scope == "shared"
    return TextService(registry, cache, share_cache=is_shared, on_lookup=_counting_lookups(around))


def _counting_lookups(around: Surroundings) -> Callable[[int, int], None]:
    hits, misses = (around.metrics.counter("phalanx_cache_lookups", outcome) for outcome in ("hit", "miss"))

    def count(found: int, missing: int) -> None:
        if found:
            hits.inc(found)
        if missing:
            misses.inc(missing)

    return count


async def _tidy(sessions: Sessions) -> None:
    """Delete the rows of sessions that are long over, now and once an hour, until cancelled."""
    while True:
        with suppress(PhalanxError):
            await sessions.tidy()
        await asyncio.sleep(TIDY_EVERY_S)
