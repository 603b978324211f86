"""Adafactor against the golden file and a naive NumPy oracle; schedules against hand values."""

from pathlib import Path

import keras
import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from keras_lit.optimizers import Adafactor, WarmupSchedule
from tests.small import mirrored

GOLDEN = np.load(Path(__file__).parent / "golden" / "adafactor.npz", allow_pickle=False)
NAMES = ("kernel", "bias", "qkv/kernel", "small/kernel")
STEPS = 6
BFLOAT16 = ml_dtypes.bfloat16


def oracle(
    initial,
    gradients,
    learning_rate=1e-3,
    decay_rate=0.8,
    beta2_cap=0.999,
    momentum=0.9,
    momentum_dtype=BFLOAT16,
    factor_from=32,
    epsilon=1e-30,
):
    """big_vision's scale_by_adafactor for one parameter, from its definition, in NumPy."""
    weight, shape = initial.astype(np.float32), initial.shape
    order = np.argsort(shape)
    factored = len(shape) > 1 and shape[order[-2]] >= factor_from
    row = column = full = np.float32(0)
    moment = np.zeros(shape, momentum_dtype)
    for t, gradient in enumerate(gradients, start=1):
        squared = gradient**2 + np.float32(epsilon)
        beta2 = np.float32(min(beta2_cap, 1 - t**-decay_rate))
        if factored:
            d1, d0 = order[-2:]
            row = beta2 * row + (1 - beta2) * squared.mean(d0)
            column = beta2 * column + (1 - beta2) * squared.mean(d1)
            mean = row.mean(d1 - 1 if d1 > d0 else d1, keepdims=True)
            update = gradient * np.expand_dims((row / mean) ** -0.5, d0)
            update = update * np.expand_dims(column**-0.5, d1)
        else:
            full = beta2 * full + (1 - beta2) * squared
            update = gradient * full**-0.5
        if momentum is not None:
            kept = (moment * momentum_dtype(momentum)).astype(np.float32)
            update = np.float32(1 - momentum) * update + kept
            moment = update.astype(momentum_dtype)
        weight = weight - np.float32(learning_rate) * update
    return weight


def golden_gradients(name):
    return [GOLDEN[f"grad|{step}|{name}"] for step in range(STEPS)]


def golden_variables():
    return [keras.Variable(GOLDEN[f"initial|{name}"], name=name.split("/")[-1]) for name in NAMES]


def run(optimizer, variables, gradients, compiled=True, jit_compile=False):
    """Applies `gradients` (per variable, per step); yields the variables' values after each."""
    optimizer.build(variables)

    def apply(values):
        optimizer.apply(values, variables)

    if compiled:
        apply = tf.function(apply, jit_compile=jit_compile)
    for values in zip(*gradients, strict=True):
        apply([tf.constant(value) for value in values])
        yield [variable.numpy() for variable in variables]


def last(steps):
    return list(steps)[-1]


def random_arrays(*shapes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape).astype(np.float32) for shape in shapes]


# ------------------------------------------------------------------------------- the update rule


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "graph"])
def test_equals_the_reference_at_every_step(compiled):
    gradients = [golden_gradients(name) for name in NAMES]
    optimizer = Adafactor(1e-3)
    for step, values in enumerate(run(optimizer, golden_variables(), gradients, compiled)):
        for name, value in zip(NAMES, values, strict=True):
            error = np.abs(value - GOLDEN[f"after|{step}|{name}"])
            # Measured: 3e-8. Another machine may round a few momenta to the neighbouring bfloat16
            # value, which moves a weight by up to 0.9 * 2^-8 * learning rate = 3.5e-6.
            assert np.quantile(error, 0.999) < 1e-7, (step, name)
            assert error.max() < 3.5e-6, (step, name)


@pytest.mark.parametrize("name", NAMES)
def test_the_oracle_of_this_file_equals_the_reference(name):
    value = oracle(GOLDEN[f"initial|{name}"], golden_gradients(name))
    np.testing.assert_allclose(value, GOLDEN[f"after|{STEPS - 1}|{name}"], rtol=0, atol=1.5e-7)


@pytest.mark.parametrize(
    "shape",
    [(), (70,), (40, 33), (32, 40), (40, 40), (31, 90), (3, 40, 2, 41), (40, 3, 33), (40, 3, 40)],
)
def test_factors_the_two_largest_axes_from_32(shape):
    initial, *gradients = random_arrays(shape, shape, shape, shape)
    variable = keras.Variable(initial, name="kernel")
    optimizer = Adafactor(0.1, momentum_dtype="float32")
    value = last(run(optimizer, [variable], [gradients]))[0]
    expected = oracle(initial, gradients, 0.1, momentum_dtype=np.float32)
    np.testing.assert_allclose(value, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "options, expected_options",
    [
        ({"momentum": None}, {"momentum": None}),
        ({"momentum": 0.5, "momentum_dtype": "float32"}, {"momentum": 0.5}),
        ({"beta2_cap": 0.3}, {"beta2_cap": 0.3}),
        ({"decay_rate": 0.4}, {"decay_rate": 0.4}),
        ({"min_dim_size_to_factor": 4}, {"factor_from": 4}),
        ({"epsilon": 0.5}, {"epsilon": 0.5}),
    ],
    ids=lambda options: "-".join(options),
)
def test_every_option_acts_as_in_the_formula(options, expected_options):
    initial, *gradients = random_arrays((5, 7), (5, 7), (5, 7), (5, 7), seed=1)
    variable = keras.Variable(initial, name="kernel")
    optimizer = Adafactor(0.1, **{"momentum_dtype": "float32", **options})
    value = last(run(optimizer, [variable], [gradients]))[0]
    expected = oracle(initial, gradients, 0.1, momentum_dtype=np.float32, **expected_options)
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6)
    # The option matters: the default would not pass.
    default = oracle(initial, gradients, 0.1, momentum_dtype=np.float32)
    if options.get("momentum", 0.9) != 0.9 or len(options) == 1:
        assert np.abs(expected - default).max() > 1e-3


def test_slots_are_half_a_copy_of_a_large_kernel():
    variables = [
        keras.Variable(np.zeros((64, 48), np.float32), name="kernel"),
        keras.Variable(np.zeros((48,), np.float32), name="bias"),
    ]
    optimizer = Adafactor()
    optimizer.build(variables)
    slots = [(tuple(slot.shape), slot.dtype) for slot in optimizer.variables[2:]]
    assert slots == [
        ((64, 1), "float32"),
        ((1, 48), "float32"),
        ((64, 48), "bfloat16"),
        ((48,), "float32"),
        ((48,), "bfloat16"),
    ]
    without = Adafactor(momentum=None)
    without.build(variables)
    assert [tuple(slot.shape) for slot in without.variables[2:]] == [(64, 1), (1, 48), (48,)]


def test_bfloat16_variables_keep_their_second_moment_in_float32():
    initial, *gradients = random_arrays((40, 36), (40, 36), (40, 36), (40, 36), seed=2)
    initial, gradients = initial.astype(BFLOAT16), [g.astype(BFLOAT16) for g in gradients]
    variable = keras.Variable(initial, dtype="bfloat16", name="kernel")
    optimizer = Adafactor(0.1)
    value = last(run(optimizer, [variable], [gradients]))[0]
    assert [slot.dtype for slot in optimizer.variables[2:]] == ["float32", "float32", "bfloat16"]
    # The weights are rounded at each of three steps, by at most half of 2^-8 and 2^-7 relative.
    expected = oracle(initial, [g.astype(np.float32) for g in gradients], 0.1)
    np.testing.assert_allclose(value.astype(np.float32), expected, rtol=0.02, atol=2e-3)


def test_rows_that_never_get_a_gradient_stay_and_stay_finite():
    initial, gradient = random_arrays((48, 64), (48, 64), seed=3)
    gradient[7], gradient[:, 5] = 0.0, 0.0
    variable = keras.Variable(initial, name="embeddings")
    value = last(run(Adafactor(0.1), [variable], [[gradient] * 4]))[0]
    assert np.isfinite(value).all()
    np.testing.assert_array_equal(value[7], initial[7])
    np.testing.assert_array_equal(value[:, 5], initial[:, 5])
    assert np.abs(value[8, 6:] - initial[8, 6:]).min() > 0


def test_an_embedding_gradient_counts_repeated_tokens():
    """Token 1 comes three times: its gradient is the sum, for the norm and for the update."""
    initial, upstream = random_arrays((6, 3), (4, 3), seed=4)
    layer = keras.layers.Embedding(6, 3)
    layer.build()
    layer.set_weights([initial])
    optimizer = Adafactor(0.1, global_clipnorm=1.0)
    optimizer.build(layer.trainable_variables)

    @tf.function
    def step(scale):
        with tf.GradientTape() as tape:
            loss = scale * tf.reduce_sum(layer(tf.constant([1, 1, 4, 1])) * upstream)
        optimizer.apply(tape.gradient(loss, layer.trainable_variables))

    gradient = np.zeros((6, 3), np.float32)
    gradient[1], gradient[4] = upstream[0] + upstream[1] + upstream[3], upstream[2]
    norm = np.sqrt((gradient**2).sum())
    scales = np.float32([0.5 / norm, 9.0 / norm, 0.7 / norm])  # only the second is clipped, to 1
    for scale in scales:
        step(tf.constant(scale))
    clipped = [gradient * scale for scale in (scales[0], 1 / norm, scales[2])]
    np.testing.assert_allclose(layer.embeddings, oracle(initial, clipped, 0.1), rtol=0, atol=1e-6)


# --------------------------------------------------------------------------------- weight decay


def decayed_model():
    tokens = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(5, 6)(tokens)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.EinsumDense("btc,chd->bthd", (4, 2, 3), bias_axes="hd")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(tokens, keras.layers.Dense(2)(x))
    for i, variable in enumerate(model.trainable_variables):
        variable.assign(random_arrays(variable.shape, seed=i)[0] + 2.0)
    return model


def test_weight_decay_touches_kernels_only():
    """Without gradient a step is weight * (1 - learning rate * weight decay), or nothing."""
    variables = decayed_model().trainable_variables
    before = {variable.path: variable.numpy() for variable in variables}
    zeros = [[np.zeros(variable.shape, np.float32)] * 2 for variable in variables]
    schedule = WarmupSchedule(0.5, total_steps=10, decay="linear")  # 0.5, then 0.45
    optimizer = Adafactor(schedule, weight_decay=0.2)
    list(run(optimizer, variables, zeros))
    decayed = []
    for variable in variables:
        factor = 1.0
        if not np.array_equal(variable, before[variable.path]):
            decayed.append(variable.path)
            factor = (1 - 0.5 * 0.2) * (1 - 0.45 * 0.2)
        np.testing.assert_allclose(variable, factor * before[variable.path], rtol=1e-6)
    assert len(variables) == 7 and [path.split("/")[-1] for path in decayed] == ["kernel"] * 2


def test_weight_decay_spares_an_excluded_kernel():
    variables = decayed_model().trainable_variables
    kernels = [variable for variable in variables if variable.name == "kernel"]
    before = [kernel.numpy() for kernel in kernels]
    optimizer = Adafactor(0.5, weight_decay=0.2)
    optimizer.exclude_from_weight_decay(var_list=kernels[:1])
    list(run(optimizer, variables, [[np.zeros(v.shape, np.float32)] for v in variables]))
    np.testing.assert_array_equal(kernels[0], before[0])
    np.testing.assert_allclose(kernels[1], 0.9 * before[1], rtol=1e-6)


def test_weight_decay_converts_from_big_vision():
    """big_vision: weight -= schedule * (base * update + wd * weight), here with schedule 1."""
    base, wd = 1e-3, 1e-4
    gradients = [golden_gradients(name)[:1] for name in NAMES]
    optimizer = Adafactor(base, weight_decay=wd / base)
    values = last(run(optimizer, golden_variables(), gradients))
    for name, value in zip(NAMES, values, strict=True):
        expected = GOLDEN[f"after|0|{name}"]
        if name != "bias":
            expected = expected - np.float32(wd) * GOLDEN[f"initial|{name}"]
        np.testing.assert_allclose(value, expected, rtol=0, atol=5e-7)


# ------------------------------------------------------------------------ clipping, accumulation


def clip_global_norm(gradients, norm=2.0):
    total = np.sqrt(sum((gradient**2).sum() for gradient in gradients))
    return [gradient * min(1.0, norm / total) for gradient in gradients]


def clip_each_norm(gradients, norm=2.0):
    return [gradient * min(1.0, norm / np.sqrt((gradient**2).sum())) for gradient in gradients]


CLIPPING = {
    "global_clipnorm": clip_global_norm,
    "clipnorm": clip_each_norm,
    "clipvalue": lambda gradients: [np.clip(gradient, -2.0, 2.0) for gradient in gradients],
}


@pytest.mark.parametrize("option", CLIPPING)
def test_clipping(option):
    """The gradients grow from step to step; clipped, the later ones weigh less in the moments."""
    shapes = [(5, 4), (3,)]
    initials = random_arrays(*shapes, seed=5)
    steps = [[g * 4**t / 9 for g in random_arrays(*shapes, seed=6 + t)] for t in range(4)]
    variables = [keras.Variable(initial, name="kernel") for initial in initials]
    optimizer = Adafactor(0.1, **{option: 2.0})
    values = last(run(optimizer, variables, zip(*steps, strict=True)))
    clipped = zip(*[CLIPPING[option](gradients) for gradients in steps], strict=True)
    for value, initial, gradients in zip(values, initials, clipped, strict=True):
        np.testing.assert_allclose(value, oracle(initial, gradients, 0.1), rtol=0, atol=1e-6)


def test_gradient_accumulation_averages_and_counts_updates():
    initial, *gradients = random_arrays(*[(40, 33)] * 7, seed=7)
    variable = keras.Variable(initial, name="kernel")
    optimizer = Adafactor(0.1, gradient_accumulation_steps=2, momentum_dtype="float32")
    values = [value for (value,) in run(optimizer, [variable], [gradients])]
    np.testing.assert_array_equal(values[0], initial)
    np.testing.assert_array_equal(values[2], values[1])
    averages = [(gradients[i] + gradients[i + 1]) / 2 for i in (0, 2, 4)]
    expected = oracle(initial, averages, 0.1, momentum_dtype=np.float32)
    np.testing.assert_allclose(values[5], expected, rtol=0, atol=2e-6)


# ---------------------------------------------------------------------------- devices and XLA


def test_jit_compile():
    """XLA keeps `momentum * slot` unrounded, hence the wider bound for a bfloat16 momentum."""
    gradients = [golden_gradients(name) for name in NAMES]
    for dtype, numpy_dtype, tolerance in (
        ("float32", np.float32, 5e-7),
        ("bfloat16", BFLOAT16, 2e-5),  # measured 1.5e-5 after six steps of up to 1e-3
    ):
        optimizer = Adafactor(1e-3, momentum_dtype=dtype)
        values = last(run(optimizer, golden_variables(), gradients, jit_compile=True))
        for name, value in zip(NAMES, values, strict=True):
            expected = oracle(
                GOLDEN[f"initial|{name}"], golden_gradients(name), momentum_dtype=numpy_dtype
            )
            np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance)


@pytest.fixture
def two_replicas():
    return mirrored(2)


def fit_text_model(strategy):
    generator = np.random.default_rng(8)
    tokens = generator.integers(0, 50, (24, 6))
    targets = generator.normal(size=(24, 3)).astype(np.float32)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.layers.Embedding(50, 36),
                keras.layers.GlobalAveragePooling1D(),
                keras.layers.Dense(34, activation="tanh"),
                keras.layers.Dense(3),
            ]
        )
        model.build((None, 6))
        for i, variable in enumerate(model.trainable_variables):
            variable.assign(random_arrays(variable.shape, seed=20 + i)[0])
        schedule = WarmupSchedule(0.05, total_steps=9, warmup_steps=2)
        optimizer = Adafactor(
            schedule, weight_decay=0.1, global_clipnorm=0.05, momentum_dtype="float32"
        )
        model.compile(optimizer, loss="mse", jit_compile=False)
    model.fit(tokens, targets, batch_size=8, epochs=3, shuffle=False, verbose=0)
    return model


def test_two_replicas_equal_one_device(two_replicas):
    """Same global batches, same weights and slots: clipping, decay and schedule included."""
    alone = fit_text_model(tf.distribute.get_strategy())
    mirrored = fit_text_model(two_replicas)
    assert len(mirrored.optimizer.variables) == len(alone.optimizer.variables) > 10
    for first, second in zip(
        alone.trainable_variables + alone.optimizer.variables,
        mirrored.trainable_variables + mirrored.optimizer.variables,
        strict=True,
    ):
        largest = np.abs(first.numpy()).max()
        np.testing.assert_allclose(first.numpy(), second.numpy(), rtol=0, atol=2e-6 * largest)
        copies = two_replicas.experimental_local_results(second.value)
        assert len(copies) == 2
        np.testing.assert_array_equal(copies[0].numpy(), copies[1].numpy())


def test_gradient_accumulation_is_refused_on_several_replicas(two_replicas):
    with two_replicas.scope():
        variable = keras.Variable(np.zeros(3, np.float32))
        optimizer = Adafactor(gradient_accumulation_steps=4)
        with pytest.raises(ValueError, match="should be None on more .* Received: 4 on 2 replicas"):
            optimizer.build([variable])


def test_slots_are_not_silently_built_for_one_device(two_replicas):
    """A plain slot would be updated once per replica."""
    with two_replicas.scope():
        variable = keras.Variable(np.zeros((40, 33), np.float32))
        optimizer = Adafactor()
    with pytest.raises(RuntimeError, match="inside .with strategy.scope"):
        optimizer.build([variable])


# --------------------------------------------------------------------------------- serialisation


def test_config_round_trip():
    arguments = {
        "decay_rate": 0.7,
        "beta2_cap": 0.99,
        "momentum": 0.8,
        "momentum_dtype": "float32",
        "min_dim_size_to_factor": 16,
        "epsilon": 1e-20,
        "weight_decay": 0.1,
        "name": "mine",
        "global_clipnorm": 1.0,
        "use_ema": True,
        "ema_momentum": 0.5,
        "loss_scale_factor": 2.0,
        "gradient_accumulation_steps": 3,
    }
    schedule = {
        "peak": 0.3,
        "total_steps": 50,
        "warmup_steps": 5,
        "decay": "linear",
        "end": 0.1,
        "timescale": 20,
        "cooldown_steps": 4,
    }
    optimizer = Adafactor(WarmupSchedule(**schedule), **arguments)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    config = copy.get_config()
    assert type(copy) is Adafactor
    assert {name: config[name] for name in arguments} == arguments
    assert config["learning_rate"]["registered_name"] == "keras_lit>WarmupSchedule"
    assert config["learning_rate"]["config"] == schedule
    assert Adafactor.from_config(Adafactor(momentum=None).get_config()).momentum is None


def small_model(optimizer):
    model = keras.Sequential([keras.Input((36,)), keras.layers.Dense(33), keras.layers.Dense(2)])
    model.compile(optimizer, loss="mse")
    return model


@pytest.mark.parametrize("how", ["keras", "weights"])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, how):
    inputs, targets = random_arrays((16, 36), (16, 2), seed=9)
    schedule = WarmupSchedule(0.01, total_steps=8, warmup_steps=3)
    model = small_model(Adafactor(schedule, weight_decay=0.1))

    def train(model):
        model.fit(inputs, targets, batch_size=4, epochs=1, shuffle=False, verbose=0)

    train(model)
    if how == "keras":
        model.save(tmp_path / "model.keras")
        resumed = keras.saving.load_model(tmp_path / "model.keras")
    else:
        model.save_weights(tmp_path / "model.weights.h5")
        resumed = small_model(Adafactor(schedule, weight_decay=0.1))
        resumed.optimizer.build(resumed.trainable_variables)
        resumed.load_weights(tmp_path / "model.weights.h5")
    assert type(resumed.optimizer) is Adafactor
    restored = [slot.numpy() for slot in resumed.optimizer.variables]
    assert {slot.dtype.name for slot in restored} == {"int64", "float32", "bfloat16"}
    assert all(np.any(slot) for slot in restored)
    train(model)
    train(resumed)
    for first, second in zip(model.variables, resumed.variables, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())


# ------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize(
    "options, expected",
    [
        # peak 0.8, 100 steps, 20 of warmup, at the steps 0, 5, 20, 40, 60, 100, 120.
        ({"decay": "constant"}, [0, 0.2, 0.8, 0.8, 0.8, 0.8, 0.8]),
        # 40 and 60 are 1/4 and 1/2 of the way: cos(pi / 4) = 0.70710678.
        ({}, [0, 0.2, 0.8, 0.4 * 1.70710678, 0.4, 0, 0]),
        ({"decay": "linear"}, [0, 0.2, 0.8, 0.6, 0.4, 0, 0]),
        # From 0.8 to 0.4, and the warmup still starts at zero.
        ({"decay": "linear", "end": 0.4}, [0, 0.2, 0.8, 0.7, 0.6, 0.4, 0.4]),
        # 0.8 / sqrt(1 + 20 / 10), sqrt(1 + 40 / 10), sqrt(1 + 80 / 10) = 3, sqrt(1 + 100 / 10).
        (
            {"decay": "rsqrt", "timescale": 10},
            [0, 0.2, 0.8, 0.8 / 3**0.5, 0.8 / 5**0.5, 0.8 / 3, 0.8 / 11**0.5],
        ),
        # sqrt(1 + 80 / 10000) = 1.00399203.
        (
            {"decay": "rsqrt"},
            [0, 0.2, 0.8, 0.8 / 1.002**0.5, 0.8 / 1.004**0.5, 0.8 / 1.00399203, 0.8 / 1.01**0.5],
        ),
        # (100 - 40) / 80 = 0.75, (100 - 60) / 80 = 0.5, and never below zero.
        ({"decay": "constant", "cooldown_steps": 80}, [0, 0.2, 0.8, 0.6, 0.4, 0, 0]),
    ],
)
def test_schedule_values(options, expected):
    schedule = WarmupSchedule(0.8, total_steps=100, warmup_steps=20, **options)
    steps = [0, 5, 20, 40, 60, 100, 120]
    compiled = tf.function(schedule)
    for step, value in zip(steps, expected, strict=True):
        for function in (schedule, compiled):
            rate = function(tf.constant(step, tf.int64))
            assert rate.dtype == tf.float32 and rate.shape == ()
            np.testing.assert_allclose(rate, value, rtol=1e-6, atol=1e-8)


def test_schedule_without_warmup_starts_at_its_peak():
    assert float(WarmupSchedule(0.5, total_steps=10)(0)) == 0.5


def test_optimizer_follows_the_schedule():
    """With constant gradients and momentum off each step moves every weight by the rate."""
    variable = keras.Variable(np.zeros(3, np.float32), name="bias")
    optimizer = Adafactor(WarmupSchedule(0.8, 10, 4, decay="constant"), momentum=None)
    gradient = np.float32([3.0, -0.5, 2.0])
    values = [value for (value,) in run(optimizer, [variable], [[gradient] * 6])]
    moved = -np.diff([np.zeros(3), *values], axis=0) * np.sign(gradient)
    expected = [[rate] * 3 for rate in (0.0, 0.2, 0.4, 0.6, 0.8, 0.8)]
    np.testing.assert_allclose(moved, expected, rtol=0, atol=1e-6)


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"decay_rate": 0}, "`decay_rate` should be a positive number. Received: 0"),
        ({"beta2_cap": 1.1}, r"`beta2_cap` should be in \(0, 1\].* pass 1.0 .* Received: 1.1"),
        ({"momentum": 0.0}, r"`momentum` should be in \(0, 1\); pass None .* Received: 0.0"),
        ({"momentum_dtype": "int8"}, "`momentum_dtype` should be one of 'bfloat16', .*'int8'"),
        ({"min_dim_size_to_factor": -1}, "`min_dim_size_to_factor` should be .* Received: -1"),
        ({"epsilon": 0.0}, "`epsilon` should be a positive number. Received: 0.0"),
        ({"weight_decay": -0.1}, "`weight_decay` should not be negative; .* Received: -0.1"),
        ({"wieght_decay": 0.1}, "not recognized: .*wieght_decay"),
    ],
)
def test_optimizer_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Adafactor(1e-3, **arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"peak": 0}, "`peak` should be a positive number. Received: 0"),
        ({"total_steps": 0}, "`total_steps` should be a positive number. Received: 0"),
        ({"warmup_steps": 100}, r"`warmup_steps` .* below `total_steps` \(100\); .* Received: 100"),
        ({"warmup_steps": -1}, "`warmup_steps` should be at least 0 .* Received: -1"),
        ({"warmup_steps": 40, "cooldown_steps": 61}, "fit after the warmup, in 60 .* Received: 61"),
        ({"decay": "stair"}, "`decay` should be one of 'cosine', 'linear', .* Received: 'stair'"),
        ({"timescale": 0}, "`timescale` should be a positive number. Received: 0"),
        ({"end": 0.1}, "`end` should be 0, or positive .* Received: end=0.1, decay='cosine'"),
        ({"end": -0.1, "decay": "linear"}, "`end` should be 0, or positive .* end=-0.1"),
    ],
)
def test_schedule_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupSchedule(**{"peak": 1e-3, "total_steps": 100, **arguments})
