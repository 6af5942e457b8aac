"""The models that answer now: opened, verified, and replaced between two requests.

Each bucket has a location file, {"bundle": FOLDER, ...}, that the supervisor writes. A worker looks at it, and at the
manifest of the folder it names, several times a second. What is new is opened and verified beside the present model and
put in its place only if all of that went well; a request that has begun is answered to its end by the model that it
began with.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twotower.core.errors import UserError
from twotower.core.files import read_json
from twotower.core.schema import EMBEDDING, ITEMS_FILE
from twotower.server import metrics
from twotower.serving.bundle import Bundle
from twotower.serving.bundle_format import MANIFEST_FILE
from twotower.serving.impressions import ImpressionLog
from twotower.serving.retriever import Retriever
from twotower.serving.signature import SIGNATURES
from twotower.serving.updates.versions import number_of
from twotower.serving.verify import replay_golden

log = logging.getLogger(__name__)
BUNDLE = "bundle"  # key of a location file
CHARACTERS = 16  # of a checksum, to name a model


@dataclass(frozen=True)
class LiveModel:
    """A verified model of a bucket.

    LiveModel.load("champion", Path("bundles/shop")).name
    """

    bucket: str
    retriever: Retriever
    impressions: ImpressionLog | None = None
    counted: dict[str, int] = field(default_factory=dict)  # of the retriever's unknown, those in the metrics already

    @classmethod
    def load(cls, bucket: str, bundle: Path, impressions: Path | None = None) -> "LiveModel":
        """Open a bundle and replay its golden histories; raises UserError where it is not sound."""
        retriever = Retriever.load(bundle)
        replay_golden(retriever)
        return cls(bucket, retriever, ImpressionLog(impressions, retriever.bundle) if impressions else None)

    @property
    def bundle(self) -> Bundle:
        """The opened bundle."""
        return self.retriever.bundle

    @property
    def name(self) -> str:
        """The beginning of the bundle's checksum, as impressions have it."""
        return str(self.bundle.manifest["checksum"])[:CHARACTERS]

    @property
    def version(self) -> int:
        """The number of the bundle's version."""
        return number_of(self.bundle.manifest)

    @cached_property
    def columns(self) -> pa.Table:
        """[V] items.parquet without the vectors."""
        file = self.bundle.file(ITEMS_FILE)
        return pq.read_table(file, columns=[name for name in pq.read_schema(file).names if name != EMBEDDING])


class LiveModels:
    """The models of all buckets; `refresh` may run in a thread beside requests.

    Args:
        locations: bucket -> its location file.
        check: is called with the folder of a bundle before and after it is opened, as its manifest may be replaced
            meanwhile, and raises UserError to refuse it.
        impressions: the folder of impression logs; None: none are written.

    Raises:
        UserError: a first model is not sound.
    """

    def __init__(
        self,
        locations: Mapping[str, Path],
        check: Callable[[Path], None] = lambda _: None,
        impressions: Path | None = None,
    ) -> None:
        self._locations, self._check, self._impressions = locations, check, impressions
        self._seen: dict[str, Any] = {}
        self._models: dict[str, LiveModel] = {}
        self._lock = threading.Lock()
        for bucket in locations:
            state = self._state(bucket)
            self._put(bucket, self._load(bucket, state[0]), state)

    def __getitem__(self, bucket: str) -> LiveModel:
        return self._models[bucket]

    def __contains__(self, bucket: object) -> bool:
        return bucket in self._models

    @property
    def buckets(self) -> list[str]:
        """Names of the buckets, the champion first."""
        return list(self._locations)

    def folder(self, bucket: str) -> Path:
        """Return the folder that the location file of a bucket names now."""
        return Path(read_json(self._locations[bucket], "a location")[BUNDLE])

    def refresh(self) -> None:
        """Put new models in place; one that is not sound is refused once, and the present one stays."""
        with self._lock:
            for bucket in self._locations:
                state: Any = None
                try:
                    state = self._state(bucket)
                    if state == self._seen[bucket]:
                        continue
                    loaded = self._load(bucket, state[0])
                except UserError as error:
                    state = state or str(error)
                    if state != self._seen[bucket]:
                        log.error("the %s stays as it is: %s", bucket, error)
                        metrics.swaps.labels("refused").inc()
                    self._seen[bucket] = state
                except OSError:  # the files are being replaced: look again
                    continue
                else:
                    self._put(bucket, loaded, state)

    def _load(self, bucket: str, folder: Path) -> LiveModel:
        self._check(folder)
        model = LiveModel.load(bucket, folder, self._impressions)
        self._check(folder)
        return model

    def _put(self, bucket: str, model: LiveModel, state: Any) -> None:
        before = self._models.get(bucket)
        self._models = {**self._models, bucket: model}
        self._seen[bucket] = state
        if before is not None:
            metrics.swaps.labels("swapped").inc()
            metrics.model_info.labels(bucket, before.name, before.version).set(0)
            if before.impressions is not None:
                before.impressions.flush()
        metrics.model_info.labels(bucket, model.name, model.version).set(1)

    def _state(self, bucket: str) -> tuple[Path, int, int, int]:
        """The folder, and what changes when its manifest is replaced or signed."""
        folder = self.folder(bucket)
        try:
            facts = (folder / MANIFEST_FILE).stat()
        except FileNotFoundError:
            raise UserError(f"{folder / MANIFEST_FILE} is missing: {folder} is not a bundle") from None
        signatures = folder / SIGNATURES
        signed = signatures.stat().st_mtime_ns if signatures.is_dir() else 0
        return folder, facts.st_mtime_ns, facts.st_ino, signed

    def flush(self) -> None:
        """Write the impressions that wait; where that fails they wait for the next time."""
        for model in self._models.values():
            if model.impressions is not None:
                model.impressions.flush()
