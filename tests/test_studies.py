"""The runner of the studies; each study once, with few pictures (slow)."""

import functools
import importlib
import json
import pathlib
import sys
import types

import keras
import keras_nlp
import numpy as np
import pytest
import tensorflow as tf

import keras_lit

FOLDER = pathlib.Path(__file__).parent.parent / "examples" / "studies"


@pytest.fixture
def study(monkeypatch):
    """Imports one of the scripts, as Python finds it when it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    return importlib.import_module


def arguments(runner, tmp_path, *given):
    return runner.parser("A study.", epochs=2).parse_args(["--output", str(tmp_path), *given])


def test_a_killed_study_goes_on(study, tmp_path):
    runner = study("runner")
    trained = []

    def train(variant, seed):
        trained.append((variant, seed))
        if len(trained) == 3:
            raise KeyboardInterrupt
        return [{"pairs": 0, "recall": 1.0}, {"pairs": 8, "recall": 10.0 * seed + len(variant)}]

    args = arguments(runner, tmp_path, "--seeds", "2")
    with pytest.raises(KeyboardInterrupt):
        runner.run("toy", args, ["a", "bb"], train)
    assert len(json.loads((tmp_path / "toy.json").read_text())["results"]) == 2
    results = runner.run("toy", args, ["a", "bb"], train)
    assert trained == [("a", 0), ("bb", 0), ("a", 1), ("a", 1), ("bb", 1)]
    assert [(result["variant"], result["seed"]) for result in results] == [
        *trained[:2],
        *trained[3:],
    ]
    assert runner.run("toy", args, ["a", "bb"], None) == results  # Nothing is left to train.
    # Of a: 1 and 11; of bb: 2 and 12.
    means = runner.summarise(results, "recall")
    assert means == {"a": (6.0, pytest.approx(50**0.5)), "bb": (7.0, pytest.approx(50**0.5))}
    lines = runner.table(results, {"recall": "recall, %"}).splitlines()
    assert lines[0] == "|  | recall, % | seeds | seconds |"
    assert lines[3].startswith("| bb | 7.0 ± 7.1 | 2 | ")
    for x in ("pairs", None):
        runner.plot(results, {"recall": "recall, %"}, tmp_path / f"{x}.png", x=x)
        assert (tmp_path / f"{x}.png").stat().st_size > 1000


def test_each_variant_begins_with_its_seed(study, tmp_path):
    runner = study("runner")
    args = arguments(runner, tmp_path, "--seeds", "2")
    results = runner.run("toy", args, ["a", "b"], lambda *_: [{"x": float(np.random.random())}])
    found = [result["curve"][0]["x"] for result in results]
    assert found[0] == found[1] != found[2] == found[3]


def test_results_of_other_settings_are_refused(study, tmp_path):
    runner = study("runner")
    point = [{"pairs": 0, "recall": 1.0}]
    runner.run("toy", arguments(runner, tmp_path), ["a"], lambda *_: point)
    more = arguments(runner, tmp_path, "--seeds", "4", "--variants", "a")
    assert len(runner.run("toy", more, ["a", "b"], lambda *_: point)) == 4
    with pytest.raises(ValueError, match="other settings.*'epochs': 2.*'epochs': 3"):
        other = arguments(runner, tmp_path, "--epochs", "3")
        runner.run("toy", other, ["a"], lambda *_: point)


def test_ranks_say_what_the_spread_allows(study):
    values = {"a": (30.0, 3.0), "b": (20.0, 4.0), "c": (26.0, 4.0), "d": (40.0, 0.0)}
    lines = study("stamps").ranked(values, ["a"], ["b", "c", "d"]).splitlines()
    assert lines == [
        "a is above b: +10.0 (spread 5.0)",
        "a is like c: +4.0 (spread 5.0)",
        "a is below d: -10.0 (spread 3.0)",
    ]


def test_parts_of_the_training_stamps(study):
    stamps = study("stamps")
    data = types.SimpleNamespace(train={"text": np.zeros(20)})
    parts = [stamps.Stamps.parts(data, seed) for seed in range(2)]
    for training, validation in parts:
        assert len(validation) == 2 and sorted([*training, *validation]) == list(range(20))
    assert set(parts[0][1]) != set(parts[1][1])


def test_open_pictures_instead_of_the_stamps(study, monkeypatch):
    rows = {
        "image": np.zeros([3, 8, 8, 3], "uint8"),
        "caption": ["a cat.", "a car", "rain"],
        "name": ["noto/1F431", "openclipart/car", "noto/1F327"],
        "category": [0, 2, 1],
    }
    categories = types.SimpleNamespace(names=["animals", "sky", "electronics"])
    builder = types.SimpleNamespace(
        download_and_prepare=lambda: None,
        as_dataset=lambda split: tf.data.Dataset.from_tensor_slices(rows),
        info=types.SimpleNamespace(features={"category": categories}),
    )
    monkeypatch.setattr(keras_lit.demo, "OpenPictures", lambda data_dir: builder)
    args = types.SimpleNamespace(data_dir=None, limit=2, open_pictures=True)
    tower = types.SimpleNamespace(
        preprocessor=lambda image: tf.cast(image, tf.float32),
        predict=lambda pixels, **_: np.mean(pixels, axis=(1, 2)),
    )
    data = study("stamps").Stamps(args, tower)
    assert data.train["name"] == ["animals/noto/1F431", "electronics/openclipart/car"]
    assert data.test["tagged"].tolist() == ["a cat, an animal.", "a car, electronics."]
    assert data.test["features"].shape == (2, 3)


def test_languages_of_open_pictures_are_asked_where_all_are_there(study, monkeypatch, tmp_path):
    asking, stamps_codes = study("ask_in_your_language"), {"zh_CN": "zh", "zh_TW": "zh_Hant"}
    every = {stamps_codes.get(code, code): code for code in asking.ASKED.values()}
    captions = [every, {"en": "no others"}, {**every, "zh_Hant": "more"}]
    splits = [types.SimpleNamespace(name=x, captions=captions) for x in ("train", "-", "test")]
    monkeypatch.setattr(asking.captioned, "read", lambda *_: splits)
    monkeypatch.setattr(
        asking.repeated_captions, "cached", lambda *_: {"features": np.arange(3), "text": None}
    )
    train, test = asking.open_pictures(tmp_path)
    assert train["features"].tolist() == [0, 1, 2] and test["features"].tolist() == [0, 2]
    assert test["captions"][0] == {code: code for code in asking.ASKED.values()}
    assert test["captions"][1]["zh_TW"] == "more" and train["captions"][1] == {"en": "no others"}


@pytest.mark.parametrize(("tags", "expected"), [(0.0, {0}), (0.5, {0, 1}), (1.0, {1})])
def test_batches_of_a_study(study, tags, expected):
    ids = {"text": tf.zeros([9, 1]), "tagged": tf.ones([9, 1])}
    tower = types.SimpleNamespace(preprocessor=lambda texts: ids[str(texts[0])])
    part = {name: np.array([name] * 12) for name in ids} | {"features": np.arange(12)}
    rows = np.arange(1, 10)
    pairs = study("stamps").batches(part, rows, tower, True, 9, 0, tags)
    first, second = (batch for batch in pairs.take(2).as_numpy_iterator())
    assert set(first["text"].ravel()) == expected
    assert sorted(first["image_features"]) == sorted(second["image_features"]) == rows.tolist()
    orders = [batch["image_features"].tolist() for batch in (first, second)]
    assert orders[0] != rows.tolist() and orders[0] != orders[1]


def test_collages_and_their_masks(study):
    wide = np.zeros([10, 20, 4])
    wide[:, :10] = [200, 0, 0, 255]  # The right half is transparent.
    pixels, masks = study("heat_maps").collage([wide], np.array([6]), 64)
    expected = np.zeros([64, 64], bool)
    expected[20:28, 32:40] = True  # Row 1, column 2 of 16 x 16 places, in the middle of its height.
    assert (masks[0] == expected).mean() > 0.99
    assert pixels[24, 34].tolist() == [200, 0, 0] and (pixels[24, 46:] == 255).all()


def test_steps_are_a_multiple_of_the_rounds(study):
    args = types.SimpleNamespace(batch_size=64, epochs=3, rounds=4)
    assert study("stamps").steps(100, args) == 4  # 4.7 batches, in 4 rounds


def test_the_rate_is_chosen_on_the_validation_pictures(study, monkeypatch):
    stamps = study("stamps")
    found = {1e-3: (9.0, 20.0), 1e-2: (8.0, 30.0)}
    monkeypatch.setattr(
        stamps,
        "tune",
        lambda *args, **_: [dict(zip(("validation", "mean_recall"), found[args[5]], strict=True))],
    )
    text = np.array(["a"] * 4)
    data = types.SimpleNamespace(
        train={"text": text, "tagged": text}, parts=lambda seed: (np.arange(3), np.arange(3, 4))
    )
    curve = stamps.best_rate(data, None, lambda captions: None, 0, found, None)
    assert curve == [{"validation": 9.0, "mean_recall": 20.0, "learning_rate": 1e-3}]


@pytest.mark.slow
@pytest.mark.parametrize("tuning", ["UU", "uU"])
def test_a_pretrained_batch_norm_keeps_its_averages(study, tuning, tmp_path):
    stamps = study("stamps")
    args = arguments(study("runner"), tmp_path)
    args.batch_size, args.rounds, args.tags = 4, 1, 0.5
    layers = [keras.layers.Input([8, 8, 3]), keras.layers.BatchNormalization()]
    image_tower = keras_lit.ImageTower(
        keras.Sequential([*layers, keras.layers.Conv2D(4, 3)]),
        preprocessor=keras_lit.preprocessing.ImagePreprocessor(8),
    )
    captions = np.array([f"picture number {i}" for i in range(8)])
    tokenizer = keras_lit.tokenizers.train_sentencepiece(captions, 24)
    text_tower = keras_lit.TextTower(
        keras_lit.backbones.TextTransformer(24, 8, 4, 1, 8, 1), tokenizer, 8
    )
    pixels = np.random.default_rng(0).normal(3.0, 1.0, [8, 8, 8, 3]).astype("float32")
    data = types.SimpleNamespace(
        train={"pixels": pixels, "text": captions, "tagged": captions},
        parts=lambda seed: (np.arange(8), np.arange(0)),
    )

    def mean(model):
        return {"mean": float(model.image_tower.backbone.layers[0].moving_mean.numpy()[0])}

    before = image_tower.get_weights() + text_tower.get_weights()
    curve = stamps.tune(data, image_tower, text_tower, tuning, 0, 1e-3, args, mean)
    for kept, weight in zip(
        before, image_tower.get_weights() + text_tower.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(weight, kept)
    assert curve[0]["mean"] == 0.0
    assert (curve[-1]["mean"] == 0.0) == (tuning == "UU")


@pytest.mark.slow
def test_a_student_with_a_teacher_and_alone(study, tmp_path, monkeypatch):
    distillation, few_pairs = study("distillation"), study("few_pairs")
    rng, count = np.random.default_rng(0), 12
    part = {
        "features": rng.normal(size=[count, 6]).astype("float32"),
        "text_features": rng.normal(size=[count, 2, 5]).astype("float32"),
        "text": np.array([f"picture number {i}" for i in range(count)]),
        "group": np.arange(count),
    }
    data = types.SimpleNamespace(parts=dict.fromkeys(few_pairs.SPLITS, part))
    towers = keras_lit.ImageTower.from_features(6), keras_lit.TextTower.from_features(5)
    teacher = keras_lit.LiT(*towers, "LL")
    monkeypatch.setattr(few_pairs, "closed_form", lambda *_: teacher)
    args = arguments(study("runner"), tmp_path)
    args.batch_size, args.learning_rate, args.epochs = 6, 1e-3, 1
    found = [distillation.train(data, args, x, 0)[-1] for x in ("alone", "weight 0.5")]
    assert [x["pairs"] for x in found] == [12, 12]
    assert found[0]["parameters"] == found[1]["parameters"]
    assert all(0 <= x["mean_recall"] <= 100 for x in found)


def test_between_align_and_fit_validation_chooses(study, monkeypatch):
    """One alpha for all seeds: where the mean of their validations is best."""
    few_pairs = study("few_pairs")
    towers = keras_lit.ImageTower.from_features(3), keras_lit.TextTower.from_features(2)
    before = keras_lit.LiT(*towers, "LL")
    after = keras_lit.soup([before])
    after.text_tower.head.bias.assign([1] * 3)
    # Best where the bias is what the split says.
    monkeypatch.setattr(
        few_pairs, "recall", lambda m, part: 50 - abs(float(m.text_tower.head.bias[0]) - part)
    )
    results = []
    for validation, test in ((0.2, 0.8), (0.3, 0.6), (0.9, 0.7)):
        data = types.SimpleNamespace(parts={"validation": validation, "test": test})
        curve = [*few_pairs.along(before, after, data), {}]
        assert [x["alpha"] for x in curve[:-1]] == pytest.approx(np.arange(11) / 10)
        results.append({"variant": "align, fit of 9", "seed": len(results), "curve": curve})
    results.append({"variant": "CCA of 9", "seed": 0, "curve": [{}]})
    found = few_pairs.between(results)
    assert found["alpha"] == {"align, fit of 9": (pytest.approx(0.3), 0.0)}
    # The distances are 0.5, 0.3 and 0.4.
    assert found["between"] == {"align, fit of 9": pytest.approx((49.6, 0.1))}


@pytest.mark.slow
def test_middle_ways(study, tmp_path, monkeypatch):
    middle, runner, rng = study("middle_ways"), study("runner"), np.random.default_rng(0)
    part = {
        "features": rng.normal(size=[24, 6]).astype("float32"),
        "text": np.array([f"picture {i}" for i in range(24)]),
        "style": np.arange(24) % 4,
    }
    domain, emoji = middle.by_style(part)
    assert domain["style"].tolist() == [0, 3] * 6 and emoji["text"][1] == "picture 2"
    parts = {name: domain for name in middle.SPLITS} | {"train": part}
    parts |= {f"{name} emoji": emoji for name in middle.SPLITS}

    def tower(tokens):
        tokenizer = keras_lit.tokenizers.train_wordpiece(part["text"], 40)
        bert = keras_nlp.models.BertBackbone(tokenizer.vocabulary_size(), 2, 1, 8, 8, dropout=0)
        return keras_lit.TextTower(bert, tokenizer, tokens, "mean")

    monkeypatch.setattr(study("stamps"), "lower_half_of_minilm", tower)
    args = arguments(runner, tmp_path, "--seeds", "1")
    args.batch_size, args.epochs = 12, 1
    with pytest.raises(FileNotFoundError, match="the variant LU writes it"):
        middle.train(parts, args, "WiSE", 0)
    names = ("start", "LoRA, rank 8", "LU", "WiSE")
    train = functools.partial(middle.train, parts, args)
    found = {x["variant"]: x["curve"] for x in runner.run("middle_ways", args, names, train)}
    start, lora, lu = (found[name][-1] for name in names[:3])
    assert start["share"] == 0 < lora["share"] < 50 < lu["share"] <= 100
    assert 0 < lora["adapters_mb"] < lu["adapters_mb"]
    along = {x["alpha"]: x for x in found["WiSE"]}
    for name in ("trained", "emoji"):
        assert along[0.0][name] == pytest.approx(start[name])
        assert along[1.0][name] == pytest.approx(lu[name])
    results = [{"variant": k, "seed": 0, "curve": v, "seconds": 1} for k, v in found.items()]
    assert "WiSE at alpha" in middle.report(args, results)


STUDIES = {
    "design_choices": "--image-size 32 --rounds 1 --variants LU",
    "why_locked": "--image-size 32 --rounds 1 --variants LU --emoji 70",
    "batch_size": "--image-size 64 --variants local_256/2",
    "text_towers": "--image-size 64 --variants BERT,_SentencePiece",
    "sequence_length": "--image-size 64 --variants 4_tokens",
    "image_towers": "--variants Lite0,_64_px",
    "filters": "--image-size 64 --variants no_twins --similarity 0.98",
    "unlocking": "--image-size 32 --variants two_cycles",
    "ask_in_your_language": "--variants sentence_encoder,_English",
    "languages": "--epochs 2 --batch-size 16 --at-least 120 --variants English_only",
}


def run(study, name, line, tmp_path, monkeypatch, *paths):
    module = study(name)
    if name in ("batch_size", "filters", "image_towers", "text_towers"):
        monkeypatch.setattr(module, "LEARNING_RATES", (1e-3,))
    words = [word.replace("_", " ") for word in line.split()]
    paths = [str(path) for path in (*paths, "--output", tmp_path)]
    monkeypatch.setattr(sys, "argv", [name, *words, *paths])
    module.main()
    return json.loads((tmp_path / f"{name}.json").read_text())["results"]


@pytest.fixture(scope="module")
def once():
    """Functions by name, each of which works once for the same arguments."""
    functions = {}
    yield lambda name, function: functions.setdefault(name, functools.cache(function))
    functions.clear()


def small_lite0(image_size=64, **options):
    """As wide as it is needless to be; with batch norm, as the pretrained one."""
    layers = [keras.Input([image_size, image_size, 3]), keras.layers.Conv2D(32, 8, strides=8)]
    backbone = keras.Sequential([*layers, keras.layers.BatchNormalization()])
    preprocessor = keras_lit.preprocessing.ImagePreprocessor(image_size, **options)
    return keras_lit.ImageTower(backbone, preprocessor=preprocessor)


def small_minilm():
    """Its tokenizer is the pretrained one's; half of its layers is one."""
    words = keras_lit.demo.minilm_tokenizer().vocabulary_size()
    return keras_nlp.models.BertBackbone(words, 2, 2, 16, 32)


def small_sentence_encoder(sequence_length=16):
    captions = ["a cat", "ein Hund", "una casa", "кот", "猫"]
    tokenizer = keras_lit.tokenizers.train_sentencepiece(captions, 24)
    backbone = keras_lit.backbones.UniversalSentenceEncoder(24, 16, 8, 8, 16)
    return keras_lit.TextTower(backbone, tokenizer, sequence_length)


@pytest.fixture
def read_once(once, study, monkeypatch):
    """All studies share towers (they put weights back) and stamps (they only read them).

    Nothing that is asserted depends on what was pretrained, so that small towers stand in for it.
    """
    original, demo = study("stamps").Stamps, keras_lit.demo

    def read(data_dir, limit, *given):
        return original(types.SimpleNamespace(data_dir=data_dir, limit=limit), *given)

    class Stamps(original):
        def __init__(self, args, image_tower, pixels=True):
            known = once("stamps", read)(args.data_dir, args.limit, image_tower, pixels)
            vars(self).update(vars(known))

    lite0 = once("lite0", small_lite0)
    monkeypatch.setattr(demo, "efficientnet_lite0", lite0)
    monkeypatch.setattr(demo.pretrained, "efficientnet_lite0", lite0)
    monkeypatch.setattr(demo, "minilm_backbone", once("minilm", small_minilm))
    monkeypatch.setattr(demo, "universal_sentence_encoder", small_sentence_encoder)
    monkeypatch.setattr(study("text_towers"), "LAYERS", 1)
    monkeypatch.setattr(study("text_towers"), "WIDTH", 24)
    monkeypatch.setattr(study("stamps"), "Stamps", Stamps)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs(study, name, stamps, read_once, tmp_path, monkeypatch, capsys):
    epochs = "" if name == "ask_in_your_language" else "--epochs 1 "  # in closed form
    small = f"--limit 60 --seeds 1 {epochs}{STUDIES[name]}"
    data_dir = stamps.data_path.parents[1]
    results = run(study, name, small, tmp_path, monkeypatch, "--data-dir", data_dir)
    words = STUDIES[name].replace("_", " ")
    assert results and all(result["variant"] in words for result in results)
    for point in results[0]["curve"]:
        assert all(value == value for value in point.values())
    assert f"| {results[0]['variant']} | " in capsys.readouterr().out
    assert (tmp_path / f"{name}.png").stat().st_size > 1000


FULL = {
    "text_towers": "--variants BERT,_WordPiece",
    "unlocking": "--variants two_cycles",
}


def run_full(study, name, line, photos, tmp_path, monkeypatch):
    """A recipe of the paper on a folder, with presets that are small."""
    image = keras_nlp.models.ViTBackbone((32, 32, 3), 16, 1, 2, 16, 16)
    image.save_to_preset(str(tmp_path / "image"))
    sizes = {"Ti": (16, 1, 32, 2)}
    monkeypatch.setattr(keras_lit.backbones.text_transformer, "SIZES", sizes)
    line += " --full yfcc --test-split train --text-size Ti --global-batch 16 --steps 2"
    paths = ("--dataset", photos, "--backbone", tmp_path / "image")
    return run(study, name, line + " --rounds 1 --seeds 1", tmp_path, monkeypatch, *paths)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_a_study_at_full_size(study, name, photos, tmp_path, monkeypatch):
    """One that changes the recipe and the text tower, one the optimizer and what trains."""
    (result,) = run_full(study, name, FULL[name], photos, tmp_path, monkeypatch)
    curve = result["curve"]
    assert [point["pairs"] for point in curve] == [0, 32]
    assert curve[1]["image_to_text"] > 0 and 0 < curve[1]["test_loss"] < 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("design_choices", "--variants uu", {"uu": {"tuning": "uu"}}),
        ("why_locked", "--variants uU", {"uU": {"tuning": "uU"}}),
        (
            "batch_size",
            "--variants local_16",
            {"local 16": {"changes": {"batch_size": 16, "steps": 2}, "local_loss": True}},
        ),
        ("filters", "--variants ALIGN's_length", {"ALIGN's length": {"keep": [False, True]}}),
        (
            "sequence_length",
            "--variants 32_tokens",
            {"32 tokens": {"changes": {"sequence_length": 32}}},
        ),
        (
            "image_towers",
            "",
            {
                "{image}": {"backbone": "{image}", "changes": {"image_head": False}},
                "{image}, head": {"backbone": "{image}", "changes": {"image_head": True}},
            },
        ),
    ],
)
def test_variants_of_a_study_at_full_size(
    study, name, line, expected, photos, tmp_path, monkeypatch
):
    """Which options they train with; of a rule, what it says of two words and of four."""
    given = []
    if name == "batch_size":
        monkeypatch.setattr(study(name), "FULL_BATCHES", (16,))
    point = {"pairs": 0, "image_to_text": 1.0, "text_to_image": 2.0, "test_loss": 3.0}

    def tune(seed, args, **options):
        given.append(options)
        return [point]

    monkeypatch.setattr(study("full"), "tune", tune)
    results = run_full(study, name, line, photos, tmp_path, monkeypatch)
    found = {r["variant"]: options for r, options in zip(results, given, strict=True)}
    image = str(tmp_path / "image")
    texts = [{"text": tf.constant(text)} for text in ("a dog", "a dog in snow")]
    found = json.dumps(found, default=lambda keep: [bool(keep(text)) for text in texts])
    assert found.replace(image, "{image}") == json.dumps(expected)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "crop", "flip"), [("yfcc", True, False), ("coco", False, True)])
def test_crops_and_head_of_a_recipe_at_full_size(
    study, name, crop, flip, photos, tmp_path, monkeypatch
):
    models = []
    monkeypatch.setattr(keras_lit.LiT, "fit", lambda self, *_, **__: models.append(self))
    image = keras_nlp.models.ViTBackbone((32, 32, 3), 16, 1, 2, 16, 16)
    image.save_to_preset(str(tmp_path))
    monkeypatch.setattr(keras_lit.backbones.text_transformer, "SIZES", {"Ti": (16, 1, 32, 2)})
    line = f"--full {name} --dataset {photos} --test-split train --backbone {tmp_path}"
    line += " --text-size Ti --global-batch 16 --steps 2 --rounds 1"
    full = study("full")
    full.tune(0, full.parser("A study.", rounds=1).parse_args(line.split()))
    tower = models[0].image_tower
    assert tower.preprocessor.image_size == (32, 32)
    assert tower.preprocessor.random_crop == ((0.05, 1.0) if crop else None)
    assert tower.preprocessor.random_flip == flip
    assert (tower.head is not None) == (name == "yfcc")


@pytest.mark.slow
def test_a_filter_of_a_study_at_full_size_drops_pairs(study, photos, tmp_path, monkeypatch):
    """All captions have more than three words."""
    line = "--variants 3_words_at_most"
    with pytest.raises(ValueError, match="There are no captions"):
        run_full(study, "filters", line, photos, tmp_path, monkeypatch)


@pytest.mark.parametrize("text", ["transformer", "bert"])
def test_changes_of_a_recipe_at_full_size(study, text, photos, monkeypatch):
    full = study("full")
    monkeypatch.setattr(keras_lit.backbones.text_transformer, "SIZES", {"Ti": (16, 1, 32, 2)})
    line = "--full yfcc --text-size Ti --global-batch 16 --steps 120"
    args = full.parser("A study.").parse_args(line.split())
    recipe = full.recipe_of(args, sequence_length=5, text=text)
    paper = keras_lit.recipes.get("yfcc")
    assert (recipe.batch_size, recipe.steps) == (16, 120)
    assert recipe.warmup_steps == round(120 * paper.warmup_steps / paper.steps)
    pairs = keras_lit.data.image_text_pairs(str(photos), "train")
    tower = full._text_tower(recipe, args, pairs)
    assert tower.preprocessor(["a red picture"]).shape == (1, 5)


def test_twins_of_the_filters_study(study):
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=[60, 64]), rng.normal(size=[20, 64])
    test[0], train[7] = train[3], train[5]
    data = types.SimpleNamespace(
        train={"features": train, "text": ["one", "a b c d"] * 30}, test={"features": test}
    )
    filters = study("filters")
    dropped = {
        variant: np.flatnonzero(~filters.kept(variant, data, 0.9)).tolist()
        for variant in filters.VARIANTS
    }
    assert dropped == {
        "all": [],
        "no twins": [3],
        "no twins, train and test": [3, 7],
        "ALIGN's length": list(range(0, 60, 2)),
        "3 words at most": list(range(1, 60, 2)),
    }


def test_recalls_of_short_embeddings(study):
    short = study("short_embeddings")
    rows = np.random.default_rng(0).normal(size=[12, 8]).astype("float32")
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = short.answers(rows, rows[::-1], "int8")
    assert found.shape == (12, 10) and found[:, 0].tolist() == list(range(12))[::-1]
    captions, wanted = np.array([*"abcdefghijkl"]), np.array(["c", "l"])
    # Of one query the 5 best have it, not the first; of the other none of the 10.
    places = np.array([[0, 2, *range(3, 11)], range(10)])
    assert short.recall(places, captions, wanted) == pytest.approx(100 * (0 + 0.5 + 0.5) / 3)
    assert [short.BYTES[dtype](100) for dtype in ("float32", "int8", "binary")] == [400, 104, 16]


def test_the_schedules_of_the_unlocking_study(study):
    unlocking = study("unlocking")
    total = 40
    at = {}
    for variant in unlocking.VARIANTS:
        found = unlocking.schedules(variant, total).get("image_multiplier", 1.0)
        at[variant] = [float(found(s)) if callable(found) else found for s in (0, 19, 20, 39)]
    assert at["delay"] == [0, 0, 1, 1] and at["slow"] == [0.1] * 4
    assert at["delay and slow"] == pytest.approx([0, 0, 0.1, 0.1])
    assert at["sigmoid"][0] < 0.01 and at["sigmoid"][2] == pytest.approx(0.5)
    assert at["two cycles"] == [0, 0, 1, 1] and at["UU"] == [1.0] * 4
    rate = unlocking.schedules("two cycles", total, 3e-4)["learning_rate"]
    assert float(rate(2)) == pytest.approx(3e-4)
    rate = unlocking.schedules("two cycles", total)["learning_rate"]
    assert float(rate(2)) == pytest.approx(float(rate(22))) == unlocking.LEARNING_RATE
