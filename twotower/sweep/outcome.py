"""What a sweep found: a table, a page, and the best trial's settings as an experiment that can be run again."""

import re
import shlex
import sys
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twotower.core.files import write_bytes
from twotower.report.html import card, document, figure, grid, heading, table
from twotower.report.sweep_plots import history, importances, settings, trade_off
from twotower.runs import run
from twotower.sweep.trial import FAILED, SECONDS, shown

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

PAGE_FILE, EXPERIMENT_FILE = "sweep.html", "experiment/best.yaml"
WIDTH = 140  # characters of the table in a file
BEST = 10  # trials that the terminal shows
NAMES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


def tell(
    study: "optuna.Study", path: Path, objectives: Sequence[str], overrides: Sequence[str], groups: Container[str]
) -> None:
    """Print the table, and write the page and the experiment into the sweep's folder.

    Args:
        study: whose trials have all ended.
        path: the sweep's folder.
        objectives: the names of the trials' values.
        overrides: of the command line, without the sweep's.
        groups: the names that are groups of the configuration.
    """
    ranked = by_rank(study)
    weights = importance_of(study)
    if weights:
        told = ", ".join(f"{name} {weight:.2f}" for name, weight in weights.items())
        print(f"what mattered: {told}")
    Console(width=None if sys.stdout.isatty() else WIDTH).print(summary(study, ranked[:BEST], objectives))
    print(f"{len(study.trials)} trials: {counts(study)}")
    for trial in study.trials:
        if FAILED in trial.user_attrs:
            print(f"trial {trial.number} failed: {trial.user_attrs[FAILED]} (see {path / str(trial.number)})")
    write_bytes(path / PAGE_FILE, page(study, ranked, weights, path.name, objectives).encode())
    print(f"page: {path / PAGE_FILE}")
    if not ranked:
        print("no trial came to its end; nothing can be recommended")
        return
    best = ranked[0]
    write_experiment(path, best, objectives, overrides, groups)
    deleted = [override for override in overrides if override.startswith("~")]  # which a file can't say
    print("again:", shlex.join(["python", "train.py", "--config-dir", str(path), "experiment=best", *deleted]))
    print(f"next: python train.py resume={path / str(best.number)}    # trial {best.number}: its refit and test")


def by_rank(study: "optuna.Study") -> "list[FrozenTrial]":
    """The complete trials, best first; of several objectives those that nothing beats in all come first."""
    complete = [trial for trial in study.trials if trial.values and trial.state.name == "COMPLETE"]
    front = {trial.number for trial in study.best_trials} if complete else set()
    sign = -1 if study.directions[0].name == "MAXIMIZE" else 1
    return sorted(complete, key=lambda trial: (trial.number not in front, sign * trial.values[0], trial.number))


def importance_of(study: "optuna.Study") -> dict[str, float]:
    """How much each setting decides the first objective, summing to 1; empty where there are too few trials to say."""
    import optuna

    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if len({trial.values[0] for trial in complete}) < 4:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, target=lambda trial: trial.values[0])
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def counts(study: "optuna.Study") -> str:
    """How many trials ended in which way."""
    number = Counter(NAMES[trial.state.name] for trial in study.trials)
    return ", ".join(f"{count} {name}" for name, count in number.most_common())


def summary(study: "optuna.Study", ranked: "Sequence[FrozenTrial]", objectives: Sequence[str]) -> Table:
    """The best trials; with several objectives those that nothing beats in all are bold."""
    front = {trial.number for trial in study.best_trials} if ranked else set()
    found = Table(*head(ranked, objectives))
    for trial in ranked:
        found.add_row(*map(escape, cells(trial)), style="bold" if trial.number in front else None)
    return found


def head(ranked: "Sequence[FrozenTrial]", objectives: Sequence[str]) -> list[str]:
    """The names of `cells`; of a setting the last part, where that is one setting's alone."""
    names = list(ranked[0].params) if ranked else []
    last = [re.split("[./]", name)[-1] for name in names]
    short = [part if last.count(part) == 1 else name for name, part in zip(names, last, strict=True)]
    return ["trial", *(name.replace("_at_", "@") for name in objectives), "seconds", *short]


def cells(trial: "FrozenTrial") -> list[str]:
    """A trial as a row."""
    values = [f"{value:.4f}" for value in trial.values]
    settings = [shown(value) for value in trial.params.values()]
    return [str(trial.number), *values, f"{trial.user_attrs[SECONDS]:.0f}", *settings]


def page(
    study: "optuna.Study",
    ranked: "Sequence[FrozenTrial]",
    weights: Mapping[str, float],
    name: str,
    objectives: Sequence[str],
) -> str:
    """The whole sweep to look at."""
    seconds = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in study.trials)
    tiles = {"trials": str(len(study.trials)), "hours of all trials": f"{seconds / 3600:.2f}"}
    tiles |= {objectives[k]: f"{value:.4f}" for k, value in enumerate(ranked[0].values)} if ranked else {}
    numbers = [trial.number for trial in ranked]
    first = [trial.values[0] for trial in ranked]
    cards = []
    if ranked:
        maximize = study.directions[0].name == "MAXIMIZE"
        stopped = [trial for trial in study.trials if trial.state.name == "PRUNED" and trial.values]
        pruned = ([trial.number for trial in stopped], [trial.values[0] for trial in stopped])
        cards.append(
            figure(
                "Trial by trial",
                history(numbers, first, *pruned, maximize, objectives[0]),
                "the line is the best so far",
                ["complete", "pruned: the last epoch's value"],
            )
        )
    if weights:
        text = "share of the variance that a setting alone and with others explains (fANOVA, Hutter et al. 2014)"
        cards.append(figure("What mattered", importances(list(weights), list(weights.values())), text))
    if ranked and len(objectives) > 1:
        second = [trial.values[1] for trial in ranked]
        front = [trial in study.best_trials for trial in ranked]
        plot = trade_off(second, first, front, objectives[1], objectives[0])
        cards.append(figure("Trade-off", plot, "large: no other trial is better in all objectives"))
    for setting in ranked[0].params if ranked else ():
        values = [trial.params[setting] for trial in ranked]
        log = getattr(ranked[0].distributions[setting], "log", False)
        cards.append(figure(setting, settings(values, first, log, objectives[0])))
    rows = card("Complete trials, best first", table(head(ranked, objectives), map(cells, ranked)))
    return document(f"Sweep {name}", [heading(f"Sweep {name}", counts(study), tiles), grid(cards), grid([rows])])


def write_experiment(
    path: Path, best: "FrozenTrial", objectives: Sequence[str], overrides: Sequence[str], groups: Container[str]
) -> None:
    """Write the best trial as overrides: those of the command line, and those that it drew.

    Args:
        path: the sweep's folder.
        best: the trial.
        objectives: the names of its values.
        overrides: of the command line, `model.dim=32` and so on.
        groups: the names that are groups of the configuration.
    """
    config = run.load_config(path / str(best.number))
    typed = dict(override.split("=", 1) for override in overrides if "=" in override)
    drawn = typed | {name: str(value) for name, value in best.params.items()}
    base = [drawn.pop("experiment")] if drawn.get("experiment", "null") != "null" else []
    chosen: list[Any] = [{f"override /{name}": value} for name, value in drawn.items() if name in groups]
    values = OmegaConf.create()
    for name in (name.lstrip("+") for name in drawn if name not in groups):
        OmegaConf.update(values, name, OmegaConf.select(config, name), force_add=True)
    figures = ", ".join(f"{name} {value:.4f}" for name, value in zip(objectives, best.values, strict=True))
    text = f"# @package _global_\n# Trial {best.number} of the sweep {path.name}: {figures}\n"
    text += OmegaConf.to_yaml(OmegaConf.create({"defaults": [*base, *chosen, "_self_"]})) + OmegaConf.to_yaml(values)
    (path / EXPERIMENT_FILE).parent.mkdir(exist_ok=True)
    write_bytes(path / EXPERIMENT_FILE, text.encode())
