"""Does `mlflow models serve` stand a load, keep its memory, and refuse what is malformed, hostile or huge?

    python experiments/benchmarks/load.py --minutes 10
    python experiments/benchmarks/load.py --url http://127.0.0.1:5000 --bundle bundles/shop

Serves a bundle (yours, or one of 50,000 items made by made_bundle.py) with one worker of one thread, or takes a server
that is there, which must serve the bundle. A few connections ask without a pause, each for the next of a mix: bare ids,
events, filters, caps, exploration. Then come requests that hypothesis makes (hostile.py), each of which must get a
status from 400 to 499 and a clear message, and after them a good one, which must be answered as before. Prints a table
and, as its last line, one line of JSON; ends with status 1 where anything was not so.
"""

import argparse
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from hostile import HOSTILE, Hostile, wrong_with
from hypothesis import HealthCheck, Phase, given, seed, settings
from made_bundle import make_bundle
from rich.console import Console
from rich.table import Table
from served import HOST, Client, serve
from timed_retriever import histories_of

from twotower.serving.retriever import Retriever
from twotower.tracking.registry import save_model

SAMPLE_S = 1.0  # between two looks at the server's memory
WARM = 0.2  # of the time, in which caches fill
GROWTH = 0.02  # of the memory that the last quarter may have more than the first, to be called flat


class Load(NamedTuple):
    """What a load did."""

    seconds: float
    statuses: Counter[int]
    failures: list[str]  # of the connection
    milliseconds: list[float]
    memory: list[tuple[float, int]]  # seconds, bytes


def mix(retriever: Retriever) -> list[dict[str, Any]]:
    """Good requests of each kind that the bundle can answer."""
    names = [name for name in retriever.bundle.manifest.get("inputs", [])]
    columns = {"category": '{"category": "c1"}', "price": '{"price": {"max": 100}}'}
    has = set(_columns(retriever))
    requests = []
    for number, history in enumerate(histories_of(retriever)):
        events: list[Any] = list(history)
        if names and number % 2:
            events = [
                {"item_id": item, "event_type": "view", "timestamp": 1_700_000_000_000 + 1000 * i}
                for i, item in enumerate(history)
            ]
        params: dict[str, Any] = {"k": 20}
        extra = number % 6
        if extra == 1:
            params["exclude_seen"] = True
        elif extra in (2, 3) and (column := ["category", "price"][extra - 2]) in has:
            params["filters"] = columns[column]
        elif extra == 4 and "category" in has:
            params["max_per"] = '{"category": 3}'
        elif extra == 5:
            params |= {"exploration": 0.2, "seed": number}
        requests.append({"inputs": [events], "params": params})
    return requests


def _columns(retriever: Retriever) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_schema(retriever.bundle.file("items.parquet")).names)


def drive(port: int, host: str, requests: list[dict[str, Any]], seconds: float, connections: int, server: Any) -> Load:
    """Ask with so many connections at once until the time is over."""
    statuses: Counter[int] = Counter()
    failures: list[str] = []
    milliseconds: list[list[float]] = [[] for _ in range(connections)]
    begin = time.monotonic()
    bodies = [json.dumps(request).encode() for request in requests]

    def ask(number: int) -> None:
        client, place = Client(port, host), number
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
        if server is not None:
            memory.append((time.monotonic() - begin, server.memory_info().rss))
        time.sleep(SAMPLE_S)
    return Load(time.monotonic() - begin, statuses, failures, [ms for part in milliseconds for ms in part], memory)


def memory_figures(memory: list[tuple[float, int]]) -> dict[str, float]:
    """After the warm-up: megabytes at first and at last (the median of a quarter), their ratio, and the slope."""
    times, sizes = np.array(memory).T
    later = times >= WARM * times[-1]
    minutes, megabytes = times[later] / 60, sizes[later] / 1e6
    quarter = max(1, len(megabytes) // 4)
    first, last = float(np.median(megabytes[:quarter])), float(np.median(megabytes[-quarter:]))
    slope = float(np.polyfit(minutes, megabytes, 1)[0]) if len(minutes) > 1 else 0.0
    return {"first_mb": first, "last_mb": last, "growth": last / first - 1, "mb_a_minute": slope}


def fuzz(client: Client, number: int, start: int) -> tuple[Counter[str], dict[str, str]]:
    """Send so many hostile requests.

    Returns:
        How many there were of each kind, and for each kind that was not refused as it should be an example.
    """
    sent: Counter[str] = Counter()
    wrong: dict[str, str] = {}

    @seed(start)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(HOSTILE)
    def send(request: Hostile) -> None:
        sent[request.what] += 1
        try:
            reply = client.post(request.body, request.headers)
            problem = wrong_with(*reply)
        except Exception as error:
            client.close()
            problem = f"no answer: {error!r}"
        if problem is not None:
            wrong.setdefault(request.what, f"{request!r}: {problem}")

    send()
    return sent, wrong


def main() -> int:
    """Load, fuzz, ask again; 0: all went as it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="in place of a made one")
    parser.add_argument("--url", help="of a server that is there")
    parser.add_argument("--minutes", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--connections", type=int, default=4, help="default: %(default)s")
    parser.add_argument("--fuzz", type=int, default=2000, help="hostile requests; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzz; default: %(default)s")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="load-")))
        bundle = options.bundle or make_bundle(folder / "bundle", 50_000, inputs=True)
        requests = mix(Retriever.load(bundle))
        if options.url:
            url = urlsplit(options.url)
            host, port, process = str(url.hostname), int(url.port or 80), None
        else:
            save_model(bundle, folder / "model")
            server = stack.enter_context(serve(folder / "model", folder / "server.log"))
            host, port, process = HOST, server.port, server.process
        client = Client(port, host)
        before = client.ask(requests[0])
        load = drive(port, host, requests, 60 * options.minutes, options.connections, process)
        sent, wrong = fuzz(client, options.fuzz, options.seed)
        after = client.ask(requests[0])
        memory = memory_figures(load.memory) if load.memory else {}
        at_the_end = process.memory_info().rss / 1e6 if process else float("nan")
    answered = load.statuses[200]
    errors = sum(load.statuses.values()) - answered + len(load.failures)
    figures = {
        "seconds": load.seconds,
        "connections": options.connections,
        "answered": answered,
        "errors": errors,
        "requests_a_second": answered / load.seconds,
        "p50_ms": float(np.percentile(load.milliseconds, 50)),
        "p99_ms": float(np.percentile(load.milliseconds, 99)),
        **memory,
        "after_fuzz_mb": at_the_end,
        "hostile": sum(sent.values()),
        "kinds": len(sent),
        "not_refused": len(wrong),
        "answers_after_all": after == before and after.status == 200,
    }
    table = Table("load, then fuzz", "")
    for name, value in figures.items():
        table.add_row(
            name, f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)
        )
    Console(width=100).print(table)
    for problem in [*load.failures[:5], *wrong.values()]:
        print(f"- {problem}")
    print(json.dumps({**figures, "wrong": wrong}))
    is_flat = not memory or memory["growth"] <= GROWTH
    return 0 if not errors and not wrong and is_flat and figures["answers_after_all"] else 1


if __name__ == "__main__":
    sys.exit(main())
