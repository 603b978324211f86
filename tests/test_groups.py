"""Pairs of a group are positives of each other: losses, accuracies and training with them."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import alignment, features, losses
from keras_lit.alignment import aligning
from keras_lit.training import pairs
from tests.small import make_model, make_pairs, mirrored
from tests.test_distribution import share_out

ROWS, DIM, LOG_TEMPERATURE, BIAS = 12, 5, 1.2, -2.0
FAR = 2**62
# Groups of three and of two, over the thirds of the batch.
GROUPS = np.array([5, -FAR, 5, 1, FAR, -FAR, 2, 5, FAR, 3, 4, FAR])
MASK = np.arange(ROWS) % 7 != 2  # Row 2, of a group of three, counts nowhere, nor row 9.


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def sides(rows=ROWS):
    return unit(np.random.default_rng(3).normal(size=[2 * rows, DIM])).reshape(2, rows, DIM)


def softmax_oracle(image, text, log_temperature, *, groups):
    """Cross-entropy with a target that is spread over the group, pair after pair, both ways."""
    logits = np.exp(log_temperature) * image @ text.T
    total = 0.0
    for i in range(len(image)):
        same = [j for j in range(len(image)) if groups[j] == groups[i]]
        for scores in (logits[i], logits[:, i]):
            log_probabilities = scores - np.log(np.exp(scores).sum())
            total -= sum(log_probabilities[j] / len(same) for j in same) / 2
    return total / len(image)


def sigmoid_oracle(image, text, log_temperature, bias, *, groups):
    """Each image and text is a question; the answers yes of an image weigh as much as one."""
    total = 0.0
    for i in range(len(image)):
        same = [j for j in range(len(image)) if groups[j] == groups[i]]
        for j in range(len(image)):
            logit = np.exp(log_temperature) * image[i] @ text[j] + bias
            if j in same:
                total += np.log1p(np.exp(-logit)) / len(same)
            else:
                total += np.log1p(np.exp(logit))
    return total / len(image)


LOSSES = {
    "softmax": (losses.softmax_contrastive_loss, softmax_oracle, [LOG_TEMPERATURE]),
    "sigmoid": (losses.sigmoid_contrastive_loss, sigmoid_oracle, [LOG_TEMPERATURE, BIAS]),
}


def numeric_gradients(function, arguments, step=1e-5):
    """By central differences, of each argument."""
    found = []
    for number, argument in enumerate(arguments):
        gradient = np.zeros_like(np.asarray(argument, "float64"))
        for place in np.ndindex(gradient.shape):
            ends = []
            for sign in (1, -1):
                moved = [np.array(x, "float64") for x in arguments]
                moved[number][place] += sign * step
                ends.append(function(*moved))
            gradient[place] = (ends[0] - ends[1]) / (2 * step)
        found.append(gradient)
    return found


def expected(name, groups=GROUPS, mask=None):
    """The oracle's value and gradients; of masked rows 0."""
    _, oracle, scalars = LOSSES[name]
    kept = np.ones(ROWS, bool) if mask is None else mask
    inputs = [*(side[kept] for side in sides()), *scalars]
    value = oracle(*inputs, groups=groups[kept])
    image, text, *rest = numeric_gradients(lambda *x: oracle(*x, groups=groups[kept]), inputs)
    rows = np.zeros([2, ROWS, DIM])
    rows[:, kept] = image, text
    return value, rows, rest


def check(found, wanted):
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], wanted[1], atol=1e-6)
    np.testing.assert_allclose(found[2], wanted[2], rtol=1e-5, atol=1e-6)


def with_tf(name, groups, mask=None, **options):
    function, _, scalars = LOSSES[name]
    values = [tf.constant(x, tf.float32) for x in (*sides(), *scalars)]
    with tf.GradientTape() as tape:
        tape.watch(values)
        loss = function(*values, groups=groups, mask=mask, **options)
    gradients = tape.gradient(loss, values)
    return loss, gradients[:2], gradients[2:]


@pytest.mark.parametrize("mask", [None, MASK], ids=["all", "masked"])
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_gradients_equal_the_oracle(name, mask):
    wanted = expected(name, mask=mask)
    for tile_size in (None, 1, 5, 12):
        check(with_tf(name, GROUPS, mask, tile_size=tile_size), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_three_replicas_equal_the_oracle(name):
    """Groups reach over replicas; the last rows are masked, as in a batch that is filled up."""
    function, _, scalars = LOSSES[name]
    strategy, mask = mirrored(3), np.arange(ROWS) < 11

    @tf.function
    def step(image, text, groups, mask):
        watched = [image, text, *map(tf.constant, scalars)]
        with tf.GradientTape() as tape:
            tape.watch(watched)
            value = function(*watched, groups=groups, mask=mask, tile_size=3)
        return value, tape.gradient(value, watched)

    image, text = (side.astype("float32") for side in sides())
    value, gradients = strategy.run(step, args=share_out(strategy, image, text, GROUPS, mask))
    local = strategy.experimental_local_results
    rows = [np.concatenate(local(x)) for x in gradients[:2]]
    found = sum(local(value)), rows, [sum(local(x)) for x in gradients[2:]]
    check(found, expected(name, mask=mask))


@pytest.mark.parametrize("name", LOSSES)
def test_a_local_loss_has_the_groups_of_its_replica(name):
    function, oracle, scalars = LOSSES[name]
    strategy = mirrored(2)
    step = tf.function(lambda *x: function(*x[:2], *scalars, groups=x[2], local=True))
    image, text = sides()
    shares = share_out(strategy, image.astype("float32"), text.astype("float32"), GROUPS)
    found = sum(strategy.experimental_local_results(strategy.run(step, args=shares)))
    parts = [
        oracle(image[x], text[x], *scalars, groups=GROUPS[x]) for x in (slice(0, 6), slice(6, 12))
    ]
    np.testing.assert_allclose(found, np.mean(parts), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_groups_of_one_are_the_plain_loss_bit_for_bit(name):
    groups = np.random.default_rng(0).permutation(ROWS)
    plain, grouped = (with_tf(name, x, tile_size=5) for x in (None, groups))
    for x, y in zip(tf.nest.flatten(plain), tf.nest.flatten(grouped), strict=True):
        np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_and_xla_of_any_batch_size(jit_compile):
    wanted = expected("softmax")

    @tf.function(
        input_signature=[tf.TensorSpec([None, DIM])] * 2 + [tf.TensorSpec([None], tf.int64)],
        jit_compile=jit_compile,
    )
    def compute(image, text, groups):
        with tf.GradientTape() as tape:
            tape.watch([image, text])
            loss = losses.softmax_contrastive_loss(image, text, LOG_TEMPERATURE, groups=groups)
        return loss, tape.gradient(loss, [image, text])

    loss, gradients = compute(*(side.astype("float32") for side in sides()), GROUPS)
    check((loss, gradients, []), (*wanted[:2], []))


def test_equal_texts_leave_the_gradient_of_the_softmax_loss():
    """As the guide says: the texts of a group are one vector, whose gradient is their sum."""
    image, text = sides()
    text = text[np.unique(GROUPS, return_index=True)[1]][np.unique(GROUPS, return_inverse=True)[1]]
    found = []
    for groups in (None, GROUPS):
        values = [tf.constant(x, tf.float32) for x in (image, text)]
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = losses.softmax_contrastive_loss(*values, LOG_TEMPERATURE, groups=groups)
        of_images, of_texts = tape.gradient(loss, values)
        sums = [of_texts.numpy()[group == GROUPS].sum(axis=0) for group in np.unique(GROUPS)]
        found.append((loss, of_images, sums))
    for plain, grouped in zip(*found, strict=True):
        np.testing.assert_allclose(plain, grouped, atol=1e-6)


def test_chance_is_the_logarithm_of_the_batch_with_groups_too():
    same = tf.ones([6, 4]) / 2.0
    loss = losses.softmax_contrastive_loss(same, same, 3.0, groups=[1, 1, 1, 2, 2, 3])
    np.testing.assert_allclose(loss, np.log(6), rtol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_any_pair_of_the_group_is_right(name):
    function, _, scalars = LOSSES[name]
    image = np.eye(3, dtype="float32")
    text = np.array([[0, 1, 0], [0.8, 0, 0.6], [0, 0.6, 0.8]], "float32")
    # Image 0 is nearest to text 1, image 1 to text 0 and image 2 to its own; text 0 to image 1,
    # text 1 to image 0, text 2 to its own.
    for groups, accuracy in ((None, 1 / 3), ([4, 5, 6], 1 / 3), ([4, 4, 6], 1.0)):
        for mask in (None, [True] * 3):
            _, found = function(
                image, text, *scalars, groups=groups, mask=mask, accuracies=True, tile_size=2
            )
            np.testing.assert_allclose(list(found.values()), [accuracy] * 2, err_msg=str(groups))
    # Equals of another group make none right.
    same = np.ones([4, 3], "float32") / np.sqrt(3).astype("float32")
    _, found = function(same, same, *scalars, groups=[1, 1, 2, 2], accuracies=True)
    assert set(map(float, found.values())) == {0.0}


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["a", "b", "c", "d"], r"\[batch\] integers.*4 pairs.*string.*to_hash_bucket_fast"),
        ([1.0, 2.0, 3.0, 4.0], r"integers.*float32 of shape \(4,\)"),
        ([1, 2, 3], r"integers, one for each of 4 pairs.*\(3,\)"),
        ([[1, 2, 3, 4]], r"\(1, 4\)"),
    ],
)
def test_bad_groups_are_named(groups, message):
    with pytest.raises(ValueError, match=message):
        losses.softmax_contrastive_loss(tf.eye(4), tf.eye(4), 0.0, groups=groups)


def test_captions_are_equal_where_their_token_ids_are():
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 30_000, [50, 16])
    rows[20], rows[31], rows[32] = rows[3], rows[4][::-1], rows[5]
    rows[32, 15] += 1
    ids = pairs.caption_ids(tf.constant(rows, tf.int32)).numpy()
    found = {(i, j) for i in range(50) for j in range(i) if ids[i] == ids[j]}
    assert found == {(20, 3)}
    several = pairs.caption_ids(tf.constant(rows.reshape(25, 2, 16)))
    np.testing.assert_array_equal(several.numpy().reshape(-1), ids)


WORDS = ["a red dog", "a blue cat", "a red dog", "one moon", "a white banana", "a blue cat"]


def batch(**fields):
    images = np.random.default_rng(1).integers(0, 256, [6, 12, 14, 3]).astype("uint8")
    return {"image": images, "text": np.array(WORDS, dtype=object), **fields}


@pytest.fixture(scope="module")
def model():
    """Nothing trains it."""
    model = make_model(loss="sigmoid", bias=BIAS)
    model.compile("sgd", jit_compile=False)
    return model


def loss_of(model, x, **options):
    return model.evaluate(x, batch_size=6, return_dict=True, verbose=0, **options)["loss"]


def embeddings(model):
    x = batch()
    return model.encode_image(x["image"]).astype("float64"), model.encode_text(x["text"])


@pytest.mark.slow
def test_equal_captions_are_one_group(model):
    by_caption = sigmoid_oracle(*embeddings(model), np.log(10), BIAS, groups=[0, 1, 0, 2, 3, 1])
    alone = sigmoid_oracle(*embeddings(model), np.log(10), BIAS, groups=range(6))
    assert abs(by_caption - alone) > 1e-3
    np.testing.assert_allclose(loss_of(model, batch()), by_caption, rtol=1e-5)
    # Preprocessed pairs hold token ids only.
    ready = model.preprocess(batch())
    assert set(ready) == {"image", "text"}
    np.testing.assert_allclose(loss_of(model, ready), by_caption, rtol=1e-5)
    model.group_captions = False
    np.testing.assert_allclose(loss_of(model, batch()), alone, rtol=1e-5)
    model.group_captions = True


@pytest.mark.parametrize("kind", ["strings", "integers"])
def test_a_group_decides_alone(kind, model):
    labels = [3, 3, 1, 1, 2, 4]
    group = labels if kind == "integers" else [f"product {label}" for label in labels]
    wanted = sigmoid_oracle(*embeddings(model), np.log(10), BIAS, groups=labels)
    np.testing.assert_allclose(loss_of(model, batch(group=group)), wanted, rtol=1e-5)


def test_each_kind_of_text_has_its_own_equal_captions(model):
    texts = np.array([["a dog", x] for x in WORDS], dtype=object)
    texts[1:, 0] = ["a cat", "a dog", "", "one dog", "a moon"]
    x = batch()
    del x["text"]
    images = model.encode_image(x["image"]).astype("float64")
    given, total = [0, 1, 2, 4, 5], 0.0
    first = model.encode_text(list(texts[given, 0]))
    total += sigmoid_oracle(images[given], first, np.log(10), BIAS, groups=[0, 1, 0, 2, 3])
    second = model.encode_text(list(texts[:, 1]))
    total += sigmoid_oracle(images, second, np.log(10), BIAS, groups=[0, 1, 0, 2, 3, 1])
    np.testing.assert_allclose(loss_of(model, {**x, "texts": texts}), total, rtol=1e-5)
    labels = [3, 3, 1, 1, 2, 4]
    total = sigmoid_oracle(images[given], first, np.log(10), BIAS, groups=[3, 3, 1, 2, 4])
    total += sigmoid_oracle(images, second, np.log(10), BIAS, groups=labels)
    np.testing.assert_allclose(
        loss_of(model, {**x, "texts": texts, "group": labels}), total, rtol=1e-5
    )


LABELS = np.array([3, 3, 1, 4, 2, 1, 3, 3, 2, 0, 5, 2])


def rows_of_features():
    rng = np.random.default_rng(5)
    captions = rng.normal(size=[6, 7])
    return {
        "image_features": rng.normal(size=[12, 5]).astype("float32"),
        "text_features": captions[LABELS].astype("float32"),
    }


def model_of_features(replicas=1):
    with mirrored(replicas).scope() if replicas > 1 else contextlib.nullcontext():
        towers = [tower.from_features(dim, 4) for tower, dim in TOWERS]
        for i, tower in enumerate(towers):
            rng = np.random.default_rng(i)
            tower.head.set_weights([rng.normal(size=x.shape) for x in tower.head.weights])
        model = keras_lit.LiT(*towers, "LL", loss="sigmoid", bias=BIAS)
        model.compile("sgd", jit_compile=False)
    return model


TOWERS = (keras_lit.ImageTower, 5), (keras_lit.TextTower, 7)


def oracle_of_features(model, rows, groups):
    sides = [
        unit(features.astype("float64") @ tower.head.kernel.numpy() + tower.head.bias.numpy())
        for features, tower in zip(
            rows.values(), (model.image_tower, model.text_tower), strict=True
        )
    ]
    return sigmoid_oracle(*sides, np.log(10), BIAS, groups=groups)


@pytest.mark.parametrize("replicas", [1, 2])
def test_equal_text_features_are_equal_captions(replicas):
    model, rows = model_of_features(replicas), rows_of_features()
    found = model.evaluate(rows, batch_size=12, return_dict=True, verbose=0)["loss"]
    wanted, alone = (oracle_of_features(model, rows, x) for x in (LABELS, range(12)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert abs(wanted - alone) > 0.1


@pytest.mark.parametrize("replicas", [1, 2])
def test_features_of_equal_strings_are_equal_captions(replicas):
    """Encoded in batches that were padded otherwise they differ in the last digits."""
    model, rows = model_of_features(replicas), rows_of_features()
    noise = 1 + 1e-6 * np.arange(12, dtype="float32")[:, np.newaxis]
    rows = {**rows, "text_features": rows["text_features"] * noise}
    texts = np.array([f"caption {label}" for label in LABELS], object)
    wanted = oracle_of_features(model, rows, LABELS)
    for data in ({**rows, "text": texts}, {**rows, "text": texts, "group": LABELS}):
        found = model.evaluate(data, batch_size=12, return_dict=True, verbose=0)["loss"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    data = {**rows, "text": texts, "group": np.arange(12)}
    found = model.evaluate(data, batch_size=12, return_dict=True, verbose=0)["loss"]
    np.testing.assert_allclose(found, oracle_of_features(model, rows, range(12)), rtol=1e-5)
    if replicas == 1:
        found = model.test_on_batch({**rows, "text": texts}, return_dict=True)["loss"]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    for data, groups in (({**rows, "text": texts}, len({*LABELS})), (rows, 12)):
        folds = alignment.Folds(5, 7, 2)
        aligning.gather(data, model.image_tower, model.text_tower, folds, "cca")
        assert sum(len(np.unique(folds.kept(fold).keys)) for fold in range(2)) == groups


def test_mixtures_of_equal_captions_are_equal():
    """Of rows i and i + 6: 0 and 1 are of captions 3 and 3, rows 2 and 5 of captions 1 and 2."""
    model = model_of_features()
    data = tf.data.Dataset.from_tensor_slices({**rows_of_features(), "group": LABELS}).batch(12)
    mixed = {name: x.numpy() for name, x in next(iter(features.latent_mixup(data))).items()}
    assert [*mixed] == ["image_features", "text_features"]
    found = model.evaluate(mixed, batch_size=6, return_dict=True, verbose=0)["loss"]
    wanted = oracle_of_features(model, mixed, [0, 0, 1, 2, 3, 1])
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (np.zeros([6]), r"`group` should be one string or integer a pair.*float64"),
        (np.zeros([6, 2], "int64"), r"int64 of shape \(None, 2\)"),
    ],
)
def test_bad_columns_are_named(group, message, model):
    with pytest.raises(ValueError, match=message):
        model.evaluate(batch(group=group), batch_size=6, verbose=0)


def test_a_missing_group_is_none(model):
    group = ["a", "b", "", "c", "", "d"]
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="`group` should not be empty: strangers"
    ):
        model.evaluate(batch(group=group), batch_size=6, verbose=0)


def test_it_is_in_the_configuration(model):
    assert model.get_config()["group_captions"] is True
    config = make_model(group_captions=False).get_config()
    assert type(model).from_config(config).group_captions is False
    del config["group_captions"]  # Of a file from before.
    assert type(model).from_config(config).group_captions is True


def trained(loss, replicas=1, micro_batch_size=None):
    """Two steps, of which the replicas do not divide the second; groups of about three pairs."""
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        model = make_model(loss=loss)
        model.compile(
            keras.optimizers.SGD(0.5), micro_batch_size=micro_batch_size, jit_compile=False
        )
    groups = tf.data.Dataset.range(19).map(lambda i: tf.strings.as_string(i * i % 7))
    data = tf.data.Dataset.zip(make_pairs(19), groups)
    data = data.map(lambda pair, group: {**pair, "group": group}).batch(12)
    history = model.fit(data, epochs=1, verbose=0).history
    return history, [weight.numpy() for weight in model.trainable_weights]


@pytest.mark.slow
@pytest.mark.usefixtures("free_memory_after_test")
@pytest.mark.parametrize("loss", LOSSES)
def test_same_training_however_it_is_computed(loss):
    alone = trained(loss)
    for options in ({"micro_batch_size": 5}, {"replicas": 3}):
        other = trained(loss, **options)
        for name, values in alone[0].items():
            np.testing.assert_allclose(values, other[0][name], rtol=2e-5, err_msg=name)
        for a, b in zip(alone[1], other[1], strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6)
