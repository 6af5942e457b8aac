"""Follow an alias of MLflow's model registry: its bundle is downloaded, and the location file points to it.

MLflow is imported here alone, in the supervisor; workers never load it.
"""

import logging
import shutil
import threading
from pathlib import Path

from twotower.core.errors import UserError
from twotower.server.locations import point
from twotower.tracking.lookup import ADDRESS, MODELS, answering, client_of, locate, version_of

log = logging.getLogger(__name__)
LOOK_S = 5.0
KEPT = 3  # bundles on disk: what answers, the one before, and the next


class AliasFollower(threading.Thread):
    """Points a location file to whatever an alias names.

        follower = AliasFollower("models:/shop@champion", "sqlite:///mlflow.db", location, folder)
        follower.look()  # the first bundle
        follower.start()

    A registry that can't be reached changes nothing.
    """

    def __init__(self, name: str, tracking_uri: str, location: Path, folder: Path) -> None:
        super().__init__(daemon=True)
        match = ADDRESS.fullmatch(name)
        if match is None or match[2] is None:
            raise UserError(f"{name} names no alias; expected {MODELS}NAME@ALIAS")
        self._model, self._alias, _ = match.groups()
        self._name, self._tracking_uri, self._location, self._folder = name, tracking_uri, location, folder
        self._version = ""
        self._stopped = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)

    def look(self) -> bool:
        """Download and point to the alias's version if it is another one; raises UserError where that fails."""
        client = client_of(self._tracking_uri)
        if client is None:
            raise UserError(f"there is no MLflow database {self._tracking_uri}; set MLFLOW_TRACKING_URI")
        with answering(self._tracking_uri):
            version = str(version_of(client, self._model, self._alias, None).version)
        if version == self._version:
            return False
        bundle = locate(f"{MODELS}{self._model}/{version}", self._tracking_uri, self._folder, "bundle")
        point(self._location, bundle)
        self._version = version
        log.info("%s is version %s", self._name, version)
        downloads = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in downloads[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return True

    def run(self) -> None:
        """Look until `stop`."""
        while not self._stopped.wait(LOOK_S):
            try:
                self.look()
            except UserError as error:
                log.error("%s stays at version %s: %s", self._name, self._version, error)

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
