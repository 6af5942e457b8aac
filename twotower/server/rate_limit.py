"""At most so many requests a second from one client: a token bucket each, the least recently seen ones forgotten."""

import time
from collections import OrderedDict
from collections.abc import Callable

MOST_CLIENTS = 10_000  # remembered


class RateLimit:
    """Token buckets that fill with `rate` a second and hold a second's worth, of one worker process.

    >>> limit = RateLimit(rate=1, clock=lambda: 0.0)
    >>> limit.wait("client"), limit.wait("client")
    (0.0, 1.0)
    """

    def __init__(self, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._clock = rate, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> tokens, at

    def wait(self, client: str) -> float:
        """Take a token, or return the seconds until there is one; 0: it was taken."""
        now, most = self._clock(), max(self._rate, 1.0)
        tokens, at = self._buckets.pop(client, (most, now))
        tokens = min(most, tokens + (now - at) * self._rate)
        self._buckets[client] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > MOST_CLIENTS:
            self._buckets.popitem(last=False)
        return 0.0 if tokens >= 1 else (1 - tokens) / self._rate
