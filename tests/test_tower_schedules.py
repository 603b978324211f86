"""Adam under the papers' rules, and a learning rate of its own for the image tower."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_lit.optimizers import Adafactor, Adam, Cycles, Delay, SigmoidRamp, WarmupSchedule
from keras_lit.optimizers.rules import check_on_replicas, note_image_tower
from tests.small import make_model, make_pairs, mirrored


def adam_oracle(value, gradients, rate, decay=0.0, beta_1=0.9, beta_2=0.999, epsilon=1e-8):
    """Kingma and Ba, algorithm 1, with decoupled decay; `rate` gives the step's learning rate."""
    m = v = 0.0
    for t, gradient in enumerate(gradients, 1):
        value = value - rate(t - 1) * decay * value
        m = beta_1 * m + (1 - beta_1) * gradient
        v = beta_2 * v + (1 - beta_2) * gradient**2
        corrected = (m / (1 - beta_1**t)) / (np.sqrt(v / (1 - beta_2**t)) + epsilon)
        value = value - rate(t - 1) * corrected
    return value


def arrays(count, seed=0):
    return [x.astype("float32") for x in np.random.default_rng(seed).normal(size=[count, 4, 3])]


def step_through(optimizer, variables, gradients, image):
    optimizer.build(variables)
    note_image_tower(optimizer, image)
    apply = tf.function(lambda values: optimizer.apply(values, variables))
    for values in zip(*gradients, strict=True):
        apply([tf.constant(value) for value in values])


@pytest.mark.parametrize(
    "multiplier, rate",
    [
        (None, lambda step: 0.1),
        (0.25, lambda step: 0.025),
        (Delay(2), lambda step: 0.0 if step < 2 else 0.1),
        (Delay(3, 0.5), lambda step: 0.0 if step < 3 else 0.05),
        (SigmoidRamp(2, 0.5), lambda step: 0.1 / (1 + np.exp(-(step - 2) / 0.5))),
        (SigmoidRamp(2, 0.5, 0.3), lambda step: 0.03 / (1 + np.exp(-(step - 2) / 0.5))),
    ],
    ids=["none", "float", "delay", "delay smaller", "ramp", "ramp smaller"],
)
def test_the_image_tower_has_its_own_rate_and_decay(multiplier, rate):
    initial, gradients = arrays(2), [arrays(5, 1), arrays(5, 2)]
    variables = [keras.Variable(value, name="kernel") for value in initial]
    optimizer = Adam(0.1, weight_decay=0.3, image_multiplier=multiplier)
    step_through(optimizer, variables, gradients, variables[1:])
    text, image = (variable.numpy() for variable in variables)
    expected = adam_oracle(initial[0], gradients[0], lambda step: 0.1, 0.3)
    np.testing.assert_allclose(text, expected, atol=2e-5)
    np.testing.assert_allclose(image, adam_oracle(initial[1], gradients[1], rate, 0.3), atol=2e-5)


def test_adam_decays_kernels_only():
    initial, gradients = arrays(2), [arrays(3, 1), arrays(3, 2)]
    variables = [
        keras.Variable(x, name=n) for x, n in zip(initial, ("kernel", "bias"), strict=True)
    ]
    step_through(Adam(0.1, weight_decay=0.3), variables, gradients, [])
    for variable, value, given, decay in zip(
        variables, initial, gradients, (0.3, 0.0), strict=True
    ):
        expected = adam_oracle(value, given, lambda step: 0.1, decay)
        np.testing.assert_allclose(variable.numpy(), expected, atol=2e-5)


def test_adafactor_with_multiplier_0_leaves_the_image_tower():
    initial, gradients = arrays(2), [arrays(3, 1), arrays(3, 2)]
    variables = [keras.Variable(value, name="kernel") for value in initial]
    optimizer = Adafactor(0.1, weight_decay=0.3, image_multiplier=0.0)
    step_through(optimizer, variables, gradients, variables[1:])
    assert np.array_equal(variables[1].numpy(), initial[1])
    assert np.abs(variables[0].numpy() - initial[0]).max() > 0.01


def test_cycles_start_again():
    cycles = Cycles(WarmupSchedule(0.8, 10, 4), 10)
    for step, expected in ((0, 0), (2, 0.4), (4, 0.8), (7, 0.4), (10, 0), (12, 0.4), (27, 0.4)):
        assert float(cycles(step)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", [Adam, Adafactor])
def test_configs_keep_the_multiplier(kind):
    for multiplier in (None, 0.1, Delay(3, 0.2), SigmoidRamp(4, 2.0, 0.5)):
        made = kind(Cycles(WarmupSchedule(0.8, 10, 4), 10), image_multiplier=multiplier)
        again = kind.from_config(made.get_config())
        if callable(multiplier):
            assert type(again.image_multiplier) is type(multiplier)
            assert again.image_multiplier.get_config() == multiplier.get_config()
        else:
            assert again.image_multiplier == multiplier
        assert float(again._learning_rate(12)) == pytest.approx(0.4)


@pytest.mark.slow
def test_a_lit_says_which_variables_are_of_its_image_tower():
    """With the image tower's rate 0 until the last step it moves in that alone; its head too."""
    model = make_model("UU", batch_norm=False)
    model.compile(Adam(1e-2, image_multiplier=Delay(2)))
    before = [x.numpy() for x in model.image_tower.trainable_variables]
    text = [x.numpy() for x in model.text_tower.trainable_variables]
    pairs = make_pairs(24).batch(8)
    model.fit(pairs.take(2), verbose=0)
    after = [x.numpy() for x in model.image_tower.trainable_variables]
    assert len(after) == 4 and all(map(np.array_equal, before, after))
    changed = [x.numpy() for x in model.text_tower.trainable_variables]
    assert not any(map(np.array_equal, text, changed))
    model.fit(pairs.skip(2), verbose=0)
    after = [x.numpy() for x in model.image_tower.trainable_variables]
    assert not any(map(np.array_equal, before, after))


def test_the_multiplier_acts_inside_a_loss_scale_optimizer():
    """Which Keras puts around the optimizer for float16."""
    model = make_model("UU", batch_norm=False)
    model.compile(keras.optimizers.LossScaleOptimizer(Adam(1e-2, image_multiplier=0.0)))
    towers = model.image_tower, model.text_tower
    before = [[x.numpy() for x in tower.trainable_variables] for tower in towers]
    model.fit(make_pairs(8).batch(8), verbose=0)
    same = [
        [np.array_equal(a, x.numpy()) for a, x in zip(of, tower.trainable_variables, strict=True)]
        for of, tower in zip(before, towers, strict=True)
    ]
    assert all(same[0]) and not any(same[1])


@pytest.mark.slow
def test_adam_clips_the_gradient_of_the_global_batch():
    weights = []
    for replicas in (1, 2):
        with mirrored(replicas).scope():
            model = make_model("UU", batch_norm=False)
            # Where a gradient is 0 but for rounding, Adam without epsilon takes its sign.
            rules = {"weight_decay": 0.1, "global_clipnorm": 0.5, "image_multiplier": Delay(1, 0.3)}
            model.compile(Adam(1e-2, epsilon=1e-3, **rules))
        pairs = model.preprocess(make_pairs(16).batch(8))
        model.fit(pairs, verbose=0)
        weights.append([x.numpy() for x in model.trainable_variables])
    for one, two in zip(*weights, strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


@pytest.mark.parametrize("option", ["clipnorm", "clipvalue", "global_clipnorm"])
@pytest.mark.parametrize("wrap", [lambda o: o, keras.optimizers.LossScaleOptimizer])
def test_clipping_on_each_replica_is_refused(option, wrap):
    optimizer = wrap(keras.optimizers.SGD(0.1, **{option: 1.0}))
    check_on_replicas(optimizer, 1)
    with pytest.raises(ValueError, match=f"so `{option}` would train"):
        check_on_replicas(optimizer, 2)
    check_on_replicas(Adam(0.1, **{option: 1.0}), 2)


def test_a_multiplier_without_a_lit_is_refused():
    variable = keras.Variable(np.ones([2, 2]), name="kernel")
    optimizer = Adam(0.1, image_multiplier=0.1)
    optimizer.build([variable])
    with pytest.raises(ValueError, match="`image_multiplier` is for training a `keras_lit.LiT`"):
        optimizer.apply([tf.ones([2, 2])], [variable])


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Delay(-1), "`start_step` should not be negative. Received: -1"),
        (lambda: Delay(1, -0.5), "`value` should not be negative. Received: -0.5"),
        (lambda: SigmoidRamp(1, 0), "`width` should be.*positive.*0"),
        (lambda: Cycles(WarmupSchedule(0.1, 10), 0), "`steps` should be.*positive.*0"),
    ],
)
def test_bad_schedules_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
