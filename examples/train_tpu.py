"""Trains a LiT on a TPU: in Colab, or on a TPU VM.

    python examples/train_tpu.py --batch-size 1024

Strings never reach the TPU: images are decoded and captions tokenized in tf.data, on the host. All
shapes are static (`drop_remainder=True`), so that the whole step compiles. `tests/test_model.py`
compiles the same step with XLA on a CPU; on a TPU itself this script has not been run.
"""

import tensorflow as tf
from train_multiworker import parse_arguments, train


def main() -> None:
    """Connects to the TPU and trains as any strategy does."""
    resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(tpu="local")
    train(tf.distribute.TPUStrategy(resolver), parse_arguments())


if __name__ == "__main__":
    main()
