"""Stands for an image backbone that is elsewhere: its features are precomputed."""

from typing import Any

import keras

MESSAGE = (
    "This image tower has no backbone (`ImageTower.from_features`): it takes precomputed "
    '"image_features" only. To encode or export images, give the model its image tower with '
    "`LiT.with_image_tower(tower)`."
)


@keras.saving.register_keras_serializable("keras_lit")
class FeaturesOnly(keras.Model):
    """Has a width and the fingerprint of the tower whose features it stands for; refuses images.

    Args:
        dim: int, the width of the features.
        fingerprint: `keras_lit.fingerprints.fingerprint` of their tower, or None: any features.

    Example:

    >>> FeaturesOnly(768).dim
    768
    """

    def __init__(self, dim: int, fingerprint: dict[str, str] | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.dim = dim
        self.fingerprint = fingerprint
        self.built = True

    def compute_output_spec(self, images: Any, training: bool = False) -> keras.KerasTensor:
        return keras.KerasTensor((None, self.dim), "float32")

    def call(self, images: Any, training: bool = False) -> Any:
        raise ValueError(MESSAGE)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dim": self.dim, "fingerprint": self.fingerprint}
