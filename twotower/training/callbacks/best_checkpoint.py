"""Checkpoint of the epoch with the best validation metric."""

from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint

PATHS = ("best_model_path", "kth_best_model_path", "last_model_path")  # of Lightning's ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Lightning's ModelCheckpoint with files named *.safetensors, and in a folder that may be moved between runs.

    >>> BestCheckpoint(dirpath="run/checkpoints", filename="best", monitor="val/ndcg_at_20", mode="max").monitor
    'val/ndcg_at_20'
    """

    FILE_EXTENSION = ".safetensors"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score with paths in the present folder; Lightning forgets it if the folder has moved."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {name: here(state_dict[name]) for name in PATHS}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **paths, "dirpath": self.dirpath, "best_k_models": best})
