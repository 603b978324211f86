"""What `fit` and `evaluate` print: short lines, whatever is logged."""

import re

import keras
import pytest

from keras_lit.training import progress
from tests.small import make_model, make_pairs

OWN = {
    "chance_loss": 2.0794,
    "image_to_text_accuracy": 0.0,
    "loss": 0.0002,
    "temperature": 99.9904,
    "text_to_image_accuracy": 0.0,
}
RECALLS = {
    f"retrieval_{way}_{name}": 0.0
    for way in ("image_to_text", "text_to_image")
    for name in ("recall@1", "recall@5", "recall@10", "median_rank")
}
EPOCH = {**OWN, **{f"val_{name}": value for name, value in OWN.items()}, **RECALLS}


def lines(printed):
    """What is left on the screen: a bar writes over itself."""
    text = re.sub("\x1b\\[[0-9;]*m", "", printed)
    return [line.rsplit("\r", 1)[-1].rstrip(" ") for line in text.split("\n") if line]


def test_lines_fit_a_terminal_and_everything_is_there(capsys):
    bar = progress.ProgressLines()
    bar.set_params({"verbose": 1, "epochs": 2, "steps": 1234})
    bar.on_train_begin()
    for epoch in range(2):
        bar.on_epoch_begin(epoch)
        bar.on_train_batch_end(600, dict(OWN))
        bar.on_train_batch_end(1233, dict(OWN))
        bar.on_test_begin()
        bar.on_test_batch_end(0, dict(OWN))
        bar.on_test_end(dict(OWN))
        bar.on_epoch_end(epoch, dict(EPOCH))
    found = lines(capsys.readouterr().out)
    assert max(map(len, found)) <= 120
    assert [line for line in found if line.startswith("Epoch")] == ["Epoch 1/2", "Epoch 2/2"]
    names = re.findall(r"(\S+): [\d.]", " - ".join(found[: len(found) // 2]))
    assert (
        names
        == (
            "loss chance i2t t2i temp val_chance val_i2t val_loss val_temp val_t2i "
            "retrieval_i2t@1 retrieval_i2t@5 retrieval_i2t@10 retrieval_i2t_median "
            "retrieval_t2i@1 retrieval_t2i@5 retrieval_t2i@10 retrieval_t2i_median"
        ).split()
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("zero_shot_accuracy@5", "zero_shot@5"),
        ("zero_shot_mean_per_class_recall", "zero_shot_per_class"),
        ("few_shot_5shot_accuracy", "few_shot_5shot"),
        ("few_shot_5shot_deviation", "few_shot_5shot_deviation"),
        ("val_chance_loss", "val_chance"),
        ("learning_rate", "learning_rate"),
    ],
)
def test_short_names(name, expected):
    assert progress.short(name) == expected


def test_evaluate_prints_the_same_bar_and_returns_the_names(capsys):
    model = make_model()
    model.compile("sgd")
    found = model.evaluate(make_pairs(8).batch(4), return_dict=True)
    assert set(found) == set(OWN)
    bar, below = lines(capsys.readouterr().out)
    assert re.findall(r"(\w+): ", bar) == ["loss", "chance", "i2t", "t2i"]
    assert f"{found['loss']:.4f}" in bar and below == f"  temp: {found['temperature']:.4f}"
    model.evaluate(make_pairs(8).batch(4), verbose=0)
    assert not capsys.readouterr().out


def test_another_bar_stays():
    own = keras.callbacks.ProgbarLogger()
    assert progress.with_lines([own], 1) == [own]
    assert progress.with_lines(None, 0) is None
    one = keras.callbacks.LambdaCallback()
    kept, added = progress.with_lines(one, "auto")
    assert kept is one and isinstance(added, progress.ProgressLines)
    assert added.async_safe  # Else Keras waits for it, where it does not wait for its own.


def test_nothing_is_printed_where_keras_logs(capsys, caplog):
    bar = progress.ProgressLines()
    bar.set_params({"verbose": 2, "epochs": 1, "steps": 2})
    keras.config.disable_interactive_logging()
    try:
        bar.on_epoch_begin(0)
        bar.on_train_batch_end(1, dict(OWN))
        with caplog.at_level("INFO"):
            bar.on_epoch_end(0, dict(EPOCH))
    finally:
        keras.config.enable_interactive_logging()
    assert not capsys.readouterr().out
    assert "val_i2t: 0" in caplog.text
