"""A run that is interrupted and started again ends as if it had not been."""

import contextlib
import functools
import gc
import json
import re
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.callbacks import ExactResume
from tests.small import make_model, make_pairs, mirrored

COUNT, BATCH = 24, 4


class Interrupt(keras.callbacks.Callback):
    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def data(batch=BATCH):
    return make_pairs(COUNT).shuffle(COUNT, seed=7).batch(batch, drop_remainder=True)


def compiled(**options):
    """Random crops, dropout, momentum and a learning rate that changes."""
    model = make_model(dropout=0.2)
    schedule = keras_lit.optimizers.WarmupSchedule(1e-2, 12, 3)
    model.compile(keras_lit.optimizers.Adafactor(schedule), **options)
    return model


def run(directory, after=None, epochs=2, save_freq=2, pairs=data, **options):
    model = compiled(**options)
    callbacks = [ExactResume(directory, save_freq)] if directory else []
    if after is not None:
        callbacks.append(Interrupt(after))
    keras.utils.set_random_seed(9)
    try:
        history = model.fit(pairs(), epochs=epochs, verbose=0, callbacks=callbacks)
    except KeyboardInterrupt:
        gc.collect()  # TensorFlow may wait a minute for an iterator that was left alone for long.
        return None
    return history.history.get("loss"), [np.array(weight) for weight in model.get_weights()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a run of two epochs of six batches that nothing interrupted."""
    return tmp_path_factory.mktemp("finished")


@pytest.fixture(scope="module")
def whole(finished):
    return run(finished)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """The directory of a run that saved two of the second epoch's six batches."""
    directory = tmp_path_factory.mktemp("killed")
    assert run(directory, 9) is None
    return directory


def assert_same(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_it_changes_nothing_of_what_is_drawn(whole):
    losses, weights = run(None)
    assert losses == whole[0]
    assert_same(weights, whole[1])


@pytest.mark.slow
def test_same_weights_and_losses(tmp_path, whole):
    """In the second epoch, after its first batch, in its middle and right after its end."""
    for after in (7, 3, 4):  # It goes on at the batches 0, 6 and 8, and at last at 10 of 12.
        assert run(tmp_path, after) is None
    losses, weights = run(tmp_path)
    assert losses == whole[0][1:] and len(losses) == 1
    assert_same(weights, whole[1])


def hard():
    """All epochs have what the first one cached, and each shuffles that twice."""
    pairs = make_pairs(COUNT).shuffle(COUNT, seed=7).cache()
    return pairs.shuffle(3, seed=8).repeat().batch(10).take(4)


@pytest.mark.slow
def test_what_epochs_that_are_over_drew(tmp_path):
    expected = run(tmp_path / "whole", pairs=hard)
    assert run(tmp_path / "killed", 7, pairs=hard) is None
    found = run(tmp_path / "killed", pairs=hard)
    assert len(found[0]) == 1
    assert_same(found[1], expected[1])


@pytest.mark.slow
def test_a_finished_run_gives_its_weights(finished, whole):
    losses, weights = run(finished)
    assert losses is None
    assert_same(weights, whole[1])


@pytest.mark.slow
def test_replicas(tmp_path):
    """The global batch's order and weights on two replicas, bfloat16 momentum and all."""
    with mirrored(2).scope():
        expected = run(tmp_path / "whole")
        assert run(tmp_path / "killed", 9) is None
        found = run(tmp_path / "killed")
    assert found[0] == expected[0][1:]
    assert_same(found[1], expected[1])


class Stop(keras.callbacks.Callback):
    """At the end of the epoch that was resumed, or at its last batch."""

    def __init__(self, at_batch=None):
        super().__init__()
        self.at_batch = at_batch

    def on_train_batch_end(self, batch, logs=None):
        if batch == self.at_batch:
            self.model.stop_training = True

    def on_epoch_end(self, epoch, logs=None):
        if self.at_batch is None:
            self.model.stop_training = True


@pytest.mark.slow
def test_another_callback_may_still_stop(killed, tmp_path):
    """Two of six batches were saved: the last of those that are left is number 3."""
    model = compiled()
    for order in (1, -1):
        for at_batch in (None, 3):
            directory = shutil.copytree(killed, tmp_path / f"{order}-{at_batch}")
            callbacks = [Stop(at_batch), ExactResume(directory, 2)][::order]
            history = model.fit(data(), epochs=3, verbose=0, callbacks=callbacks)
            assert history.epoch == [1]


@pytest.mark.slow
def test_steps_that_pass_several_at_a_time(tmp_path):
    """Of the executions of two batches the second one passes the third batch."""
    assert run(tmp_path, after=2, save_freq=3, steps_per_execution=2) is None
    with np.load(tmp_path / "checkpoint.npz") as file:
        assert json.loads(str(file["position"]))["step"] == 4


@pytest.mark.slow
def test_what_cannot_be_resumed(killed, tmp_path):
    shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
    with pytest.raises(ValueError, match="run with 6 batches in an epoch, and this one has 3"):
        run(tmp_path, pairs=lambda: data(8))
    model = make_model("LL")
    model.compile("sgd")
    with pytest.raises(ValueError, match="of another model or optimizer. Pass another `directory`"):
        model.fit(data(), callbacks=[ExactResume(tmp_path)])
    with pytest.raises(ValueError, match="needs a dataset with a known number of batches"):
        model.fit(data().filter(lambda pair: True), callbacks=[ExactResume(tmp_path / "new")])
    with pytest.raises(ValueError, match="Leave `steps_per_epoch` out"):
        model.fit(data(), callbacks=ExactResume(tmp_path), steps_per_epoch=3)
    with pytest.raises(ValueError, match="`save_freq` should be a positive number"):
        ExactResume(tmp_path, 0)


def test_a_later_fit_begins_at_the_first_epoch(tmp_path):
    model = make_model()
    model.compile("sgd", jit_compile=False)
    model.fit(data(8), epochs=1, verbose=0, callbacks=[ExactResume(tmp_path)])
    (tmp_path / "checkpoint.npz.99.tmp").write_bytes(b"of a killed process")
    resumed = model.fit(data(8), epochs=2, verbose=0, callbacks=[ExactResume(tmp_path)])
    assert resumed.epoch == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]
    assert model.fit(data(8), epochs=1, verbose=0).epoch == [0]


@pytest.mark.slow
def test_what_a_checkpoint_does_not_restore_is_compared(tmp_path, recwarn):
    def goes_on(model, rate, epochs=1, callbacks=(), run="a", **options):
        model.compile(keras.optimizers.SGD(rate, **options), jit_compile=False)
        callbacks = [ExactResume(tmp_path / run), *callbacks]
        model.fit(data(8), epochs=epochs, verbose=0, callbacks=callbacks)
        said = [str(warning.message) for warning in recwarn]
        return [each for each in said if "began with other settings" in each]

    lower = keras.callbacks.LearningRateScheduler(lambda epoch: 0.5 / (1 + epoch))
    assert goes_on(make_model(), 0.5, 2, [lower]) == []
    assert goes_on(make_model(), 0.5, 2) == []  # The callback's learning rate is restored.
    model = make_model()
    goes_on(model, 0.5, 2)
    model.fit(data(8), epochs=2, verbose=0, callbacks=[ExactResume(tmp_path / "a")])
    assert goes_on(make_model(), 0.5, 2) == []  # Nor does it matter that the model has that, too.
    (said,) = goes_on(make_model(), 0.125, 2, clipnorm=1.0)
    assert "optimizer.config.clipnorm: expected None, received 1.0; " in said
    assert "optimizer.config.learning_rate: expected 0.5, received 0.125." in said
    assert "A learning rate that is a number is the checkpoint's" in said
    recwarn.clear()
    shorter, longer = (keras_lit.optimizers.WarmupSchedule(0.5, steps, 3) for steps in (12, 24))
    assert goes_on(make_model(), shorter, run="b") == []
    (said,) = goes_on(make_model(), longer, run="b")
    assert "optimizer.config.learning_rate.config.total_steps: expected 12, received 24." in said
    recwarn.clear()
    assert goes_on(make_model(), 0.5, run="c") == []
    (said,) = goes_on(make_model(max_temperature=50.0), 0.5, run="c")
    assert "settings: model.config.max_temperature: expected None, received 50.0." in said
    other = make_model()
    kernel = other.image_tower.backbone.weights[0]
    kernel.assign(kernel + 1)
    with pytest.raises(ValueError, match="locked weights were others"):
        goes_on(other, 0.5, 2)


def a_schedule_without_a_name(step):
    return 0.1


@pytest.mark.slow
@pytest.mark.parametrize(
    "rates",
    [
        [functools.partial(a_schedule_without_a_name, step) for step in (1, 2)],
        [
            lambda: 0.1,
            lambda: 0.1,
        ],
    ],
)
def test_any_learning_rate_that_keras_takes(rates, tmp_path, recwarn):
    """Keras has no configuration of the first; that of the second holds its line of code."""
    for rate in rates:
        model = make_model()
        model.compile(keras.optimizers.SGD(rate), jit_compile=False)
        model.fit(data(8), verbose=0, callbacks=[ExactResume(tmp_path)])
    assert not [x for x in recwarn if re.search("lambda|of a run that", str(x.message))]


@pytest.mark.slow
@pytest.mark.parametrize("resumes_first", [True, False])
def test_what_other_callbacks_do_at_the_end_of_an_epoch_is_kept(resumes_first, tmp_path):
    """Weights are averages between two epochs, and the learning rate falls, whatever the order."""

    def run(directory, after=None):
        model = make_model()
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5)
        model.compile(optimizer, jit_compile=False)

        def lower(epoch, logs):
            optimizer.learning_rate = 0.1 / (2 + epoch)

        others = [
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            keras.callbacks.LambdaCallback(on_epoch_end=lower),
        ]
        callbacks = [ExactResume(directory), *others]
        callbacks = callbacks if resumes_first else callbacks[::-1]
        if after is not None:
            callbacks.append(Interrupt(after))
        keras.utils.set_random_seed(9)
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(data(8), epochs=4, verbose=0, callbacks=callbacks)
        gc.collect()  # See above.
        return [np.array(weight) for weight in model.get_weights()]

    whole = run(tmp_path / "whole")
    run(tmp_path / "killed", 7)  # After the first batch of the third epoch.
    assert_same(run(tmp_path / "killed"), whole)


@pytest.mark.slow
@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2]])
def test_a_run_that_has_ended_may_become_longer(order, tmp_path):
    """From its last weights, not from the best, which the end puts back; at the last rate."""

    def run(directory, epochs):
        model = make_model()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), jit_compile=False)

        def lower(epoch, logs):
            model.optimizer.learning_rate = 0.1 / (2 + epoch)

        callbacks = [
            ExactResume(directory),
            # The first epoch is the "best".
            keras.callbacks.EarlyStopping(
                "loss", mode="max", patience=9, restore_best_weights=True
            ),
            keras.callbacks.LambdaCallback(on_epoch_end=lower),
        ]
        keras.utils.set_random_seed(9)
        callbacks = [callbacks[i] for i in order]
        return model.fit(data(8), epochs=epochs, verbose=0, callbacks=callbacks).history["loss"]

    whole = run(tmp_path / "whole", 4)
    assert run(tmp_path / "part", 2) + run(tmp_path / "part", 4) == whole


def test_an_epoch_that_has_ended_is_kept_though_another_callback_fails(tmp_path):
    model = make_model()
    model.compile("sgd", jit_compile=False)
    fails = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model.fit(data(8), verbose=0, callbacks=[ExactResume(tmp_path), fails])
    with np.load(tmp_path / "checkpoint.npz") as file:
        assert json.loads(str(file["position"]))["epoch"] == 1


def test_a_locked_tower_is_not_saved(killed):
    with np.load(killed / "checkpoint.npz", allow_pickle=False) as file:
        assert not [name for name in file.files if "conv" in name or "batch_norm" in name]
        assert [name for name in file.files if "log_temperature" in name]
    assert tf.executing_eagerly()
