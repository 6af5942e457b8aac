"""Who may do what: tokens with a role each, read < write < admin.

The file of `--tokens` is JSON, {"TOKEN": "read" | "write" | "admin", ...}; it is read again when it changes.
"""

import hashlib
import hmac
import logging
import time
from pathlib import Path

from twotower.core.errors import UserError
from twotower.core.files import read_json

log = logging.getLogger(__name__)
LOOK_S = 1.0  # between two looks at the file
log = logging.getLogger(__name__)
LOOK_S = 1.0  # between two looks at the file
ROLES = ("read", "write", "admin")
SHORTEST = 16  # characters of a token


class Tokens:
    """Checks bearer tokens; None in the place of a file lets everybody do everything.

    >>> Tokens(None).role("")
    'admin'
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._roles: dict[bytes, str] = {}
        self._changed, self._looked = -1, 0.0
        if file is not None:
            self.refresh()

    @property
    def are_absent(self) -> bool:
        """Whether everybody may do everything."""
        return self._file is None

    def refresh(self) -> None:
        """Read the file again where it has changed; raises UserError for one that does not hold tokens."""
        if self._file is None or (self._file.exists() and self._file.stat().st_mtime_ns == self._changed):
            return
        roles = read_json(self._file, "a file of tokens")
        if not isinstance(roles, dict) or not roles or not all(role in ROLES for role in roles.values()):
            raise UserError(f'{self._file} holds no tokens; expected {{"TOKEN": "read" | "write" | "admin", ...}}')
        if short := [token for token in roles if len(token) < SHORTEST]:
            number = f"{len(short)} token(s) of fewer than {SHORTEST} characters"
            raise UserError(f"{self._file} has {number}; make longer ones")
        self._roles = {_digest(token): role for token, role in roles.items()}
        self._changed = self._file.stat().st_mtime_ns

    def _look(self) -> None:
        """Read the file again where it has changed, at most once a second; a damaged one changes nothing."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        try:
            self.refresh()
        except (UserError, OSError) as error:
            log.error("the tokens stay as they are: %s", error)

    def role(self, authorization: str) -> str | None:
        """Return the role of an Authorization header; None where it has no valid token.

        All digests are compared in constant time, so that the time tells nothing about a token.
        """
        if self._file is None:
            return ROLES[-1]
        if time.monotonic() - self._looked > LOOK_S:
            self._looked = time.monotonic()
            try:
                self.refresh()
            except UserError as error:
                log.error("the tokens stay as they are: %s", error)
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        digest, role = _digest(token.strip()), None
        for known, of_known in self._roles.items():
            if hmac.compare_digest(known, digest):
                role = of_known
        return role


def allows(role: str, needed: str) -> bool:
    """Return whether a role includes another.

    >>> allows("write", "read"), allows("read", "admin")
    (True, False)
    """
    return ROLES.index(role) >= ROLES.index(needed)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
