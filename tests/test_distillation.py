"""A teacher's similarities as soft targets: the loss, its gradient, and a model that learns by it."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import losses
from keras_lit.losses import distillation as distilling
from tests.small import mirrored
from tests.test_distribution import sum_and_gradients

SCALE, OF_TEACHER, ROWS, DIM, WIDER = 3.0, 7.0, 8, 5, 6
NAMES = distilling.TEACHER


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def drawn(seed=0, rows=ROWS):
    """Image, text, the teacher's image and text: rows of length 1, float64."""
    rng = np.random.default_rng(seed)
    return [unit(rng.normal(size=[rows, dim])) for dim in (DIM, DIM, WIDER, WIDER)]


def shares(logits):
    powers = [np.exp(x - max(logits)) for x in logits]
    return [x / sum(powers) for x in powers]


def naive(image, text, teacher_image, teacher_text, scale=SCALE):
    """In float64, one divergence after the other."""
    logits, targets = scale * image @ text.T, OF_TEACHER * teacher_image @ teacher_text.T
    total, count = 0.0, len(image)
    for i in range(count):
        for of_model, of_teacher in ((logits[i], targets[i]), (logits[:, i], targets[:, i])):
            for q, p in zip(shares(of_model), shares(of_teacher), strict=True):
                total += 0.5 * p * np.log(p / q) / count
    return total


def joined(image, text, log_temperature, **options):
    """The model's embeddings and the teacher's side by side, so that replicas share both."""
    (image, teacher_image), (text, teacher_text) = (
        tf.split(x, [DIM, WIDER], axis=1) for x in (image, text)
    )
    of_teacher = teacher_image, teacher_text, OF_TEACHER
    return losses.distillation_loss(image, text, log_temperature, *of_teacher, **options)


def found(strategy, image, text, teacher_image, teacher_text, **options):
    """The loss, the gradients of the rows, those of scalars."""
    both = ([image, teacher_image], [text, teacher_text])
    rows = [np.concatenate(x, axis=1).astype("float32") for x in both]
    return sum_and_gradients(joined, strategy, *rows, np.float32(np.log(SCALE)), **options)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("replicas", "tile_size"), [(1, None), (1, 3), pytest.param(2, 3, marks=SLOW)]
)
def test_the_loss_and_its_gradient(replicas, tile_size):
    arrays = drawn()
    strategy = mirrored(2) if replicas == 2 else tf.distribute.get_strategy()
    value, gradients, (of_temperature,) = found(strategy, *arrays, tile_size=tile_size)
    assert value == pytest.approx(naive(*arrays), rel=1e-5)
    for side in (0, 1):
        assert not gradients[side][:, DIM:].any()  # The teacher's.
        for place in ((0, 0), (3, 4), (7, 2)):
            steps = [[x.copy() for x in arrays] for _ in range(2)]
            steps[0][side][place] -= 1e-5
            steps[1][side][place] += 1e-5
            slope = (naive(*steps[1]) - naive(*steps[0])) / 2e-5
            assert gradients[side][place] == pytest.approx(slope, rel=2e-4, abs=2e-6)
    slope = naive(*arrays, SCALE * np.exp(1e-5)) - naive(*arrays, SCALE * np.exp(-1e-5))
    assert of_temperature == pytest.approx(slope / 2e-5, rel=2e-4)


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=SLOW)])
def test_masked_rows_count_nowhere(replicas):
    arrays = drawn()
    mask = np.arange(ROWS) < 6  # The second replica has them.
    strategy = mirrored(2) if replicas == 2 else tf.distribute.get_strategy()
    value, gradients, _ = found(strategy, *arrays, mask=mask)
    assert value == pytest.approx(naive(*(x[:6] for x in arrays)), rel=1e-5)
    _, expected, _ = found(tf.distribute.get_strategy(), *(x[:6] for x in arrays))
    for gradient, wanted in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient[:6], wanted, atol=1e-6)
        assert not gradient[6:].any()


def test_local_is_the_mean_of_the_replicas_own():
    arrays = drawn()
    value, *_ = found(mirrored(2), *arrays, local=True)
    halves = [naive(*(x[i : i + 4] for x in arrays)) for i in (0, 4)]
    assert value == pytest.approx(np.mean(halves), rel=1e-5)


def test_at_high_temperatures_and_under_xla():
    image, text, *of_teacher = (x.astype("float32") for x in drawn())
    compute = tf.function(losses.distillation_loss, jit_compile=True)
    value = compute(image, text, np.log(1000.0), *of_teacher, 1000.0, tile_size=3)
    logits = [1000 * a.astype("float64") @ b.T for a, b in ((image, text), of_teacher)]
    expected = 0.0
    for of_model, of_teacher in (logits, [x.T for x in logits]):
        q, p = ((x - np.logaddexp.reduce(x, axis=1)[:, None]) for x in (of_model, of_teacher))
        expected += 0.5 * (np.exp(p) * (p - q)).sum() / ROWS
    assert float(value) == pytest.approx(expected, rel=1e-4)


def test_wrong_arguments():
    image, text, *of_teacher = drawn()
    with pytest.raises(ValueError, match="`teacher_image_embeddings` should have rank 2"):
        losses.distillation_loss(image, text, 0.0, of_teacher[0][0], of_teacher[1], 1.0)
    with pytest.raises(ValueError, match="`teacher_image_embeddings` and `teacher_text_emb"):
        losses.distillation_loss(image, text, 0.0, of_teacher[0], of_teacher[1][:, 1:], 1.0)
    with pytest.raises(ValueError, match="`teacher_image_embeddings` and `image_embeddings`"):
        losses.distillation_loss(image, text, 0.0, *(x[1:] for x in of_teacher), 1.0)
    for wrong in ({"temperature": 0.0}, {"temperature": 1.0, "weight": 0.0}, {"temperature": "1"}):
        with pytest.raises(ValueError, match="should be a positive number"):
            losses.Distillation(**wrong)
    with pytest.raises(ValueError, match=r"`weight` should be in \(0, 1\]. Received: 1.5"):
        losses.Distillation(1.0, 1.5)


WIDTHS = {"image_features": 4, "text_features": 3}


def student(**options):
    keras.utils.set_random_seed(1)
    towers = keras_lit.ImageTower.from_features(4, DIM), keras_lit.TextTower.from_features(3)
    return keras_lit.LiT(*towers, "LL", **options)


def rows_of(count=12):
    rng = np.random.default_rng(3)
    rows = {name: rng.normal(size=[count, dim]) for name, dim in WIDTHS.items()}
    rows |= dict(zip(NAMES, drawn(4, count)[2:], strict=True))
    return {name: x.astype("float32") for name, x in rows.items()}


DISTILLATION = losses.Distillation(OF_TEACHER, 0.7)


@functools.cache
def trained(replicas, micro_batch_size):
    """Batches of 8 and of 4 pairs, a model in steps of which a teacher has a part."""
    strategy = mirrored(2) if replicas == 2 else tf.distribute.get_strategy()
    with strategy.scope():
        model = student()
        model.compile(keras.optimizers.SGD(0.5), micro_batch_size, DISTILLATION)
    history = model.fit(rows_of(), batch_size=8, shuffle=False, verbose=0).history
    return model, history, [x.numpy() for x in model.weights]


@SLOW
def test_replicas_and_micro_batches_train_the_same():
    _, expected, weights = trained(1, None)
    _, history, others = trained(2, 2)
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)
    for x, y in zip(others, weights, strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_the_loss_of_a_model_is_the_weighted_sum():
    model, *_ = trained(1, None)
    rows = rows_of(8)
    image, text = model.predict(rows, verbose=0).values()
    scale = float(model.temperature)
    logits = scale * image.astype("float64") @ text.T
    contrastive = np.mean(
        [-0.5 * np.log(shares(x[i])[i]) for x in (logits, logits.T) for i in range(8)]
    )
    contrastive *= 2
    both = 0.3 * contrastive + 0.7 * naive(image, text, *(rows[x] for x in NAMES), scale)
    assert model.evaluate(rows, batch_size=8, verbose=0)[0] == pytest.approx(both, rel=1e-5)
    alone = {name: rows[name] for name in WIDTHS}
    assert model.evaluate(alone, batch_size=8, verbose=0)[0] == pytest.approx(contrastive, rel=1e-5)
    config = model.get_compile_config()["distillation"]
    assert keras.saving.deserialize_keras_object(config) == DISTILLATION


def test_what_a_model_refuses():
    model, rows = trained(1, None)[0], rows_of(4)
    with pytest.raises(ValueError, match="should be a `keras_lit.losses.Distillation`.*<LiT"):
        student().compile("sgd", distillation=model)
    with pytest.raises(ValueError, match="Distillation needs the teacher's embeddings"):
        model.train_step({name: tf.constant(rows[name]) for name in WIDTHS})
    for wrong in (
        {NAMES[0]: rows[NAMES[0]]},
        {NAMES[0]: rows[NAMES[0]], NAMES[1]: rows[NAMES[1]][:, 1:]},
        {name: rows[name].astype(int) for name in NAMES},
    ):
        given = {name: rows[name] for name in WIDTHS} | wrong
        with pytest.raises(ValueError, match="A teacher's embeddings should be .*`keras_lit.feat"):
            model.preprocess(given)


def test_a_teacher_embeds_what_is_cached():
    teacher = student()
    rows = rows_of(5)
    head = teacher.image_tower.head
    cached = {**{name: rows[name] for name in WIDTHS}, "text": ["a dog"] * 5}
    batches = tf.data.Dataset.from_tensor_slices(cached).batch(5)
    (batch,) = keras_lit.features.with_teacher(batches, teacher)
    assert {*batch} == {"image_features", "text", *NAMES}
    expected = unit(rows["image_features"] @ head.kernel.numpy() + head.bias.numpy())
    np.testing.assert_allclose(batch[NAMES[0]], expected, atol=1e-6)
    head = teacher.text_tower.head
    expected = unit(rows["text_features"] @ head.kernel.numpy() + head.bias.numpy())
    np.testing.assert_allclose(batch[NAMES[1]], expected, atol=1e-6)
    for wrong in (batches.unbatch(), batches.map(lambda x: {"text": x["text"]})):
        with pytest.raises(ValueError, match='A teacher takes batches of "image_features"'):
            keras_lit.features.with_teacher(wrong, teacher)
