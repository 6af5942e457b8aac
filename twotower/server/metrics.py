"""Prometheus metrics, summed over all worker processes.

PROMETHEUS_MULTIPROC_DIR must name a folder before this module is imported: the supervisor sets it.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
QUERIES = (1, 2, 4, 8, 16, 32, 64)

requests = Counter("twotower_requests", "Requests.", ["route", "status"])
request_seconds = Histogram("twotower_request_seconds", "Time to an answer.", ["route"], buckets=SECONDS)
answers = Counter("twotower_answers", "Lists by the model, or of the most frequent items.", ["bucket", "kind"])
unknown = Counter("twotower_unknown", "Ids, keys and values that the bundle does not have.", ["kind"])
events = Counter("twotower_events", "Events that arrived.", ["outcome"])
store_up = Gauge("twotower_store_up", "1: user events can be reached.", multiprocess_mode="mostrecent")
model_info = Gauge(
    "twotower_model_info", "1: the model that answers.", ["bucket", "model", "version"], multiprocess_mode="mostrecent"
)
swaps = Counter("twotower_swaps", "Models that were put in place, or refused.", ["outcome"])
batch_size = Histogram("twotower_batch_size", "Queries answered at once.", buckets=QUERIES)


def exposition() -> bytes:
    """Return all metrics of all workers in Prometheus' text format."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
