"""Put a candidate in the champion's place if the gate lets it pass: twotower promote --help"""

import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig

from twotower.commands.evaluate import evaluate
from twotower.core.command_line import command
from twotower.core.errors import UserError
from twotower.core.files import new_directory, read_json, write_bytes, write_json
from twotower.core.schema import AUDIT_FILE, MANIFEST_FILE
from twotower.core.threads import use_threads
from twotower.evaluation.comparison import Comparison, compare_results
from twotower.evaluation.results_file import RESULTS_FILE, read_results
from twotower.lifecycle.gate import Check, limit_checks, quality_checks, soundness_checks
from twotower.lifecycle.side_by_side import Example, data_facts, figures, lists_side_by_side
from twotower.report.promotion_page import change_rows, promotion_page
from twotower.runs import layout
from twotower.runs.run import load_config
from twotower.serving.bundle import open_bundle
from twotower.serving.verify import verify
from twotower.tracking.champion import Registered, Registry
from twotower.tracking.lookup import MODELS, locate

REFUSED = 3  # exit status
PAGE_FILE, DECISION_FILE = "promotion.html", "decision.json"


class Decision(NamedTuple):
    """What became of a candidate."""

    promoted: bool
    checks: list[Check]
    words: str


class _Judged(NamedTuple):
    """What the gate found, and what the page shows beside it."""

    title: str
    checks: list[Check]
    comparison: Comparison | None
    examples: list[Example]
    changes: list[list[str]]


def main_promote(config: DictConfig) -> None:
    """`twotower promote`: exit with REFUSED where the champion stays."""
    if not promote(config).promoted:
        sys.exit(REFUSED)


def promote(config: DictConfig) -> Decision:
    """Test champion and candidate on the candidate's newest window, ask the gate, and move the alias.

    Returns:
        The decision; DECISION_FILE and PAGE_FILE in `config.out` tell it, as do tags of the candidate's version.

    Raises:
        UserError: a name or the candidate's data is missing, or the champion was replaced meanwhile.
    """
    use_threads(config.threads)
    if config.force is not None and not str(config.force).strip():
        raise UserError('force="" gives no reason; expected force="the reason", which is kept with the version')
    registry = Registry(config.tracking_uri)
    candidate, champion = registry.find(str(config.candidate)), registry.find(str(config.champion))
    _require_pair(registry, candidate, champion, config)
    if champion.version is None:
        print(f"no version of {champion.model} has the alias {champion.alias} yet{registry.hint(champion)}")
    if candidate.version == champion.version:
        print(f"{config.champion} is version {champion.version} already")
        return Decision(True, [], "the champion already")
    out = new_directory(Path(config.out or f"promotions/{candidate.model}-v{candidate.version}"))
    with tempfile.TemporaryDirectory() as scratch:
        judged = _judge(config, candidate, champion, Path(scratch), out)
        checks = judged.checks
        refused = [check for check in checks if not check.passed]
        words = _decide(registry, candidate, champion, refused, config.force)
        level = "error" if refused and config.force is None else "warning" if refused else "good"
        page = promotion_page(judged.title, (level, words), checks, judged.comparison, judged.examples, judged.changes)
        write_bytes(out / PAGE_FILE, page.encode())
    decision = Decision(not refused or config.force is not None, checks, words)
    write_json(
        out / DECISION_FILE,
        {
            **{"candidate": candidate._asdict(), "champion": champion._asdict(), "force": config.force},
            **{"promoted": decision.promoted, "words": words, "checks": [check._asdict() for check in checks]},
            "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        },
    )
    for check in checks:
        print(f"{'passed ' if check.passed else 'REFUSED'} {check.name}: {check.text}")
    print(words)
    if decision.promoted and champion.version is not None:
        print("one step back:", command("rollback", config.champion, "--reason", "WHY"))
    print(f"page: {out / PAGE_FILE}")
    return decision


def _require_pair(registry: Registry, candidate: Registered, champion: Registered, config: DictConfig) -> None:
    if champion.alias is None:
        raise UserError(f"champion={config.champion} names a version; expected the alias to move: {MODELS}NAME@ALIAS")
    if candidate.version is None:
        missing = f"no version of {candidate.model} has the alias {candidate.alias}{registry.hint(candidate)}"
        raise UserError(f"{missing}; register one first: {command('export', 'run=RUN', f'register={candidate.model}')}")
    if candidate.model != champion.model:
        raise UserError(f"an alias of {champion.model} can't name a version of {candidate.model}; register it there")


def _judge(config: DictConfig, candidate: Registered, champion: Registered, scratch: Path, out: Path) -> _Judged:
    gate = config.gate
    new = locate(_address(candidate), config.tracking_uri, scratch, "bundle")
    run = locate(_address(candidate), config.tracking_uri, scratch)
    data = read_json(run / layout.DATA_FILE, "a run directory")
    summary = read_json(run / layout.ASSESSMENT_FILE, "a run that has been tested")
    checks = soundness_checks(read_json(run / AUDIT_FILE, "a run directory"), summary, gate.metric)
    title = f"{candidate.model}: version {candidate.version}, the first champion"
    bundle = open_bundle(new)
    comparison, examples, before, old_figures = None, list[Example](), None, None
    old_items: list[Any] = []
    if champion.version is not None:
        old = locate(_address(champion), config.tracking_uri, scratch, "bundle")
        title = f"{candidate.model}: version {candidate.version} in the place of version {champion.version}"
        tested = _test_champion(old, run, Path(config.data or data["path"]), data["fingerprint"], out / "champion")
        comparison = _compare(run, tested, gate.metric)
        checks += quality_checks(comparison, summary["sessions"], gate.margin, gate.slice_margin)
        old_bundle = open_bundle(old)
        examples = lists_side_by_side(bundle, old_bundle)
        before = data_facts(_data_of(champion, config, scratch), old_bundle, bundle.item_ids.to_pylist())
        old_items = old_bundle.item_ids.to_pylist()
        old_figures = figures(old)
    checks.append(_parity(new))
    checks += limit_checks(figures(new), old_figures, gate.max_growth, gate.max_p99_ms)
    return _Judged(title, checks, comparison, examples, change_rows(before, data_facts(data, bundle, old_items)))


def _address(registered: Registered) -> str:
    return f"{MODELS}{registered.model}/{registered.version}"


def _test_champion(bundle: Path, run: Path, data: Path, fingerprint: str, out: Path) -> Path:
    """Test the champion's bundle as the candidate's run was tested; returns the folder of its results."""
    if not (data / MANIFEST_FILE).is_file():
        raise UserError(f"the candidate's data, {data}, is gone; prepare it again, or name it: data=PREPARED")
    if read_json(data / MANIFEST_FILE, "a prepared directory")["fingerprint"] != fingerprint:
        raise UserError(f"{data} is not the candidate's data, whose fingerprint is {fingerprint}; name it: data=...")
    settings = load_config(run)
    settings.evaluate, settings.run_dir, settings.logger = str(bundle), str(out), None
    settings.data = {"_target_": "twotower.core.schema.open_prepared", "path": str(data)}
    settings.evaluation.baselines = False
    print("the champion on the candidate's test, as far as it knows the items:")
    return evaluate(settings)


def _compare(run: Path, tested: Path, metric: str) -> Comparison:
    first, second = (read_results(folder / RESULTS_FILE) for folder in (run, tested))
    return compare_results(first, second, metric, unranked_is_missed=True)


def _data_of(champion: Registered, config: DictConfig, scratch: Path) -> dict[str, Any]:
    """The manifest of the champion's data; empty where its run is gone."""
    try:
        folder = locate(_address(champion), config.tracking_uri, scratch, file=layout.DATA_FILE)
        manifest: dict[str, Any] = read_json(folder / layout.DATA_FILE, "a run directory")
    except UserError:
        return {}
    return manifest


def _parity(bundle: Path) -> Check:
    try:
        difference = verify(bundle)
    except UserError as error:
        return Check("parity", False, str(error))
    return Check("parity", True, f"answers as the trained model does, scores within {difference:.1e}")


def _decide(
    registry: Registry, candidate: Registered, champion: Registered, refused: Sequence[Check], force: str | None
) -> str:
    """Move the alias where the gate or `force` lets the candidate pass, and say in words what was done."""
    told = "; ".join(f"{check.name}: {check.text}" for check in refused) or "all checks passed"
    if refused and force is None:
        registry.tag(candidate, {f"{champion.alias}.gate": "refused", f"{champion.alias}.reasons": told})
        stays = f"version {champion.version} stays" if champion.version else "there is no champion"
        return f"refused, {stays}: {'; '.join(check.name for check in refused)}"
    gate = "passed" if not refused else f"forced: {force}"
    registry.promote(candidate, champion, {"gate": gate, "reasons": told})
    address = f"{MODELS}{candidate.model}@{champion.alias}"
    return f"promoted: {address} is version {candidate.version}{f', {gate}' if refused else ''}"
