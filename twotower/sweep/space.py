"""The search space of a sweep, in the words that Hydra has for sweeps: choice, range, interval, tag(log, ...), int.

A setting is named as on the command line, and its values are texts as one would type them, or numbers.
"""

import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException

from twotower.core.errors import UserError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

EXAMPLES = "choice(32,64), range(1,4), interval(0,0.5) or tag(log,interval(0.001,0.01))"


def settings_of(space: Mapping[str, Any], parent: str = "") -> Iterator[tuple[str, str]]:
    """Each setting of a nested space with its text, `model.dim` and `choice(32,64)`; null leaves a setting out."""
    for key, value in space.items():
        name = f"{parent}.{key}" if parent else str(key)
        if isinstance(value, Mapping):
            yield from settings_of(value, name)
        elif value is not None:
            yield name, str(value)


def distributions(space: Mapping[str, Any]) -> "dict[str, BaseDistribution]":
    """What Optuna draws each setting from; raises UserError where a text is none of Hydra's."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, BaseDistribution] = {}
    for name, text in settings_of(space):
        override = _parsed(name, text)
        value = override.value()
        if isinstance(value, IntervalSweep):
            low, high, log = cast(float, value.start), cast(float, value.end), "log" in value.tags
            if re.search(r"\bint\(", text):
                found[name] = IntDistribution(int(low), int(high), log)
            else:
                found[name] = FloatDistribution(low, high, log)
        elif isinstance(value, RangeSweep) and all(isinstance(n, int) for n in (value.start, value.stop, value.step)):
            values = [int(element) for element in _elements(override)]
            found[name] = IntDistribution(min(values), max(values), step=abs(int(value.step)))
        else:
            found[name] = CategoricalDistribution(_elements(override))
    if not found:
        raise UserError(f"sweep.space is empty; name a setting and its values: {EXAMPLES}")
    return found


def grid(space: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All combinations, the last setting changing fastest; raises UserError for an interval."""
    drawn = distributions(space)
    axes = []
    for name, text in settings_of(space):
        override = _parsed(name, text)
        if isinstance(override.value(), IntervalSweep):
            raise UserError(f"sweep.space: {name}={text} has no end; a grid wants choice(...) or range(...)")
        axes.append([typed(drawn[name], element) for element in _elements(override)])
    return [dict(zip(drawn, point, strict=True)) for point in product(*axes)]


def typed(distribution: "BaseDistribution", text: str) -> Any:
    """A value, as typed on the command line, as this distribution has it; None where it is not among its values."""
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
    """A value of a configuration as one would type it."""
    return Override._get_value_element_as_str(value)


def _parsed(name: str, text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(f"setting={text}")
    except HydraException as error:
        raise UserError(f"sweep.space: {name}={text} can't be read ({error}); expected such as {EXAMPLES}") from None


def _elements(override: Override) -> list[str]:
    return list(override.sweep_string_iterator()) if override.is_sweep_override() else [text_of(override.value())]
