"""What another data's encoder says of this one's codes and numbers: which mean the same. Shapes: C codes, W numbers."""

from typing import Any

import numpy as np
import numpy.typing as npt

from twotower.features.encoder import Encoder, form

NONE = -1
SAME_NUMBERS = ("kind", "log", "size", "encode_with")  # settings by which numbers of two encoders mean the same


def matching_codes(encoder: Encoder, other: Encoder) -> npt.NDArray[np.int64]:
    """Return [C] for each code of `encoder` the code of the same value by `other`; NONE where it has none.

    A bucket of numbers matches the other's bucket that its lower edge lies in. Texts match where they are hashed alike.

    >>> new, old = ({"kind": "categorical", "out_of_vocabulary": 1, "vocabulary": names} for names in ("abd", "bcd"))
    >>> matching_codes(new, old).tolist()  # null, out of vocabulary, a, b, d
    [0, 1, -1, 2, 4]
    """
    codes = np.full(form(encoder)["size"], NONE, dtype=np.int64)
    if encoder["kind"] != other["kind"] or form(other)["form"] != "bags":
        return codes
    codes[0] = 0
    if encoder["kind"] == "text":
        alike = all(encoder[setting] == other[setting] for setting in ("ngrams", "buckets"))
        return np.arange(len(codes)) if alike else codes
    if encoder["kind"] == "numeric":
        edges = np.array(encoder["edges"], dtype=np.float64)
        within = np.append(np.nextafter(edges[:1], -np.inf), edges) if len(edges) else np.zeros(1)
        codes[1:] = 1 + np.searchsorted(np.array(other["edges"], dtype=np.float64), within, side="right")
        return codes
    spare, other_spare = encoder["out_of_vocabulary"], other["out_of_vocabulary"]
    if spare == other_spare:
        codes[: 1 + spare] = np.arange(1 + spare)
    places = {text: place for place, text in enumerate(other["vocabulary"], 1 + other_spare)}
    codes[1 + spare :] = [places.get(text, NONE) for text in encoder["vocabulary"]]
    return codes


def matching_numbers(encoder: Encoder, other: Encoder) -> npt.NDArray[np.float32] | None:
    """Return [W] by what weights of the other's numbers are multiplied to fit those of `encoder`; None: they differ.

    >>> old = {"kind": "numeric", "log": False, "mean": 5.0, "deviation": 2.0}
    >>> matching_numbers({**old, "deviation": 3.0}, old)  # the number, and the flag of nulls
    array([1.5, 1. ], dtype=float32)
    """
    if form(encoder) != form(other) or any(encoder.get(name) != other.get(name) for name in SAME_NUMBERS):
        return None
    factor = np.ones(form(encoder)["size"], dtype=np.float32)
    factor[:-1] = _unit(encoder) / _unit(other)
    return factor


def _unit(encoder: dict[str, Any]) -> float:
    """By how much a value changes where its encoded number changes by one."""
    return float(encoder.get("deviation", 1.0) / encoder.get("scale", 1.0))
