"""Distillation: the similarities of a teacher as soft targets, and the gradient by hand.

Where the targets of the softmax loss are the pairs of a group, these are the teacher's softmax over
texts and over images: dL/dT_r = s / (2B) * [(student's softmaxes - teacher's softmaxes)^T I].
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from keras_lit import checks, internals
from keras_lit.losses import arguments, global_batch, tiles
from keras_lit.losses.global_batch import NEVER
from keras_lit.losses.prefixes import unit_prefix

# The columns of pairs that hold the teacher's embeddings.
TEACHER = ("teacher_image_embeddings", "teacher_text_embeddings")


@keras.saving.register_keras_serializable("keras_lit")
@dataclasses.dataclass(frozen=True)
class Distillation:
    """A term of the loss by which a model learns from a teacher's embeddings.

    For `LiT.compile(..., distillation=)`: the loss is (1 - weight) times the contrastive one plus
    weight times `distillation_loss`. Pairs hold the teacher's embeddings, as
    `keras_lit.features.with_teacher` adds them.

    Args:
        temperature: float, the teacher's multiplier of the cosine similarities
            (`teacher.temperature`).
        weight: float in (0, 1], the share of the distillation.

    Raises:
        ValueError: a temperature or weight that is out of range.

    Example:

    >>> keras_lit.losses.Distillation(temperature=50.0)
    Distillation(temperature=50.0, weight=0.5)

    Reference: MobileCLIP, Vasu et al., CVPR 2024 (arXiv 2311.17049), section 3.3.
    """

    temperature: Any
    weight: float = 0.5

    def __post_init__(self) -> None:
        if tf.is_tensor(self.temperature):  # `teacher.temperature`
            object.__setattr__(self, "temperature", float(self.temperature))
        for name in ("temperature", "weight"):
            checks.check_positive(getattr(self, name), name)
        if self.weight > 1:
            raise ValueError(f"`weight` should be in (0, 1]. Received: {self.weight!r}.")

    def get_config(self) -> dict[str, Any]:
        """The arguments, as Keras saves them.

        Returns:
            A dict.

        Example:

        >>> keras_lit.losses.Distillation(50.0).get_config()
        {'temperature': 50.0, 'weight': 0.5}
        """
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Distillation":
        """The inverse of `get_config`.

        Args:
            config: a dict.

        Returns:
            A `Distillation`.

        Example:

        >>> keras_lit.losses.Distillation.from_config({"temperature": 50.0})
        Distillation(temperature=50.0, weight=0.5)
        """
        return cls(**config)


def distillation_loss(
    image_embeddings: tf.Tensor,
    text_embeddings: tf.Tensor,
    log_temperature: tf.Tensor | float,
    teacher_image_embeddings: tf.Tensor,
    teacher_text_embeddings: tf.Tensor,
    teacher_temperature: float,
    tile_size: int | None = None,
    mask: tf.Tensor | None = None,
    local: bool = False,
) -> tf.Tensor:
    """The divergence of the similarities of the global batch from a teacher's.

    The mean over pairs of half the Kullback-Leibler divergence KL(teacher || model) of an image's
    softmax over all texts plus half that of a text's softmax over all images. It is 0 where all
    softmaxes are equal. The teacher gets no gradient.

    Args:
        image_embeddings: [batch, dim], as for `softmax_contrastive_loss`.
        text_embeddings: [batch, dim], as for `softmax_contrastive_loss`.
        log_temperature: scalar, as for `softmax_contrastive_loss`.
        teacher_image_embeddings: [batch, teacher_dim] float tensor of unit-length rows, of the same
            images.
        teacher_text_embeddings: [batch, teacher_dim] float tensor of unit-length rows, of the same
            texts.
        teacher_temperature: float, the teacher's multiplier of the cosine similarities.
        tile_size, mask, local: as for `softmax_contrastive_loss`.

    Returns:
        Scalar float32. Under a strategy this replica's share, as `softmax_contrastive_loss`.

    Raises:
        ValueError: as `softmax_contrastive_loss`; a teacher's embeddings of another shape.
        tf.errors.InvalidArgumentError: as `softmax_contrastive_loss`.

    Example:

    >>> rows, wider = np.eye(4, dtype="float32"), np.eye(4, 6, dtype="float32")
    >>> loss = keras_lit.losses.distillation_loss(rows, rows, np.log(5.0), wider, wider, 5.0)
    >>> abs(float(loss)) < 1e-6  # The same similarities.
    True

    Reference: MobileCLIP, Vasu et al., CVPR 2024 (arXiv 2311.17049), section 3.3; open_clip's
    `DistillClipLoss` is the same up to the teacher's entropy, a constant.
    """
    image, text = arguments.checked(image_embeddings, text_embeddings, tile_size, None)
    of_teacher = teacher_image_embeddings, teacher_text_embeddings
    teacher_image, teacher_text = (tf.stop_gradient(arguments.float32(x)) for x in of_teacher)
    checks.check_rank(teacher_image, 2, TEACHER[0], "[batch, teacher_dim]")
    checks.check_same_shape(teacher_image, teacher_text, *TEACHER)
    checks.check_same_shape(teacher_image[:, 0], image[:, 0], TEACHER[0], "image_embeddings")

    @internals.custom_gradient
    def compute(
        images: tf.Tensor, texts: tf.Tensor, log_temperature: tf.Tensor
    ) -> tuple[tf.Tensor, Callable]:
        image, text = map(tf.stop_gradient, (images, texts))
        scale = tf.stop_gradient(arguments.finite_scale(log_temperature))
        batch = global_batch.gather(image, text, mask, local, None, False)
        teacher_images, teacher_texts = map(batch.gather, (teacher_image, teacher_text))

        def products(
            rows: tf.Tensor, columns: tf.Tensor, of_teacher: tf.Tensor, teacher_columns: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor]:
            """A tile's logits, and the teacher's."""
            return (
                tf.matmul(rows * scale, columns, transpose_b=True),
                tf.matmul(of_teacher * teacher_temperature, teacher_columns, transpose_b=True),
            )

        def one_tile(
            rows: tf.Tensor,
            of_teacher: tf.Tensor,
            own_bias: tf.Tensor,
            column_lse: tf.Tensor,
            target_lse: tf.Tensor,
            column_gap: tf.Tensor,
        ) -> tuple[Any, Any]:
            logits, targets = products(rows, batch.texts, of_teacher, teacher_texts)
            gap = targets - logits
            of_row, of_column = batch.counted(logits, own_bias)
            target_of_row, target_of_column = batch.counted(targets, own_bias)
            results = [tf.reduce_logsumexp(x, axis=1) for x in (of_row, target_of_row)]
            shares = tf.exp(target_of_row - results[1][:, tf.newaxis])
            results.append(tf.reduce_sum(shares * gap, axis=1))
            column_lse = _added(column_lse, of_column)
            before, target_lse = target_lse, _added(target_lse, target_of_column)
            column_gap *= tf.exp(before - target_lse)
            column_gap += tf.reduce_sum(tf.exp(target_of_column - target_lse) * gap, axis=0)
            return tuple(results), (column_lse, target_lse, column_gap)

        never = tf.fill([batch.rows], NEVER)
        (row_lse, target_row_lse, row_gap), of_columns = tiles.walk(
            one_tile,
            (image, teacher_image, batch.own_bias),
            (never, never, tf.zeros([batch.rows])),
            tile_size,
            2 * batch.rows,
            tiles.COMPILED_ELEMENTS,
        )
        # Each replica saw all columns, but only its own rows.
        column_lse, target_lse_of_each, column_gap = batch.across([*of_columns])
        column_lse, target_lse = (
            tf.reduce_logsumexp(x, axis=0) for x in (column_lse, target_lse_of_each)
        )
        column_gap = tf.reduce_sum(tf.exp(target_lse_of_each - target_lse) * column_gap, axis=0)
        of_rows = row_gap - target_row_lse + row_lse
        of_columns = tf.gather(column_gap - target_lse + column_lse, batch.index)
        loss = batch.mean(0.5 * (of_rows + of_columns))
        lse_of_rows = tf.unstack(batch.gather(tf.stack([row_lse, target_row_lse], 1)), axis=1)
        lse_of_columns = [column_lse, target_lse]

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, ...]:
            image, text = arguments.first_order(images), arguments.first_order(texts)

            def of(
                rows: tuple[tf.Tensor, tf.Tensor],
                lse: list[tf.Tensor],
                columns: tuple[tf.Tensor, tf.Tensor],
                other_lse: list[tf.Tensor],
            ) -> tf.Tensor:
                """The gradient of one side; each argument is a pair: the model's, the teacher's."""

                def one_tile(*tile: tf.Tensor) -> tuple[Any, Any]:
                    found = products(tile[0], columns[0], tile[1], columns[1])
                    of_model, of_teacher = (
                        tf.exp(x - own[:, tf.newaxis]) + tf.exp(x - other)
                        for x, own, other in zip(
                            (x if mask is None else x + batch.bias for x in found),
                            tile[2:],
                            other_lse,
                            strict=True,
                        )
                    )
                    return (tf.matmul(of_model - of_teacher, columns[0]),), ()

                own = [tf.gather(x, batch.index) for x in lse]
                (product,), _ = tiles.walk(
                    one_tile,
                    (*rows, *own),
                    (),
                    tile_size,
                    2 * batch.rows,
                    tiles.COMPILED_ELEMENTS,
                )
                factor = upstream * scale / (2.0 * batch.pairs)
                return factor * batch.own_weights[:, tf.newaxis] * product

            both_images, both_texts = (batch.images, teacher_images), (batch.texts, teacher_texts)
            image_gradient = of((image, teacher_image), lse_of_rows, both_texts, lse_of_columns)
            text_gradient = of((text, teacher_text), lse_of_columns, both_images, lse_of_rows)
            return image_gradient, text_gradient, tf.reduce_sum(text * text_gradient)

        return loss, gradient

    return compute(image, text, arguments.float32(log_temperature))


def _added(lse: tf.Tensor, more: tf.Tensor) -> tf.Tensor:
    """Adds rows [rows, columns] to the log-sum-exps of columns [columns]."""
    return tf.reduce_logsumexp(tf.stack([lse, tf.reduce_logsumexp(more, axis=0)]), axis=0)


def teacher_of(pairs: dict[str, tf.Tensor], required: bool) -> list[tf.Tensor] | None:
    """The teacher's embeddings of images and of texts, of length 1; None where there are none."""
    if not {*TEACHER} <= {*pairs}:
        if required:
            raise ValueError(
                "Distillation needs the teacher's embeddings of each pair, "
                f'"{TEACHER[0]}" and "{TEACHER[1]}": add them by `keras_lit.features.with_teacher('
                "batches, teacher)`, or compile without `distillation`."
            )
        return None
    return [unit_prefix(pairs[name], None) for name in TEACHER]


def mixed(
    distillation: Distillation,
    contrastive: tuple[tf.Tensor, Any],
    embeddings: Any,
    teacher: list[tf.Tensor],
    options: Any,
) -> tuple[tf.Tensor, Any]:
    """A contrastive loss (with its accuracies) mixed with the distillation loss.

    `embeddings` are the model's and their log-temperature, `options` of `distillation_loss`.
    """
    loss, accuracies = contrastive
    given = (*embeddings, *teacher, distillation.temperature)
    more = distillation_loss(*given, **options)
    return (1 - distillation.weight) * loss + distillation.weight * more, accuracies
