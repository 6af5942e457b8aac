"""The optimiser's moments of a run for another model, so that a warm start goes on where that run ended.

Shapes: V items, D embedding dim.
"""

from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from twotower.core.arrays import Ints
from twotower.runs import layout
from twotower.runs.checkpoint import read_checkpoint
from twotower.runs.run import Run
from twotower.training.matched_weights import Vocabulary, matched_weights

Moments = dict[str, dict[str, Tensor]]  # by the parameter's name, as torch.optim.AdamW keeps them for the parameter
STEP, FIRST, SECOND = "step", "exp_avg", "exp_avg_sq"


def moments_of(run: Run) -> Moments:
    """Return the optimiser's state at the end of a run; empty where its checkpoint has none."""
    states = read_checkpoint(layout.checkpoint_of(run.path)).get("optimizer_states")
    if not states:
        return {}
    optimizer, _ = instantiate(run.config.optimizer)(run.model, total_steps=1)  # it numbers parameters by its groups
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    return {order[number]: state for number, state in states[0]["state"].items()}


def matched_moments(model: nn.Module, old: Moments, items: Ints, here: Vocabulary, there: Vocabulary) -> Moments:
    """Return moments for the parameters of `model`, with those of another run where they fit.

    A row that is new begins with a first moment of 0 and the other rows' mean of the second: with 0 its first steps
    would be several times the others'. Left out are parameters that the other run lacks, those whose moments have
    another shape (of another optimiser), and those of numbers, which are standardised anew.

    Args:
        model: the new one.
        old: of moments_of.
        items: [V + 1] the other run's item_index for each new one, 0 where it has none.
        here, there: what rows stand for in the new and the other model.
    """
    if any(state.keys() != {STEP, FIRST, SECOND} for state in old.values()):
        return {}
    zeros = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    means = {n: old[n][SECOND].mean(0).expand_as(z).clone() if _rows(z, old.get(n)) else z for n, z in zeros.items()}
    begin = {FIRST: zeros, SECOND: means}
    found = {
        kind: matched_weights(begin[kind], {name: state[kind] for name, state in old.items()}, items, here, there)
        for kind in begin
    }
    left = {match.name for match in found[FIRST].matches if match.factor is not None}
    left |= {name for matched in found.values() for name in (*matched.fresh, *matched.misfits)}
    return {
        name: {STEP: old[name][STEP], **{kind: matched.weights[name] for kind, matched in found.items()}}
        for name in zeros
        if name not in left and name in old
    }


def load_moments(model: nn.Module, optimizer: torch.optim.Optimizer, moments: Moments) -> None:
    """Let the optimiser of `model` go on from these moments, which it changes."""
    for name, parameter in model.named_parameters():
        if name in moments:
            optimizer.state[parameter] = moments[name]


def _rows(weight: Tensor, state: dict[str, Any] | None) -> bool:
    return state is not None and weight.ndim == 2 and state[SECOND].shape[1:] == weight.shape[1:]
