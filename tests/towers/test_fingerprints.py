"""Equal towers have equal fingerprints in any process; whatever changes features changes one part."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import pytest
import tensorflow as tf
from tensorflow.python.autograph.core import ag_ctx

import keras_lit
from keras_lit.preprocessing import ImagePreprocessor
from keras_lit.towers.fingerprints import fingerprint, of_cached
from tests.small import make_tower

ROOT = pathlib.Path(__file__).parents[2]


@keras.saving.register_keras_serializable("test")
class Untold(keras.Model):
    """A backbone whose config does not tell its dtype."""

    def __init__(self, dtype=None, **kwargs):
        super().__init__(dtype=dtype)
        self.dense = keras.layers.Conv2D(3, 8, kernel_initializer="ones", dtype=dtype)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {}


def differing(first, second):
    first, second = fingerprint(first), fingerprint(second)
    return {name for name in first if first[name] != second[name]}


def test_equal_towers():
    """Names count a process' layers, and freezing and heads change no features."""
    first, second = make_tower(), make_tower(projection_dim=3)
    second.trainable = False
    keras.utils.set_random_seed(3)
    cropped = make_tower(preprocessor=ImagePreprocessor(8, random_crop=(0.1, 1), random_flip=True))
    assert differing(first, second) == differing(first, cropped) == set()
    assert first.backbone.layers[0].name != second.backbone.layers[0].name


@pytest.mark.parametrize(
    ("changed", "part"),
    [
        ({"seed": 2}, "weights"),
        ({"strides": 1}, "architecture"),
        ({"pooling": "max"}, "architecture"),
        ({"dtype": "mixed_bfloat16"}, "compute_dtype"),
        ({"preprocessor": ImagePreprocessor(8, value_range="0..1")}, "preprocessing"),
        ({"preprocessor": ImagePreprocessor(8, antialias=True)}, "preprocessing"),
    ],
)
def test_one_part_differs(changed, part):
    assert differing(make_tower(), make_tower(**changed)) == {part}


def test_statistics_are_weights():
    first, second = make_tower(), make_tower()
    second.backbone.layers[1].moving_mean.assign([1, 0, 0, 0, 0, 0])
    assert differing(first, second) == {"weights"}


def test_compute_dtype_that_no_config_tells():
    first, second = (
        keras_lit.ImageTower(Untold(dtype), preprocessor=ImagePreprocessor(8))
        for dtype in (None, "mixed_bfloat16")
    )
    assert "compute_dtype" in differing(first, second)
    assert "architecture" not in differing(first, second)


def test_a_tower_in_16_bits_is_the_same_from_a_config():
    """Read by a process whose own policy is another."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        backbone = keras_lit.backbones.TextTransformer(20, 4, 8, 1, 16, 2)
        towers = [make_tower(), keras_lit.TextTower(backbone, None, 4)]
    finally:
        keras.config.set_dtype_policy(before)
    for tower in towers:
        again = type(tower).from_config(json.loads(json.dumps(tower.get_config())))
        again.set_weights(tower.get_weights())
        assert fingerprint(again) == fingerprint(tower)
        assert fingerprint(again)["compute_dtype"] == "bfloat16"


@pytest.mark.slow
def test_another_process():
    script = (
        "import json, keras; from tests.small import make_tower;"
        "[keras.layers.Conv2D(1, 1) for _ in range(7)];"
        "from keras_lit.towers.fingerprints import fingerprint, identity;"
        "f = fingerprint(make_tower()); print(json.dumps([f, identity(f)]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    here = fingerprint(make_tower())
    assert json.loads(run.stdout.splitlines()[-1]) == [here, keras_lit.fingerprints.identity(here)]


def test_saved_and_loaded(tmp_path):
    tower = make_tower()
    tower.save(tmp_path / "tower.keras")
    assert differing(tower, keras.saving.load_model(tmp_path / "tower.keras")) == set()


def test_vocabulary_is_preprocessing():
    first, second, third = (
        keras_lit.preprocessing.TextPreprocessor(
            keras_lit.tokenizers.train_sentencepiece(captions, 30), 8
        )
        for captions in (["a red balloon"], ["a red balloon"], ["the blue sea!!"])
    )
    of = keras_lit.fingerprints.of_preprocessor
    assert of(first) == of(second) != of(third)


def test_a_graph_takes_it_as_it_is():
    """AutoGraph, which looks at each call, would need minutes for 128,000 words."""
    seen = []

    class Words:
        def vocabulary_size(self):
            return 2

        def id_to_token(self, index):
            seen.append(ag_ctx.control_status_ctx().status)
            return str(index)

    tower = make_tower()
    tower.preprocessor.tokenizer = Words()

    @tf.function
    def graph():
        with tf.init_scope():
            return len(of_cached(tower, None))

    assert int(graph()) == 4
    assert seen == [ag_ctx.Status.DISABLED] * 2
