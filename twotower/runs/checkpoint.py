"""Checkpoint files: tensors as safetensors, everything else as JSON in the header; no pickled code.

A file appears whole or not at all, and a checksum tells a damaged one from a whole one.
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

from twotower.core.command_line import command, in_this_folder, override
from twotower.core.errors import UserError

log = logging.getLogger(__name__)
TENSOR, ITEMS, TUPLE = "__tensor__", "__items__", "__tuple__"  # markers of what JSON lacks
CONTENT, CHECKSUM = "content", "sha256"  # keys of the header


def write_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors, numbers, texts, paths, and lists, tuples and mappings of them, to any depth.

    Raises:
        UserError: the file can't be written; the one that stood there is untouched.
        TypeError: `content` holds something else.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_to_json(content, tensors))
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, {CONTENT: text, CHECKSUM: _checksum(text, tensors)})
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # safetensors makes it private; other users may export
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        resume = in_this_folder(command("train", override("resume", path.parent.parent.resolve())))
        raise UserError(
            f"{path} can't be written ({error}); the file before it is untouched. Make room or change the permissions, "
            f"then {resume}"
        ) from None
    finally:
        temporary.unlink(missing_ok=True)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's content, tensors on the CPU; raises UserError where it is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        text = header[CONTENT]
        if header[CHECKSUM] != _checksum(text, tensors):
            raise ValueError("its checksum differs")
        content: dict[str, Any] = _from_json(json.loads(text), tensors)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} is missing, damaged or not a checkpoint: {reason}") from None
    return content


def previous_of(path: Path) -> Path:
    """Path of the checkpoint that `path` replaced."""
    return path.with_name(f"previous_{path.name}")


def last_good(path: Path) -> Path | None:
    """Return `path`, or the checkpoint before it where that is damaged or missing; None where there is neither.

    Raises:
        UserError: there are checkpoints, and all are damaged.
    """
    files = [file for file in (path, previous_of(path)) if file.exists()]
    for file in files:
        try:
            read_checkpoint(file)
        except UserError as error:
            if file == files[-1]:
                raise
            log.warning("%s; resuming from the checkpoint before it", error)
        else:
            return file
    return None


class Checkpoints(CheckpointIO):
    """Lightning plugin that reads and writes these files.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "last.safetensors"
    >>> Checkpoints().save_checkpoint({"epoch": 3, "weight": torch.ones(2)}, file)
    >>> Checkpoints().load_checkpoint(file)
    {'epoch': 3, 'weight': tensor([1., 1.])}
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        write_checkpoint(Path(path), checkpoint)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read a checkpoint; Lightning moves the tensors to their device."""
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint that is no longer the best."""
        Path(path).unlink(missing_ok=True)


def _to_json(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` in JSON's types; its tensors are added to `tensors`, named by number."""
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
        return {ITEMS: [[_to_json(key, tensors), _to_json(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_to_json(item, tensors) for item in value]
        return {TUPLE: items} if isinstance(value, tuple) else items
    raise TypeError(f"a checkpoint can't hold {type(value).__name__}")


def _from_json(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == TENSOR:
        return tensors[content]
    items = [_from_json(item, tensors) for item in content]
    return tuple(items) if kind == TUPLE else dict(items)


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
