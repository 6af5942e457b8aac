"""What a worker does beside requests: new models, metrics, files of impressions."""

import asyncio
import logging
import os
import signal
import time

from twotower.server import metrics
from twotower.server.live_models import LiveModel, LiveModels
from twotower.server.store.event_store import EventStore, StoreUnavailable

log = logging.getLogger(__name__)
LOOK_S = 0.25  # between two looks at the location files and manifests
FLUSH_S = 10.0  # between two files of impressions


async def watch(models: LiveModels, store: EventStore) -> None:
    """Look for new models, count what was unknown, and write impressions, as long as the worker lives."""
    flushed, parent, reachable = time.monotonic(), os.getppid(), True
    while True:
        await asyncio.sleep(LOOK_S)
        if os.getppid() != parent:  # the supervisor was killed: nobody would start or end this worker any more
            log.error("the supervisor is gone; the worker ends")
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.to_thread(models.refresh)
            for bucket in models.buckets:
                count_unknown(models[bucket])
            was, reachable = reachable, await asyncio.to_thread(is_reachable, store)
            metrics.store_up.set(reachable)
            if was != reachable:
                log.warning("user events are %s", "reachable again" if reachable else "not reachable")
            if time.monotonic() - flushed > FLUSH_S:
                flushed = time.monotonic()
                await asyncio.to_thread(models.flush)
        except Exception:  # whatever it is, the next look may go well
            log.exception("looking for new models failed; it goes on")


def is_reachable(store: EventStore) -> bool:
    """Whether the store answers."""
    try:
        store.check()
    except StoreUnavailable:
        return False
    return True


def count_unknown(model: LiveModel) -> None:
    """Add to the metrics what the retriever has counted since the last time."""
    for kind, number in model.retriever.unknown.items():
        metrics.unknown.labels(kind).inc(number - model.counted.get(kind, 0))
        model.counted[kind] = number
