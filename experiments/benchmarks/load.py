"""How much load does `twotower serve` bear, beside `mlflow models serve`, and does it keep its promises under it?

    python experiments/benchmarks/load.py --minutes 10
    python experiments/benchmarks/load.py --minutes 2 --swaps 50 --kills 20 --rounds 0

Serves a bundle (yours, or one of 50,000 items) with each server in turn. Some connections ask without a pause: requests
a second. Then they ask `twotower serve` at 70 % of that rate, whether answers have come or not: latency, counted from
when a request was due, and memory. Then one stores events and asks anew: the time from an event to its answer. With
--swaps and --kills the bundle changes, and workers are killed, under that load: each answer must be a version's own.
Prints a table and, as its last line, one line of JSON; ends with status 1 where an answer was wrong or missing.
"""

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil
from harness import command_line, report
from latency import fixed_histories
from made_bundle import make_bundle
from served import LIVE, MLFLOW, Client, Server, encoded, serve

from twotower.serving.retriever import Retriever
from twotower.serving.updates import delta
from twotower.serving.updates.versions import rollback
from twotower.tracking.registry import save_model

K, BURST_S, WARM, LOAD = 20, 15.0, 0.2, 0.7  # results; seconds of a round without pauses; left out; of the capacity


def drive(
    server: Server, requests: list[bytes], seconds: float, connections: int, rate: float | None = None
) -> dict[str, Any]:
    """Ask until the time is over, without pauses or `rate` times a second; a request that breaks is sent again."""
    milliseconds: list[list[float]] = [[] for _ in range(connections)]
    outcomes: Counter[str] = Counter()
    bodies: list[set[bytes]] = [set() for _ in range(connections)]
    begin = time.perf_counter()

    def ask(number: int) -> None:
        client, place = Client(server.port), number
        while (due := begin + place / rate if rate else time.perf_counter()) < begin + seconds:
            time.sleep(max(0.0, due - time.perf_counter()))
            for _ in range(100):
                try:
                    reply = client.send(requests[place % len(requests)])
                    break
                except OSError:
                    outcomes["sent again"] += 1
                    client.close()
                    time.sleep(0.01)
            milliseconds[number].append(1000 * (time.perf_counter() - due))
            outcomes[str(reply.status)] += 1
            if place % len(requests) == 0:
                bodies[number].add(reply.body)
            place += connections

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        with suppress(psutil.NoSuchProcess):
            memory.append(max(worker.memory_info().rss for worker in server.workers()) / 1e6)
        time.sleep(min(1.0, seconds / 20))
    p50, p99 = np.percentile(np.concatenate(milliseconds), [50, 99])
    later = memory[int(WARM * len(memory)) :]
    quarter = max(1, len(later) // 4)
    return {
        "answers": outcomes["200"],
        "answers/s": outcomes["200"] / (time.perf_counter() - begin),
        "p50 ms": float(p50),
        "p99 ms": float(p99),
        "errors": sum(outcomes.values()) - outcomes["200"] - outcomes["sent again"],
        "sent again": outcomes["sent again"],
        "MB at first": median(later[:quarter]),
        "MB at last": median(later[-quarter:]),
        "first request": set().union(*bodies),
    }


def fresh_answers(server: Server, items: list[Any], times: int) -> list[float]:
    """Milliseconds from an event to an answer with it; every other user has been there before."""
    client, milliseconds = Client(server.port), []
    for number in range(times):
        user, item = f"user-{number // 2}", items[number % len(items)]
        event = encoded("/events", {"events": [{"user_id": user, "item_id": item}]})
        asks, why = (encoded("/recommend", {"user_id": user, "k": K, "explain": explain}) for explain in (False, True))
        begin = time.perf_counter()
        replies = client.send(event), client.send(asks)
        milliseconds.append(1000 * (time.perf_counter() - begin))
        reasons = json.loads(client.send(why).body)["items"][0]["reasons"]
        assert [each.status for each in replies] == [200, 200] and item in [reason["item_id"] for reason in reasons]
    return milliseconds


def wait_for_model(server: Server, bundle: Path) -> None:
    """Wait until every worker answers by the bundle's current version: connections go to any of them."""
    wanted, same = json.loads((bundle / "manifest.json").read_text())["checksum"], 0
    while same < 20:
        with closing(Client(server.port)) as client:
            model = json.loads(client.send(encoded("/model", None)).body)["models"][0]["model"]
        same = same + 1 if wanted.startswith(model) else 0
        time.sleep(0.05)


def disturb(
    server: Server, bundle: Path, swaps: int, kills: int, seconds: float, removed: list[Any]
) -> Callable[[], None]:
    """Start to change versions and to kill workers, spread over the time; call the result to wait for the end."""
    steps = sorted([(place / max(1, swaps), "swap") for place in range(swaps)]
                   + [((place + 0.5) / max(1, kills), "kill") for place in range(kills)])  # fmt: skip

    def run() -> None:
        begin = time.monotonic()
        for number, (share, what) in enumerate(steps):
            time.sleep(max(0.0, begin + share * seconds - time.monotonic()))
            if what == "kill":
                server.workers()[number % 2].kill()
            elif len(removed) > 1:
                delta.remove(bundle, [removed.pop(0)])  # the best item: each version has another list
            else:
                rollback(bundle, 1 + number % 3)

    thread = threading.Thread(target=run)
    thread.start()
    return thread.join


def main() -> int:
    """Measure; 0: all answers were right."""
    parser = command_line(__doc__)
    parser.add_argument("--bundle", type=Path, help="in place of a made one; it gets new versions with --swaps")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="of both servers in turn")
    parser.add_argument("--rate", type=float, help="requests a second in place of 70 %% of what was reached")
    parser.add_argument("--store", help="of user events, as in `twotower serve`")
    parser.add_argument("--swaps", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    options = parser.parse_args()
    rows, is_fine = [], True
    with tempfile.TemporaryDirectory(prefix="load-") as folder:
        bundle = options.bundle or make_bundle(Path(folder, "bundle"), 50_000, inputs=True)
        histories = fixed_histories(Retriever.load(bundle))
        save_model(bundle, Path(folder, "model"))
        of_mlflow = [encoded("/invocations", {"inputs": [each], "params": {"k": K}}) for each in histories]
        requests = [encoded("/recommend", {"history": each, "k": K}) for each in histories]
        kinds = {MLFLOW: (Path(folder, "model"), of_mlflow, []), LIVE: (bundle, requests, [])}
        for number in range(options.rounds):
            for kind, (source, asked, reached) in kinds.items():
                with serve(kind, source, Path(folder, f"{number}-{kind[0]}.log"), options.workers) as server:
                    drive(server, asked, 2.0, options.connections)
                    figures = drive(server, asked, BURST_S, options.connections)
                reached.append(figures["answers/s"])
                rows.append({"what": f"{kind}, no pauses", **figures})
                is_fine &= figures["errors"] == 0
        more = ["--store", options.store] if options.store else []
        with serve(LIVE, bundle, Path(folder, "live.log"), options.workers, more) as server:
            rate = options.rate or LOAD * median(kinds[LIVE][2] or [500.0])
            truth = {tuple(Retriever.load(bundle).recommend([histories[0]], K).ids[0])}
            best = Retriever.load(bundle).recommend([histories[0]], K + options.swaps).ids[0][: options.swaps]
            wait = disturb(server, bundle, options.swaps, options.kills, 60 * options.minutes, best)
            figures = drive(server, requests, 60 * options.minutes, options.connections, rate)
            wait()
            last = int(json.loads((bundle / "manifest.json").read_text()).get("version", 1))
            for file in [*(bundle / "versions").glob("[0-9]*.json")]:
                rollback(bundle, int(file.stem))
                truth.add(tuple(Retriever.load(bundle).recommend([histories[0]], K).ids[0]))
            rollback(bundle, last)
            wait_for_model(server, bundle)
            seen = {tuple(i["item_id"] for i in json.loads(body)["items"]) for body in figures["first request"]}
            rows.append({"what": f"{LIVE}, {rate:.0f} requests a second", **figures})
            milliseconds = fresh_answers(server, Retriever.load(bundle).recommend([histories[0]], K).ids[0], 2000)
        p50, p99 = np.percentile(milliseconds, [50, 99])
        rows.append({"what": "event, then an answer with it", "p50 ms": float(p50), "p99 ms": float(p99)})
        is_fine &= figures["errors"] == 0 and seen <= truth
    for row in rows:
        row.pop("first request", None)
    ratio = median(kinds[LIVE][2]) / median(kinds[MLFLOW][2]) if options.rounds else None
    report(rows, ratio=ratio, wrong=len(seen - truth), versions=len(truth))
    return 0 if is_fine else 1


if __name__ == "__main__":
    sys.exit(main())
