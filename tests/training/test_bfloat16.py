"""trainer.precision=bf16-mixed: gradients are clipped although the optimiser is a fused one."""

from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from twotower.data.loader import training_loader


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
def test_a_training_in_bfloat16_clips_gradients_as_in_float32(make_prepared, make_module, monkeypatch) -> None:
    random = np.random.default_rng(0)
    sessions = random.integers(1, 31, size=(60, 9)).tolist()
    prepared = make_prepared(sessions, [9] * 60, num_items=30)
    norms: list[float] = []
    foreach = torch._foreach_mul_

    def keep_norm(values: Any, factor: Any) -> None:
        foreach(values, factor)
        norms.append(float(torch.nn.utils.get_total_norm(values)))

    loader = training_loader(prepared, 8, 128, seed=0)
    module = make_module(loader, "transformer", 1)
    monkeypatch.setattr(torch, "_foreach_mul_", keep_norm)
    Trainer(
        accelerator="cpu", precision="bf16-mixed", max_steps=2, gradient_clip_val=1e-3, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    ).fit(module, loader)  # fmt: skip
    assert len(norms) == 2
    np.testing.assert_allclose(norms, 1e-3, rtol=0.01)
