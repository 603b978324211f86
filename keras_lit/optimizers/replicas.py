"""Optimizers that would train something else on several replicas than on one."""

import keras

from keras_lit.optimizers.paper_rules import PaperRules


def check_on_replicas(optimizer: keras.optimizers.Optimizer, replicas: int) -> None:
    """Refuses clipping and gradient accumulation that Keras does on each replica by itself.

    Args:
        optimizer: a Keras optimizer.
        replicas: int.

    Raises:
        ValueError: `optimizer` has one of them, and there are several replicas.

    Example:

    >>> keras_lit.optimizers.check_on_replicas(keras.optimizers.SGD(), 8)
    """
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    names = ("clipnorm", "clipvalue", "global_clipnorm")
    clips = [name for name in names if getattr(optimizer, name, None) is not None]
    if replicas > 1 and clips and not isinstance(optimizer, PaperRules):
        raise ValueError(
            f"Keras clips each replica's gradient before their sum, so `{clips[0]}` would train "
            f"something else on {replicas} replicas than on one. Clip with "
            "`keras_lit.optimizers.Adafactor` or `Adam`, which clip the sum, or not at all. "
            f"Received: {type(optimizer).__name__}."
        )
    if replicas > 1 and getattr(optimizer, "gradient_accumulation_steps", None):
        raise ValueError(
            "Keras cannot accumulate gradients on several replicas. Make a large batch fit with "
            "`compile(..., micro_batch_size=...)`, which also keeps all its negatives. Received: "
            f"{optimizer.gradient_accumulation_steps} steps on {replicas} replicas."
        )
