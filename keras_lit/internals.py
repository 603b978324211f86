"""The private attributes of Keras, keras-nlp, TensorFlow and TF-Text that we rely on.

tests/test_internals.py notices when one moves. Methods that a subclass of ours overrides stand with
that subclass (`LiT._maybe_symbolic_build`, those of `optimizers.rules`); the test covers them
too, and CONTRIBUTING.md lists all.
"""

import functools
import hashlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from tensorflow.python.eager import record
from tensorflow.python.framework import op_callbacks, ops
from tensorflow.python.saved_model import save_context
from tensorflow_text.python.ops import sentencepiece_tokenizer

# Attributes of a tf.function: it stays on one device, and is called sooner;
ONE_DEVICE = {"experimental_ints_on_device": True}
# who calls it does not optimise it again;
NOT_AGAIN = {"_tf_data_function": True}
# it stays one node of the graph that calls it, and is not optimised with that.
APART = {"_noinline": True, **NOT_AGAIN}


def in_a_dataset() -> bool:
    """Whether what is traced is, however deep, a function of tf.data, as of `Dataset.map`.

    There `NOT_AGAIN` is of no use, and tf.data's own passes go over such a function for seconds.
    """
    graph = tf.compat.v1.get_default_graph()
    while graph is not None and not getattr(graph, "name", "").startswith("Dataset_"):
        graph = getattr(graph, "outer_graph", None)
    return graph is not None


# Keras' layers and variables.


def flat_layers(model: keras.Layer) -> list[keras.Layer]:
    """A model and all layers inside, however deep; `model.layers` has the outermost only."""
    return model._flatten_layers()


def forget(layer: keras.Layer, inside: keras.Layer) -> None:
    """Lets a layer forget one inside; Keras keeps it when another takes its place."""
    layer._tracker.unlock()
    layer._tracker.untrack(inside)


def own_weights(layer: keras.Layer) -> list[keras.Variable]:
    """A layer's weights without those of the layers inside."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def own_parameters(layer: keras.Layer) -> list[keras.Variable]:
    """The parameters among these weights, frozen or not."""
    return [*layer._trainable_variables]


def own_states(layer: keras.Layer) -> list[keras.Variable]:
    """What a training pass changes in a layer besides weights: batch statistics, dropout's seeds.

    Without those of the layers inside.
    """
    seeds = [generator.state for generator in layer._seed_generators]
    return [*layer._non_trainable_variables, *seeds]


def mask_of(outputs: Any) -> Any:
    """The mask that layers pass on beside a tensor, [batch, tokens] bool, or None."""
    return getattr(outputs, "_keras_mask", None)


def is_autocast(variable: keras.Variable) -> bool:
    """Whether a layer that computes in 16 bits casts this float32 variable each time."""
    return variable._autocast


def takes_raw_input(layer: keras.Layer) -> None:
    """Lets a layer take Python strings and string tensors, as Keras' TextVectorization does."""
    layer._convert_input_args = False
    layer._allow_non_tensor_positional_args = True
    layer.built = True


# keras-nlp's transformer block.


class BlockParts(NamedTuple):
    """The layers of a `keras_nlp.layers.TransformerEncoder`."""

    attention_norm: Any
    attention: Any
    attention_dropout: Any
    mlp_norm: Any
    mlp_inner: Any
    mlp_outer: Any
    mlp_dropout: Any


def block_parts(block: keras.Layer) -> BlockParts:
    """Takes a built transformer block apart, in the order in which a token passes."""
    return BlockParts(
        block._self_attention_layer_norm,
        block._self_attention_layer,
        block._self_attention_dropout,
        block._feedforward_layer_norm,
        block._feedforward_intermediate_dense,
        block._feedforward_output_dense,
        block._feedforward_dropout,
    )


def attend(attention: Any, query: Any, key: Any, value: Any, training: bool | None) -> Any:
    """What a `keras.layers.MultiHeadAttention` does between its projections: [batch, queries (keys
    for key and value), heads, dim] float tensors to [batch, queries, heads, dim].
    """
    return attention._compute_attention(query, key, value, training=training)[0]


# What `fit` shows and where it starts.


def with_cardinality(dataset: Any, count: Any) -> Any:
    """A dataset, distributed or not, with its number of batches (int or scalar) for Keras.

    For a distributed one TensorFlow would count the rows of all local replicas; for a resumed one
    it does not know the number.
    """
    if isinstance(dataset, tf.data.Dataset):
        dataset.cardinality = lambda: tf.constant(count, tf.int64)
    else:
        dataset._cardinality = int(count)
    return dataset


def read_once(batches: Any, epochs: int = 1) -> tuple[Any, int | None]:
    """Batches, and how many steps to tell Keras so that it makes one iterator of them an epoch.

    If Keras 3.15 finds their number itself, it makes another after each epoch, from which nobody
    reads: that takes as long as the start of an epoch, and draws an order that nobody sees.
    """
    count = batches.cardinality
    steps = int(count() if callable(count) else count)
    if steps < 0:
        return batches, None
    if epochs == 1:
        batches = with_cardinality(batches, tf.data.UNKNOWN_CARDINALITY)
    return batches, steps


def batch_size_of(dataset: Any) -> int:
    """What `Dataset.batch` was given, last; 0 for datasets that came otherwise to their batches."""
    sizes = (x._batch_size for x in made_from(dataset) if hasattr(x, "_batch_size"))
    return int(tf.get_static_value(next(sizes, 0)) or 0)


def set_initial_epoch(model: keras.Model, epoch: int | None) -> None:
    """Lets a callback choose, in `on_train_begin`, the epoch where `fit` starts; None: as given."""
    model._initial_epoch = epoch


# TensorFlow.


def custom_gradient(function: Callable) -> Callable:
    """`tf.custom_gradient` that is freed with its graph.

    TensorFlow's own keeps each one that it traced for good, and so the weights of its model.
    """
    decorated = tf.custom_gradient(function)

    @functools.wraps(function)
    def call(*args: tf.Tensor) -> Any:
        outputs = decorated(*args)
        if not tf.executing_eagerly():
            op = tf.nest.flatten(outputs)[0].op
            name = op.get_attr("_gradient_op_type").decode()
            op._gradient_function = ops.gradient_registry._registry.pop(name)["type"]
        return outputs

    return call


def is_watched(x: Any) -> bool:
    """Whether somebody may ask for a gradient by this tensor, so far as tapes say."""
    return isinstance(x, tf.Tensor) and record.should_record_backprop([x])


def apply_gradients(
    optimizer: Any, gradients: list[Any], weights: list[Any], compiled: bool = False
) -> None:
    """`optimizer.apply_gradients`, which can be freed with its graph; `compiled`: by XLA.

    TensorFlow keeps the gradient of each sum over replicas, and so the weights, for good; nobody
    takes the gradient of an update.
    """
    registered = ops.gradient_registry._registry
    first = ops.uid()
    if compiled:
        there = [i for i, gradient in enumerate(gradients) if gradient is not None]

        @tf.function(jit_compile=True, autograph=False)
        def apply(gradients: list[tf.Tensor]) -> None:
            found = dict(zip(there, gradients, strict=True))
            optimizer.apply_gradients([(found.get(i), x) for i, x in enumerate(weights)])

        apply([gradients[i] for i in there])
    else:
        optimizer.apply_gradients(zip(gradients, weights, strict=True))
    for number in range(first, ops.uid()):
        registered.pop(f"CustomGradient-{number}", None)


def mapped(dataset: tf.data.Dataset, function: Callable[..., Any]) -> tf.data.Dataset:
    """`dataset.map(function, tf.data.AUTOTUNE)` of many operations, as of reading images.

    At the start of each epoch TensorFlow optimises the graph of a mapped function anew: for half a
    second, where it reads images. One that stays on a device it takes as it is, and as fast a row.
    """
    spec, found = dataset.element_spec, {}
    specs = tf.nest.flatten(spec)
    if not all(isinstance(x, tf.TensorSpec) for x in specs):
        return dataset.map(function, tf.data.AUTOTUNE)

    def flat(*values: tf.Tensor) -> list[tf.Tensor]:
        row = tf.nest.pack_sequence_as(spec, values)
        row = function(*row) if isinstance(row, tuple) else function(row)
        row = tf.nest.map_structure(tf.convert_to_tensor, row)
        found["spec"] = tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), row)
        return tf.nest.flatten(row)

    flat.__name__ = f"Dataset_{getattr(function, '__name__', '')}"  # See `in_a_dataset`.
    compiled = tf.function(flat, specs, experimental_attributes=ONE_DEVICE)
    concrete = compiled.get_concrete_function()
    variant = tf.raw_ops.ParallelMapDatasetV2(
        input_dataset=tf.data.experimental.to_variant(dataset),
        other_arguments=concrete.captured_inputs,
        f=concrete,
        num_parallel_calls=tf.data.AUTOTUNE,
        output_types=[x.dtype for x in concrete.outputs],
        output_shapes=[x.shape for x in concrete.outputs],
        preserve_cardinality=True,
    )
    rows = tf.data.experimental.from_variant(variant, found["spec"])
    rows.source, rows.function = dataset, concrete  # They live as long.
    return rows


def made_from(dataset: tf.data.Dataset) -> Iterator[tf.data.Dataset]:
    """A dataset, the one it was mapped, batched or shuffled from, and so on; each once."""
    left, seen = [dataset], set()
    while left:
        found = left.pop()
        if id(found) not in seen:
            seen.add(id(found))
            yield found
            sources = found._inputs() or filter(None, [getattr(found, "source", None)])
            left += reversed([*sources])


def export_archive() -> keras.export.ExportArchive:
    """Keras', but each endpoint is traced once: as TensorFlow will when it saves, not before."""
    archive = keras.export.ExportArchive()
    find = archive._filter_and_track_resources

    def find_as_saved() -> None:
        with save_context.save_context(tf.saved_model.SaveOptions()):
            find()

    archive._filter_and_track_resources = find_as_saved
    return archive


def has_op_callbacks() -> bool:
    """Whether something watches each operation, as `tf.debugging.enable_check_numerics` does."""
    return op_callbacks.should_invoke_op_callbacks()


# TF-Text.


def keep_alive(tokenizer: keras.Layer) -> None:
    """Gives a SentencePiece tokenizer's table a name of its own, so that it outlives a seed.

    TF-Text's table belongs to an eager kernel, and `tf.random.set_seed` (so
    `keras.utils.set_random_seed`) throws those away: "Resource ... does not exist"
    (tensorflow/text issue 570). A table with a shared name stays. Other tokenizers are left alone.
    """
    table = getattr(getattr(tokenizer, "_sentence_piece", None), "_model_resource", None)
    if table is None or hasattr(table, "kept_alive"):
        return
    name = hashlib.sha256(table._model).hexdigest()
    make_table = sentencepiece_tokenizer.gen_sentencepiece_tokenizer.sentencepiece_op
    with tf.init_scope():
        table._resource_handle = make_table(model=table._model, shared_name=name)
    table.kept_alive = True
