"""What `precompute` writes, how it goes on, and what it refuses."""

import json
import re
import shutil
import subprocess
import time

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

import keras_lit
from keras_lit.features import feature_rows, precomputing
from keras_lit.preprocessing import ImagePreprocessor, TextPreprocessor
from tests import small
from tests.faults import faults
from tests.small import encoded_pairs, files, make_tower, mirrored, precompute


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """All shards are there, but not the manifest."""
    directory = tmp_path_factory.mktemp("unfinished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras_lit.features.tfrecords, "finish", lambda *args: None)
        precompute(directory)
    return directory


def test_tensorflow_datasets_reads_it(whole):
    rows = list(tfds.builder_from_directory(whole).as_dataset(split="train").as_numpy_iterator())
    assert [row["text"].decode() for row in rows] == [f"caption number {i}" for i in range(22)]
    features = np.stack([row["image_features"] for row in rows])
    assert features.dtype == np.float16
    np.testing.assert_allclose(features, small.expected_features(make_tower()), atol=2e-3)


@pytest.mark.parametrize("replicas", [1, 2])
def test_weights_are_cast_once_where_layers_compute_in_16_bits(replicas):
    """The same bits as when each batch casts them; norms and float32 layers keep theirs."""
    pixels = np.random.default_rng(0).normal(size=[4, 8, 8, 3]).astype("float32")
    keras.utils.set_random_seed(0)
    strategy = mirrored(replicas) if replicas > 1 else tf.distribute.get_strategy()
    with strategy.scope():
        layers = [
            keras.Input([8, 8, 3]),
            keras.layers.Conv2D(5, 3, dtype="mixed_bfloat16"),
            keras.layers.BatchNormalization(dtype="mixed_bfloat16"),
            keras.layers.Conv2D(4, 3, dtype="float32"),
            keras.layers.LayerNormalization(dtype="mixed_bfloat16"),
        ]
        tower = keras_lit.ImageTower(
            keras.Sequential(layers), preprocessor=ImagePreprocessor(8), projection_dim=3
        )
        for weight in tower.weights:
            weight.assign(weight + np.random.default_rng(1).uniform(0, 1, weight.shape))
        before = tower.get_weights()
        expected = tf.function(tower.features)(pixels).numpy()
        found = feature_rows.encoder(tower, 4)(pixels)
        cast = [weight for weight, _ in feature_rows._weights_in_compute_dtype(tower)]
    np.testing.assert_array_equal(found, expected.astype("float32"))
    for weight, old in zip(tower.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert [weight.path for weight in cast] == [weight.path for weight in layers[1].weights]


def test_rows_keep_their_order_whatever_the_options_say(tmp_path, monkeypatch):
    """In any order each shard of an interrupted run, or of a job, would hold any rows."""
    monkeypatch.setattr(tf.data.Dataset, "_apply_debug_options", lambda self: self)  # conftest's
    options = tf.data.Options()
    options.deterministic, options.threading.private_threadpool_size = False, 4

    def slow(i, pair):
        wait = lambda i: time.sleep(0.3 if i % 4 == 0 else 0)  # noqa: E731
        with tf.control_dependencies([tf.numpy_function(wait, [i], [])]):
            return {**pair, "text": tf.strings.join(["caption number ", tf.strings.as_string(i)])}

    dataset = encoded_pairs().enumerate().map(slow, num_parallel_calls=4).with_options(options)
    before = [row["text"].numpy().decode() for row in dataset]
    assert before != [f"caption number {i}" for i in range(22)]
    keras_lit.features.precompute(make_tower(), dataset, tmp_path, verbose=0)
    rows = keras_lit.features.load(tmp_path)
    found = [row["text"].numpy().decode() for row in rows]
    assert found == [f"caption number {i}" for i in range(22)]


def test_manifest(whole):
    manifest = keras_lit.features.manifest(whole)
    assert [shard["pairs"] for shard in manifest["shards"]] == small.SIZES
    assert manifest["pairs"] == 22 and manifest["skipped"] == []
    assert manifest["plan"]["tower"] == keras_lit.fingerprints.fingerprint(make_tower())
    files = [whole / shard["file"] for shard in manifest["shards"]]
    assert manifest["bytes"] == sum(path.stat().st_size for path in files)
    for shard in manifest["shards"]:
        command = ["sha256sum", whole / shard["file"]]
        printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert printed.split()[0] == shard["sha256"]


@pytest.mark.slow
def test_float32_is_exact_and_any_field_is_kept(tmp_path):
    fields = {
        "id": np.arange(22),
        "box": np.arange(88).reshape(22, 4) / 7,  # 64 bits that 32 cannot hold.
        "time": 1.7e9 + np.arange(22) / 7,
        "tags": np.array([["a", "b"]] * 22),
        "name": [f"{i}.png" for i in range(22)],
    }
    precompute(tmp_path, pairs=encoded_pairs(**fields), dtype="float32")
    rows = list(keras_lit.features.load(tmp_path).as_numpy_iterator())
    np.testing.assert_allclose(
        [row["image_features"] for row in rows], small.expected_features(make_tower()), rtol=1e-5
    )
    for name in ("box", "time"):
        np.testing.assert_array_equal([row[name] for row in rows], fields[name])
    assert all(row["tags"].tolist() == [b"a", b"b"] for row in rows)
    assert [row["id"] for row in rows] == list(range(22))
    assert [row["name"].decode() for row in rows] == fields["name"]


def test_pixels_give_what_files_give(tmp_path, whole):
    raw = {"image": small.make_pixels(), "text": [f"caption number {i}" for i in range(22)]}
    precompute(tmp_path, pairs=tf.data.Dataset.from_tensor_slices(raw))
    for name in (f"features-train.tfrecord-0000{i}-of-00003" for i in range(3)):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.slow
def test_goes_on_after_each_interruption(tmp_path, whole, monkeypatch):
    """Each shard that is finished is kept as it is; the rest comes out the same."""
    write = keras_lit.features.tfrecords.write

    def interrupted(rows):
        yield next(rows)
        raise KeyboardInterrupt

    for after in (0, 2):

        def fail(directory, plan, shard, rows, notes, after=after):
            if shard == after:
                rows = interrupted(rows)
            write(directory, plan, shard, rows, notes)

        with monkeypatch.context() as patch:
            patch.setattr(keras_lit.features.tfrecords, "write", fail)
            with pytest.raises(KeyboardInterrupt):
                precompute(tmp_path)
        with pytest.raises(FileNotFoundError, match=f"not finished: {after} shards are"):
            keras_lit.features.load(tmp_path)
        times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("features-*")}
        assert len(times) == after
    precompute(tmp_path)
    assert files(tmp_path) == files(whole)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


@pytest.mark.slow
def test_a_lost_shard_is_written_again(tmp_path, whole, unfinished):
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "features-train.tfrecord-00001-of-00003").unlink()
    precompute(tmp_path)
    assert files(tmp_path) == files(whole)


@pytest.mark.slow
def test_a_shard_that_was_cut_off_is_written_again(tmp_path, whole, unfinished):
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    with open(tmp_path / "features-train.tfrecord-00001-of-00003", "r+b") as file:
        file.truncate(100)
    precompute(tmp_path)
    assert files(tmp_path) == files(whole)


@pytest.mark.parametrize(("batch", "shards", "pairs"), [(4, 3, 22), (1, 7, 7), (5, 2, 11)])
def test_each_pair_belongs_to_the_shard_whose_bounds_hold_it(batch, shards, pairs):
    plan = {"batch_size": batch, "shards": shards, "pairs": pairs}
    for number in range(pairs):
        start, stop = precomputing.bounds(plan, precomputing.shard_of(plan, number))
        assert start <= number < stop


def test_a_finished_one_does_nothing(whole, monkeypatch, capsys):
    monkeypatch.delattr(keras_lit.features.tfrecords, "write")
    assert precompute(whole) == keras_lit.features.manifest(whole)
    assert capsys.readouterr().out == ""
    keras_lit.features.precompute(make_tower(), encoded_pairs(), whole, small.BATCH, small.SHARDS)
    assert "22 pairs of 'train' from before. Of the data only" in capsys.readouterr().out


@pytest.mark.parametrize("directory", ["whole", "unfinished"])
@pytest.mark.parametrize(
    ("difference", "changed"),
    [
        ("tower.weights: expected", {"tower": lambda: make_tower(seed=2)}),
        ("tower.architecture: expected", {"tower": lambda: make_tower(strides=1)}),
        (
            "tower.preprocessing: expected",
            {"tower": lambda: make_tower(preprocessor=ImagePreprocessor(8, resize="pad"))},
        ),
        (
            "tower.compute_dtype: .*'float32', .*bfloat16",
            {"tower": lambda: make_tower(dtype="mixed_bfloat16")},
        ),
        ("pairs: expected 22, received 21", {"pairs": lambda: encoded_pairs(21)}),
        (
            "first_input: ",
            {"pairs": lambda: encoded_pairs().skip(1).concatenate(encoded_pairs().take(1))},
        ),
        ("fields.id: ", {"pairs": lambda: encoded_pairs(id=np.arange(22))}),
        ("batch_size: expected 4, received 5", {"batch_size": lambda: 5}),
        ("shards: expected 3, received 2", {"shards": lambda: 2}),
        ("dtype: expected 'float16'", {"dtype": lambda: "float32"}),
    ],
)
def test_another_plan_is_refused(directory, difference, changed, request):
    directory = request.getfixturevalue(directory)
    before = files(directory)
    with pytest.raises(ValueError, match=f"another tower, dataset.*{difference}"):
        precompute(directory, **{name: make() for name, make in changed.items()})
    assert files(directory) == before


@pytest.mark.slow
def test_another_order_is_found_when_it_goes_on(tmp_path, monkeypatch):
    """The first pair and the number are the same, the pair before the resumed shard is not."""
    write = keras_lit.features.tfrecords.write

    def stop(directory, plan, shard, rows, notes):
        if shard == 1:
            raise KeyboardInterrupt
        write(directory, plan, shard, rows, notes)

    with monkeypatch.context() as patch:
        patch.setattr(keras_lit.features.tfrecords, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            precompute(tmp_path)
    before = files(tmp_path)
    pairs = encoded_pairs()
    swapped = pairs.take(7).concatenate(pairs.skip(8)).concatenate(pairs.skip(7).take(1))
    with pytest.raises(ValueError, match="Pair 7 of the dataset differs .*a shuffle needs a seed"):
        precompute(tmp_path, pairs=swapped)
    assert files(tmp_path) == before


@pytest.mark.slow
def test_unknown_length(tmp_path, whole, monkeypatch):
    pairs = encoded_pairs().filter(lambda pair: True)
    precompute(tmp_path, pairs=pairs)
    assert files(tmp_path) == files(whole)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "what"), [(21, "fewer"), (23, "more")])
def test_another_unknown_length(tmp_path, unfinished, count, what):
    """The number is taken from the plan; a dataset that has changed since is refused."""
    shutil.copytree(unfinished, tmp_path, dirs_exist_ok=True)
    (tmp_path / "features-train.tfrecord-00002-of-00003").unlink()
    with pytest.raises(ValueError, match=f"should hold 22 pairs.* holds {what}"):
        precompute(tmp_path, pairs=encoded_pairs(count).filter(lambda pair: True))


@pytest.mark.slow
def test_bad_images(tmp_path):
    names = [f"{i}.png" for i in range(22)]
    pairs = encoded_pairs(bad=(5, 20), name=names)
    with pytest.raises(
        ValueError, match=r"Image 5 \(5.png\) does not decode: .*skip_bad_images=True"
    ):
        precompute(tmp_path, pairs=pairs)
    manifest = precompute(tmp_path, pairs=pairs, skip_bad_images=True)
    assert manifest["pairs"] == 20
    assert [bad["index"] for bad in manifest["skipped"]] == [5, 20]
    assert [bad["name"] for bad in manifest["skipped"]] == ["5.png", "20.png"]
    assert all(bad["reason"].endswith("(20 bytes)") for bad in manifest["skipped"])
    rows = list(keras_lit.features.load(tmp_path).as_numpy_iterator())
    assert [row["name"].decode() for row in rows] == [
        n for n in names if n not in ("5.png", "20.png")
    ]
    good = np.delete(small.expected_features(make_tower()), [5, 20], axis=0)
    np.testing.assert_allclose([row["image_features"] for row in rows], good, atol=2e-3)


@pytest.mark.slow
def test_nothing_but_bad_images(tmp_path):
    with pytest.raises(ValueError, match="No pair is left: all 22 images were skipped"):
        precompute(tmp_path, pairs=encoded_pairs(bad=range(22)), skip_bad_images=True)


@pytest.mark.slow
def test_features_that_do_not_fit(tmp_path):
    tower = make_tower()
    kernel = tower.backbone.layers[0].kernel
    kernel.assign(kernel * 1e7)
    with pytest.raises(ValueError, match='finite numbers of float16.*image 0.*dtype="float32"'):
        precompute(tmp_path, tower)
    assert precompute(tmp_path / "float32", tower, dtype="float32")["pairs"] == 22
    kernel.assign(kernel * np.nan)
    with pytest.raises(ValueError, match="finite numbers of float32"):
        precompute(tmp_path / "nan", tower, dtype="float32")


@pytest.mark.slow
def test_splits_share_a_directory(tmp_path, whole):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    precompute(tmp_path, pairs=encoded_pairs(9), split="validation", shards=1)
    builder = tfds.builder_from_directory(tmp_path)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 22,
        "validation": 9,
    }
    assert len(list(keras_lit.features.load(tmp_path, "validation"))) == 9
    with pytest.raises(FileNotFoundError, match="no features of split 'test'.*train, validation"):
        keras_lit.features.load(tmp_path, "test")
    with pytest.raises(ValueError, match="another tower.*tower.weights"):
        precompute(tmp_path, make_tower(seed=2), split="test")
    with pytest.raises(ValueError, match="another tower.*dtype: expected 'float16'"):
        precompute(tmp_path, split="test", dtype="float32")
    with pytest.raises(ValueError, match="another tower.*fields.id: "):
        precompute(tmp_path, split="test", pairs=encoded_pairs(id=np.arange(22)))


@pytest.mark.parametrize(("batch_size", "shards"), [(4, 6), (1, 16)])
def test_default_shards_are_16_or_the_batches(batch_size, shards, tmp_path):
    plan, finished = precomputing.begin(make_tower(), encoded_pairs(), tmp_path, batch_size)
    assert plan["shards"] == shards and finished is None


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="`shards` should be at most 6, the number of batches"):
        precompute(tmp_path, shards=7)
    with pytest.raises(ValueError, match="should not be batched.*unbatch"):
        precompute(tmp_path, pairs=encoded_pairs().batch(2))
    with pytest.raises(ValueError, match="infinite"):
        precompute(tmp_path, pairs=encoded_pairs().repeat())
    with pytest.raises(ValueError, match="dataset of pairs is empty"):
        precompute(tmp_path, pairs=encoded_pairs().take(0))
    with pytest.raises(ValueError, match=r'tf.data.Dataset of dicts \{"image"'):
        precompute(tmp_path, pairs=[1, 2])
    with pytest.raises(ValueError, match="'dtype' should be one of|`dtype` should be one of"):
        precompute(tmp_path, dtype="int8")
    with pytest.raises(ValueError, match="`views` need raw images"):
        precompute(tmp_path, views=2)
    with pytest.raises(ValueError, match="field called 'token_ids' .* cannot be stored"):
        precompute(tmp_path, pairs=encoded_pairs(token_ids=np.arange(22)))
    kept = {
        "fingerprint": np.arange(22),
        "text_features": np.ones([22, 2]),
        "odd": np.ones(22) * 1j,
    }
    for name, values in kept.items():
        with pytest.raises(ValueError, match=f"field called '{name}' .* cannot be stored"):
            precompute(tmp_path, pairs=encoded_pairs(**{name: values}))
    with pytest.raises(ValueError, match=r"'none' should have a fixed shape.*\(0,\)"):
        precompute(tmp_path, pairs=encoded_pairs(none=np.zeros([22, 0])))
    with pytest.raises(ValueError, match="field 'box' should have a fixed shape"):
        boxes = encoded_pairs().map(
            lambda pair: {**pair, "box": tf.zeros(tf.strings.length(pair["text"]))}
        )
        precompute(tmp_path, pairs=boxes)
    assert not list(tmp_path.iterdir())


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        precompute(tmp_path / "file" / "features")


@pytest.mark.slow
def test_disk_full(tmp_path):
    """A limit on the size of files stands in for a full disk; afterwards the run goes on."""
    tower = make_tower(filters=100)
    precompute(tmp_path / "whole", tower)
    pairs = encoded_pairs()
    error = faults.limited(1800, lambda: precompute(tmp_path / "full", tower, pairs))
    message = r"Could not write '.*00000-of-00003': .*run again with the same arguments"
    assert isinstance(error, OSError) and re.search(message, str(error))
    precompute(tmp_path / "full", tower)
    assert files(tmp_path / "full") == files(tmp_path / "whole")


@pytest.mark.slow
def test_views(tmp_path):
    """Each view is the tower's feature of a random crop, not the same twice; a rerun repeats it."""
    preprocessor = ImagePreprocessor(8, random_crop=(0.2, 0.5), random_flip=True)
    for name in "ab":
        precompute(tmp_path / name, make_tower(preprocessor=preprocessor), views=3, dtype="float32")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    views = [
        np.stack([row["image_features"] for row in keras_lit.features.load(tmp_path / "a", view=i)])
        for i in range(3)
    ]
    plain = small.expected_features(make_tower())
    for i in range(3):
        assert np.abs(views[i] - plain).max(axis=1).min() > 1e-4
        assert np.abs(views[i] - views[i - 1]).max(axis=1).min() > 1e-4
        # A crop still shows something of the image.
    random = keras_lit.features.load(tmp_path / "a", seed=1)
    epochs = [np.stack([row["image_features"] for row in random]) for _ in range(2)]
    for epoch in epochs:
        assert all(any((row == views[v][i]).all() for v in range(3)) for i, row in enumerate(epoch))
    assert (epochs[0] != epochs[1]).any()
    again = keras_lit.features.load(tmp_path / "a", seed=1)
    np.testing.assert_array_equal([row["image_features"] for row in again], epochs[0])


def test_each_view_of_each_image_has_a_crop_of_its_own(tmp_path):
    """Of one image six times, by one seed and by another; other crops are refused."""
    pixels = np.repeat(small.make_pixels(1), 6, axis=0)
    pairs = tf.data.Dataset.from_tensor_slices({"image": pixels, "text": ["a"] * 6})
    options = {"pairs": pairs, "views": 2, "shards": 1, "dtype": "float32"}
    tower = make_tower(preprocessor=ImagePreprocessor(8, random_crop=(0.2, 0.5)))
    features = []
    for seed in range(2):
        precompute(tmp_path / f"{seed}", tower, seed=seed, **options)
        for view in range(2):
            rows = keras_lit.features.load(tmp_path / f"{seed}", view=view)
            features += [row["image_features"].numpy() for row in rows]
    assert len(np.unique(features, axis=0)) == len(features) == 24
    other = make_tower(preprocessor=ImagePreprocessor(8, random_crop=(0.2, 0.6)))
    with pytest.raises(ValueError, match="another tower.*augmentation.random_crop: "):
        precompute(tmp_path / "0", other, **options)


def test_the_view_is_the_tower_of_a_crop(tmp_path):
    """On images of one colour every crop is the plain image."""
    preprocessor = ImagePreprocessor(8, random_crop=(0.2, 0.5))
    pixels = np.repeat(small.make_pixels()[:, :1, :1], 9, axis=1).repeat(9, axis=2)
    pairs = tf.data.Dataset.from_tensor_slices({"image": pixels, "text": ["a"] * 22})
    tower = make_tower(preprocessor=preprocessor)
    precompute(tmp_path, tower, pairs, views=2, dtype="float32")
    plain = tower.features(tower.preprocessor(pixels)).numpy()
    for view in range(2):
        rows = list(keras_lit.features.load(tmp_path, view=view))
        np.testing.assert_allclose(
            [row["image_features"] for row in rows], plain, rtol=1e-4, atol=1e-6
        )


@pytest.mark.slow
def test_views_and_captions_are_drawn_apart(tmp_path):
    texts = tf.data.Dataset.from_tensor_slices(tf.ragged.constant([["a", "b"]] * 22))
    pairs = tf.data.Dataset.zip(encoded_pairs(), texts)
    pairs = pairs.map(lambda pair, text: {**pair, "text": tf.convert_to_tensor(text)})
    tower = make_tower(preprocessor=ImagePreprocessor(8, random_crop=(0.2, 0.5)))
    precompute(tmp_path, tower, pairs, views=2)
    one = keras_lit.features.load(tmp_path, view=0, captions="first").as_numpy_iterator()
    drawn = keras_lit.features.load(tmp_path, seed=1).as_numpy_iterator()
    found = {
        (np.array_equal(a["image_features"], b["image_features"]), b["text"])
        for a, b in zip(one, drawn, strict=True)
    }
    assert len(found) == 4


@pytest.mark.slow
def test_tokens(tmp_path):
    captions = [f"caption number {i}" for i in range(22)]
    tokenizer = keras_lit.tokenizers.train_wordpiece(captions, 60)
    preprocessor = TextPreprocessor(tokenizer, 7)
    precompute(tmp_path, text_preprocessor=preprocessor)
    rows = list(keras_lit.features.load(tmp_path, text_preprocessor=preprocessor))
    np.testing.assert_array_equal([row["text"] for row in rows], preprocessor(captions))
    rows = list(keras_lit.features.load(tmp_path).as_numpy_iterator())
    assert [row["text"].decode() for row in rows] == captions
    other = TextPreprocessor(keras_lit.tokenizers.train_wordpiece(["another caption"], 40), 7)
    with pytest.raises(ValueError, match="another tokenizer"):
        keras_lit.features.load(tmp_path, text_preprocessor=other)
    with pytest.raises(ValueError, match="another tokenizer or another choice of its options"):
        keras_lit.features.load(
            tmp_path, text_preprocessor=TextPreprocessor(tokenizer, 7, start_token_id=None)
        )
    with pytest.raises(ValueError, match="tokens"):
        precompute(tmp_path)


@pytest.mark.slow
def test_replicas_encode_what_one_device_does(tmp_path):
    """Rows are shared out and put together in order, in a last batch of two too."""
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        tower = make_tower()
        precompute(tmp_path, tower, dtype="float32")
        with pytest.raises(ValueError, match="multiple of the 2 replicas. Received: 3"):
            precompute(tmp_path / "3", tower, batch_size=3)
    rows = list(keras_lit.features.load(tmp_path))
    np.testing.assert_allclose(
        [row["image_features"] for row in rows],
        small.expected_features(make_tower()),
        rtol=1e-4,
        atol=1e-6,
    )


def test_json_is_plain(whole):
    """Data, not programs: nothing in a cache is pickled."""
    for path in whole.glob("*.json"):
        json.loads(path.read_text())
    assert {path.suffix for path in whole.iterdir() if "tfrecord" not in path.name} == {".json"}


def test_a_tower_is_traced_once_for_all_splits():
    traces = []

    class Seen(keras.layers.Layer):
        def call(self, x):
            traces.append(x.shape)
            return x

    tower = keras_lit.ImageTower(keras.Sequential([keras.layers.Conv2D(4, 3, strides=2), Seen()]))
    pixels = np.random.default_rng(0).normal(size=[2, 8, 8, 3]).astype("float32")
    first = feature_rows.encoder(tower, 2)(pixels)
    before = len(traces)
    np.testing.assert_array_equal(feature_rows.encoder(tower, 2)(pixels), first)
    assert len(traces) == before
