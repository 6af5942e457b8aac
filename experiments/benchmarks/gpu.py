"""Training on whatever GPU is there: equal to the CPU's? how fast? in how much memory? where does the time go?

    experiments/benchmarks/gpu.sh                     # at most 6 minutes; writes $OUT/gpu.json, or --out FILE
    experiments/benchmarks/gpu.sh --toy               # toy sizes, also on a CPU, in less than a minute

Needs torch, pytorch-lightning, torchmetrics and numpy, and nothing from a network: it makes its data itself and builds
the towers without Hydra. Each section is a process with a time limit of its own (toys share one); one that fails or is
stopped is reported with the rows that it had measured, and the others go on. Prints tables and, as its last line, one
line of JSON; ends with status 1 where a section failed or the GPU differs from the CPU.

    parity      the same short training on both devices: losses of all steps, then metrics over the whole catalogue
    sampled     positions/s with 8,192 uniform negatives, by precision, eager and compiled
    full        positions/s with the full softmax, V = 50,000, all logits at once and in chunks
    evaluation  test targets/s over the whole catalogue
    profile     the kernels that take most of a step
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from harness import GIB, ROOT, command_line, peak_bytes, print_table, run_job

LIMITS_S = {"parity": 50, "sampled": 160, "full": 50, "evaluation": 40, "profile": 40}
TOY_LIMIT_S = 600  # of all sections, on a busy CPU
NEEDED = ("torch", "pytorch_lightning", "torchmetrics", "numpy")
LOSS_TOLERANCE = 1e-3  # relative difference of a step's loss, float32
METRIC_TOLERANCE = 0.005  # of recall@20 and ndcg@20 after the same training, float32
SAMPLED_TOLERANCE = 0.03  # the same where each device draws negatives of its own, or rounds to bfloat16
MAX_LENGTH, LAYERS = 20, 2
Row = dict[str, Any]


class Sizes(NamedTuple):
    """How large the measured trainings are."""

    items: int = 50_000  # V
    dims: tuple[int, ...] = (64, 128)  # D
    negatives: int = 8192  # K
    positions: int = 16_384  # targets a step
    sessions: int = 300_000
    chunk_items: int = 8192
    seconds: float = 4.0  # measured of each case
    warm_up: int = 20  # steps
    parity_steps: int = 100
    parity_items: int = 2000


TOY = Sizes(500, (16,), 64, 256, 2000, 128, 0.3, 3, 20, 200)


def main() -> int:
    """Run one section here, or each in a process of its own; 0: all went well."""
    parser = command_line(__doc__)
    parser.add_argument("--toy", action="store_true", help="toy sizes")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "."), "gpu.json"), help="the JSON file")
    parser.add_argument("--only", nargs="+", choices=LIMITS_S, default=list(LIMITS_S), help="sections")
    parser.add_argument("--here", action="store_true", help="run the sections in this process, a JSON line a row")
    options = parser.parse_args()
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        print(f"error: this Python has no {', '.join(missing)}; give another one by PYTHON=...", file=sys.stderr)
        return 2
    if options.here:
        run_here(options.only, TOY if options.toy else Sizes())
        return 0
    begin = time.perf_counter()
    figures: Row = {"toy": options.toy, "commit": _commit(), "device": None, "seconds": 0.0, "sections": {}}
    for names in [options.only] if options.toy else [[name] for name in options.only]:  # a toy imports torch once
        command = [sys.executable, "-W", "ignore", __file__, "--here", "--only", *names]
        limit_s = TOY_LIMIT_S if options.toy else sum(LIMITS_S[name] for name in names)
        toy = ["--toy"] if options.toy else []
        job = run_job([*command, *toy], limit_s=limit_s, cores=1 if options.toy else None)
        rows = [json.loads(line) for line in job.lines if line.startswith('{"section": ')]
        figures["device"] = next((row for row in rows if row["section"] == "device"), figures["device"])
        for name in names:
            figures["sections"][name] = section_figures(name, rows, job.outcome)
        figures["seconds"] = time.perf_counter() - begin
        options.out.write_text(json.dumps(figures, indent=1))  # after each section: a machine may be taken away
    print(f"\nwritten: {options.out.resolve()}")
    print(json.dumps(figures))
    parts = figures["sections"].values()
    is_fine = all(part["outcome"] == "ok" and all(row.get("equal", True) for row in part["rows"]) for part in parts)
    return 0 if is_fine else 1


def section_figures(name: str, rows: Sequence[Row], outcome: str) -> Row:
    """Print a section's table and its errors; return its outcome, seconds and rows.

    Args:
        name: of the section.
        rows: what its process has printed.
        outcome: of the process; a section that has ended before it was stopped is ok.
    """
    rows = [row for row in rows if row["section"] == name]
    seconds = next((row["section seconds"] for row in rows if "section seconds" in row), None)
    rows = [row for row in rows if "section seconds" not in row]
    errors = [row["error"] for row in rows if "error" in row] or ([outcome] if seconds is None else [])
    title = name if seconds is None else f"{name}: {seconds:.0f} s"
    print_table([{key: row[key] for key in row if key not in ("section", "error")} for row in rows], title)
    print("".join(f"failed: {error}\n" for error in errors), end="", flush=True)
    return {"outcome": errors[0] if errors else "ok", "seconds": seconds, "rows": rows}


def run_here(names: Sequence[str], sizes: Sizes) -> None:
    """Print a line of JSON for each row of these sections; a section that fails ends with a row that has its error."""
    print(json.dumps({"section": "device", **device_facts()}), flush=True)
    for name in names:
        begin = time.perf_counter()
        try:
            for row in SECTIONS[name](sizes):
                print(json.dumps({"section": name, **row}), flush=True)
            print(json.dumps({"section": name, "section seconds": time.perf_counter() - begin}), flush=True)
        except Exception as error:
            print(json.dumps({"section": name, "error": f"{type(error).__name__}: {error}"[:500]}), flush=True)


def _commit() -> str | None:
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


# The sections run in processes of their own; torch is imported there alone.


def gpu() -> str:
    """The device to measure: "cuda", or "cpu" where there is none."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_facts() -> Row:
    """What the figures were measured on."""
    import torch

    facts = {"torch": torch.__version__, "cores": os.cpu_count()}
    if not torch.cuda.is_available():
        return {"device": f"CPU, {torch.get_num_threads()} threads", **facts}
    memory = torch.cuda.get_device_properties(0).total_memory / GIB
    return {"device": torch.cuda.get_device_name(), "GiB": memory, "CUDA": torch.version.cuda, **facts}


@cache
def synthetic_log(sessions: int, items: int) -> Any:
    """A prepared log in memory: an item follows another with probability 0.6, else a popular one is drawn.

    Nine sessions of ten are for training, the others half for validation, half for the test.
    """
    import numpy as np

    from twotower.core.schema import Prepared

    random = np.random.default_rng(0)
    follows = random.permutation(items)
    item = np.zeros((sessions, MAX_LENGTH + 1), np.int32)
    for event in range(item.shape[1]):
        popular = (items * random.random(sessions) ** 3).astype(np.int32)
        copied = random.random(sessions) < (0.6 if event else 0.0)
        item[:, event] = np.where(copied, follows[item[:, event - 1]], popular)
    length = random.integers(2, MAX_LENGTH + 2, sessions)
    item_index = item[np.arange(item.shape[1]) < length[:, None]] + 1
    offsets = np.concatenate([[0], np.cumsum(length)])
    part = np.arange(sessions) / sessions
    return Prepared(
        path=Path(),
        manifest={"num_items": items, "event_types": ["view"], "inputs": {}},
        item_index=item_index,
        event_type=np.zeros(len(item_index), np.uint8),
        timestamp=np.arange(len(item_index)),
        offsets=offsets,
        train_end=np.where(part < 0.9, offsets[1:], offsets[:-1]),
        validation_end=np.where(part < 0.95, offsets[1:], offsets[:-1]),
        returning=np.zeros(sessions, np.uint8),
        inputs={},
    )


def make_module(loader: Any, dim: int, negatives: int | None, *, dropout: float = 0.2, chunk: int | None = None) -> Any:
    """The default recipe's towers with fresh weights; `negatives` None: full softmax."""
    import torch

    from twotower.model.event_inputs import EventInputs
    from twotower.model.item_tower.id import IdItemTower
    from twotower.model.losses.softmax import softmax
    from twotower.model.negatives import CatalogueNegatives, MixtureNegatives
    from twotower.model.optimizers.adamw import adamw
    from twotower.model.residual import WeightedSum
    from twotower.model.two_tower import TwoTower
    from twotower.model.user_tower.transformer import TransformerTower
    from twotower.training.module import TwoTowerModule

    torch.manual_seed(0)
    counts = torch.from_numpy(loader.target_counts())
    items = IdItemTower(loader.prepared.num_items, dim, True)
    users = TransformerTower(dim, LAYERS, 2, dropout, MAX_LENGTH, True, True, False)
    return TwoTowerModule(
        model=TwoTower(items, EventInputs({}, dim), users, WeightedSum(dim, MAX_LENGTH), True),
        negatives=MixtureNegatives(counts, negatives, False) if negatives else CatalogueNegatives(counts),
        loss=partial(softmax, chunk_items=chunk),
        temperature=0.1,
        optimizer=partial(adamw, learning_rate=0.003, weight_decay=0.01, warmup_fraction=0.03),
        total_steps=1000,
        ks=[20],
        event_types=["view"],
    )


def make_trainer(device: str, precision: Any = "32-true", callback: Any = None, **settings: Any) -> Any:
    """Lightning's trainer as conf/trainer/default.yaml has it, without files."""
    import pytorch_lightning as pl

    return pl.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu", devices=1, precision=precision, callbacks=callback,
        gradient_clip_val=1.0, num_sanity_val_steps=0, use_distributed_sampler=False, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, **settings,
    )  # fmt: skip


def parity(sizes: Sizes) -> Iterator[Row]:
    """Train on the CPU and on the GPU from the same weights in the same order, and compare."""
    from pytorch_lightning import Callback

    from twotower.data.loader import query_loader, training_loader

    class Losses(Callback):
        """Keeps the loss of each step."""

        def __init__(self) -> None:
            self.values: list[Any] = []

        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_index: int) -> None:
            """Add the step's."""
            self.values.append(outputs["loss"].detach())

    log = synthetic_log(max(2000, 10 * sizes.parity_items), sizes.parity_items)

    def train(device: str, precision: str, negatives: int | None) -> tuple[list[float], dict[str, float]]:
        loader = training_loader(log, MAX_LENGTH, 1024, 0)
        module, losses = make_module(loader, sizes.dims[0], negatives, dropout=0.0), Losses()
        trainer = make_trainer(device, precision, losses, max_steps=sizes.parity_steps)
        trainer.fit(module, loader)
        metrics = trainer.validate(module, query_loader(log, "validation", MAX_LENGTH, 4096), verbose=False)[0]
        return [float(loss) for loss in losses.values], metrics

    cases = {
        "full softmax, float32": ("32-true", None, METRIC_TOLERANCE),
        "full softmax, bfloat16": ("bf16-mixed", None, SAMPLED_TOLERANCE),
        "sampled, float32": ("32-true", sizes.parity_items // 4, SAMPLED_TOLERANCE),
    }
    for name, (precision, negatives, tolerance) in cases.items():
        losses, metrics = train("cpu", "32-true", negatives)
        other_losses, other = train(gpu(), precision, negatives)
        loss_difference = max(abs(b - a) / abs(a) for a, b in zip(losses, other_losses, strict=True))
        metric_difference = max(abs(other[key] - metrics[key]) for key in ("val/recall_at_20", "val/ndcg_at_20"))
        is_strict = tolerance == METRIC_TOLERANCE
        equal = metric_difference <= tolerance and (loss_difference <= LOSS_TOLERANCE or not is_strict)
        yield {
            "training": name, "steps": len(losses), "last loss, CPU": losses[-1], "device": gpu(),
            "largest relative loss difference": loss_difference,
            "loss tolerance": LOSS_TOLERANCE if is_strict else None,
            "recall@20, CPU": metrics["val/recall_at_20"], "largest metric difference": metric_difference,
            "metric tolerance": tolerance, "equal": equal, "losses": [losses, other_losses],
        }  # fmt: skip


def train_speed(sizes: Sizes, name: str, dim: int, precision: str, compiled: bool = False, **settings: Any) -> Row:
    """Positions/s and peak memory of one training; an exception becomes the row's error, and the next case is tried."""
    import torch
    from speed import Speed

    from twotower.data.loader import training_loader

    row = {"training": name, "D": dim, "precision": precision, "compiled": compiled}
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        if gpu() == "cuda":
            torch.cuda.reset_peak_memory_stats()
        loader = training_loader(synthetic_log(sizes.sessions, sizes.items), MAX_LENGTH, sizes.positions, 0)
        module, speed = make_module(loader, dim, **settings), Speed(sizes.seconds, sizes.warm_up)
        if compiled:
            for part in (module.model.user_tower, module.model.residual):
                part.compile(dynamic=True, backend="inductor" if gpu() == "cuda" else "aot_eager")
        trainer = make_trainer(gpu(), "bf16-mixed" if precision == "bfloat16" else "32-true", speed, max_epochs=-1)
        trainer.fit(module, loader)
        rate, negatives = speed.positions_per_second(), settings["negatives"] or sizes.items
        return {
            **row,
            "positions/s": rate,
            "TFLOP/s of the logits": 6 * dim * negatives * rate / 1e12,  # forward, and twice that backward
            "peak GiB": peak_bytes(gpu()) / GIB,
            "warm-up s": speed.warm[0],
        }
    except Exception as error:
        return {**row, "error": f"{type(error).__name__}: {error}"[:500]}


def sampled(sizes: Sizes) -> Iterator[Row]:
    """Sampled softmax; the cases that have to compile come last."""
    eager, compiled = (
        [(name, False) for name in ("float32", "tf32", "bfloat16")],
        [("bfloat16", True), ("float32", True)],
    )
    for precision, is_compiled in [*eager, *(compiled[:1] if sizes is TOY else compiled)]:
        for dim in sizes.dims:
            yield train_speed(sizes, f"K = {sizes.negatives:,}", dim, precision, is_compiled, negatives=sizes.negatives)


def full(sizes: Sizes) -> Iterator[Row]:
    """Full softmax over all V items."""
    for chunk in (None, sizes.chunk_items):
        for precision in ("float32", "bfloat16"):
            name = f"V = {sizes.items:,}" + (f", chunks of {chunk:,}" if chunk else "")
            yield train_speed(sizes, name, sizes.dims[-1], precision, negatives=None, chunk=chunk)


def evaluation(sizes: Sizes) -> Iterator[Row]:
    """Rank each test target among all items: metrics alone (validation), and with the best items kept (test)."""
    from twotower.data.loader import query_loader

    log = synthetic_log(sizes.sessions, sizes.items)
    loader = query_loader(log, "test", MAX_LENGTH, sizes.positions)
    for dim in sizes.dims:
        module, trainer = make_module(loader, dim, None), make_trainer(gpu())
        for name, evaluate in (("metrics", trainer.validate), ("metrics and lists", trainer.test)):
            evaluate(module, loader, verbose=False)  # the first pass warms up
            begin = time.perf_counter()
            evaluate(module, loader, verbose=False)
            rate = loader.num_queries / (time.perf_counter() - begin)
            peak = peak_bytes(gpu()) / GIB
            yield {"evaluation": name, "D": dim, "V": sizes.items, "targets/s": rate, "peak GiB": peak}


def profile(sizes: Sizes) -> Iterator[Row]:
    """The kernels (operators on a CPU) of twenty training steps in bfloat16 with sampled negatives."""
    from speed import Speed

    from twotower.data.loader import training_loader

    loader = training_loader(synthetic_log(sizes.sessions, sizes.items), MAX_LENGTH, sizes.positions, 0)
    speed = Speed(sizes.seconds, sizes.warm_up, profile_steps=20)
    trainer = make_trainer(gpu(), "bf16-mixed", speed, max_epochs=-1)
    trainer.fit(make_module(loader, sizes.dims[-1], sizes.negatives), loader)
    yield from speed.slowest_operators(25)


SECTIONS = {"parity": parity, "sampled": sampled, "full": full, "evaluation": evaluation, "profile": profile}

if __name__ == "__main__":
    sys.exit(main())
