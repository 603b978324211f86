"""The recipes against the figures of the paper, typed in again from its appendices."""

import pytest

import keras_lit
from keras_lit import recipes
from tests.small import make_model

# Of appendices C, D, E, Table 13 and big_vision's lit_coco.py: tuning, text, image head, optimizer,
# learning rate, weight decay, clipping, batch, steps, warmup, pairs seen in millions, crop, flip.
PAPER = {
    "private": ("Lu transformer no Adafactor 1e-3 0 none 16384 55000 10000", 901, False, False),
    "cc12m": ("LU bert no Adam 1e-3 1e-4 1 16384 12000 2000", 197, True, False),
    "yfcc": ("LU bert yes Adam 1e-3 1e-4 1 16384 60000 2000", 983, True, False),
    "public_mixed": ("LU bert no Adafactor 8e-4 1e-4 1 16384 60000 2000", 983, True, False),
    "coco": ("LU bert no Adam 1e-3 1e-2 1 4096 5000 150", 20, False, True),
}


def test_all_recipes_are_checked():
    assert set(recipes.RECIPES) == {*PAPER, "few_pairs"}


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_is_the_papers(name):
    line, millions, crop, flip = PAPER[name]
    tuning, text, head, kind, rate, decay, clip, batch, steps, warmup = line.split()
    recipe = recipes.get(name)
    assert (recipe.tuning, recipe.text) == (tuning, text)
    assert recipe.image_head == (head == "yes")
    assert (recipe.batch_size, recipe.steps) == (int(batch), int(steps))
    assert round(recipe.batch_size * recipe.steps / 1e6) == millions
    assert recipe.sequence_length == 16
    optimizer = recipe.optimizer()
    assert type(optimizer) is getattr(keras_lit.optimizers, kind)
    schedule = optimizer._learning_rate
    assert float(schedule(int(warmup))) == pytest.approx(float(rate))
    assert float(schedule(int(warmup) / 2)) == pytest.approx(float(rate) / 2)
    assert float(schedule((int(warmup) + int(steps)) / 2)) == pytest.approx(float(rate) / 2)
    assert float(schedule(int(steps))) == pytest.approx(0, abs=1e-9)
    # One step at the peak takes this part of a kernel away.
    taken = float(rate) * (optimizer.weight_decay or 0)
    assert taken == pytest.approx(float(decay))
    assert optimizer.global_clipnorm == (None if clip == "none" else float(clip))
    preprocessor = recipe.image_preprocessor()
    assert preprocessor.image_size == (224, 224) and preprocessor.resize == "stretch"
    assert preprocessor.random_crop == ((0.05, 1.0) if crop else None)
    assert preprocessor.random_flip == flip


def test_few_pairs_aligns_a_pretrained_tower_before_it_trains():
    recipe = recipes.get("few_pairs")
    assert (recipe.align, recipe.text, recipe.tuning) == (True, "pretrained", "LL")
    assert not any(recipes.get(name).align for name in PAPER)
    schedule = recipe.optimizer(steps=40)._learning_rate
    assert schedule.warmup_steps == 4 and float(schedule(4)) == pytest.approx(1e-3)


def test_first_and_second_moments_are_the_papers():
    adam, adafactor = recipes.get("cc12m").optimizer(), recipes.get("private").optimizer()
    assert (adam.beta_1, adam.beta_2, adam.epsilon) == (0.9, 0.999, 1e-8)
    assert (adafactor.momentum, adafactor.beta2_cap) == (0.9, 0.999)


def test_a_smaller_batch_sees_as_many_pairs():
    recipe = recipes.get("cc12m")
    schedule = recipe.optimizer(batch_size=1024)._learning_rate
    assert (schedule.total_steps, schedule.warmup_steps) == (192_000, 32_000)
    short = recipe.optimizer(steps=60, image_multiplier=0.1)
    assert (short._learning_rate.total_steps, short._learning_rate.warmup_steps) == (60, 10)
    assert short.image_multiplier == 0.1


def test_options_take_the_place_of_the_recipes():
    recipe = recipes.get("yfcc")
    assert recipe.optimizer(global_clipnorm=0.5).global_clipnorm == 0.5
    preprocessor = recipe.image_preprocessor(image_size=64, random_crop=None)
    assert (preprocessor.image_size, preprocessor.random_crop) == ((64, 64), None)


def test_options_go_to_lit():
    options = recipes.get("coco").lit_options()
    assert options.pop("tuning") == "LU"
    model = make_model("LU", **options)
    assert model.lock_heads and model.initial_temperature == 10


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="`name` should be one of.*cc12m.*Received: 'cc3m'"):
        recipes.get("cc3m")
