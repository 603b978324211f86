"""One device, several replicas and several workers compute the same loss and train the same weights."""

import functools
import itertools
import json
import pathlib
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import distribution, losses
from tests import worker
from tests.callbacks.test_evaluation import expected_metrics
from tests.small import make_model, make_pairs, mirrored

GOLDEN = np.load(pathlib.Path(__file__).parent / "golden" / "losses.npz")


def share_out(strategy, *arrays):
    """Each replica's rows, in order."""
    replicas = strategy.num_replicas_in_sync

    def rows(context, x):
        size = len(x) // replicas
        first = context.replica_id_in_sync_group * size
        return tf.constant(x[first : first + size])

    return [
        strategy.experimental_distribute_values_from_function(lambda c, x=x: rows(c, x))
        for x in arrays
    ]


def sum_and_gradients(loss, strategy, image, text, *scalars, **options):
    """The sum of the replicas' losses and of their scalars' gradients, all rows' gradients."""

    @tf.function
    def step(image, text, mask=None):
        with tf.GradientTape() as tape:
            watched = [image, text, *map(tf.constant, scalars)]
            tape.watch(watched)
            extra = {} if mask is None else {"mask": mask}
            value = loss(*watched, **extra, **options)
        return value, tape.gradient(value, watched)

    mask = options.pop("mask", None)
    arrays = [image, text] if mask is None else [image, text, mask]
    value, gradients = strategy.run(step, args=share_out(strategy, *arrays))
    local = strategy.experimental_local_results
    assert len(local(value)) == strategy.num_replicas_in_sync
    rows = [np.concatenate(local(gradient)) for gradient in gradients[:2]]
    return float(sum(local(value))), rows, [float(sum(local(g))) for g in gradients[2:]]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


LOSSES = {
    "softmax": (losses.softmax_contrastive_loss, ["log_temperature"]),
    "sigmoid": (losses.sigmoid_contrastive_loss, ["log_temperature", "bias"]),
}


# Tiles of 5 divide neither the 16 rows of a replica nor the 48 of all.
@pytest.mark.slow
@pytest.mark.parametrize(("replicas", "tile_size"), [(3, 5), (8, None)])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_on_replicas_equal_the_reference(name, replicas, tile_size):
    loss, scalars = LOSSES[name]
    value, rows, of_scalars = sum_and_gradients(
        loss,
        mirrored(replicas),
        unit(GOLDEN["image"]),
        unit(GOLDEN["text"]),
        *(GOLDEN[scalar] for scalar in scalars),
        tile_size=tile_size,
    )
    np.testing.assert_allclose(value, GOLDEN[f"{name}_loss"], rtol=1e-6)
    for side, gradient in zip(("image", "text"), rows, strict=True):
        # The golden gradient is that of rows of any length: without its part along the row.
        x = GOLDEN[side]
        length = np.linalg.norm(x, axis=1, keepdims=True)
        along = (gradient * unit(x)).sum(1, keepdims=True) * unit(x)
        np.testing.assert_allclose(
            (gradient - along) / length, GOLDEN[f"{name}_grad_{side}"], atol=3e-6
        )
    for scalar, gradient in zip(scalars, of_scalars, strict=True):
        np.testing.assert_allclose(gradient, GOLDEN[f"{name}_grad_{scalar}"], rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_masked_rows_count_nowhere_on_any_replica(name):
    loss, scalars = LOSSES[name]
    image, text = unit(GOLDEN["image"])[:14], unit(GOLDEN["text"])[:14]
    scalars = [GOLDEN[scalar] for scalar in scalars]
    one = tf.distribute.get_strategy()
    expected = sum_and_gradients(loss, one, image, text, *scalars)
    fill = np.ones([2, 20], "float32")
    value, rows, of_scalars = sum_and_gradients(
        loss,
        mirrored(4),
        np.concatenate([image, fill]),
        np.concatenate([text, fill]),
        *scalars,
        mask=np.arange(16) < 14,
        tile_size=3,
    )
    np.testing.assert_allclose(value, expected[0], rtol=1e-6)
    np.testing.assert_allclose(of_scalars, expected[2], rtol=1e-4)
    for gradient, wanted in zip(rows, expected[1], strict=True):
        np.testing.assert_allclose(gradient[:14], wanted, atol=1e-6)
        assert not gradient[14:].any()


@pytest.mark.parametrize("name", LOSSES)
def test_local_loss_is_the_mean_of_the_replicas_own(name):
    loss, scalars = LOSSES[name]
    image, text = unit(GOLDEN["image"]), unit(GOLDEN["text"])
    scalars = [GOLDEN[scalar] for scalar in scalars]
    value, *_ = sum_and_gradients(loss, mirrored(4), image, text, *scalars, local=True)
    parts = [loss(image[i : i + 12], text[i : i + 12], *scalars) for i in range(0, 48, 12)]
    np.testing.assert_allclose(value, np.mean(parts), rtol=1e-6)


@pytest.mark.parametrize(
    "contrastive",
    [
        losses.softmax_contrastive_loss,
        lambda image, text, t, **o: losses.sigmoid_contrastive_loss(image, text, t, -1.0, **o),
    ],
    ids=LOSSES,
)
def test_accuracies_are_of_the_global_batch(contrastive):
    image, text = np.eye(4, dtype="float32"), np.eye(4, dtype="float32")
    text[0] = [0.6, 0, 0.8, 0]  # Nearest to image 2, which is on the other replica.
    strategy = mirrored(2)
    step = tf.function(lambda image, text: contrastive(image, text, 0.0, accuracies=True)[1])
    found = strategy.run(step, args=share_out(strategy, image, text))
    sums = {name: sum(strategy.experimental_local_results(x)) for name, x in found.items()}
    assert sums == {"image_to_text_accuracy": 1.0, "text_to_image_accuracy": 0.75}


def test_replicas_of_unequal_size_are_refused():
    strategy = mirrored(2)
    rows = strategy.experimental_distribute_values_from_function(
        lambda context: tf.ones([2 + context.replica_id_in_sync_group, 3])
    )
    step = tf.function(lambda x: losses.softmax_contrastive_loss(x, x, 0.0))
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="replicas should hold the same number"
    ):
        strategy.run(step, args=(rows,))


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1, momentum=0.9),
    "adafactor": lambda: keras_lit.optimizers.Adafactor(3e-3),
}
TOLERANCE = {"sgd": 1e-5, "adafactor": 1e-3}


def train(strategy, optimizer, tuning="Lu", pairs=None, evaluated=False):
    """10 steps, the last of each epoch on fewer pairs -> history, evaluation, weights by path."""
    pairs = make_pairs(114) if pairs is None else pairs
    with strategy.scope():
        model = make_model(tuning)
        model.compile(OPTIMIZERS[optimizer]())
    history = model.fit(pairs.batch(24), epochs=2, verbose=0).history
    evaluation = {}
    if evaluated:
        evaluation = model.evaluate(make_pairs(43).batch(16), return_dict=True, verbose=0)
    # Paths differ in the numbers that Keras counts layers with.
    names = [f"{i} {re.sub(r'_[0-9]+', '', weight.path)}" for i, weight in enumerate(model.weights)]
    weights = dict(zip(names, map(np.array, model.weights), strict=True))
    log_temperature = next(name for name in names if name.endswith("log_temperature"))
    weights["temperature"] = np.exp(weights.pop(log_temperature))
    return history, evaluation, weights


def preprocessed_pairs(count):
    """These get no random crops, which depend on a pair's place in its dataset."""
    return make_pairs(count).map(
        lambda pair: {**pair, "image": tf.cast(pair["image"][:8, :8], tf.float32) / 128 - 1}
    )


def part(workers, index):
    """A worker's of 144 pairs; the first has another batch, which the others do not."""
    pairs = preprocessed_pairs(144).shard(workers, index)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return (pairs if index else pairs.concatenate(preprocessed_pairs(24))).with_options(options)


def aligned(strategy, pairs=None):
    """The similarities of some pairs after `align` of all; the last of the batches is of four."""
    with strategy.scope():
        model = make_model("LU")
    model.align(
        (pairs or preprocessed_pairs(144)).batch(10),
        dim=4,
        penalties=[0.3],
        folds=2,
        verbose=0,
    )
    some = preprocessed_pairs(20).batch(20)
    return model.encode_image(some) @ model.encode_text(some).T


@functools.cache
def _on_one_device(optimizer, tuning):
    return train(tf.distribute.get_strategy(), optimizer, tuning, evaluated=optimizer == "sgd")


def on_one_device(optimizer, tuning="Lu", evaluated=False):
    """What `train` finds there; each fit is done once."""
    history, evaluation, weights = _on_one_device(optimizer, tuning)
    return history, evaluation if evaluated else {}, weights


def assert_same(actual, expected, tolerance):
    for logs, wanted in zip(actual[:2], expected[:2], strict=True):
        assert logs.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_allclose(logs[name], value, rtol=tolerance, err_msg=name)
    assert actual[2].keys() == expected[2].keys()
    for name, wanted in expected[2].items():
        # A softmax over keys does not see their bias, so its gradient is rounding errors only.
        if not name.endswith("key/bias"):
            scale = np.abs(wanted).max()
            np.testing.assert_allclose(
                actual[2][name], wanted, rtol=0, atol=tolerance * scale, err_msg=name
            )


@pytest.mark.slow
@pytest.mark.usefixtures("free_memory_after_test")
def test_training_on_replicas_equals_one_device():
    """Adafactor on replicas: the workers below, and test_optimizers.py."""
    expected = on_one_device("sgd", evaluated=True)
    assert expected[1]
    assert_same(train(mirrored(4), "sgd", evaluated=True), expected, TOLERANCE["sgd"])


@pytest.mark.slow
@pytest.mark.usefixtures("free_memory_after_test")
def test_training_both_towers_on_replicas_equals_one_device():
    assert_same(train(mirrored(2), "sgd", "UU"), on_one_device("sgd", "UU"), 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("free_memory_after_test")
@pytest.mark.parametrize(
    ("workers", "jobs"),
    [(2, ["sgd", "adafactor", "callbacks", "align", "example"]), (3, ["part"])],
)
def test_workers_find_what_one_device_finds(workers, jobs, photos, tmp_path):
    expected, one = {}, tf.distribute.get_strategy()
    with worker.started(workers, tmp_path, jobs):
        if "sgd" in jobs:
            expected["sgd"] = on_one_device("sgd", evaluated=True)
        if "adafactor" in jobs:
            expected["adafactor"] = on_one_device("adafactor")
        if "part" in jobs:
            expected["part"] = train(one, "sgd", pairs=preprocessed_pairs(144))
    for name, i in itertools.product(expected, range(workers)):
        weights = dict(np.load(tmp_path / f"{name}-{i}.npz"))
        logs = json.loads((tmp_path / f"{name}-{i}.json").read_text())
        assert_same((*logs, weights), expected[name], TOLERANCE.get(name, 1e-5))
    if "align" in jobs:
        alone = aligned(one), aligned(one, part(2, 0).concatenate(part(2, 1)))
        for i in range(workers):
            found = np.load(tmp_path / f"align-{i}.npz")
            for name, wanted in zip(found, alone, strict=True):
                np.testing.assert_allclose(found[name], wanted, atol=1e-5)
    if "callbacks" in jobs:
        metrics = expected_metrics(make_model())
        for i in range(workers):
            history = json.loads((tmp_path / f"callbacks-{i}.json").read_text())
            for name, value in metrics.items():
                assert history[name] == [pytest.approx(value)], name
    if "example" in jobs:
        assert "2 replicas trained" in (tmp_path / "0.log").read_text()
        assert (tmp_path / "example" / "model.keras").stat().st_size > 1000


def test_a_tpu_of_another_machine_is_no_cpu(monkeypatch):
    """TensorFlow lists the devices of this one."""
    assert distribution.on_cpus()
    monkeypatch.setattr(distribution, "on_tpu", lambda strategy: True)
    assert not distribution.on_cpus()


def test_rows_of_workers_with_two_replicas(monkeypatch):
    monkeypatch.setattr(distribution, "replica_count", lambda: 4)
    batches, rows_of = distribution.share_out(tf.data.Dataset.from_tensors({"x": range(8)}), True)
    found = [
        [list(row["x"].numpy()) for row in rows_of(batches, tf.distribute.InputContext(2, i, 4))]
        for i in range(2)
    ]
    assert found == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


@pytest.mark.slow
def test_a_batch_that_replicas_do_not_divide_is_refused():
    with mirrored(2).scope():
        model = make_model()
        model.compile("sgd")
    with pytest.raises(tf.errors.InvalidArgumentError, match="a multiple of the 2 replicas"):
        model.fit(make_pairs(18).batch(9), verbose=0)


@pytest.mark.slow
def test_evaluate_fills_up_batches_that_replicas_do_not_divide():
    with mirrored(2).scope():
        model = make_model()
        model.compile("sgd", jit_compile=False)
    result = model.evaluate(make_pairs(7).batch(7), return_dict=True, verbose=0)
    assert result["chance_loss"] == pytest.approx(np.log(7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clipnorm": 1.0}, "Keras clips each replica's gradient.*Adafactor"),
        ({"gradient_accumulation_steps": 2}, "cannot accumulate.*micro_batch_size"),
    ],
)
def test_optimizers_that_train_otherwise_on_replicas_are_refused(options, message):
    with mirrored(2).scope():
        model = make_model()
        with pytest.raises(ValueError, match=message):
            model.compile(keras.optimizers.SGD(0.1, **options))


def test_xla_on_cpu_replicas_is_refused():
    """TensorFlow would fail in the first step: "Trying to access resource located in device"."""
    with mirrored(2).scope():
        model = make_model()
        with pytest.raises(ValueError, match="several CPU devices.*Leave `jit_compile=True` out"):
            model.compile("sgd", jit_compile=True)
    make_model().compile("sgd", jit_compile=True)


def test_chance_of_a_local_loss_is_that_of_a_replicas_pairs():
    with mirrored(2).scope():
        model = make_model(local_loss=True)
        model.compile("sgd", jit_compile=False)
    result = model.evaluate(make_pairs(8).batch(8), return_dict=True, verbose=0)
    assert result["chance_loss"] == pytest.approx(np.log(4))


@pytest.mark.slow
def test_embeddings_on_replicas_equal_one_device():
    images = [pair["image"] for pair in make_pairs(11).as_numpy_iterator()]
    captions = [pair["text"] for pair in make_pairs(11).as_numpy_iterator()]
    model = make_model()
    expected = model.encode_image(images, 4), model.encode_text(captions, 4)
    with mirrored(2).scope():
        model = make_model()
    actual = model.encode_image(images, 4), model.encode_text(captions, 4)
    for found, wanted in zip(actual, expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@pytest.mark.slow
def test_batches_that_the_replicas_do_not_divide_are_embedded_whole():
    """A replica without rows made convolutions fail, now and then."""
    images = make_pairs(11).map(lambda pair: pair["image"])
    expected = make_model().encode_image(images.batch(11))
    with mirrored(4).scope():
        model = make_model()
    for batch in (1, 3, 5):
        np.testing.assert_allclose(model.encode_image(images.batch(batch)), expected, atol=1e-6)
