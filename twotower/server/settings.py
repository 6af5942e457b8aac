"""What the supervisor tells its workers, through their environment."""

import json
import os
from dataclasses import asdict, dataclass

VARIABLE = "TWOTOWER_SERVER"


@dataclass(frozen=True)
class Settings:
    """All that a worker needs to start.

    >>> Settings({"champion": "/run/champion.json"}, "memory:/run/events", 50).store
    'memory:/run/events'
    """

    locations: dict[str, str]  # bucket -> its location file
    store: str
    history_length: int  # events kept of a user
    expiry_days: float = 30.0
    max_users: int = 1_000_000
    salt: str = "challenger"
    share: float = 0.0
    tokens: str | None = None
    impressions: str | None = None
    has_page: bool = False
    public_keys: str | None = None
    rate: float | None = None

    def to_environment(self) -> None:
        """Leave the settings for processes that are started from now on."""
        os.environ[VARIABLE] = json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read what `to_environment` has left."""
        return cls(**json.loads(os.environ[VARIABLE]))
