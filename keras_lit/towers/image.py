"""The image tower."""

import functools
import re
import warnings
from typing import Any, ClassVar, Literal, get_args

import keras
import keras_nlp
import numpy as np
import tensorflow as tf

from keras_lit import internals
from keras_lit.backbones import TokenHead
from keras_lit.backbones.token_head import patch_rows, pool_tokens
from keras_lit.preprocessing import ImagePreprocessor
from keras_lit.towers import patches, settings
from keras_lit.towers.base import Tower, check_is_model, input_names
from keras_lit.towers.features_only import FeaturesOnly
from keras_lit.towers.heads import Head
from keras_lit.towers.lower import Lower
from keras_lit.towers.pooling import flat

ImagePooling = Literal["auto", "mean", "first", "first_and_mean", "max", "map", "none", "tokens"]


@keras.saving.register_keras_serializable("keras_lit")
class ImageTower(Tower):
    """An image backbone, its pooling, an optional head and its preprocessing.

    Args:
        backbone: any `keras.Model` from images [batch, height, width, 3] to a feature map
            [batch, h, w, dim], a pyramid of them (the coarsest is taken), tokens
            [batch, tokens, dim] or vectors [batch, dim].
        pooling: "mean", "first", "first_and_mean" (the class token beside the mean of the patches,
            twice as wide, as in dino.txt), "max", "map" (attention pooling), "none" (vectors), or
            "auto": mean for feature maps, and what the family was trained with for token sequences
            (first token for ViT, DeiT, DINOv2, DINOv3 and CLIP, mean for Swin and MLP-Mixer).
            "tokens" pools nothing: the head does, see `keras_lit.backbones.TokenHead`.
        projection_dim: int, the width of the head. None or 0: no head, as in LiT.
        preprocessor: a `keras_lit.preprocessing.ImagePreprocessor`. None makes one of the
            backbone's own image size (224 where that is free), with pixels in 0..255 for a
            backbone that rescales by itself (keras-cv's `include_rescaling`, a `Rescaling` layer at
            the beginning) and in -1..1, as in LiT, for any other: pass one where the backbone was
            trained differently, as DINOv2 was ("imagenet"), or take `ImageTower.from_preset`.
        head: "linear", "mlp", or any layer, as of `add_head`; a layer has its own width.
        blocks: int, how many transformer blocks train between the backbone's tokens and the
            pooling, as part of the head: a `keras_lit.backbones.TokenHead`, with `pooling`
            "first_and_mean" (the default, where there is a class token) or "mean".
        drop_path: float, of these blocks.

    Call arguments:
        inputs: [batch, height, width, 3] float tensor of preprocessed images, or [batch,
            feature_dim] or of tokens [batch, tokens, feature_dim], their features before the head.
        training: bool.

    Returns:
        [batch, embedding_dim] tensor, not normalised.

    Raises:
        ValueError: "auto" does not know the backbone, the pooling does not fit its output, or the
            head the `projection_dim`.

    Example:

    >>> backbone = keras.Sequential([keras.layers.Conv2D(8, 3, strides=2)])
    >>> tower = keras_lit.ImageTower(backbone, preprocessor=ImagePreprocessor(32))
    >>> tower(np.zeros([2, 32, 32, 3], "float32")).shape
    TensorShape([2, 8])

    Reference: the LiT paper, sections 3.3 and 4.2.
    """

    POOLINGS = get_args(ImagePooling)
    FAMILIES: ClassVar[dict[str, tuple[str, ...]]] = {
        "mean": ("MLPMixer", "SwinTransformerBackbone"),
        "first": (
            *("VisionTransformer", "ViTBackbone", "DeiTBackbone", "DINOV2Backbone"),
            *("DINOV3Backbone", "CLIPVisionEncoder"),
        ),
    }

    def __init__(
        self,
        backbone: keras.Model,
        pooling: ImagePooling = "auto",
        projection_dim: int | None = None,
        preprocessor: ImagePreprocessor | None = None,
        head: Head = "linear",
        blocks: int = 0,
        drop_path: float = 0.0,
        **kwargs: Any,
    ):
        check_is_model(backbone)
        if preprocessor is None:
            preprocessor = _default_image_preprocessor(backbone)
        of_head: Any = pooling
        if drop_path and not blocks:
            raise ValueError(
                f"`drop_path` leaves out `blocks`, of which there are none. Received: {drop_path}. "
                "Give `blocks`, or leave it out."
            )
        if blocks:
            patches.check_blocks(pooling, head)
            pooling = "tokens"
        width = None if pooling == "tokens" and isinstance(head, str) else projection_dim
        super().__init__(backbone, pooling, width, preprocessor, **kwargs)
        self._lower: Any = None
        _check_gives_features(backbone)
        if head == "mlp" and not projection_dim:
            raise ValueError('`head`="mlp" needs a `projection_dim`, the width of the embeddings.')
        self._build(keras.KerasTensor((None, *preprocessor.image_size, 3)), head)
        if blocks:
            if of_head in ("auto", "tokens"):
                of_head = "first_and_mean" if self.prefix_tokens else "mean"
            options: dict[str, Any] = {"drop_path": drop_path, "dtype": self.dtype_policy}
            dim, prefix = projection_dim or None, self.prefix_tokens
            self.add_head(head=TokenHead(dim, blocks, of_head, prefix, **options))

    @classmethod
    def from_preset(
        cls,
        preset: str,
        pooling: ImagePooling = "auto",
        projection_dim: int | None = None,
        **options: Any,
    ) -> "ImageTower":
        """A tower of a preset of keras-nlp, with the preprocessing it was trained with.

        Args:
            preset: name, link to a hub, or folder, as of `keras_nlp.models.Backbone.from_preset`.
            pooling: as for `ImageTower`.
            projection_dim: as for `ImageTower`.
            **options: of `ImagePreprocessor`, for example `random_flip=True`, in place of the
                preset's. A preset without an image converter gets the defaults of `ImageTower`.

        Returns:
            An `ImageTower`.

        Raises:
            ValueError: no such preset.

        Example: `keras_lit.ImageTower.from_preset("dinov2_base")`.
        """
        backbone = keras_nlp.models.Backbone.from_preset(preset)
        try:
            preprocessor = ImagePreprocessor.from_preset(preset, **options)
        except FileNotFoundError:
            config = {**_default_image_preprocessor(backbone).get_config(), **options}
            preprocessor = ImagePreprocessor.from_config(config)
        return cls(backbone, pooling, projection_dim, preprocessor)

    @classmethod
    def from_features(
        cls,
        dim: int,
        projection_dim: int | None = None,
        fingerprint: dict[str, str] | None = None,
        grid: tuple[int, int] | None = None,
        prefix_tokens: int = 0,
        **kwargs: Any,
    ) -> "ImageTower":
        """A locked tower without a backbone, to train on precomputed features of width `dim`.

        `LiT.with_image_tower` puts the real one in its place afterwards.

        Args:
            dim: int, the width of the features.
            projection_dim: as for `ImageTower`.
            fingerprint: of the tower that made them, see `keras_lit.features.image_tower`; features
                of another are then refused.
            grid: (rows, columns) of patches, for features that are tokens (`pooling`="tokens").
            prefix_tokens: int, how many tokens come before the patches.
            **kwargs: passed on to `ImageTower`, for example `head="mlp"`.

        Returns:
            An `ImageTower` that takes "image_features" and refuses images.

        Example:

        >>> keras_lit.ImageTower.from_features(768, projection_dim=512).embedding_dim
        512

        Reference: the LiT paper, section 5.6.
        """
        backbone = FeaturesOnly(dim, fingerprint, grid=grid, prefix_tokens=prefix_tokens)
        pooling = kwargs.pop("pooling", "none" if grid is None else "tokens")
        return cls(backbone, pooling, projection_dim, **kwargs)

    @functools.cached_property
    def _layout(self) -> tuple[tuple[int, int], int]:
        return patches.layout(self.backbone, self._states_shape, self.preprocessor.image_size)

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of the patches, or of the feature map.

        Raises:
            ValueError: a backbone that does not say where its patches are.

        Example:

        >>> keras_lit.ImageTower.from_features(8, grid=(2, 3), blocks=1).grid
        (2, 3)
        """
        return self._layout[0]

    @property
    def prefix_tokens(self) -> int:
        """How many tokens come before the patches: a class token, and registers.

        Example:

        >>> vit = keras_lit.backbones.VisionTransformer(32, 8, 12, 1, 24, 3)
        >>> keras_lit.ImageTower(vit, "first_and_mean").prefix_tokens
        1
        """
        return self._layout[1]

    def patch_embeddings(self, inputs: Any) -> keras.KerasTensor:
        """Embeds the patches: what head and pooling make of each in place of the mean.

        Of a "mean" pooling and a linear head they are the parts whose mean is the picture's
        embedding (but for a class token, if there is one, which is among them in the picture's); of
        "first_and_mean" the class token's part is left out, as in dino.txt.

        Args:
            inputs: [batch, height, width, 3] float tensor of preprocessed images, or [batch,
                tokens, feature_dim] where the features are tokens.

        Returns:
            [batch, rows, columns, embedding_dim] tensor, not normalised.

        Raises:
            ValueError: a pooling or head for which patches have no embeddings.

        Example:

        >>> tower = keras_lit.ImageTower(
        ...     keras.Sequential([keras.layers.Conv2D(8, 8, strides=8)]), projection_dim=4,
        ...     preprocessor=keras_lit.preprocessing.ImagePreprocessor(32))
        >>> tower.patch_embeddings(np.zeros([2, 32, 32, 3], "float32")).shape
        TensorShape([2, 4, 4, 4])

        Reference: dino.txt (arXiv 2412.16334), section 3.
        """
        patches.check_embeddable(self)
        inputs = keras.ops.convert_to_tensor(inputs)
        if len(inputs.shape) == 2 and not self._from_below(inputs):
            raise ValueError(
                "Patches are embedded of images, or of tokens. Received features that are pooled, "
                f"of shape {tuple(inputs.shape)}."
            )
        tokens = inputs
        if not self._are_features(inputs):
            tokens = flat(self._states(inputs, training=False))
        if self.pooling == "tokens":
            found = self.head.patches(tokens)
        else:
            found = self.project(patch_rows(tokens, self.pooling, self.prefix_tokens))
        return keras.ops.reshape(found, (-1, *self.grid, found.shape[-1]))

    def _pool(self, inputs: Any, states: Any) -> keras.KerasTensor:
        if self.pooling not in ("tokens", "first_and_mean"):
            return super()._pool(inputs, states)
        if self.pooling == "tokens":
            return flat(states)
        if len(states.shape) == 4 or not self.prefix_tokens:
            raise ValueError(
                '`pooling`="first_and_mean" needs a class token before the patches, and '
                f'{type(self.backbone).__name__} has none. Choose "mean".'
            )
        return pool_tokens(states, self.pooling, self.prefix_tokens)

    @property
    def _below(self) -> Lower | None:  # type: ignore[override]
        """Of a tower whose last blocks alone train, what comes before them."""
        if self.lock is None or self.lock.last_blocks is None:
            return None
        if self._lower is None or self._lower[0] is not self.lock:
            self._lower = (self.lock, Lower(self, self.lock.last_blocks))
        return self._lower[1]

    def _from_below(self, inputs: Any) -> bool:
        shape = tf.TensorShape(inputs.shape)
        if self.lock is None or self.lock.last_blocks is None or shape.rank not in (1, 2):
            return False
        # Pooled features have another width, and a tower of any backbone takes them.
        return shape[-1] != self.feature_dim and shape[-1] == self._cached_shape[0]

    def _are_features(self, inputs: Any) -> bool:
        pooled = len(inputs.shape) == 1 + len(self.feature_shape)
        return pooled and not self._from_below(inputs)

    def _states(self, inputs: Any, training: bool) -> keras.KerasTensor:
        if self._from_below(inputs):
            return self._below.continued(inputs, training)  # type: ignore[union-attr]
        if names := input_names(self.backbone):
            inputs = dict.fromkeys(names, inputs)
        with settings.fused(internals.flat_layers(self.backbone)):
            outputs = self.backbone(inputs, training=training)
        if not isinstance(outputs, dict):
            return outputs
        for name in ("sequence_output", *sorted(outputs, reverse=True)):
            if name in outputs and (name == "sequence_output" or name[0] in "Pp"):
                return outputs[name]
        raise ValueError(
            "An image backbone with several outputs should call them 'P2', 'P3', ... (a pyramid) "
            f"or 'sequence_output'. Received: {', '.join(outputs)}."
        )


def _default_image_preprocessor(backbone: keras.Model) -> ImagePreprocessor:
    shape = getattr(backbone, "input_shape", None)
    if isinstance(shape, dict):
        shape = next(iter(shape.values()))
    size = shape[1:3] if shape and len(shape) == 4 and None not in shape[1:3] else (224, 224)
    first = getattr(backbone, "layers", ())[:4]
    means = [getattr(x, "input_mean", None) for x in first]  # Of ConvNeXt's `Normalization`.
    rescales = getattr(backbone, "include_rescaling", False)
    rescales |= any(isinstance(x, keras.layers.Rescaling) for x in first)
    if rescales or any(x is not None and np.max(x) > 1 for x in means):
        return ImagePreprocessor(size, value_range="0..255")
    if re.fullmatch(r"densenet\d+", backbone.name):
        return ImagePreprocessor(size, value_range="imagenet")
    if re.fullmatch(r"(resnet|vgg)\d+", backbone.name):
        warnings.warn(
            f"`keras.applications` trained {backbone.name!r} on BGR pixels less their means, and "
            "this tower gives it RGB in -1..1. Choose another, such as a ResNetV2, or pass a "
            "`preprocessor` if these weights are your own.",
            stacklevel=4,
        )
    return ImagePreprocessor(size)


def _check_gives_features(backbone: keras.Model) -> None:
    """Warns of a classifier, whose probabilities say little beyond their largest."""
    last = (getattr(backbone, "layers", None) or [backbone])[-1]
    ends = getattr(getattr(last, "activation", None), "__name__", "") == "softmax"
    if ends or isinstance(last, keras.layers.Softmax):
        warnings.warn(
            f"{backbone.name!r} ends in a softmax, so the tower's features are probabilities of "
            "classes. Pass it without its classifier (`keras.applications`: `include_top=False`).",
            stacklevel=4,
        )
