"""The champion of a registered model: the version that an alias names, moved by a promotion and moved back."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from twotower.core.errors import UserError
from twotower.tracking.lookup import ADDRESS, MODELS, alias_hint, aliases_of, answering, client_of, version_of

TAG_LENGTH = 2000  # characters of a tag's value that every store takes


class Registered(NamedTuple):
    """A version of a registered model, or the alias that names one."""

    model: str
    alias: str | None
    version: str | None  # None: no version has the alias yet


def champion_version(tracking_uri: str, model: str, alias: str) -> str | None:
    """Return the version that has the alias; None where there is none, or no such model or database yet."""
    if (client := client_of(tracking_uri)) is None:
        return None
    with answering(tracking_uri):
        if not client.search_registered_models(f"name = '{model}'"):
            return None
    return Registry(tracking_uri).find(f"{MODELS}{model}@{alias}").version


class Registry:
    """MLflow's model registry, as far as promotions need it.

        registry = Registry("sqlite:///mlflow.db")
        champion = registry.find("models:/shop@champion")
        registry.promote(registry.find("models:/shop@candidate"), champion, {"gate": "passed"})
        registry.roll_back(registry.find("models:/shop@champion"), "returns went up")

    Args:
        tracking_uri: MLflow's.

    Raises:
        UserError: there is no such database; and from each call, where MLflow can't be reached.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        client = client_of(tracking_uri)
        if client is None:
            raise UserError(f"there is no MLflow database {tracking_uri}; name the registry: tracking_uri=...")
        self._client: Any = client

    def find(self, address: str) -> Registered:
        """Return what `models:/NAME@ALIAS` or `models:/NAME/VERSION` names; raises UserError where there is no such."""
        match = ADDRESS.fullmatch(address)
        if match is None:
            raise UserError(f"{address} is no registered model; expected {MODELS}NAME@ALIAS or {MODELS}NAME/VERSION")
        model, alias, version = match.groups()
        with answering(self.tracking_uri):
            if version is None:
                version = aliases_of(self._client, model).get(alias)
            else:
                version_of(self._client, model, None, version)
        return Registered(model, alias, version)

    def hint(self, registered: Registered) -> str:
        """What to say of an alias that no version has: the nearest of the model's, and which it has."""
        with answering(self.tracking_uri):
            return alias_hint(str(registered.alias), aliases_of(self._client, registered.model))

    def promote(self, candidate: Registered, champion: Registered, reasons: Mapping[str, str]) -> None:
        """Move the champion's alias to the candidate's version; reasons become the version's tags.

        The tags come first: a process that is killed in between leaves the champion as it was.

        Raises:
            UserError: the alias has moved since `champion` was found, so the comparison is of another champion.
        """
        model, alias, version = candidate.model, champion.alias, candidate.version
        self.tag(candidate, {f"{alias}.{key}": value for key, value in reasons.items()})
        with answering(self.tracking_uri):
            if champion.version is not None:
                self._client.set_model_version_tag(model, version, f"{alias}.previous", champion.version)
            now = self._client.get_registered_model(model).aliases.get(alias)
            if (None if now is None else str(now)) != champion.version:
                raise UserError(
                    f"{MODELS}{model}@{alias} was moved to version {now} meanwhile, and the candidate was compared "
                    f"with version {champion.version}; promote it again"
                )
            self._client.set_registered_model_alias(model, alias, version)

    def tag(self, registered: Registered, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with answering(self.tracking_uri):
            for key, value in tags.items():
                self._client.set_model_version_tag(registered.model, registered.version, key, value[:TAG_LENGTH])

    def roll_back(self, champion: Registered, reason: str) -> Registered:
        """Move the alias back to the version that it was promoted over, and return that.

        Raises:
            UserError: there is no such alias, or no promotion has moved it to its version.
        """
        model, alias, version = champion
        with answering(self.tracking_uri):
            if version is None:
                raise UserError(f"no version of {model} has the alias {alias}{self.hint(champion)}")
            before = self._client.get_model_version(model, version).tags.get(f"{alias}.previous")
            if before is None:
                raise UserError(
                    f"{MODELS}{model}@{alias} is version {version}, which was not promoted over another; move it by "
                    "hand in MLflow, if it must be"
                )
            self._client.get_model_version(model, before)  # it may have been deleted
        self.tag(champion, {f"{alias}.rolled_back": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC: {reason}"})
        with answering(self.tracking_uri):
            self._client.set_registered_model_alias(model, alias, before)
        return Registered(model, alias, str(before))
