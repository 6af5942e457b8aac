"""Prepare the data of a run, draw its data card, and stop where the audit found errors."""

import logging
from collections.abc import Iterable
from traceback import walk_tb

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from twotower.audit.audit import require_sound
from twotower.core.schema import Prepared

log = logging.getLogger(__name__)


def prepare(data: DictConfig, accept: Iterable[str] | None) -> Prepared:
    """Prepare the events, or open the prepared directory that exists already.

    Args:
        data: the configuration's group `data`.
        accept: checks of the audit whose errors count as warnings.

    Raises:
        UserError: the audit found errors.
    """
    prepared = _read(data)
    try:
        from twotower.report.data_card import write_data_card
    except ImportError as error:  # a machine that only trains may lack the packages that draw
        log.warning("no data card is drawn: %s", error)
    else:
        write_data_card(prepared)
    require_sound(prepared, accept)
    return prepared


def _read(data: DictConfig) -> Prepared:
    """Call the reader; what it raises passes as it is, with its traceback, but for arguments that it does not take."""
    try:
        prepared: Prepared = instantiate(data)
    except InstantiationException as error:
        cause = error.__cause__
        frames = [frame.f_globals["__name__"] for frame, _ in walk_tb(cause.__traceback__)] if cause else []
        if cause is None or frames[-1].startswith("hydra."):  # the call itself failed
            raise
        raise cause from cause.__cause__
    return prepared
