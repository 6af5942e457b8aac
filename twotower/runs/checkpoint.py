"""Checkpoints: one file each, tensors as safetensors and all else as JSON in its header.

There is no code in it; it appears whole or not at all, and a damaged one is told from a whole one.
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins import CheckpointIO
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from twotower.core.errors import UserError

log = logging.getLogger(__name__)
TENSOR, ITEMS, TUPLE = "__tensor__", "__items__", "__tuple__"  # what JSON lacks
CONTENT, CHECKSUM = "content", "sha256"


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors, numbers, texts, lists, tuples and mappings of them, in any depth.

    Raises:
        UserError: the place can't be written to; what was there before is untouched.
        TypeError: something else is in it.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_plain(content, tensors))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, {CONTENT: text, CHECKSUM: _checksum(text, tensors)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # safetensors makes it private; others may export
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} can't be written ({error}); what was there is as it was. Make room, or see to the rights; then "
            f"python train.py resume={path.parent.parent}"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Its content, on the CPU; raises UserError where it is missing, damaged or no checkpoint."""
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            names = list(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
        text = about[CONTENT]
        if about[CHECKSUM] != _checksum(text, tensors):
            raise ValueError("its checksum is another one")
        content: dict[str, Any] = _restored(json.loads(text), tensors)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is missing, damaged or not a checkpoint: {reason}") from None
    return content


def previous_of(path: Path) -> Path:
    """Where the checkpoint lies that `path` replaced."""
    return path.with_name(f"previous_{path.name}")


def last_good(path: Path) -> Path | None:
    """`path` or, where it is damaged or gone, the one before it; None where neither is.

    Raises UserError where there are some and none is whole.
    """
    there = [file for file in (path, previous_of(path)) if file.exists()]
    for file in there:
        try:
            read_checkpoint(file)
        except UserError as error:
            if file == there[-1]:
                raise
            log.warning("%s; going on from the one before it", error)
        else:
            return file
    return None


class Checkpoints(CheckpointIO):
    """Lightning's way to its files."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write one."""
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read one; Lightning moves the tensors."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete one that is no longer the best."""
        Path(path).unlink(missing_ok=True)


def _plain(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON has it; its tensors go into `tensors`, by number."""
    if isinstance(value, Tensor):
        name, tensor = str(len(tensors)), value.detach().cpu().contiguous()
        place = tensor.untyped_storage().data_ptr()
        if any(place == other.untyped_storage().data_ptr() for other in tensors.values()):
            tensor = tensor.clone()  # safetensors refuses tensors that share memory, as tied weights do
        tensors[name] = tensor
        return {TENSOR: name}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {ITEMS: [[_plain(key, tensors), _plain(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {TUPLE: [_plain(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_plain(item, tensors) for item in value]
    raise TypeError(f"a checkpoint can't hold {type(value).__name__}")


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_restored(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == TENSOR:
        return tensors[content]
    items = [_restored(item, tensors) for item in content]
    return tuple(items) if kind == TUPLE else dict(items)


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
