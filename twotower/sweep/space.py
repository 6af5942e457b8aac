"""The search space of a sweep, in Hydra's syntax for sweeps: choice, range, interval, tag(log, ...), int.

A setting is named as on the command line; its values are texts as typed there, or numbers.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from twotower.core.errors import UserError
from twotower.core.nested import leaves

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

EXAMPLES = "choice(32,64), range(1,4), interval(0,0.5) or tag(log,interval(0.001,0.01))"


def settings_of(space: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each setting of a nested space with its text, `model.dim` and `choice(32,64)`; null means left out."""
    for name, value in leaves(space):
        if value is not None and not isinstance(value, Mapping):
            yield name, str(value)


def distributions(space: Mapping[str, Any]) -> "dict[str, BaseDistribution]":
    """Return Optuna's distribution of each setting; raises UserError for a text that Hydra can't parse."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    result: dict[str, BaseDistribution] = {}
    for name, text in settings_of(space):
        override = _parse(name, text)
        value = override.value()
        if isinstance(value, IntervalSweep):
            low, high, log = cast(float, value.start), cast(float, value.end), "log" in value.tags
            if re.search(r"\bint\(", text):
                result[name] = IntDistribution(int(low), int(high), log)
            else:
                result[name] = FloatDistribution(low, high, log)
        elif isinstance(value, RangeSweep) and all(isinstance(n, int) for n in (value.start, value.stop, value.step)):
            values = [int(element) for element in _elements(override)]
            result[name] = IntDistribution(min(values), max(values), step=abs(int(value.step)))
        else:
            result[name] = CategoricalDistribution(_elements(override))
    if not result:
        raise UserError(f"sweep.space is empty; name a setting and its values: {EXAMPLES}")
    return result


def grid(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return all combinations, the last setting changing fastest; raises UserError for an interval."""
    drawn = distributions(space)
    axes = []
    for name, text in settings_of(space):
        override = _parse(name, text)
        if isinstance(override.value(), IntervalSweep):
            raise UserError(
                f"sweep.space: {name}={text} has infinitely many values; a grid takes choice(...) or range(...)"
            )
        axes.append([parse_value(drawn[name], element) for element in _elements(override)])
    return [dict(zip(drawn, point, strict=True)) for point in product(*axes)]


def parse_value(distribution: "BaseDistribution", text: str) -> Any:
    """Return the value of a distribution that `text`, as on the command line, stands for; None where it has none."""
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return text if text in distribution.choices else None
    try:
        value = int(text) if isinstance(distribution, IntDistribution) else float(text)
        internal = distribution.to_internal_repr(value)
    except ValueError:
        return None
    return value if distribution._contains(internal) else None


def text_of(value: Any) -> str:
    """Return a value of a configuration as typed on the command line."""
    return Override._get_value_element_as_str(value)


def _parse(name: str, text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(f"setting={text}")
    except HydraException as error:
        raise UserError(f"sweep.space: {name}={text} can't be read ({error}); expected such as {EXAMPLES}") from None


def _elements(override: Override) -> list[str]:
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else [text_of(override.value())]
