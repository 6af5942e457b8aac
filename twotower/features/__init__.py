"""How raw values become codes and numbers, in preparation, training, export and serving alike.

A feature is declared once (`preparation.features`), fitted on the values of the catalogue, and kept as an encoder:
plain JSON. Code 0 is null and whatever cannot be read.
"""

from twotower.features.bags import Bags
from twotower.features.encoder import Encoder, encode, encode_single, fit, form
from twotower.features.numbers import Dense
from twotower.features.raw import raw_values
from twotower.features.spec import check_spec

__all__ = ["Bags", "Dense", "Encoder", "check_spec", "encode", "encode_single", "fit", "form", "raw_values"]
