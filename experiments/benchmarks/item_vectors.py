"""How long does the export take to encode a catalogue, in how much memory, and would a GPU be faster?

    python experiments/benchmarks/item_vectors.py --items 10000000

A model that is not trained, with an item tower of ids or of features (a bag of 4 codes and 8 numbers an item), writes
its vectors as export.py does, on the processor; where there is a GPU, the model is moved there, encodes as many in the
same parts, and is moved back. Beside it stands the floor: to write as many bytes to the same folder. Memory is that of
the host, counted above what it held before, the memory-mapped table among it. Prints a table and, as its last line, one
line of JSON.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import peak_bytes
from rich.console import Console
from rich.table import Table

from twotower.export.vectors import ITEMS, evaluating, write_item_vectors
from twotower.model.event_inputs import EventInputs
from twotower.model.item_tower.features import FeatureItemTower
from twotower.model.item_tower.id import IdItemTower
from twotower.model.two_tower import TwoTower
from twotower.model.user_tower.mean_pool import MeanPoolTower
from twotower.serving.bundle_format import EMBEDDINGS_FILE

CODES, DIFFERENT, NUMBERS = 4, 10_000, 8


def model_of(tower: str, items: int, dim: int) -> TwoTower:
    """A model with the item tower of that name."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    if tower == "id":
        item_tower = IdItemTower(items, dim, True)
    else:
        features = {
            "tags.codes": random.integers(1, DIFFERENT, CODES * items, dtype=np.int32),
            "tags.offsets": np.arange(0, CODES * items + 1, CODES),
            "about.values": random.standard_normal((items, NUMBERS), dtype=np.float32),
        }
        item_tower = FeatureItemTower(items, dim, True, features, None, 0.1)
    return TwoTower(item_tower, EventInputs({}, dim), MeanPoolTower(dim, 0.0), None, True)


def write_from_gpu(model: TwoTower, folder: Path) -> np.ndarray:
    """As write_item_vectors, on the GPU."""
    num_items, dim = model.item_tower.embedding.weight.shape[0] - 1, model.item_tower.embedding.weight.shape[1]
    table = np.lib.format.open_memmap(folder / EMBEDDINGS_FILE, "w+", np.float32, (num_items, dim))
    with evaluating(model.to("cuda")):
        for start in range(0, num_items, ITEMS):
            index = torch.arange(start + 1, min(start + ITEMS, num_items) + 1, device="cuda")
            table[start : start + ITEMS] = model.item_tower(index).cpu().numpy()
    model.cpu()
    table.flush()
    return table


def main() -> None:
    """Encode on each device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--dim", type=int, default=64, help="default: %(default)s")
    options = parser.parse_args()
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    table = Table("item tower", "on", "seconds", "items/s", "floor: write the bytes, s", "peak above the model, MiB")
    results = []
    vectors: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory(prefix="vectors-", dir=".") as scratch:
        for tower in ("id", "features"):
            model = model_of(tower, options.items, options.dim)
            for device in devices:
                folder = Path(scratch) / f"{tower}-{device}"
                folder.mkdir()
                before = peak_bytes()
                begin = time.perf_counter()
                written = write_from_gpu(model, folder) if device == "cuda" else write_item_vectors(model, folder)[0]
                seconds = time.perf_counter() - begin
                above = (peak_bytes() - before) / 2**20
                vectors[device] = np.array(written[:: max(1, options.items // 10_000)])
                begin = time.perf_counter()
                part = np.zeros((2**16, options.dim), np.float32)
                with open(folder / "floor", "wb") as file:
                    for _ in range(-(-options.items // len(part))):
                        file.write(part)
                floor = time.perf_counter() - begin
                (folder / "floor").unlink()
                (folder / EMBEDDINGS_FILE).unlink()
                speed = options.items / seconds
                row = {"tower": tower, "device": device, "seconds": seconds, "floor_s": floor, "peak_above_mib": above}
                results.append(row)
                table.add_row(tower, device, f"{seconds:.2f}", f"{speed:,.0f}", f"{floor:.2f}", f"{above:,.0f}")
            if len(devices) == 2:
                np.testing.assert_allclose(vectors["cuda"], vectors["cpu"], atol=1e-5)
    console = Console(width=110)
    console.print(table)
    if len(devices) == 2:
        console.print(f"{torch.cuda.get_device_name()}; its vectors differ from the processor's by less than 1e-5")
    print(json.dumps({"items": options.items, "dim": options.dim, "threads": torch.get_num_threads(), "rows": results}))


if __name__ == "__main__":
    main()
