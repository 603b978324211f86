"""Adam under the papers' rules."""

from typing import Any

import keras
import tensorflow as tf

from keras_lit.optimizers.paper_rules import PaperRules


@keras.saving.register_keras_serializable("keras_lit")
class Adam(PaperRules, keras.optimizers.Adam):
    """Adam as LiT was trained with on CC12M and YFCC100M.

    The update is `keras.optimizers.Adam`'s; as in `keras_lit.optimizers.Adafactor`, the weight
    decay touches only variables named `"kernel"`, and clipping acts on the gradient of the global
    batch, so that it trains the same on any number of replicas.

    Args:
        learning_rate: float, `LearningRateSchedule` or callable without arguments.
        beta_1: float, how slowly the first moment forgets.
        beta_2: float, how slowly the second moment forgets.
        epsilon: float, added to the root of the second moment.
        image_multiplier: non-negative float or a schedule of the step, which multiplies the
            learning rate of the image tower (Appendix H of LiT: a smaller or later one).
        **kwargs: of `keras.optimizers.Adam`: `weight_decay` (for big_vision's `wd`, which is not
            multiplied by the base learning rate, pass `wd / learning_rate`), `global_clipnorm`, ...

    Example:

    >>> optimizer = keras_lit.optimizers.Adam(1e-3, weight_decay=0.1, global_clipnorm=1.0)
    >>> optimizer.weight_decay
    0.1

    Reference: LiT, arXiv 2111.07991, appendices D and H.
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        image_multiplier: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **kwargs)
        self.image_multiplier = image_multiplier

    def update_step(
        self, gradient: tf.Tensor, variable: tf.Variable, learning_rate: tf.Tensor
    ) -> None:
        """Moves one variable and its moments by one step."""
        super().update_step(gradient, variable, self._decayed(variable, learning_rate))
