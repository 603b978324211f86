"""The private attributes that we rely on exist, and mean what we take them for.

A failure here after an upgrade names what moved; CONTRIBUTING.md says who relies on it. Nothing here
but `keras_lit.internals` is of ours: plain Keras layers, models and optimizers stand in.
"""

import ast
import contextlib
import gc
import importlib
import pathlib
import pkgutil
import re
import weakref
from unittest import mock

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.autograph.core import config

import keras_lit
from keras_lit import internals
from tests.small import mirrored

ROOT = pathlib.Path(__file__).parent.parent
LISTED = set(re.findall(r"\w+", (ROOT / "CONTRIBUTING.md").read_text()))


BY_NAME = ("getattr", "hasattr", "setattr", "get", "pop")


def called(node):
    return getattr(node.func, "id", None) or getattr(node.func, "attr", None)


def private_names(trees):
    """Names with an underscore that are used as attributes, but are set or defined nowhere here."""
    nodes = [node for tree in trees for node in ast.walk(tree)]
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    calls = [node for node in nodes if isinstance(node, ast.Call) and called(node) in BY_NAME]
    by_string = [arg for node in calls for arg in node.args]
    used = {node.attr for node in attributes}
    used |= {node.value for node in by_string if isinstance(getattr(node, "value", 0), str)}
    own = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    bodies = [line for node in nodes if isinstance(node, ast.ClassDef) for line in node.body]
    own |= {line.target.id for line in bodies if isinstance(line, ast.AnnAssign)}
    own |= {
        node.attr
        for node in attributes
        if isinstance(node.ctx, ast.Store) and getattr(node.value, "id", None) == "self"
    }
    return {name for name in used - own if re.match("_[a-z]", name)}


def test_contributing_lists_each_of_them():
    names = private_names(ast.parse(path.read_text()) for path in ROOT.glob("keras_lit/**/*.py"))
    assert {"_flatten_layers", "_model_resource"} <= names
    assert names - {"_replace"} <= LISTED  # Python's, of a named tuple.


def test_contributing_lists_each_that_we_override():
    """Or hit by accident: a helper of a layer of ours that has the name of one of Keras'."""
    found = set()
    for module in pkgutil.walk_packages(keras_lit.__path__, "keras_lit."):
        with contextlib.suppress(ImportError):  # Beam and the like are not always there.
            importlib.import_module(module.name)
    for cls in keras.Layer, keras.optimizers.Optimizer, keras.callbacks.Callback:
        for ours in subclasses(cls):
            theirs = {
                name
                for base in ours.__mro__
                if not base.__module__.startswith("keras_lit")
                for name in vars(base)
            }
            found |= {name for name in vars(ours) if re.match("_[a-z]", name)} & theirs
    assert "_maybe_symbolic_build" in found
    assert found <= LISTED


def subclasses(cls):
    for below in cls.__subclasses__():
        if below.__module__.startswith("keras_lit"):
            yield below
        yield from subclasses(below)


@pytest.fixture
def nested():
    inner = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    )
    return keras.Sequential([keras.Input([4]), inner, keras.layers.Dropout(0.5)])


def test_attributes_of_a_function_reach_its_definition():
    for names in (internals.ONE_DEVICE, internals.NOT_AGAIN, internals.APART):
        function = tf.function(lambda: 1, experimental_attributes=names)
        attributes = function.get_concrete_function().function_def.attr
        assert all(attributes[name].b for name in names)


def test_a_function_of_tf_data_is_known_however_deep():
    found = []

    @tf.function
    def inside(x):
        return tf.cond(x > 0, lambda: found.append(internals.in_a_dataset()) or x, lambda: x)

    tf.data.Dataset.range(2).map(inside)
    inside(tf.constant(1))
    assert found == [True, False] and not internals.in_a_dataset()


def test_a_layer_forgets_a_layer_whose_place_another_takes():
    class Outer(keras.Layer):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(3)
            self.inner.build([None, 2])
            self.built = True

    outer = Outer()
    old = outer.inner
    internals.forget(outer, old)
    outer.inner = keras.layers.Dense(4)
    outer.inner.build([None, 2])
    assert {id(v) for v in outer.variables} == {id(v) for v in outer.inner.variables}


def test_layers_however_deep(nested):
    kinds = [type(layer).__name__ for layer in internals.flat_layers(nested)]
    assert kinds[0] == "Sequential"  # itself
    for kind in ("Dense", "BatchNormalization", "Dropout"):
        assert kinds.count(kind) == 1


def test_weights_of_a_layer_without_those_inside(nested):
    layers = internals.flat_layers(nested)
    assert internals.own_weights(nested) == []
    found = [id(weight) for layer in layers for weight in internals.own_weights(layer)]
    assert sorted(found) == sorted(id(weight) for weight in nested.weights)
    assert len(found) == 2 + 4


def test_states_are_all_that_a_training_pass_changes(nested):
    states = [s for layer in internals.flat_layers(nested) for s in internals.own_states(layer)]
    names = [state.path.rpartition("/")[2] for state in states]
    assert sorted(names) == ["moving_mean", "moving_variance", "seed_generator_state"]
    before = [state.numpy() for state in states]
    nested(np.arange(8.0).reshape([2, 4]), training=True)
    for state, value in zip(states, before, strict=True):
        assert not np.array_equal(state.numpy(), value)


def test_which_variables_a_layer_casts():
    assert internals.is_autocast(keras.Variable(np.zeros(2, "float32")))
    assert not internals.is_autocast(keras.Variable(np.zeros(2, "float32"), autocast=False))


def test_a_layer_takes_strings_and_floats_as_they_are():
    class Echo(keras.layers.Layer):
        def call(self, x):
            return tf.convert_to_tensor(x)

    with pytest.raises(ValueError, match="positional"):
        Echo()(["abc"])
    layer = Echo(dtype="bfloat16")
    internals.takes_raw_input(layer)
    assert layer(["abc", "d"]).numpy().tolist() == [b"abc", b"d"]
    assert layer(tf.constant(["ab"])).dtype == tf.string
    # bfloat16 has no 257: pixels would be rounded before they are preprocessed.
    assert float(layer(tf.constant(257.0))) == 257.0


@pytest.fixture
def block():
    keras.utils.set_random_seed(0)
    block = keras_nlp.layers.TransformerEncoder(16, 2, activation="relu", normalize_first=True)
    block.build([None, 5, 8])
    return block


def test_the_parts_of_a_transformer_block_make_the_block(block):
    x = np.random.default_rng(0).normal(size=[3, 5, 8]).astype("float32")
    parts = internals.block_parts(block)
    normed = parts.attention_norm(x)
    attended = x + parts.attention_dropout(parts.attention(normed, normed))
    mlp = parts.mlp_outer(parts.mlp_inner(parts.mlp_norm(attended)))
    np.testing.assert_allclose(attended + parts.mlp_dropout(mlp), block(x), atol=1e-5)
    weights = {id(weight) for part in parts for weight in part.weights}
    assert weights == {id(weight) for weight in block.weights}


def test_attention_is_what_stands_between_the_projections(block):
    rng = np.random.default_rng(1)
    query = rng.normal(size=[3, 1, 2, 4]).astype("float32")
    key, value = (rng.normal(size=[3, 5, 2, 4]).astype("float32") for _ in range(2))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(4)
    shares = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    expected = np.einsum("bhqk,bkhd->bqhd", shares, value)
    attention = internals.block_parts(block).attention
    tensors = (tf.constant(x) for x in (query, key, value))
    found = internals.attend(attention, *tensors, training=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    names = ("query_dense", "key_dense", "value_dense", "output_dense")
    assert {id(w) for name in names for w in getattr(attention, name).weights} == {
        id(w) for w in attention.weights
    }


def test_what_a_dataset_was_made_from():
    first, second = (tf.data.Dataset.range(n) for n in (4, 5))
    made = tf.data.Dataset.zip(first.map(lambda x: -x), second).shuffle(9).batch(2).prefetch(1)
    made_from = [id(dataset) for dataset in internals.made_from(made)]
    assert {id(made), id(first), id(second)} <= set(made_from) and len(made_from) == 7


def test_each_dataset_is_looked_at_once_however_many_there_are():
    first = made = tf.data.Dataset.range(4)
    for _ in range(1200):  # Python calls a thousand functions inside of each other.
        made = made.concatenate(first)
    assert len([*internals.made_from(made)]) == 1201
    assert internals.batch_size_of(made) == 0


@pytest.mark.parametrize("replicas", [1, 2])
def test_keras_is_told_the_number_of_steps(replicas):
    """Which a dataset may not know: the progress bar shows it."""
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    batches = tf.data.Dataset.from_tensors((np.ones([2, 2]), np.ones([2, 1]))).repeat(3)
    batches = batches.filter(lambda x, y: True)  # Now the number is unknown.
    if replicas > 1:
        rows = batches
        batches = strategy.distribute_datasets_from_function(lambda context: rows.repeat(replicas))
    batches = internals.with_cardinality(batches, tf.constant(3, tf.int64))
    told = []
    note = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: told.append(note.params))
    model.fit(batches, callbacks=[note], shuffle=False, verbose=0)
    assert told[0]["steps"] == 3


@pytest.fixture
def iterators(monkeypatch):
    """The iterators of datasets that were made, counted."""
    made, make = [], tf.data.Dataset.__iter__
    monkeypatch.setattr(tf.data.Dataset, "__iter__", lambda x: made.append(x) or make(x))
    return made


@pytest.mark.parametrize(("epochs", "as_it_is", "expected"), [(1, 2, 1), (3, 6, 4)])
def test_keras_makes_one_iterator_an_epoch(iterators, epochs, as_it_is, expected):
    """And one after several; if this fails with fewer, Keras needs no help now."""
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    batches = tf.data.Dataset.from_tensors((np.ones([2, 2]), np.ones([2, 1]))).repeat(3)
    model.fit(batches, epochs=epochs, shuffle=False, verbose=0)
    assert len(iterators) == as_it_is
    iterators.clear()
    x, steps = internals.read_once(batches, epochs)
    assert steps == 3
    model.fit(x, epochs=epochs, steps_per_epoch=steps, shuffle=False, verbose=0)
    assert len(iterators) == expected
    unknown = batches.filter(lambda x, y: True)
    assert internals.read_once(unknown) == (unknown, None)


def rows_of(dataset):
    return [tf.nest.map_structure(lambda x: np.asarray(x).tolist(), row) for row in dataset]


RANGE = tf.data.Dataset.range
ROWS = {
    "numbers": lambda: RANGE(9),
    "batches": lambda: RANGE(9).batch(2),
    "tuples": lambda: tf.data.Dataset.zip(RANGE(3), RANGE(4, 9)),
    "dicts": lambda: tf.data.Dataset.from_tensor_slices({"b": ["x", "y"], "a": [[1.0], [2.0]]}),
    "ragged": lambda: tf.data.Dataset.from_tensor_slices(tf.ragged.constant([[1], [2, 3]])),
}


@pytest.mark.parametrize("kind", ROWS)
def test_mapped_is_what_map_makes(kind):
    rows = ROWS[kind]()
    weight = tf.Variable(2)
    table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["x"], [7]), -1)

    def function(*row):
        (row,) = row if len(row) == 1 else ({"tuple": row},)
        return {"row": row, "captured": (weight, table[tf.constant("x")])}, 1.5

    expected, found = rows.map(function), internals.mapped(rows, function)
    assert found.element_spec == expected.element_spec
    assert found.cardinality() == expected.cardinality()
    assert any(x is rows for x in internals.made_from(found))
    for _ in range(2):  # epochs
        assert rows_of(found) == rows_of(expected)
    weight.assign(5)
    assert rows_of(found)[0][0]["captured"] == (5, 7)


def test_mapped_is_not_optimised_at_each_start():
    """tf.data and Grappler leave alone what has the one attribute and not the other."""
    rows = internals.mapped(tf.data.Dataset.range(3), lambda x: x + 1)
    (function,) = (x.function for x in internals.made_from(rows) if hasattr(x, "function"))
    attributes = function.function_def.attr
    assert attributes["experimental_ints_on_device"].b
    assert "_tf_data_function" not in attributes
    assert function.graph.name.startswith("Dataset_")


def test_mapped_takes_python_conditions_of_tensors(monkeypatch):
    """A user's rule of a filter may have them: AutoGraph rewrites it, which conftest switches off."""
    monkeypatch.setattr(config, "CONVERSION_RULES", config.CONVERSION_RULES[1:])

    def function(x):
        if x > 1:
            return -x
        return x

    assert rows_of(internals.mapped(tf.data.Dataset.range(4), function)) == [0, 1, -2, -3]


def test_mapped_keeps_options():
    """Of which some hold where a dataset runs, and others where a strategy asks for them."""
    options = tf.data.Options()
    options.deterministic = False
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    rows = internals.mapped(tf.data.Dataset.range(3).with_options(options), lambda x: x + 1)
    assert rows.options() == options


def test_a_dataset_tells_the_size_of_its_batches():
    rows = tf.data.Dataset.range(100)
    for batches, expected in (
        (rows.batch(7).map(lambda x: x + 1, tf.data.AUTOTUNE).prefetch(2).repeat(3), 7),
        (rows.batch(7, drop_remainder=True, num_parallel_calls=2).take(2).shuffle(3), 7),
        (rows.padded_batch(5).cache(), 5),
        (rows.batch(6).batch(2), 2),
        (rows, 0),
        (rows.batch(6).concatenate(rows.batch(6)), 6),
        (internals.mapped(rows.batch(4), lambda x: x + 1).prefetch(1), 4),
        (tf.data.Dataset.from_generator(lambda: iter([1]), output_signature=tf.TensorSpec([])), 0),
    ):
        assert internals.batch_size_of(batches) == expected


class Model(keras.Sequential):
    """Takes note of the call that `LiT` overrides."""

    asked = 0

    def _maybe_symbolic_build(self, *args, **kwargs):
        self.asked += 1
        return super()._maybe_symbolic_build(*args, **kwargs)


@pytest.mark.parametrize("method", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
def test_keras_builds_a_model_by_a_method_that_can_be_skipped(method):
    """`LiT._maybe_symbolic_build`."""
    model = Model([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    getattr(model, method)(np.ones([2, 2]), np.ones([2, 1]))
    assert model.asked == 1


def test_fit_says_when_it_evaluates_what_is_prepared():
    """`LiT.evaluate` prepares the data, but not a second time."""
    asked = []

    class Asked(keras.Sequential):
        def evaluate(self, *args, **kwargs):
            asked.append(kwargs.get("_use_cached_eval_dataset"))
            return super().evaluate(*args, **kwargs)

    model = Asked([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    pairs = np.ones([2, 2]), np.ones([2, 1])
    model.fit(*pairs, validation_data=pairs, verbose=0)
    model.evaluate(*pairs, verbose=0)
    assert asked == [True, None]


def test_a_callback_chooses_the_first_epoch():
    """`callbacks.ExactResume`."""
    model = keras.Sequential([keras.Input([2]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    start = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: internals.set_initial_epoch(model, 2)
    )
    x, y = np.ones([2, 2]), np.ones([2, 1])
    history = model.fit(x, y, epochs=4, callbacks=[start], verbose=0)
    assert history.epoch == [2, 3]
    internals.set_initial_epoch(model, None)
    assert model.fit(x, y, epochs=2, verbose=0).epoch == [0, 1]


class SGD(keras.optimizers.SGD):
    """Takes note of the methods that `optimizers.rules` overrides."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.called = []

    def _clip_gradients(self, gradients):
        self.called.append("_clip_gradients")
        return super()._clip_gradients(gradients)

    def _all_reduce_sum_gradients(self, grads_and_vars):
        self.called.append("_all_reduce_sum_gradients")
        found = super()._all_reduce_sum_gradients(grads_and_vars)
        assert all(new[1] is old[1] for new, old in zip(found, grads_and_vars, strict=True))
        return found

    def _use_weight_decay(self, variable):
        self.called.append("_use_weight_decay")
        index = self._get_variable_index(variable)
        assert self._trainable_variables[index].value is variable
        return super()._use_weight_decay(variable)

    def _apply_weight_decay(self, variables):
        self.called.append("_apply_weight_decay")
        return super()._apply_weight_decay(variables)

    def update_step(self, gradient, variable, learning_rate):
        self.called.append("update_step")
        super().update_step(gradient, variable, learning_rate)


def test_an_optimizer_clips_before_it_sums_and_decays_by_itself():
    """`optimizers.rules` skips the early clipping and decay, and clips the sum."""
    optimizer = SGD(0.1, weight_decay=0.5, global_clipnorm=1.0)
    variables = [keras.Variable([3.0, 4.0]), keras.Variable([0.0])]
    optimizer.apply([tf.constant([0.0, 10.0]), tf.constant([0.0])], variables)
    first = [name for i, name in enumerate(optimizer.called) if name not in optimizer.called[:i]]
    assert [name for name in first if "decay" not in name] == [
        "_clip_gradients",
        "_all_reduce_sum_gradients",
        "update_step",
    ]
    assert set(first) >= {"_apply_weight_decay", "_use_weight_decay"}
    # 0.95 of the weights, and a step of 0.1 along a gradient of length 1.
    np.testing.assert_allclose(variables[0], [2.85, 3.7], atol=1e-6)


def test_an_update_by_xla_is_the_same_and_takes_what_has_no_gradient():
    rng = np.random.default_rng(0)
    first, second, gradient = rng.normal(size=[3, 4, 5]).astype("float32")
    weights = [keras.Variable(first), keras.Variable(second)]
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(weights)

    @tf.function
    def step(gradient):
        with pytest.warns(UserWarning, match="Gradients do not exist"):
            internals.apply_gradients(optimizer, [None, gradient], weights, compiled=True)

    step(tf.constant(gradient))
    step(tf.constant(gradient))
    np.testing.assert_array_equal(weights[0], first)
    # The velocity is -0.1 g, then -0.19 g.
    np.testing.assert_allclose(weights[1], second - 0.29 * gradient, rtol=0, atol=1e-6)


def test_an_optimizer_knows_its_strategy():
    """`optimizers.Adafactor` makes its slots beside the variables, on every replica."""
    with mirrored(2).scope():
        optimizer = keras.optimizers.SGD()
    assert optimizer._distribution_strategy is mirrored(2)
    assert keras.optimizers.SGD()._distribution_strategy.num_replicas_in_sync == 1


@pytest.mark.parametrize("ours", [True, False])
def test_a_custom_gradient_goes_with_its_graph(ours):
    """The day on which TensorFlow's own goes as well, `internals.custom_gradient` can go."""
    decorator = internals.custom_gradient if ours else tf.custom_gradient

    @decorator
    def twice(x, y):
        return (x + y, x * y), lambda of_sum, of_product: (2.0 * of_sum, 5.0 * of_product)

    @tf.function
    def function(x):
        total, product = inner(x, 3.0 * x)
        return total + product

    inner = tf.function(lambda x, y: twice(x, y))  # Its gradient is made when it has been traced.
    x = tf.Variable(1.0)
    with tf.GradientTape() as tape:
        found = function(x)
    assert float(found) == 7.0 and float(tape.gradient(found, x)) == 2.0 + 3.0 * 5.0
    with tf.GradientTape() as tape:  # Without a graph.
        total, _ = twice(x, x)
    assert float(tape.gradient(total, x)) == 2.0
    graph = weakref.ref(inner.get_concrete_function(x, x).graph)
    function = inner = twice = tape = total = None
    gc.collect()
    assert (graph() is None) == ours


@pytest.mark.parametrize("kept", [True, False])
def test_a_sentencepiece_table_outlives_a_seed(kept):
    """The day on which the call without `keep_alive` works, that can go (tensorflow/text 570)."""
    captions = ["a red balloon over the sea", "two dogs in the snow", "a toucan"] * 9
    tokenizer = keras_lit.tokenizers.train_sentencepiece(captions, 40)
    if kept:
        internals.keep_alive(tokenizer)
    tokenize = tf.function(lambda text: tokenizer(text).to_tensor())
    before = tokenize(tf.constant(["a red toucan"])).numpy()
    keras.utils.set_random_seed(1)
    if kept:
        np.testing.assert_array_equal(tokenize(tf.constant(["a red toucan"])), before)
    else:
        with pytest.raises(tf.errors.NotFoundError, match="does not exist"):
            tokenize(tf.constant(["a red toucan"]))


def test_tokenizers_without_such_a_table_stay_as_they_are():
    internals.keep_alive(keras_lit.tokenizers.train_wordpiece(["a red balloon"] * 3, 40))


@pytest.mark.parametrize(
    ("make", "times"), [(internals.export_archive, 1), (keras.export.ExportArchive, 2)]
)
def test_an_export_traces_each_endpoint_once(make, times, tmp_path):
    """Keras alone twice."""
    layer = keras.layers.Dense(2)
    layer.build([None, 3])
    double = mock.Mock(side_effect=lambda x: 2 * layer(x))
    archive = make()
    archive.track(layer)
    archive.add_endpoint("double", lambda x: double(x), [tf.TensorSpec([None, 3])])
    archive.write_out(str(tmp_path), verbose=False)
    assert double.call_count == times
    loaded = tf.saved_model.load(str(tmp_path))
    x = tf.ones([4, 3])
    np.testing.assert_allclose(loaded.double(x), 2 * layer(x), rtol=1e-6)
    assert set(loaded.signatures) == {"double", "serving_default"}


def test_it_is_known_which_tensors_a_tape_watches():
    layer, other = keras.layers.Dense(2), tf.ones([1, 2])
    assert not internals.is_watched(layer(other))

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            found = [internals.is_watched(y) for y in (x, layer(x), tf.stop_gradient(layer(x)))]
            with tape.stop_recording():
                return [*found, internals.is_watched(layer(x))]

    assert [bool(x) for x in step(other)] == [False, True, False, False]
    assert not internals.is_watched(keras.Input([2])) and not internals.is_watched(np.ones(2))


def test_it_is_known_that_somebody_watches_each_operation():
    assert not internals.has_op_callbacks()
    tf.debugging.enable_check_numerics()
    try:
        assert internals.has_op_callbacks()
    finally:
        tf.debugging.disable_check_numerics()
