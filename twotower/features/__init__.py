"""Raw values as codes and numbers, in the same way for preparation, training, export and serving.

A feature is declared once (`preparation.features`), fitted on the values of the catalogue, and stored as an encoder,
which is plain JSON. Code 0 means null or unreadable.
"""

from twotower.features.bags import Bags
from twotower.features.encoder import Encoder, encode, encode_single, fit, form, unreadable
from twotower.features.numbers import Dense
from twotower.features.raw import raw_values
from twotower.features.spec import check_spec

__all__ = [
    "Bags",
    "Dense",
    "Encoder",
    "check_spec",
    "encode",
    "encode_single",
    "fit",
    "form",
    "raw_values",
    "unreadable",
]
