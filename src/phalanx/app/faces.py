"""The face models of a worker: those that are in the store are loaded, the others are named to who asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

from phalanx.app.models import batch_metrics, open_store
from phalanx.engines.choice import EngineChoice
from phalanx.errors import PhalanxError
from phalanx.services.face_loading import FULL_RANGE, embedders_of, load_detector, load_embedder
from phalanx.services.face_models import FaceModels, ServedDetector, ServedEmbedder
from phalanx.settings import Settings
from phalanx.telemetry import Log, Metrics

S = TypeVar("S", ServedDetector, ServedEmbedder)


async def load_face_models(
    models: FaceModels, settings: Settings, metrics: Metrics, log: Log, closing: AsyncExitStack, threads: int | None
) -> None:
    """Load the detector and every embedder that is active in the store, and start what feeds them.

    A worker serves without them: the rows of one that is missing answer `unavailable` with the command that mends it.
    """
    store, on_batch = open_store(settings), partial(batch_metrics, metrics)
    choice = EngineChoice(engine=settings.engine, device=settings.device, precision=settings.precision, threads=threads)

    async def load(
        name: str, loading: Callable[[], S], serve: Callable[[S], None], miss: Callable[[str], None]
    ) -> None:
        try:
            served = await asyncio.to_thread(loading)
        except PhalanxError as error:
            miss(error.detail)
            log.info("face model not served", model=name, reason=error.detail)
            return
        if isinstance(served, ServedDetector):
            closing.callback(served.detector.close)
        served.runner.start()
        closing.push_async_callback(served.runner.stop, settings.drain_timeout_secs)
        serve(served)
        metrics.gauge("phalanx_queue_tokens", name).set_function(lambda: served.runner.stats().waiting_tokens)
        log.info("model ready", model=served.name, version=served.version)

    await load(
        FULL_RANGE, lambda: load_detector(store, choice, on_batch), models.serve_detector,
        lambda reason: models.mark_missing(detector=reason),
    )  # fmt: skip
    try:
        embedders = embedders_of(store)
    except PhalanxError as error:
        models.mark_missing(embedder=error.detail)
        embedders = []
    for name in embedders:
        await load(
            name, partial(load_embedder, store, name, choice, on_batch), models.serve_embedder,
            lambda reason: models.mark_missing(embedder=reason),
        )  # fmt: skip
