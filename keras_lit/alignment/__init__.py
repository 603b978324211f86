"""Heads in closed form, chosen by cross-validation in one pass over pairs."""

from keras_lit.alignment.aligning import whiten
from keras_lit.alignment.choosing import Alignment, choose
from keras_lit.alignment.folds import Folds
from keras_lit.alignment.heads import Head, Heads, cca, ridge, whitening
from keras_lit.alignment.moments import Moments
from keras_lit.alignment.probing import Probe, probe

__all__ = [
    "Alignment",
    "Folds",
    "Head",
    "Heads",
    "Moments",
    "Probe",
    "cca",
    "choose",
    "probe",
    "ridge",
    "whiten",
    "whitening",
]
__dir__ = __all__.copy
