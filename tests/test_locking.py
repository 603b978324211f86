"""What is locked, what is frozen and what trains: in whatever order, and through files."""

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.preprocessing import ImagePreprocessor
from tests.small import make_model, make_pairs, make_tower, mirrored


def step(model, count=6):
    """One step of training, without a graph."""
    pairs = model.preprocess(next(iter(make_pairs(count).batch(count))))
    model.train_step(pairs)


def values(variables):
    return [np.array(variable) for variable in variables]


def moved(model, variables, optimizer=None):
    """Which of these variables a step of a freshly compiled model moves."""
    model.compile(optimizer or keras.optimizers.SGD(0.1))
    before = values(variables)
    step(model)
    return [not np.array_equal(x, y) for x, y in zip(before, values(variables), strict=True)]


def every_layer(model):
    for layer in model._flatten_layers():
        layer.trainable = True


def off_and_on(of):
    def change(model):
        layer = of(model)
        layer.trainable = False
        layer.trainable = True

    return change


@pytest.mark.parametrize(
    "change",
    [
        off_and_on(lambda model: model),
        off_and_on(lambda model: model.image_tower),
        lambda model: setattr(model.image_tower.backbone, "trainable", True),
        every_layer,
        lambda model: keras_lit.LiT(model.image_tower, model.text_tower, "UU"),
    ],
)
def test_no_flag_unlocks(change):
    model = make_model("LU")
    change(model)
    locked = model.image_tower.backbone.variables
    assert len(locked) == 6 and not any(moved(model, locked))
    assert all(moved(model, model.image_tower.head.variables))


def test_a_locked_tower_runs_in_inference_mode():
    """Even where a layer inside is told nothing of training."""

    class Silent(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dropout, self.norm = keras.layers.Dropout(0.5), keras.layers.BatchNormalization()

        def call(self, x):
            return self.norm(self.dropout(x))

    tower = keras_lit.ImageTower(
        Silent(), "mean", projection_dim=16, preprocessor=ImagePreprocessor(8)
    )
    model = make_model("LU")
    locked = keras_lit.LiT(tower, model.text_tower, "LU")
    pairs = model.preprocess(next(iter(make_pairs(4).batch(4))))
    expected = locked(pairs, training=False)["image_embeddings"]
    np.testing.assert_array_equal(locked(pairs, training=True)["image_embeddings"], expected)
    assert not any(moved(locked, tower.backbone.variables))


def test_two_models_share_a_tower():
    first = make_model("LU")
    second = keras_lit.LiT(first.image_tower, first.text_tower, "UU")
    backbone = first.image_tower.backbone
    assert not any(moved(first, backbone.trainable_variables))
    assert all(moved(second, backbone.trainable_variables))
    assert not any(moved(first, backbone.trainable_variables))


FROZEN = {
    "a layer": lambda m: m.text_tower.backbone.get_layer("transformer_layer_0"),
    "a backbone": lambda m: m.text_tower.backbone,
    "a tower": lambda m: m.text_tower,
    "a batch norm": lambda m: m.image_tower.backbone.layers[-1],
    "a head": lambda m: m.image_tower.head,
    "the temperature": lambda m: m.log_temperature,
    "a weight": lambda m: m.text_tower.head.bias,
}


@pytest.mark.parametrize("name", FROZEN)
def test_what_the_user_froze_stays_frozen(name, tmp_path):
    model = make_model("UU", batch_norm=True)
    part = FROZEN[name](model)
    part.trainable = False
    frozen = getattr(part, "variables", [part])
    frozen = [variable for variable in frozen if "seed" not in variable.path]
    model.tuning = "LU"
    model.tuning = "UU"
    assert not any(moved(model, frozen, keras.optimizers.Adam(1e-2)))
    trained = len(model.trainable_variables)
    assert 0 < trained < len(model.weights)
    # And so it does when the model comes back from its file, with the optimizer's state.
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert len(again.trainable_variables) == trained
    slots = values(model.optimizer.variables)
    assert len(slots) == 2 + 2 * trained
    for slot, saved in zip(values(again.optimizer.variables), slots, strict=True):
        np.testing.assert_array_equal(slot, saved)
    step(model)
    step(again)
    for one, other in zip(values(model.weights), values(again.weights), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def bert(layers=2):
    backbone = keras_nlp.models.BertBackbone(60, layers, 2, 8, 16, max_sequence_length=10)
    like = make_model("LU")
    tower = keras_lit.TextTower(backbone, like.text_tower.preprocessor.tokenizer, 10)
    return keras_lit.LiT(like.image_tower, tower, "LU")


def test_what_was_done_to_layers_of_a_backbone_that_rebuilds_itself(tmp_path):
    """Its configuration says nothing of its layers."""
    model = bert()
    model.text_tower.backbone.get_layer("transformer_layer_0").trainable = False
    model.text_tower.backbone.get_layer("token_embedding").enable_lora(2, lora_alpha=4)
    model.compile(keras.optimizers.Adam(1e-2))
    step(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    layer = again.text_tower.backbone.get_layer("token_embedding")
    assert (layer.lora_rank, layer.lora_alpha) == (2, 4)
    for lora in (m.text_tower.backbone.get_layer("token_embedding") for m in (model, again)):
        assert np.abs(lora.lora_embeddings_b).max() > 0
    names = [[v.path.split("/", 1)[1] for v in m.trainable_variables] for m in (model, again)]
    assert names[0] == names[1] and not any("pooled_dense" in name for name in names[0])
    for slot, saved in zip(
        values(again.optimizer.variables), values(model.optimizer.variables), strict=True
    ):
        np.testing.assert_array_equal(slot, saved)


@pytest.mark.parametrize("weights_alone", [True, False])
def test_lora_trains_on_from_a_file(weights_alone, tmp_path):
    """Keras adds its product to the kernel and makes both of its matrices zero, for good."""

    def with_lora():
        model = make_model("LU")
        model.text_tower.backbone.enable_lora(2)
        model.text_tower.head.enable_lora(2, lora_alpha=3)
        model.compile(keras.optimizers.Adam(0.01))
        return model

    model = with_lora()
    step(model)
    step(model)
    if weights_alone:
        model.save_weights(tmp_path / "model.weights.h5")
        again = with_lora()
        again.load_weights(tmp_path / "model.weights.h5")
    else:
        model.save(tmp_path / "model.keras")
        again = keras.saving.load_model(tmp_path / "model.keras")
        step(model)
        step(again)
    for one, other in zip(model.weights, again.weights, strict=True):
        assert one.name == other.name
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=one.path)


@pytest.mark.slow
def test_inference_sees_lora_and_quantisation_at_once(tmp_path):
    model, texts = make_model("LU"), ["a red dog", "a white moon and a toucan"]
    ids = model.text_tower.preprocessor(texts)

    def assert_seen(model=model, atol=1e-6):
        expected = tf.math.l2_normalize(model.text_tower(ids), axis=1)
        np.testing.assert_allclose(model.encode_text(texts), expected, atol=atol)
        return np.array(expected)

    first = assert_seen()
    model.text_tower.backbone.enable_lora(2)
    model.compile(keras.optimizers.Adam(0.1))
    for _ in range(3):
        step(model)
    second = assert_seen()
    assert np.abs(second - first).max() > 0.01
    model = make_model("LU")
    model.quantize("int8")  # Before anything is encoded, too.
    third = assert_seen(model)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.encode_text(texts), third, atol=1e-6)


def test_inference_sees_another_padding_at_once():
    like = make_model("LU")
    tower = keras_lit.TextTower(like.text_tower.backbone, None, 10, pooling="mean")
    model = keras_lit.LiT(like.image_tower, tower, "LU")
    ids = np.array([[5, 7, 9, 9, 9, 9, 0, 0, 0, 0]])
    for pad_token_id in (0, 9):
        tower.pad_token_id = pad_token_id
        expected = tf.math.l2_normalize(tower(ids), axis=1)
        np.testing.assert_allclose(model.encode_text(ids), expected, atol=1e-6)


def test_evaluation_sees_what_is_done_to_a_locked_tower():
    model = make_model("LU")
    pixels = np.random.default_rng(0).integers(0, 256, [4, 8, 8, 3]).astype("uint8")
    images = keras_lit.evaluation.Images({"image": pixels, "label": np.arange(4)})

    def features():
        return np.array(model.image_tower.features(model.image_tower.preprocessor(pixels)))

    found = images.features(model)
    np.testing.assert_allclose(found, features(), atol=1e-6)
    assert images.features(model) is found
    kernel = model.image_tower.backbone.layers[0].kernel
    kernel.assign(2 * kernel)
    np.testing.assert_allclose(images.features(model), features(), atol=1e-6)
    model.tuning = "UU"
    kernel.assign(2 * kernel)
    np.testing.assert_allclose(images.features(model), features(), atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "tuning", "UU"),
        lambda model: setattr(model.text_tower.head, "trainable", False),
        lambda model: model.text_tower.backbone.enable_lora(2),
    ],
)
def test_what_trains_changes_with_compile_only(change):
    model = make_model("LU")
    model.compile(keras.optimizers.SGD(0.1))
    change(model)
    for train in (
        lambda: model.fit(make_pairs(8).batch(4), verbose=0),
        lambda: model.train_on_batch(next(iter(make_pairs(4).batch(4)))),
    ):
        with pytest.raises(ValueError, match="has changed since `compile`.*Compile again"):
            train()
    # With an optimizer that has slots for other variables, neither.
    with pytest.raises(ValueError, match="Compile with a new optimizer"):
        model.compile(model.optimizer)
    model.compile(keras.optimizers.SGD(0.1))
    model.make_train_function()


def test_another_optimizer_is_used_after_compile_only():
    model = make_model("LU")
    model.compile(keras.optimizers.SGD(0.1))
    model.optimizer = keras.optimizers.SGD(0.0)
    with pytest.raises(ValueError, match="another `optimizer`. Compile again"):
        model.train_on_batch(next(iter(make_pairs(4).batch(4))))


def test_nothing_is_left_to_train():
    model = make_model("LL", lock_heads=True)
    model.log_temperature.trainable = False
    model.compile("sgd")
    with pytest.raises(ValueError, match="Nothing is trainable"):
        model.fit(make_pairs(8).batch(4), verbose=0)


class Counting(keras_lit.LiT):
    """With a metric and a loss of its own."""

    def __init__(self, *args, note="", **kwargs):
        super().__init__(*args, **kwargs)
        self.note = note
        self.steps = keras.metrics.Sum(name="steps")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.steps.update_state(1.0)
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + 3.0 * tf.reduce_mean(y_pred["text_embeddings"][:, 0])

    def get_config(self):
        return {**super().get_config(), "note": self.note}


def test_metrics_loss_and_options_of_a_subclass():
    base = make_model("LU")
    model = Counting(base.image_tower, base.text_tower, "LU", note="tower one")
    assert [metric.name for metric in model.metrics].count("steps") == 1
    for one in (base, model):
        one.compile(keras.optimizers.SGD(0.0))
    data = make_pairs(8).batch(8)
    expected = base.evaluate(data, verbose=0, return_dict=True)["loss"]
    expected += (
        3.0 * model.encode_text([pair["text"].numpy() for pair in make_pairs(8)])[:, 0].mean()
    )
    for _ in range(2):
        found = model.evaluate(data, verbose=0, return_dict=True)
        np.testing.assert_allclose(found["loss"], expected, rtol=1e-5)
        assert float(model.steps.result()) == 1.0  # Reset in between.
    features = keras_lit.ImageTower.from_features(6, projection_dim=16)
    model = Counting(features, base.text_tower, "LU", note="tower one")
    model.log_temperature.trainable = False
    backbone = keras.Sequential([keras.Input([8, 8, 3]), keras.layers.Conv2D(6, 3)])
    model.image_tower.head.trainable = False
    found = model.with_image_tower(keras_lit.ImageTower(backbone))
    assert found.note == "tower one" and not found.log_temperature.trainable
    assert not found.image_tower.head.trainable


@keras.saving.register_keras_serializable("tests")
class Turning(keras_lit.LiT):
    """With a layer and a weight beside the towers."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.turn = keras.layers.Dense(16, use_bias=False)
        self.turn.build((None, 16))
        self.shift = self.add_weight(shape=(16,), name="shift")


def test_what_a_subclass_has_beside_the_towers_is_kept(tmp_path):
    """By a file and with another image tower; and so are its head's dtype and LoRA."""
    features = keras_lit.ImageTower.from_features(6, projection_dim=16, dtype="mixed_bfloat16")
    features.head.enable_lora(2)
    model = Turning(features, make_model().text_tower, "LU")
    rng = np.random.default_rng(0)
    for weight in (model.shift, model.turn.kernel, features.head.lora_kernel_b):
        weight.assign(rng.normal(size=weight.shape))
    model.turn.trainable = model.shift.trainable = False
    model.save(tmp_path / "model.keras")
    backbone = keras.Sequential([keras.Input([8, 8, 3]), keras.layers.Conv2D(6, 3)])
    for again in (
        keras.saving.load_model(tmp_path / "model.keras"),
        model.with_image_tower(keras_lit.ImageTower(backbone)),
    ):
        np.testing.assert_array_equal(again.shift, model.shift)
        np.testing.assert_array_equal(again.turn.kernel, model.turn.kernel)
        assert len(again.trainable_variables) == len(model.trainable_variables)
        x = rng.normal(size=[3, 6]).astype("float32")
        assert again.image_tower.head.compute_dtype == "bfloat16"
        expected = features.project(x)
        # Of values up to 4, bfloat16 has steps of 0.016.
        np.testing.assert_allclose(again.image_tower.project(x), expected, rtol=0.01, atol=0.02)


class Added(keras.layers.Layer):
    def call(self, x):
        self.add_loss(0.5 * tf.reduce_mean(x**2))
        return x


def regularized(**options):
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input([8, 8, 3]),
        keras.layers.Conv2D(4, 3, kernel_regularizer=keras.regularizers.L2(0.1)),
    ]
    if options.get("added"):
        layers.append(Added())
    tower = keras_lit.ImageTower(
        keras.Sequential(layers), projection_dim=16, preprocessor=ImagePreprocessor(8)
    )
    return keras_lit.LiT(tower, make_model().text_tower, options.get("tuning", "UU"))


@pytest.mark.parametrize("size", [None, 4])
def test_regularizers_belong_to_the_loss_and_its_gradient(size):
    model = regularized()
    model.compile(keras.optimizers.SGD(1.0), micro_batch_size=size)
    kernel = model.image_tower.backbone.layers[0].kernel
    pairs = model.preprocess(next(iter(make_pairs(6).batch(6))))
    logs = model.test_step(pairs)
    penalty = 0.1 * np.sum(np.array(kernel) ** 2)
    contrastive = keras_lit.losses.softmax_contrastive_loss(
        *model(pairs).values(), model.log_temperature
    )
    np.testing.assert_allclose(logs["loss"], float(contrastive) + penalty, rtol=1e-5)
    with tf.GradientTape() as tape:
        embeddings = model(pairs, training=True)
        loss = keras_lit.losses.softmax_contrastive_loss(
            *embeddings.values(), model.log_temperature
        )
    expected = kernel - tape.gradient(loss, kernel.value) - 0.2 * kernel
    model.train_step(pairs)
    np.testing.assert_allclose(kernel, expected, atol=1e-5)


@pytest.mark.parametrize(("added", "size"), [(False, None), (True, None), (True, 4)])
def test_a_locked_tower_is_not_penalized(added, size):
    model = regularized(tuning="LU", added=added)
    model.compile("sgd", micro_batch_size=size)
    pairs = model.preprocess(next(iter(make_pairs(6).batch(6))))
    expected = keras_lit.losses.softmax_contrastive_loss(
        *model(pairs).values(), model.log_temperature
    )
    np.testing.assert_allclose(model.test_step(pairs)["loss"], expected, rtol=1e-5)


@pytest.mark.slow
def test_what_layers_add_as_they_are_called():
    model = regularized(added=True)
    model.compile("sgd")
    pairs = model.preprocess(next(iter(make_pairs(6).batch(6))))
    outputs = model(pairs)
    assert len(model.losses) == 2
    expected = keras_lit.losses.softmax_contrastive_loss(*outputs.values(), model.log_temperature)
    expected = expected + tf.add_n(model.losses)
    np.testing.assert_allclose(model.test_step(pairs)["loss"], expected, rtol=1e-5)
    model.compile("sgd", micro_batch_size=3)
    for run in (model.train_step, model.test_step):
        with pytest.raises(ValueError, match="depends on how a batch is divided"):
            run(pairs)
    with mirrored(2).scope():
        model = regularized(added=True)
        model.compile("sgd")
    with pytest.raises(ValueError, match="depends on how a batch is divided"):
        model.evaluate(make_pairs(8).batch(4), verbose=0)


def test_repeated_tokens_are_summed_before_an_optimizer_squares_them():
    """Adam's first step is the learning rate, whatever the size of a gradient."""
    model = make_model("LU")
    model.compile(keras.optimizers.Adam(0.01, epsilon=1e-12))
    table = model.text_tower.backbone.get_layer("token_and_position_embedding").weights[0]
    before = np.array(table)
    step(model, 12)  # Each caption says "a" twice.
    moves = np.abs(np.array(table) - before)
    np.testing.assert_allclose(moves[moves > 1e-4], 0.01, rtol=1e-3)
    assert (moves > 1e-4).sum() > 100


@pytest.mark.slow
@pytest.mark.parametrize("side", ["image", "text", "temperature"])
def test_xla_stops_at_what_is_not_finite_too(side):
    model = make_model("LU")
    if side == "temperature":
        model.log_temperature.assign(100.0)
        message = "max_temperature"
    else:
        bias = getattr(model, f"{side}_tower").head.bias
        bias.assign(np.full(bias.shape, np.nan))
        message = f"The {side} tower's embeddings should be finite"
    model.compile(keras.optimizers.SGD(0.0), jit_compile=True)
    for run in (model.evaluate, model.fit):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            run(make_pairs(8).batch(4), verbose=0)


def test_a_loss_that_is_scaled_is_refused_on_replicas():
    """Where one replica's gradient is infinite the others took their step, and all became NaN."""
    with mirrored(2).scope():
        model = make_model()
        with pytest.raises(ValueError, match="mixed_bfloat16"):
            model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))


def test_a_tower_that_says_the_same_of_all_is_right_of_none():
    model = make_model("LU")
    for variable in model.text_tower.head.variables:
        variable.assign(tf.cast(variable.path.endswith("bias"), "float32") + 0 * variable)
    model.compile("sgd")
    found = model.evaluate(make_pairs(8).batch(8), verbose=0, return_dict=True)
    assert found["image_to_text_accuracy"] == 0.0
    np.testing.assert_allclose(found["text_to_image_accuracy"], 1 / 8, atol=1e-6)


def test_the_loss_has_no_second_derivative():
    image = text = tf.linalg.l2_normalize(tf.random.stateless_normal([4, 3], [1, 2]), 1)
    with tf.GradientTape() as outer:
        outer.watch(image)
        with tf.GradientTape() as inner:
            inner.watch(image)
            loss = keras_lit.losses.softmax_contrastive_loss(image, text, 1.0)
        penalty = tf.reduce_sum(inner.gradient(loss, image) ** 2)
    with pytest.raises(LookupError, match="no second derivative"):
        outer.gradient(penalty, image)


def test_a_kind_of_text_that_nobody_has_counts_in_no_accuracy():
    model = make_model("LU")
    model.compile("sgd")
    rows = next(iter(make_pairs(4).batch(4)))
    alone = model.evaluate(rows, batch_size=4, verbose=0, return_dict=True)
    two = np.stack([rows["text"].numpy(), [b""] * 4], axis=1).astype(object)
    pairs = {"image": rows["image"].numpy(), "texts": two}
    found = model.evaluate(pairs, batch_size=4, verbose=0, return_dict=True)
    for name in ("loss", "image_to_text_accuracy", "text_to_image_accuracy"):
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("scale", [1.0, 255.0])
def test_floats_that_are_no_preprocessed_pixels_are_refused(scale):
    model = make_model("LU")
    model.compile("sgd")
    rng = np.random.default_rng(0)
    images = (scale * rng.random([4, 8, 8, 3])).astype("float32")
    text = [pair["text"].numpy() for pair in make_pairs(4)]
    for use in (
        lambda: model.encode_image(images),
        lambda: model.evaluate({"image": images, "text": text}, verbose=0),
        lambda: keras_lit.evaluation.Images({"image": images}, columns=()).embeddings(model),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="should be preprocessed"):
            use()
    model.encode_image(images / scale * 2 - 1)
    model.encode_image(np.full([1, 8, 8, 3], 0.9, "float32"))  # A white page.


@pytest.mark.parametrize(
    ("value_range", "refused", "taken"),
    [
        ("-1..1", (-0.09, 1.03), (-0.99, 1.0)),  # 0..1 that bicubic resizing has overshot.
        ("0..1", (-1.0, 1.0), (-0.09, 1.03)),
        ("0..255", (-1.0, 1.0), (0.0, 0.0)),
        ("0..255", (-127.0, 128.0), (-9.0, 262.0)),
    ],
)
def test_the_range_that_a_tower_expects(value_range, refused, taken):
    tower = make_tower(
        preprocessor=ImagePreprocessor(8, value_range=value_range), projection_dim=16
    )
    model = keras_lit.LiT(tower, make_model().text_tower, "LU")
    refused, taken = (
        np.linspace(*ends, 192, dtype="float32").reshape(1, 8, 8, 3) for ends in (refused, taken)
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match="should be preprocessed"):
        model.encode_image(refused)
    model.encode_image(taken)


def test_a_row_of_padding_alone_is_refused():
    model = make_model("LU")
    ids = np.pad([[5, 7, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]], [[0, 0], [0, 6]])
    with pytest.raises(tf.errors.InvalidArgumentError, match="besides padding"):
        model.encode_text(ids)
    assert len(model.encode_text(ids[[0, 2]])) == 2


@pytest.mark.slow
def test_captions_that_are_cut_are_said_once():
    model = make_model("LU")
    model.compile("sgd")
    rows = {"image": np.zeros([4, 8, 8, 3], "uint8"), "text": ["a dog " * 6] * 3 + ["a cat"]}
    message = r"3 of 4 captions of a batch are cut at 10 tokens.*; (\d+) would hold them all"
    with pytest.warns(UserWarning, match=message) as said:
        model.fit(rows, batch_size=4, epochs=2, verbose=0)
    found = [str(warning.message) for warning in said if "are cut" in str(warning.message)]
    assert len(found) == 1
    needed = int(model.text_tower.preprocessor.token_counts(rows["text"]).numpy().max())
    assert f"; {needed} would" in found[0]
    longer = keras_lit.preprocessing.TextPreprocessor(
        model.text_tower.preprocessor.tokenizer, needed
    )
    shorter = keras_lit.preprocessing.TextPreprocessor(longer.tokenizer, needed - 1)
    ids = longer(rows["text"]).numpy()
    assert (ids[0] != longer.pad_token_id).all()  # It holds them, and nothing shorter does.
    assert not np.array_equal(shorter(rows["text"]).numpy()[0], ids[0, :-1])


def test_a_legacy_file_is_refused(tmp_path):
    model = make_model("LU")
    with pytest.raises(ValueError, match=r"`\.keras` file"):
        model.save(tmp_path / "model.h5")


def test_what_keras_cannot_do_on_replicas_is_refused():
    outside = make_model()
    with mirrored(2).scope():
        with pytest.raises(ValueError, match=r"built outside of `strategy\.scope\(\)`"):
            outside.compile("sgd")
        model = make_model()
        with pytest.raises(ValueError, match="`steps_per_execution` should be 1"):
            model.compile("sgd", steps_per_execution=2)
        with pytest.raises(ValueError, match="SwapEMAWeights"):
            model.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_overwrite_frequency=2))
    model.compile("sgd")  # The model knows its strategy.
    with pytest.raises(ValueError, match=r"`Adafactor` inside of the `strategy\.scope\(\)`"):
        model.compile(keras_lit.optimizers.Adafactor(0.1))
