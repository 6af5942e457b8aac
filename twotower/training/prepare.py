"""Prepare the data of a run, draw its data card, and stop where the audit found errors."""

import logging
from collections.abc import Iterable

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
    prepared: Prepared = instantiate(data)
    try:
        from twotower.report.data_card import write_data_card
    except ImportError as error:  # a machine that only trains may lack the packages that draw
        log.warning("no data card is drawn: %s", error)
    else:
        write_data_card(prepared)
    require_sound(prepared, accept)
    return prepared
