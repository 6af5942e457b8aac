"""Does `mlflow models serve` stand a load, keep its memory, and refuse what is malformed, hostile or huge?

    python experiments/benchmarks/load.py --minutes 10

Serves a bundle (yours, or one of 50,000 items made by made_bundle.py) with one worker of one thread. A few connections
ask without a pause, each for the next of a mix: bare ids, events, filters, caps, exploration. Then come requests that
hypothesis makes (tests/hostile_requests.py), each of which must get a status from 400 to 499 and a clear message, and
after them a good one, which must be answered as before. Prints a table and, as its last line, one line of JSON; ends
with status 1 where anything was not so.
"""

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from harness import ROOT, command_line, report
from hypothesis import HealthCheck, Phase, given, seed, settings
from latency import fixed_histories
from made_bundle import make_bundle
from served import Client, Server, serve

from twotower.serving.retriever import Retriever
from twotower.tracking.registry import save_model

sys.path.append(str(ROOT / "tests"))
from hostile_requests import HOSTILE, Hostile, wrong_with

SAMPLE_S = 1.0  # between two looks at the server's memory
WARM = 0.2  # of the time, in which caches fill
GROWTH = 0.02  # of the memory that the last quarter may have more than the first, to be called flat


def mixed_requests(retriever: Retriever) -> list[dict[str, Any]]:
    """Good requests of each kind that the bundle can answer."""
    takes_events = bool(retriever.bundle.manifest.get("inputs"))
    columns = set(pq.read_schema(retriever.bundle.file("items.parquet")).names)
    kinds: list[dict[str, Any]] = [{}, {"exclude_seen": True}, {}, {}, {}, {"exploration": 0.2}]
    if "category" in columns:
        kinds[2], kinds[4] = {"filters": '{"category": "c1"}'}, {"max_per": '{"category": 3}'}
    if "price" in columns:
        kinds[3] = {"filters": '{"price": {"max": 100}}'}
    requests = []
    for number, history in enumerate(fixed_histories(retriever)):
        events: list[Any] = history
        if takes_events and number % 2:
            times = (1_700_000_000_000 + 1000 * i for i in range(len(history)))
            events = [{"item_id": i, "event_type": "view", "timestamp": t} for i, t in zip(history, times, strict=True)]
        params = {"k": 20, **kinds[number % len(kinds)]}
        requests.append({"inputs": [events], "params": params | ({"seed": number} if "exploration" in params else {})})
    return requests


def drive(server: Server, requests: list[dict[str, Any]], seconds: float, connections: int) -> dict[str, Any]:
    """Ask with so many connections at once until the time is over; figures of answers, times and memory."""
    statuses: Counter[int] = Counter()
    failures: list[str] = []
    milliseconds: list[list[float]] = [[] for _ in range(connections)]
    begin = time.monotonic()
    bodies = [json.dumps(request).encode() for request in requests]

    def ask(number: int) -> None:
        client, place = Client(server.port), number
        while time.monotonic() - begin < seconds:
            start = time.perf_counter()
            try:
                reply = client.post(bodies[place % len(bodies)])
            except Exception as error:
                failures.append(repr(error))
                client.close()
                continue
            milliseconds[number].append(1000 * (time.perf_counter() - start))
            statuses[reply.status] += 1
            place += connections

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        memory.append((time.monotonic() - begin, server.process.memory_info().rss))
        time.sleep(SAMPLE_S)
    taken, answered = time.monotonic() - begin, statuses[200]
    p50, p99 = np.percentile(np.concatenate(milliseconds), [50, 99])
    return {
        "seconds": taken,
        "answered": answered,
        "errors": sum(statuses.values()) - answered + len(failures),
        "answers/s": answered / taken,
        "p50 ms": float(p50),
        "p99 ms": float(p99),
        **memory_growth(memory),
        "failures": failures[:5],
    }


def memory_growth(memory: list[tuple[float, int]]) -> dict[str, float]:
    """After the warm-up: megabytes at first and at last (the median of a quarter), their ratio, and the slope."""
    times, sizes = np.array(memory).T
    later = times >= WARM * times[-1]
    minutes, megabytes = times[later] / 60, sizes[later] / 1e6
    quarter = max(1, len(megabytes) // 4)
    first, last = float(np.median(megabytes[:quarter])), float(np.median(megabytes[-quarter:]))
    slope = float(np.polyfit(minutes, megabytes, 1)[0]) if len(minutes) > 1 else 0.0
    return {"first MB": first, "last MB": last, "growth": last / first - 1, "MB a minute": slope}


def fuzz(client: Client, number: int, start: int) -> tuple[Counter[str], dict[str, str]]:
    """Send so many hostile requests; how many of each kind, and of each kind that was not refused an example."""
    sent: Counter[str] = Counter()
    wrong: dict[str, str] = {}
    plan = settings(
        max_examples=number, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip

    @seed(start)
    @plan
    @given(HOSTILE)
    def send(request: Hostile) -> None:
        sent[request.what] += 1
        try:
            problem = wrong_with(*client.post(request.body, request.headers))
        except Exception as error:
            client.close()
            problem = f"no answer: {error!r}"
        if problem is not None:
            wrong.setdefault(request.what, f"{request!r}: {problem}")

    send()
    return sent, wrong


def main() -> int:
    """Load, fuzz, ask again; 0: all went as it should."""
    parser = command_line(__doc__)
    parser.add_argument("--bundle", type=Path, help="in place of a made one")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--fuzz", type=int, default=2000, help="hostile requests")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzz")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        bundle = options.bundle or make_bundle(Path(folder, "bundle"), 50_000, inputs=True)
        requests = mixed_requests(Retriever.load(bundle))
        save_model(bundle, Path(folder, "model"))
        with serve(Path(folder, "model"), Path(folder, "server.log")) as server:
            client = Client(server.port)
            before = client.ask(requests[0])
            figures = drive(server, requests, 60 * options.minutes, options.connections)
            sent, wrong = fuzz(client, options.fuzz, options.seed)
            after = client.ask(requests[0])
            figures["MB after the fuzz"] = server.process.memory_info().rss / 1e6
    figures |= {"hostile requests": sum(sent.values()), "kinds": len(sent), "not refused": len(wrong)}
    figures["answers as before"] = after == before and after.status == 200
    for problem in [*figures["failures"], *wrong.values()]:
        print(f"- {problem}")
    rows = [{"load, then fuzz": name, "value": value} for name, value in figures.items() if name != "failures"]
    report(rows, wrong=wrong, failures=figures["failures"])
    is_fine = figures["answers as before"] and figures["growth"] <= GROWTH and not figures["errors"] and not wrong
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
