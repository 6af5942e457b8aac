"""Is a bundle refused when something is wrong with it, and does the refusal name the file?

    python experiments/benchmarks/bundle_faults.py

Makes two bundles of the same ids by two models (made_bundle.py) for each index, and plants one fault at a time in a
copy of the first: as it is, so that the manifest's hashes must find it, and sealed again with right hashes, so that
the content must. Each copy is opened, and where that works verified. Prints what refused it and the message and, as
its last line, one line of JSON; ends with status 1 where a fault was accepted or the message names no file.
"""

import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from harness import command_line, report
from made_bundle import make_bundle

from twotower.core.errors import UserError
from twotower.core.files import read_json, write_json
from twotower.features import fit
from twotower.serving.bundle import open_bundle
from twotower.serving.bundle_format import FORMAT_VERSION, checksum, seal, write_manifest
from twotower.serving.verify import verify

ITEMS = 3000


class Fault(NamedTuple):
    """What is wrong, and the file that a message about it may name; any of several, where files do not fit."""

    plant: Callable[[Path, Path], None]  # in the bundle, given another bundle
    files: tuple[str, ...]
    facts: dict[str, Any] | None = None  # of the manifest, where the fault is there
    sealable: bool = True  # False: an accident, after which no hashes are made right


def flip_byte(bundle: Path, _: Path) -> None:
    """In the middle of the index."""
    content = bytearray((bundle / "index.faiss").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (bundle / "index.faiss").write_bytes(content)


def take(name: str) -> Callable[[Path, Path], None]:
    """A file of the other bundle."""
    return lambda bundle, other: Path(shutil.copy(other / name, bundle / name)).touch()


def use_distance(bundle: Path, _: Path) -> None:
    """The same vectors in an index of Euclidean distance."""
    vectors = np.load(bundle / "item_embeddings.npy")
    index = faiss.index_factory(vectors.shape[1], read_json(bundle / "manifest.json", "")["index"]["factory"])
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(bundle / "index.faiss"))


def cut_embeddings(bundle: Path, _: Path) -> None:
    """Half of the file is lost."""
    file = bundle / "item_embeddings.npy"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def reorder_ids(bundle: Path, _: Path) -> None:
    """The ids alone, as a sorted export of them would."""
    table = pq.read_table(bundle / "items.parquet")
    ids = pa.array(table["item_id"].to_pylist()[::-1])
    pq.write_table(table.set_column(0, "item_id", ids), bundle / "items.parquet")


def stale_features(values: list[str]) -> Callable[[Path, Path], None]:
    """The encoder that an earlier preparation made for `device`."""

    def plant(bundle: Path, _: Path) -> None:
        features = read_json(bundle / "features.json", "")
        features["events"]["device"] = fit("device", {"kind": "categorical"}, values)
        write_json(bundle / "features.json", features)

    return plant


def pickle_array(bundle: Path, _: Path) -> None:
    """An array of objects, which NumPy keeps as a pickle."""
    vectors = np.load(bundle / "item_embeddings.npy")
    np.save(bundle / "item_embeddings.npy", vectors.astype(object), allow_pickle=True)


def pickle_features(bundle: Path, _: Path) -> None:
    """A pickle under a file's name."""
    (bundle / "features.json").write_bytes(pickle.dumps(read_json(bundle / "features.json", "")))


def nothing(bundle: Path, _: Path) -> None:
    """The fault is in the manifest."""


FAULTS = {
    "flipped byte": Fault(flip_byte, ("index.faiss",), sealable=False),
    "swapped index": Fault(take("index.faiss"), ("index.faiss",)),
    "wrong similarity: the index's": Fault(use_distance, ("index.faiss",)),
    "wrong similarity: the manifest's": Fault(nothing, ("manifest.json",), {"similarity": "dot"}),
    "missing file": Fault(lambda bundle, _: (bundle / "features.json").unlink(), ("features.json",)),
    "other tower's ONNX": Fault(take("user_tower.onnx"), ("user_tower.onnx", "golden.json")),
    "newer version": Fault(nothing, ("manifest.json",), {"format_version": FORMAT_VERSION + 1}),
    "truncated embeddings": Fault(cut_embeddings, ("item_embeddings.npy",)),
    "reordered ids": Fault(reorder_ids, ("items.parquet", "golden.json")),
    "stale features": Fault(stale_features(["phone", "desktop"]), ("features.json",)),
    "stale features of the same size": Fault(stale_features(["watch", "desktop", "tv"]), ("features.json",)),
    "pickle inside: an array": Fault(pickle_array, ("item_embeddings.npy",)),
    "pickle inside: a file": Fault(pickle_features, ("features.json",)),
}


def refusal(bundle: Path) -> tuple[str, str]:
    """Who refuses a bundle, "open_bundle", "verify" or "nobody" (or an exception that is no refusal); the message."""
    by = "open_bundle"
    try:
        open_bundle(bundle)
        by = "verify"
        verify(bundle)
    except UserError as error:
        return by, str(error)
    except Exception as error:  # a crash refuses, too, but tells a user nothing
        return f"{type(error).__name__} in {by}", str(error)
    return "nobody", ""


def planted(base: Path, other: Path, folder: Path, fault: Fault, sealed: bool) -> Path:
    """A copy of the bundle `base` with the fault."""
    bundle = folder / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    shutil.copytree(base, bundle)
    fault.plant(bundle, other)
    manifest = read_json(bundle / "manifest.json", "") | (fault.facts or {})
    if sealed:
        files = sorted(file.name for file in bundle.iterdir() if file.name != "manifest.json")
        facts = {key: value for key, value in manifest.items() if key not in ("files", "checksum")}
        manifest = seal(bundle, facts, files) | (fault.facts or {})
        manifest["checksum"] = checksum(manifest)
    write_manifest(bundle, manifest)
    return bundle


def main() -> int:
    """Plant all; 0: all are refused."""
    parser = command_line(__doc__)
    parser.add_argument("--indexes", nargs="+", default=["exact", "ivf"])
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="faults-") as scratch:
        for family in options.indexes:
            folder = Path(scratch) / family
            base, other = (
                make_bundle(folder / name, ITEMS, inputs=True, families=[family], seed=seed)
                for seed, name in enumerate(("base", "other"))
            )
            verify(base)
            for name, fault in FAULTS.items():
                for sealed in (False, True)[: 1 + fault.sealable]:
                    by, message = refusal(planted(base, other, folder, fault, sealed))
                    is_named = by in ("open_bundle", "verify") and any(file in message for file in fault.files)
                    hashes, message = "right" if sealed else "stale", message.replace(f"{folder}/", "")[:120]
                    row = {"index": family, "fault": name, "hashes": hashes, "refused by": by}
                    rows.append({**row, "names the file": is_named, "message": message})
    accepted = [row for row in rows if not row["names the file"]]
    report(rows, f"{len(rows) - len(accepted)} of {len(rows)} are refused by the name of the file")
    return 1 if accepted else 0


if __name__ == "__main__":
    sys.exit(main())
