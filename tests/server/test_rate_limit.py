"""A client's requests a second."""

from twotower.server import rate_limit
from twotower.server.rate_limit import RateLimit


def test_a_second_of_requests_at_once_and_then_the_rate() -> None:
    now = [0.0]
    limit = RateLimit(5, clock=lambda: now[0])
    admitted = 0
    for step in range(1000):  # ten seconds, a hundred requests each
        now[0] = step / 100
        admitted += limit.wait("a") == 0
    assert admitted == 5 + 49  # the bucket, and five a second
    assert limit.wait("b") == 0  # another client has a bucket of its own


def test_clients_beyond_the_most_are_forgotten(monkeypatch: object) -> None:
    limit = RateLimit(1, clock=lambda: 0.0)
    for number in range(rate_limit.MOST_CLIENTS + 5):
        assert limit.wait(str(number)) == 0
    assert len(limit._buckets) == rate_limit.MOST_CLIENTS
    assert limit.wait("0") == 0  # was forgotten
    assert limit.wait(str(rate_limit.MOST_CLIENTS)) > 0
