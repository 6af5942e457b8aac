"""What the routes of one worker share."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

from twotower.server.errors import Refused
from twotower.server.live_models import LiveModel, LiveModels
from twotower.server.requests import CHALLENGER, CHAMPION
from twotower.server.store.event_store import EventStore
from twotower.serving.buckets import bucket_of

Made = TypeVar("Made")


@dataclass(frozen=True)
class Experiment:
    """The share of users that the challenger answers.

    >>> Experiment("new-model", 0.0).bucket("user-1")
    'champion'
    """

    salt: str
    share: float

    def bucket(self, user_id: str | None) -> str:
        """Return the bucket of a user; requests without one are the champion's."""
        if user_id is None or not self.share:
            return CHAMPION
        return bucket_of(user_id, self.salt, {CHALLENGER: self.share, CHAMPION: 1 - self.share})


@dataclass(frozen=True)
class State:
    """Models, users' events, and how they are chosen.

    State(models, store, Experiment("salt", 0.1), locations).model_of(None, "user-1")
    """

    models: LiveModels
    store: EventStore
    experiment: Experiment
    locations: dict[str, Path]  # bucket -> its location file
    is_signed: bool = False  # bundles must be signed, so none is changed here
    heavy: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(1))

    def model_of(self, bucket: str | None, user_id: str | None = None) -> LiveModel:
        """Return the model of a bucket, or of a user's; raises Refused where there is none."""
        wanted = bucket or self.experiment.bucket(user_id)
        if wanted not in self.models:
            there = ", ".join(self.models.buckets)
            raise Refused(404, "body.bucket", f"there is no {wanted}; the server has {there}")
        return self.models[wanted]

    async def in_thread(self, call: Callable[[], Made]) -> Made:
        """Run what takes longer than a few milliseconds beside other requests, one such call at a time."""
        async with self.heavy:
            return await asyncio.to_thread(call)


class PerModel(Generic[Made]):
    """What is made from a bucket's model at the first request that needs it, and again when the model changes.

    PerModel(lambda model: ItemSearch(model.columns)).of(models["champion"])
    """

    def __init__(self, make: Callable[[LiveModel], Made]) -> None:
        self._make = make
        self._made: dict[str, tuple[LiveModel, Made]] = {}

    def of(self, model: LiveModel) -> Made:
        """Return what belongs to a model."""
        known = self._made.get(model.bucket)
        if known is None or known[0] is not model:
            known = self._made[model.bucket] = (model, self._make(model))
        return known[1]
