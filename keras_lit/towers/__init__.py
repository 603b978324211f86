"""Image and text towers: backbone -> pooling -> optional linear head, and the preprocessing."""

from keras_lit.towers.base import Tower
from keras_lit.towers.image import ImageTower
from keras_lit.towers.text import TextTower

__all__ = ["ImageTower", "TextTower", "Tower"]


def __dir__() -> list[str]:
    return __all__
