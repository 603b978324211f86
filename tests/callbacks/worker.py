"""One worker of test_on_workers: python -m tests.callbacks.worker FILE, with TF_CONFIG set."""

import json
import pathlib
import sys

import keras
import tensorflow as tf

if __name__ == "__main__":
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    from tests.callbacks.test_evaluation import all_three
    from tests.small import make_model, make_pairs

    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = make_model()
        model.compile(keras.optimizers.SGD(0.0))
    pairs = make_pairs(24).batch(8)
    history = model.fit(pairs, epochs=1, verbose=0, callbacks=all_three()).history
    pathlib.Path(sys.argv[1]).write_text(json.dumps(history, default=float))
