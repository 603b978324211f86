"""The image tower."""

from typing import Any, ClassVar, Literal, get_args

import keras
import keras_nlp

from keras_lit.preprocessing import ImagePreprocessor
from keras_lit.towers.base import Tower, input_names
from keras_lit.towers.features_only import FeaturesOnly
from keras_lit.towers.heads import Head
from keras_lit.towers.lower import Lower

ImagePooling = Literal["auto", "mean", "first", "max", "map", "none"]


@keras.saving.register_keras_serializable("keras_lit")
class ImageTower(Tower):
    """An image backbone, its pooling, an optional head and its preprocessing.

    Args:
        backbone: any `keras.Model` from images [batch, height, width, 3] to a feature map
            [batch, h, w, dim], a pyramid of them (the coarsest is taken), tokens
            [batch, tokens, dim] or vectors [batch, dim].
        pooling: "mean", "first", "max", "map" (attention pooling), "none" (vectors), or "auto":
            mean for feature maps, and what the family was trained with for token sequences (first
            token for ViT, DeiT, DINOv2, DINOv3 and CLIP, mean for Swin and MLP-Mixer).
        projection_dim: int, the width of the head. None or 0: no head, as in LiT.
        preprocessor: a `keras_lit.preprocessing.ImagePreprocessor`. None makes one of the
            backbone's own image size (224 where that is free), with pixels in 0..255 for a
            backbone that rescales by itself (keras-cv's `include_rescaling`) and in -1..1, as in
            LiT, for any other: pass one where the backbone was trained differently, as DINOv2 was
            ("imagenet"), or take `ImageTower.from_preset`.
        head: "linear", "mlp", or any layer, as of `add_head`; a layer has its own width.

    Call arguments:
        inputs: [batch, height, width, 3] float tensor of preprocessed images, or [batch,
            feature_dim], their features (before the head).
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
        **kwargs: Any,
    ):
        if preprocessor is None:
            preprocessor = _default_image_preprocessor(backbone)
        super().__init__(backbone, pooling, projection_dim, preprocessor, **kwargs)
        self._lower: Any = None
        if head == "mlp" and not projection_dim:
            raise ValueError('`head`="mlp" needs a `projection_dim`, the width of the embeddings.')
        self._build(keras.KerasTensor((None, *preprocessor.image_size, 3)), head)

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
        **kwargs: Any,
    ) -> "ImageTower":
        """A locked tower without a backbone, to train on precomputed features of width `dim`.

        `LiT.with_image_tower` puts the real one in its place afterwards.

        Args:
            dim: int, the width of the features.
            projection_dim: as for `ImageTower`.
            fingerprint: of the tower that made them, see `keras_lit.features.image_tower`; features
                of another are then refused.
            **kwargs: passed on to `ImageTower`, for example `head="mlp"`.

        Returns:
            An `ImageTower` that takes "image_features" and refuses images.

        Example:

        >>> keras_lit.ImageTower.from_features(768, projection_dim=512).embedding_dim
        512

        Reference: the LiT paper, section 5.6.
        """
        return cls(FeaturesOnly(dim, fingerprint), "none", projection_dim, **kwargs)

    @property
    def _below(self) -> Lower | None:  # type: ignore[override]
        """Of a tower whose last blocks alone train, what comes before them."""
        if self.lock is None or self.lock.last_blocks is None:
            return None
        if self._lower is None or self._lower[0] is not self.lock:
            self._lower = (self.lock, Lower(self, self.lock.last_blocks))
        return self._lower[1]

    def _are_features(self, inputs: Any) -> bool:
        return len(inputs.shape) == 2

    def _states(self, inputs: Any, training: bool) -> keras.KerasTensor:
        if names := input_names(self.backbone):
            inputs = dict.fromkeys(names, inputs)
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
    rescales = getattr(backbone, "include_rescaling", False)
    return ImagePreprocessor(size, value_range="0..255" if rescales else "-1..1")
