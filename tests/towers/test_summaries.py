"""What `print(model)` and `summary()` show; the numbers of parameters are counted by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.towers import summaries
from tests.small import make_model, mirrored

# Kernels and biases; batch norm has two weights that train and two that do not.
CONVOLUTION, NORM = 3 * 3 * 3 * 6 + 6, 4 * 6
IMAGE_HEAD, TEXT_HEAD = 6 * 16 + 16, 16 * 16 + 16


@pytest.fixture(scope="module")
def model():
    """For tests that do not change it."""
    return make_model()


def summary(layer, **options):
    """{part: (output shape, parameters, how many train)}, without the names of the towers."""
    texts = []
    layer.summary(print_fn=texts.append, **options)
    found = {}
    for row in texts[0].splitlines():
        cells = [cell for cell in row.split("  ") if cell]
        if len(cells) in (3, 4):
            numbers = tuple(int(cell.replace(",", "")) for cell in cells[-2:] if cell[-1].isdigit())
            found[cells[0].split(": ")[-1]] = (*map(str.strip, cells[1:-2]), *numbers)
    return found, texts


def test_print_says_what_a_model_is(model):
    assert str(model) == repr(model)
    for fact in (
        *("<LiT name=", "tuning=Lu", "image_tower=Sequential", "text_tower=TextTransformer"),
        *("embedding_dim=16", "loss=softmax", "temperature=10"),
    ):
        assert fact in repr(model)
    for fact in ("backbone=Sequential", "(None, 8, 8, 3)", "pooling=mean", "feature_dim=6"):
        assert fact in repr(model.image_tower)
    for fact in ("backbone=TextTransformer", "(None, 10)", "pooling=last", "embedding_dim=16"):
        assert fact in repr(model.text_tower)
    assert "head=None" in repr(keras_lit.ImageTower.from_features(8))


def test_print_says_the_temperature_of_now_also_in_a_graph():
    with mirrored(2).scope():
        model = make_model("Uu")
    model.log_temperature.assign(np.log(12.5))
    model.tuning = "Lu"
    seen = []
    mirrored(2).run(tf.function(lambda: seen.append(repr(model))))
    assert len(seen) == 2
    assert all("tuning=Lu" in said and "temperature=12.5" in said for said in seen)


def test_summary_has_shapes_and_what_trains(model):
    found, texts = summary(model)
    assert found["Sequential"] == ("(None, 3, 3, 6)", CONVOLUTION + NORM, 0)
    assert found["mean pooling"] == ("(None, 6)", 0, 0)
    assert found["log_temperature"] == ("()", 1, 1)
    of_text = sum(x.shape.num_elements() for x in map(tf.convert_to_tensor, backbone_of(model)))
    assert found["TextTransformer"] == ("(None, 10, 16)", of_text, of_text)
    assert f"{CONVOLUTION + NORM + IMAGE_HEAD + of_text + TEXT_HEAD + 1:,}" in texts[0]
    assert f"{IMAGE_HEAD + of_text + TEXT_HEAD + 1:,}\n" in texts[0]
    assert "image tower: locked; text tower: re-initialised, trains" in texts[0]
    assert "?" not in texts[0]


def backbone_of(model):
    return model.text_tower.backbone.weights


@pytest.mark.parametrize(
    ("options", "images", "heads"),
    [
        ({"tuning": "Lu", "lock_heads": True}, 0, "are locked too"),
        ({"tuning": "Uu", "batch_norm": True}, CONVOLUTION + NORM // 2, None),
    ],
)
def test_summary_counts_what_trains(options, images, heads):
    found, texts = summary(make_model(**options))
    assert found["Sequential"][2] == images
    assert (heads is None) == ("heads" not in texts[0])
    assert heads is None or heads in texts[0]


def test_a_tower_alone_trains_by_its_flags(model):
    found, texts = summary(model.image_tower)
    assert found["Sequential"] == ("(None, 3, 3, 6)", CONVOLUTION + NORM, CONVOLUTION + NORM // 2)
    assert f"{CONVOLUTION + NORM + IMAGE_HEAD}" in texts[0]


def test_summary_may_go_on_to_the_backbones(model):
    texts = summary(model, expand_nested=True, line_length=100)[1]
    assert len(texts) == 3 and "Conv2D" in texts[1] and "Conv2D" not in texts[0]


def test_shared_variables_count_once():
    layer = keras.layers.Dense(3)
    layer.build([None, 2])
    rows = [summaries.Row(name, (), layer.weights) for name in ("a", "b")]
    total = summaries.table(rows, []).splitlines()[-2]
    assert total.split() == ["total", str(2 * 3 + 3), "0"]


def test_summary_is_printed(model, capsys):
    model.summary()
    assert capsys.readouterr().out.startswith(repr(model))
