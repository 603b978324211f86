"""Image towers from the files of the ViT, AugReg, MLP-Mixer and BiT papers."""

import os
from pathlib import Path

from keras_lit.checkpoints import build
from keras_lit.checkpoints.fill import fill
from keras_lit.checkpoints.names import canonical
from keras_lit.checkpoints.npz import Archive
from keras_lit.checkpoints.slots import slots_of_tower
from keras_lit.towers import ImageTower

# What follows the pooled features.
_CLASSIFIER = ("head/", "pre_logits/")


def load_image_tower(
    path: str | os.PathLike, image_size: int | None = None, head: bool = False
) -> ImageTower:
    """Loads a pretrained image tower, to be locked in a `LiT`.

    Args:
        path: an `.npz` file of vit_jax, big_vision or BiT: a ViT (AugReg's and the original ones;
            pooled by class token, mean or attention), an MLP-Mixer or a BiT ResNet.
        image_size: int, the image's side in pixels, where it should not be the file's: a ViT's
            position embeddings are resampled. A BiT takes any size (by default 224), an MLP-Mixer
            no other.
        head: bool, whether to keep the file's linear head. In pretraining that is a classifier, so
            it is left out by default, as in LiT.

    Returns:
        A locked `ImageTower` that takes pixels as -1..1.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, or holds other arrays than a model of its kind. The message
            names the array.

    Example: `keras_lit.checkpoints.load_image_tower("B_16-i21k-300ep-lr_0.001.npz")`.

    Reference: Steiner et al. 2021 (arXiv 2106.10270) for AugReg; the LiT paper, section 4.2.
    """
    arrays = canonical(Archive(path))
    if not head:
        arrays = {name: a for name, a in arrays.items() if not name.startswith(_CLASSIFIER)}
    tower = build.image_tower(arrays, image_size=image_size)
    fill(slots_of_tower(tower), arrays, Path(path))
    tower.lock(head=head)
    return tower
