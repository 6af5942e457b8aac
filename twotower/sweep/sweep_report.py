"""The report of a sweep: a table, a page, and an experiment file with the best trial's settings."""

import sys
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from twotower.core.command_line import command, in_this_folder
from twotower.core.errors import UserError
from twotower.core.files import read_json, write_bytes
from twotower.report.html import card, document, figure, grid, heading, table
from twotower.report.sweep_plots import history, importances, settings, trade_off
from twotower.runs.resume import resume_command
from twotower.runs.run import load_config
from twotower.sweep.study import BY_TARGET, FAILED, SECONDS, SWEEP_FILE, load_study, short_text, used_settings

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

PAGE_FILE, EXPERIMENT_FILE = "sweep.html", "experiment/best.yaml"
WIDTH = 140  # characters of the table where it is not printed to a terminal
SHOWN = 10  # trials in the terminal's table
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}


class Results(NamedTuple):
    """Trials of a study, and what the report derives from them."""

    study: "optuna.Study"
    objectives: list[str]
    ranked: "list[FrozenTrial]"  # complete ones, best first
    front: set[int]  # numbers of the trials that no other beats in all objectives
    importance: dict[str, float]  # by setting
    states: str  # how many trials are in each state


def report_sweep(path: Path) -> int:
    """Print the table, and write page and experiment file into the sweep's folder `path`; returns the trials' number.

    Raises:
        UserError: `path` is no sweep's folder, or that of an earlier version.
    """
    content = read_json(path / SWEEP_FILE, "a sweep's folder")
    if "command" not in content:
        raise UserError(f"{path} is a sweep of an earlier version; type its command again")
    typed, results = content["command"], results_of(load_study(path, content["sweep"]), content["sweep"]["objectives"])
    trials = results.study.trials
    if results.importance:
        print("importance: " + ", ".join(f"{name} {share:.2f}" for name, share in results.importance.items()))
    Console(width=None if sys.stdout.isatty() else WIDTH).print(best_trials(results))
    print(f"{len(trials)} trials: {results.states}")
    for trial in trials:
        if FAILED in trial.user_attrs:
            print(f"trial {trial.number} failed: {trial.user_attrs[FAILED]} (see {path / str(trial.number)})")
    write_bytes(path / PAGE_FILE, page(results, path.name).encode())
    print(f"page: {path / PAGE_FILE}")
    if not results.ranked:
        print("no trial came to its end; nothing can be recommended")
        return len(trials)
    best = results.ranked[0]
    copy_groups(typed["config_folders"], typed["groups"], path)
    write_experiment(path, best, results.objectives, typed["overrides"], typed["groups"])
    print(f"again: {again(path, typed)}")
    print(f"next: {resume_command(path / str(best.number))}    # trial {best.number}: its refit and test")
    return len(trials)


def results_of(study: "optuna.Study", objectives: Iterable[str]) -> Results:
    """Rank a study's trials by the first objective; of several objectives, the Pareto front comes first."""
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    front = {trial.number for trial in study.best_trials} if complete else set()
    sign = -1 if study.directions[0].name == "MAXIMIZE" else 1
    ranked = sorted(complete, key=lambda trial: (trial.number not in front, sign * trial.values[0], trial.number))
    counts = Counter(STATES[trial.state.name] for trial in study.trials)
    states = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    return Results(study, list(objectives), ranked, front, importance_of(study), states)


def again(path: Path, typed: Mapping[str, Any]) -> str:
    """The shell line that trains with the best trial's settings; `typed` is SWEEP_FILE's "command"."""
    words = ["--config-dir", str(path.resolve()), "experiment=best"]
    deleted = [word for word in typed["overrides"] if word.startswith("~")]  # which a file can't express
    return in_this_folder(command("train", *words, *deleted))


def copy_groups(folders: Iterable[str], groups: Iterable[str], path: Path) -> None:
    """Copy the groups' files of the user's own config folders into `path`, so that its experiment needs no other."""
    for folder in map(Path, folders):
        for group in groups:
            for file in sorted((folder / group).glob("*.yaml")):
                (path / group).mkdir(parents=True, exist_ok=True)
                write_bytes(path / group / file.name, file.read_bytes())


def importance_of(study: "optuna.Study") -> dict[str, float]:
    """Each setting's share of the first objective's variance (fANOVA, Hutter et al. 2014), largest first.

    Empty where fewer than four values are known.
    """
    import optuna

    if len({trial.values[0] for trial in study.trials if trial.state.name == "COMPLETE"}) < 4:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator, target=lambda trial: trial.values[0])


def best_trials(results: Results) -> Table:
    """The terminal's table; the best trial is bold, or the whole Pareto front."""
    rows = Table(*header(results))
    for trial in results.ranked[:SHOWN]:
        rows.add_row(*map(escape, row(trial, _parts(results))), style="bold" if trial.number in results.front else None)
    return rows


def header(results: Results) -> list[str]:
    """Names of the columns of `row`; a setting's last part, where no other setting ends so."""
    names = list(results.ranked[0].params) if results.ranked else []
    last = [name.replace("/", ".").rpartition(".")[2] for name in names]
    short = [part if last.count(part) == 1 else name for name, part in zip(names, last, strict=True)]
    objectives = (name.replace("_at_", "@") for name in results.objectives)
    return ["trial", *objectives, *(name.replace("_at_", "@") for name in _parts(results)), "seconds", *short]


def _parts(results: Results) -> list[str]:
    """Names of the metrics of repeated and of new targets, where the trials have them."""
    return list(results.ranked[0].user_attrs.get(BY_TARGET, {})) if results.ranked else []


def row(trial: "FrozenTrial", parts: Sequence[str]) -> list[str]:
    """A trial's number, values, metrics `parts` of its validation, duration and settings as text."""
    by_target = trial.user_attrs.get(BY_TARGET, {})
    values = [f"{value:.4f}" for value in (*trial.values, *(by_target.get(name, float("nan")) for name in parts))]
    used = used_settings(trial)
    settings = [short_text(used[name]) if name in used else "-" for name in trial.params]
    return [str(trial.number), *values, f"{trial.user_attrs[SECONDS]:.0f}", *settings]


def page(results: Results, name: str) -> str:
    """The HTML page of the sweep `name`."""
    trials, title = results.study.trials, f"Sweep {name}"
    hours = sum(trial.user_attrs.get(SECONDS, 0.0) for trial in trials) / 3600
    tiles = {"trials": str(len(trials)), "hours of all trials": f"{hours:.2f}"}
    if results.ranked:
        best = results.ranked[0].values
        tiles |= {objective: f"{value:.4f}" for objective, value in zip(results.objectives, best, strict=True)}
    parts = _parts(results)
    rows = card("Complete trials, best first", table(header(results), [row(trial, parts) for trial in results.ranked]))
    failed = [trial for trial in trials if FAILED in trial.user_attrs]
    reasons = [
        [str(t.number), t.user_attrs[FAILED], " ".join(f"{n}={short_text(v)}" for n, v in used_settings(t).items())]
        for t in failed
    ]
    cards = [rows, *([card("Failed trials", table(["trial", "reason", "settings"], reasons))] if failed else [])]
    return document(title, [heading(title, results.states, tiles), grid(figures(results)), grid(cards)])


def figures(results: Results) -> list[Any]:
    """The page's plots: values by trial, importance, trade-off, and values by each setting."""
    study, objectives, ranked, front, importance, _ = results
    if not ranked:
        return []
    first = [trial.values[0] for trial in ranked]
    maximize = study.directions[0].name == "MAXIMIZE"
    pruned = [trial for trial in study.trials if trial.state.name == "PRUNED" and trial.values]
    last = [trial.number for trial in pruned], [trial.values[0] for trial in pruned]
    plot = history([trial.number for trial in ranked], first, *last, maximize, objectives[0])
    legend = ["complete", "pruned: the last epoch's value"]
    cards = [figure("Trial by trial", plot, "the line is the best so far", legend)]
    if importance:
        note = "each setting's share of the variance, alone and with others (fANOVA, Hutter et al. 2014)"
        cards.append(figure("Importance", importances(list(importance), list(importance.values())), note))
    if len(objectives) > 1:
        second = [trial.values[1] for trial in ranked]
        plot = trade_off(second, first, [trial.number in front for trial in ranked], objectives[1], objectives[0])
        cards.append(figure("Trade-off", plot, "large: no other trial is better in all objectives"))
    for setting, distribution in ranked[0].distributions.items():
        used = [(trial.params[setting], trial.values[0]) for trial in ranked if setting in used_settings(trial)]
        if used:
            values, found = map(list, zip(*used, strict=True))
            cards.append(figure(setting, settings(values, found, getattr(distribution, "log", False), objectives[0])))
    return cards


def write_experiment(
    path: Path, best: "FrozenTrial", objectives: Sequence[str], overrides: Sequence[str], groups: Container[str]
) -> None:
    """Write EXPERIMENT_FILE: the overrides of the command line, and the settings that the best trial drew.

    Args:
        path: the sweep's folder.
        best: the trial.
        objectives: the names of its values.
        overrides: of the command line, `model.dim=32` and so on.
        groups: the names that are groups of the configuration.
    """
    config = load_config(path / str(best.number))
    typed = dict(word.split("=", 1) for word in overrides if "=" in word)
    drawn = typed | {name: str(value) for name, value in used_settings(best).items()}
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
