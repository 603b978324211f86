"""Between locked and unlocked: LoRA, last blocks, rates of layers, norms and embeddings."""

import json

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit import Lock, internals
from keras_lit.callbacks import ExactResume
from keras_lit.towers import blocks
from tests.small import make_model, make_pairs, mirrored
from tests.towers.test_families import IMAGE, TEXT


def made(options=None, layers=3, dropout=0.0, tuning="LU", seed=1, **more):
    """A LiT whose text tower has three blocks and these options."""
    like = make_model("LU")
    keras.utils.set_random_seed(seed)
    backbone = keras_lit.backbones.TextTransformer(60, 10, 16, layers, 32, 4, dropout=dropout)
    tower = keras_lit.TextTower(backbone, like.text_tower.preprocessor.tokenizer, 10)
    return keras_lit.LiT(like.image_tower, tower, tuning, text_options=options, **more)


def batch(model, count=6):
    return model.preprocess(next(iter(make_pairs(count).batch(count))))


def step(model, count=6):
    """One step of training, without a graph."""
    model.train_step(batch(model, count))


def of_text(model):
    """{name: value} of the text backbone."""
    found = {}
    for layer in model.text_tower.backbone.layers:
        for variable in layer.weights:
            found[f"{layer.name}: {variable.path}"] = np.array(variable)
    return found


def moved(model, optimizer=None):
    """The layers of the text backbone that a step moves, of several names one each."""
    model.compile(optimizer or keras.optimizers.SGD(0.5))
    before = of_text(model)
    step(model)
    after = of_text(model)
    return {name.split(":")[0] for name, x in before.items() if not np.array_equal(x, after[name])}


EMBEDDINGS, NORM = "token_and_position_embedding", "layer_norm"
BLOCKS = [f"transformer_layer_{i}" for i in range(3)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Lock(last_blocks=1), {BLOCKS[2], NORM}),
        (Lock(last_blocks=2, freeze_norms=True), {*BLOCKS[1:]}),
        (Lock(last_blocks=3), {*BLOCKS, NORM}),
        (Lock(freeze_embeddings=True), {*BLOCKS, NORM}),
        (Lock(freeze_norms=True), {EMBEDDINGS, *BLOCKS}),
    ],
)
def test_what_trains(options, expected):
    model = made(options)
    heads = [np.array(x) for x in model.text_tower.head.variables]
    model.trainable = False  # And no flag unlocks.
    model.trainable = True
    assert moved(model) == expected
    now = model.text_tower.head.variables
    assert not any(np.array_equal(x, y) for x, y in zip(heads, now, strict=True))


def test_lora_trains_alone_from_where_the_tower_was():
    plain, model = made(), made(Lock(lora=2, last_blocks=2))
    ids = model.text_tower.preprocessor(["a red dog", "a white moon"])
    np.testing.assert_allclose(model.text_tower(ids), plain.text_tower(ids), atol=1e-6)
    model.compile(keras.optimizers.SGD(0.5))
    before = of_text(model)
    step(model)
    step(model)
    changed = {n for n, x in of_text(model).items() if not np.array_equal(x, before[n])}
    # Queries and values of two blocks, two matrices each.
    assert len(changed) == 8 and all("lora_kernel_" in name for name in changed)
    # The tower computes with kernels that are sums: W + alpha / rank * A B.
    for name, known in zip(BLOCKS[1:], plain.text_tower.backbone.layers[3:5], strict=True):
        attention = model.text_tower.backbone.get_layer(name)._self_attention_layer
        for part in ("query_dense", "value_dense"):
            layer, other = getattr(attention, part), getattr(known._self_attention_layer, part)
            product = np.array(layer.lora_kernel_a) @ np.array(layer.lora_kernel_b)
            other.kernel.assign(np.array(other.kernel) + product)
    found = model.text_tower.features(ids)
    np.testing.assert_allclose(found, plain.text_tower.features(ids), atol=1e-6)


def test_lora_in_layers_of_your_choice():
    targets = ("token_embedding", "feedforward_output_dense")
    options = Lock(lora=2, lora_targets=targets)
    model = made(options, layers=1)
    names = {
        layer.name for layer in internals.flat_layers(model) if hasattr(layer, "lora_kernel_a")
    }
    names |= {x.name for x in internals.flat_layers(model) if hasattr(x, "lora_embeddings_a")}
    assert names == set(targets)
    assert moved(model) == {EMBEDDINGS, BLOCKS[0]}


def test_locked_blocks_run_in_inference_mode():
    model = made(Lock(last_blocks=1), layers=2, dropout=0.5)
    x = np.random.default_rng(0).normal(size=[4, 10, 16]).astype("float32")
    first, last = (model.text_tower.backbone.get_layer(name) for name in BLOCKS[:2])
    np.testing.assert_array_equal(first(x, training=True), first(x, training=False))
    assert np.abs(last(x, training=True) - last(x, training=False)).max() > 0.1


@pytest.mark.parametrize("options", [Lock(last_blocks=1), Lock(freeze_norms=True)])
def test_averages_of_norms_that_are_locked_stay(options):
    backbone = IMAGE["keras-cv ResNetV2"]()
    tower = keras_lit.ImageTower(backbone, projection_dim=16)
    text = make_model("LU").text_tower
    keras_lit.LiT(tower, text, "UU", image_options=options)
    means = [x for x in backbone.variables if x.name == "moving_mean"]
    before = [np.array(x) for x in means]
    pixels = np.random.default_rng(0).uniform(0, 255, [3, 32, 32, 3]).astype("float32")
    tower(pixels, training=True)
    same = [np.array_equal(x, y) for x, y in zip(means, before, strict=True)]
    locked = [x.path for x in means if options.freeze_norms or "stack_0" in x.path]
    assert same == [x.path in locked for x in means]


@pytest.mark.parametrize(
    ("family", "count", "last"),
    [
        ("VisionTransformer", 2, "transformer_layer_1"),
        ("MLPMixer", 2, "mixer_block_1"),
        ("BiTResNet", 2, "block2_unit01"),
        ("ViT", 1, "transformer_block_1"),
        ("DINOv2", 1, "layers_0"),
        ("DINOv3", 1, "layers_0"),
        ("SigLIP vision", 1, "encoder_block_0"),
        ("Swin", 2, "stage_1"),
        ("ResNet", 2, "stack1_block0"),
        ("keras-cv ResNetV2", 2, "v2_stack_1_block"),
        ("keras-cv EfficientNetV2", 1, "block1a_"),
        ("BERT", 1, "transformer_layer_0"),
        ("RoBERTa", 1, "transformer_layer_0"),
        ("DistilBERT", 1, "transformer_layer_0"),
        ("SigLIP text", 1, "encoder_block_0"),
    ],
)
def test_blocks_of_families(family, count, last):
    backbone = {**IMAGE, **TEXT}[family]()
    before, *found, after = blocks.groups(backbone)
    assert len(found) == count
    assert {id(x) for group in (before, *found, after) for x in group} == {
        id(x) for x in internals.flat_layers(backbone)[1:]
    }
    paths = [x.path for layer in found[-1] for x in internals.own_parameters(layer)]
    assert paths and all(f"/{last}" in f"/{path}" for path in paths)
    # None of the block is outside of it.
    others = [x.path for group in (before, *found[:-1], after) for y in group for x in y.weights]
    whole = [x for layer in after for x in layer.weights if last in x.path]
    assert len(whole) in (0, len(paths))  # An encoder that holds blocks is after them itself.
    assert not [x for x in others if f"/{last}" in f"/{x}" and x not in paths]


@pytest.mark.parametrize("kind", [keras_lit.optimizers.Adam, keras_lit.optimizers.Adafactor])
def test_each_block_has_its_rate(kind):
    """The first step of both is the rate itself, whatever the size of a gradient."""
    model = made(Lock(layer_decay=0.5), lock_heads=True)
    options = {"epsilon": 1e-14} if kind is keras_lit.optimizers.Adam else {"momentum": None}
    model.compile(kind(0.01, **options))
    parts = [model.text_tower.backbone.get_layer(n) for n in (EMBEDDINGS, *BLOCKS, NORM)]
    parts.append(model.text_tower.head)
    variables = [part.trainable_variables for part in parts]
    before = [[np.array(x) for x in of] for of in variables]
    step(model)
    for of, known, rate in zip(variables, before, (1, 2, 4, 8, 16, 16), strict=True):
        moves = np.concatenate(
            [np.abs(np.array(x) - y).ravel() for x, y in zip(of, known, strict=True)]
        )
        np.testing.assert_allclose(np.median(moves[moves > 1e-7]), 0.01 * rate / 16, rtol=0.02)


def test_layer_decay_needs_an_optimizer_of_ours():
    with pytest.raises(ValueError, match="`layer_decay` needs `keras_lit.optimizers.Adafactor`"):
        made(Lock(layer_decay=0.5)).compile("adam")


EVERY = Lock(lora=2, last_blocks=2, layer_decay=0.5)


def trained(options=EVERY, **more):
    model = made(options, **more)
    model.compile(keras_lit.optimizers.Adam(0.01))
    step(model)
    step(model)
    return model


def weights(model):
    return [np.array(x) for x in model.weights]


@pytest.fixture(scope="module")
def ready():
    return trained()


def test_it_is_said(ready):
    assert repr(EVERY) == "Lock(lora=2, last_blocks=2, layer_decay=0.5)"
    assert f"text_options={EVERY!r}" in repr(ready) and f"lock={EVERY!r}" in repr(ready.text_tower)
    lines = []
    ready.summary(print_fn=lines.append)
    assert f"text tower: trains, {EVERY!r}" in lines[0]
    # Of each of two blocks: [16, 4, 2] and [2, 4], for queries and values.
    row = next(x for x in lines[0].splitlines() if ": TextTransformer " in x)
    assert row.split()[-1] == str(2 * 2 * (16 * 4 * 2 + 2 * 4))
    assert ready.image_options is None and ready.text_options == EVERY


def test_it_goes_through_files_and_configs(ready, tmp_path):
    ready.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    built = keras_lit.LiT.from_config(json.loads(json.dumps(ready.get_config())))
    for model in (again, built):
        assert model.text_options == EVERY
        names = [[x.path for x in m.trainable_variables] for m in (ready, model)]
        assert len(names[0]) == len(names[1]) == 8 + 2 + 2 + 1
    for x, y in zip(weights(ready), weights(again), strict=True):
        np.testing.assert_array_equal(x, y)  # An index or cache of it is still its own.
    other = trained()
    np.testing.assert_allclose(weights(other)[-1], weights(ready)[-1])
    step(other)
    step(again)  # The optimizer goes on, with the rates of its layers.
    for x, y in zip(weights(other), weights(again), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    # Another letter locks all; then again what it was.
    again.tuning = "LL"
    assert len(again.trainable_variables) == 5 and "Lock(" not in repr(again)
    again.tuning = "LU"
    assert len(again.trainable_variables) == 13


@pytest.mark.slow
def test_merged_by_itself_in_exports_and_by_call(ready, tmp_path):
    texts = ["a red dog", "a white moon and a toucan"]
    expected = ready.encode_text(texts)
    path = keras_lit.export.save(ready, tmp_path / "served", towers="text")
    served = tf.saved_model.load(str(path)).signatures["encode_text"]
    np.testing.assert_allclose(served(text=tf.constant(texts))["embedding"], expected, atol=1e-6)
    shapes = [
        tuple(shape) for _, shape in tf.train.list_variables(str(path / "variables/variables"))
    ]
    assert (16, 4, 2) not in shapes and (16, 4, 4) in shapes  # Kernels without matrices beside.
    np.testing.assert_array_equal(ready.encode_text(texts), expected)  # It goes on as it was.
    model = trained()
    model.text_tower.merge_lora()
    np.testing.assert_allclose(model.encode_text(texts), expected, atol=1e-6)
    assert model.text_options is None
    assert len(model.trainable_variables) == len(made().trainable_variables)
    model.save(tmp_path / "merged.keras")
    again = keras.saving.load_model(tmp_path / "merged.keras")
    np.testing.assert_allclose(again.encode_text(texts), expected, atol=1e-6)
    with pytest.raises(ValueError, match="no LoRA to merge"):
        model.text_tower.merge_lora()
    keras_lit.LiT(model.image_tower, model.text_tower, "LU", text_options=Lock(last_blocks=1))


@pytest.mark.slow
def test_the_same_on_replicas_in_micro_batches():
    expected = trained(layers=2)
    rows = [*make_pairs(6).batch(6)] * 2
    ready = [expected.preprocess(x) for x in rows]  # Without random crops.
    data = tf.data.Dataset.from_tensor_slices(
        {k: tf.stack([x[k] for x in ready]) for k in ready[0]}
    )
    with mirrored(2).scope():
        model = made(EVERY, layers=2)
        model.compile(keras_lit.optimizers.Adam(0.01), micro_batch_size=2)
        model.fit(data, verbose=0)
    for x, y in zip(weights(expected), weights(model), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_exact_resume_keeps_what_trains(ready, tmp_path):
    resume = ExactResume(tmp_path)
    resume.set_model(ready)
    kept = {id(x) for x in resume._variables().values()}
    assert {id(x) for x in ready.trainable_variables} <= kept
    base = ready.text_tower.backbone.get_layer(BLOCKS[0]).variables
    assert not {id(x) for x in base} & kept


@pytest.mark.parametrize(
    ("tuning", "options", "message"),
    [
        ("LL", Lock(lora=2), '"L" locks all of it. Choose "U"'),
        ("Lu", Lock(last_blocks=1), '"u" draws all of its weights anew'),
        ("LU", Lock(last_blocks=4), "`last_blocks` should be at most 3.*Received: 4"),
        ("LU", Lock(lora=2, lora_targets=("quary",)), "has no quary, but: attention_output"),
        ("LU", {"lora": 8}, "`text_options` should be a `keras_lit.Lock`"),
    ],
)
def test_contradictions_are_refused(tuning, options, message):
    with pytest.raises(ValueError, match=message):
        made(options, tuning=tuning)


def test_more_contradictions():
    for given, message in (
        ({"lora": 0}, "`lora`"),
        ({"last_blocks": 0}, "`last_blocks`"),
        ({"layer_decay": 1.5}, r"in \(0, 1\]. Received: 1.5"),
        ({"lora_targets": ("query",)}, "are for `lora`"),
        ({"lora": 2, "lora_targets": "query"}, r"a tuple of names.*: \('query',\) is"),
    ):
        with pytest.raises(ValueError, match=message):
            Lock(**given)
    like = make_model("LU")
    for options, message in (
        (Lock(last_blocks=1), "those of Sequential are not known. Known are: BertBackbone"),
        (Lock(freeze_embeddings=True), "Sequential has none"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_lit.LiT(like.image_tower, like.text_tower, "UU", image_options=options)
    model = made(Lock(last_blocks=1))
    with pytest.raises(ValueError, match="has a lock already.* make the tower anew.$"):
        keras_lit.LiT(model.image_tower, model.text_tower, "LU", text_options=Lock(lora=1))
    model = made()
    with pytest.raises(ValueError, match="image_options"):  # And the text tower stays as it was.
        options = {"text_options": Lock(lora=1), "image_options": "all"}
        keras_lit.LiT(model.image_tower, model.text_tower, "UU", **options)
    options = {
        "image_options": Lock(freeze_norms=True),
        "text_options": Lock(lora=1, lora_targets=["typo"]),
    }
    with pytest.raises(ValueError, match="typo"):
        keras_lit.LiT(model.image_tower, model.text_tower, "UU", **options)
    assert model.image_tower.lock is None and model.text_tower.lock is None
    model = made(Lock(lora=1))
    with pytest.raises(ValueError, match="has LoRA. Call `merge_lora"):
        keras_lit.LiT(model.image_tower, model.text_tower, "Lu")
    model = made()
    model.text_tower.backbone.enable_lora(2)
    with pytest.raises(ValueError, match="has LoRA of rank 2 already"):
        keras_lit.LiT(model.image_tower, model.text_tower, "LU", text_options=Lock(lora=1))
    made(Lock(layer_decay=0.9), tuning="Lu")  # Rates are no lock.


def test_minilm_with_lora_has_few_weights():
    """Counted by shapes: MiniLM's width and depth, with a vocabulary of 10 in place of 30,522."""
    backbone = keras_nlp.models.BertBackbone(10, 6, 12, 384, 1536)
    tower = keras_lit.TextTower(backbone, sequence_length=8, pooling="mean", projection_dim=0)
    image_tower = keras_lit.ImageTower.from_features(384)
    model = keras_lit.LiT(image_tower, tower, "LU", text_options=Lock(lora=8))
    count = sum(int(np.prod(x.shape)) for x in model.trainable_variables) - 1
    assert count == 6 * 2 * (384 * 12 * 8 + 8 * 32)
    whole = backbone.count_params() - count + 384 * (30522 - 10)
    assert 22.5e6 < whole < 22.9e6 and count / whole < 0.03 and 4 * count < 2e6
