"""The examples and benchmarks that no other test runs, on small data, as users call them."""

import collections
import contextlib
import importlib
import io
import json
import pathlib
import runpy
import shlex
import sys
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_lit
from keras_lit.data import image_text_pairs
from tests.small import make_model

EXAMPLES = pathlib.Path(__file__).parent.parent / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("free_memory_after_test")]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(script, arguments) -> what it printed; in this process, in an empty folder."""
    policy = keras.config.dtype_policy()

    def run(script, arguments):
        path = EXAMPLES / script
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(path.parent)
        monkeypatch.setattr(sys, "argv", [str(path), *shlex.split(arguments)])
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            try:
                runpy.run_path(str(path), run_name="__main__")
            except SystemExit as end:
                assert not end.code, end.code
        return printed.getvalue()

    yield run
    keras.config.set_dtype_policy(policy)


@pytest.fixture
def benchmark(run, monkeypatch):
    """As `run`, and a benchmark's cases run in this process too, one after the other."""

    def case(command, **_):
        _, script, *arguments = command
        return types.SimpleNamespace(stdout=run(script, shlex.join(arguments)))

    monkeypatch.syspath_prepend(EXAMPLES / "benchmarks")
    harness = importlib.import_module("harness")
    monkeypatch.setattr(harness, "subprocess", types.SimpleNamespace(run=case))
    return lambda script, arguments: run(f"benchmarks/{script}.py", arguments)


@pytest.fixture
def tiny(monkeypatch):
    """Towers of size Ti are smaller than that."""
    monkeypatch.setitem(keras_lit.backbones.text_transformer.SIZES, "Ti", (32, 2, 64, 2))


@pytest.fixture
def small_pictures(monkeypatch):
    """The pretrained image tower sees 64 pixels, not 224."""
    lite0 = keras_lit.demo.efficientnet_lite0
    monkeypatch.setattr(keras_lit.demo, "efficientnet_lite0", lambda **x: lite0(64, **x))


def test_workers(photos, run, tmp_path, monkeypatch):
    """The command starts itself twice, here with a shell in place of Python.

    What it then does is a job of the workers of test_distribution.py.
    """
    (tmp_path / "python").write_text('#!/bin/sh\n(echo "$@"; echo "$TF_CONFIG") > started.$$\n')
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.delenv("TF_CONFIG", raising=False)
    arguments = f"--workers 2 --dataset {photos}"
    run("train_multiworker.py", arguments)
    lines = [path.read_text().splitlines() for path in tmp_path.glob("started.*")]
    assert [line for line, _ in lines] == [f"{EXAMPLES / 'train_multiworker.py'} {arguments}"] * 2
    first, second = sorted((json.loads(x) for _, x in lines), key=lambda x: x["task"]["index"])
    assert [x["task"] for x in (first, second)] == [{"type": "worker", "index": i} for i in (0, 1)]
    assert first["cluster"] == second["cluster"] and len(set(first["cluster"]["worker"])) == 2
    (tmp_path / "python").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(AssertionError, match="^3"):
        run("train_multiworker.py", arguments)
    trained = []
    example = importlib.import_module("train_multiworker")
    monkeypatch.setattr(example, "train", lambda strategy, args: trained.append(strategy))
    monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", lambda: "of workers")
    monkeypatch.setenv("TF_CONFIG", "{}")
    example.main()
    assert trained == ["of workers"]


@pytest.mark.usefixtures("small_pictures")
def test_multilingual(stamps, tmp_path, monkeypatch):
    """The script runs, with few small pictures and little training; its full run takes long."""
    few = {"train": 240, "test": 120}
    monkeypatch.syspath_prepend(EXAMPLES)
    multilingual = importlib.import_module("multilingual")
    read, known = multilingual.read, ("ar", "de", "en", "es", "ja", "ru", "vi")

    def read_few(data_dir, split, tower):
        found = read(data_dir, split, tower, few[split])
        captions = [{k: x for k, x in each.items() if k in known} for each in found["captions"]]
        return {**found, "captions": captions}

    monkeypatch.setattr(multilingual, "read", read_few)
    arguments = f"--data-dir {stamps.data_path.parents[1]} --output {tmp_path} --at-least 250"
    small = "--layers 0 1 --epochs 8 --width 64 --vocabulary-size 1000 --batch-size 48"
    monkeypatch.setattr(sys, "argv", ["multilingual.py", *shlex.split(f"{arguments} {small}")])
    multilingual.main()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    captions = collections.Counter(
        language.decode()
        for split, count in few.items()
        for stamp in stamps.as_dataset(split=split).take(count).as_numpy_iterator()
        for language in stamp["captions"]["language"]
    )
    often = [language for language in known if captions[language] >= 250]
    assert metrics["recall@10"]["languages"] == len(often) > 3
    # Ten of 120 pictures, or of some fewer with a caption in a language, by chance.
    assert metrics["recall@10"]["mean"] > 1.5 * 100 * 10 / 120
    assert (tmp_path / "languages.png").exists() and (tmp_path / "multilingual.keras").exists()
    for choice in metrics["choices"].values():
        best = max(choice["trials"], key=lambda trial: trial.pop("validation_recall@10"))
        assert len(choice["trials"]) == 2 and best == choice["chosen"]
        assert len({trial["layers"] for trial in choice["trials"]}) == 2


def test_look_at_pictures(photos, run, tmp_path):
    printed = run("look_at_pictures.py", f"{photos} --count 60 --output {tmp_path}/look")
    assert printed.split() == [f"{tmp_path}/look/{number}.png" for number in (0, 1)]
    sheet = tf.io.decode_png((tmp_path / "look" / "0.png").read_bytes(), channels=3).numpy()
    # The captions leave the middle of the first picture to its one colour.
    assert sheet.shape == (1000, 1700, 3) and sheet[70:110, 60:110].std((0, 1)).max() < 40


def test_find_duplicates(photos, run, tmp_path):
    (photos / "even" / "copy.png").write_bytes((photos / "odd" / "1.png").read_bytes())
    with (photos / "captions.csv").open("a") as table:
        table.write("\neven/copy.png,the same again")
        table.write("\nodd/3.png,another caption, which makes no other picture")
    arguments = f"--source {photos} --hash-only --max-distance 0 --output {tmp_path}"
    run("find_duplicates.py", arguments)
    assert (tmp_path / "drop.txt").read_text() == f"{photos}/even/copy.png\n"
    best = json.loads((tmp_path / "duplicates.json").read_text())[0]
    assert best["reference"].endswith("odd/1.png") and best["score"] == 1


def test_names_to_drop_and_shards_of_nothing(run, tmp_path, capsys):
    """Only line feeds, and Windows' pairs, end a name."""
    (tmp_path / "drop.txt").write_bytes("a\u2028b.png\r\nc\x0cd.png\n\n\u0085.png".encode())
    prepare_data = runpy.run_path(str(EXAMPLES / "prepare_data.py"))
    found = prepare_data["read_names"](tmp_path / "drop.txt")
    assert found == ["a\u2028b.png", "c\x0cd.png", "\u0085.png"]
    with pytest.raises(AssertionError):  # A code other than 0.
        run("prepare_data.py", "--source photos --images-per-shard 0")
    assert "--images-per-shard should be at least 1. Received: 0." in capsys.readouterr().err


@pytest.mark.parametrize("form", ["tar", "jsonl"])
def test_prepare_data(photos, run, form, tmp_path):
    """A repeat, a broken and a small image, a name to drop: counted, and all else is kept."""
    (photos / "odd" / "again.png").write_bytes((photos / "odd" / "1.png").read_bytes())
    (photos / "odd" / "broken.png").write_bytes(b"no image")
    small = np.zeros([39, 60, 3], "uint8")
    (photos / "odd" / "small.png").write_bytes(tf.io.encode_png(small).numpy())
    with (photos / "captions.csv").open("a") as table:
        table.write("\nodd/7.png,another caption")  # Far from the other one.
        for name in ("again", "broken", "small"):
            table.write(f"\nodd/{name}.png,called {name}")
    (tmp_path / "drop.txt").write_text(f"{photos}/even/0.png\n")
    options = (
        f"--drop drop.txt --short-side 39 --max-distance 0 --images-per-shard 50 --format {form}"
    )
    printed = run("prepare_data.py", f"--source {photos} --output out {options}")
    assert "1 pairs of 1 images that repeat others dropped, 1 bad records left out, 80" in printed
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report == {
        "written": 80,
        "dropped": {"no duplicate": 1, "short side > 39": 1},
        "repeats": [f"{photos}/odd/again.png"],
        "bad_records": [f"{photos}/odd/broken.png"],
    }
    found = {
        (pair["image"], pair["text"].decode())
        for pair in image_text_pairs(tmp_path / "out").as_numpy_iterator()
    }
    colours = ["red", "green", "blue", "grey"]
    assert found == {
        (
            (photos / ("odd" if i % 2 else "even") / f"{i}.png").read_bytes(),
            f"a {colours[i % 4]} picture number {i}",
        )
        for i in range(1, 80)
    } | {((photos / "odd" / "7.png").read_bytes(), "another caption")}
    first = image_text_pairs(tmp_path / "out", captions="first")
    assert sum(1 for _ in first) == 79  # Both captions are still those of one image.
    assert len(list((tmp_path / "out").glob("*.tar"))) == (2 if form == "tar" else 0)


@pytest.mark.parametrize(
    ("script", "arguments", "cases"),
    [
        ("duplicates", "--images 1500", 4),
        ("retrieval", "--images 30 --texts 70 --dim 8 --rate-seconds 0.1 --rate-size 256", 1),
        ("loss", "--batches 16 --dims 8 --dtypes bfloat16", 3),
        ("train_step", "--batch 4 --rounds 1 --layers 1 --width 64", 5),
        ("gpu", "--kinds loss", 2),
        ("train_step", "--batch 4 --rounds 1 --width 64 --grow layers 1", 1),
        ("zero_shot", "--classes 3 --templates 2 --width 16 --layers 1", 1),
    ],
)
def test_benchmarks(benchmark, script, arguments, cases, tmp_path):
    benchmark(script, f"{arguments} --repeats 1 --output out.json")
    assert_measured(tmp_path, cases)


@pytest.mark.parametrize(
    ("script", "arguments", "cases"),
    [
        ("loss", "--batches 16 --dims 8 --dtypes bfloat16 --losses softmax --replicas 2", 1),
    ],
)
def test_benchmarks_in_processes(run, script, arguments, cases, tmp_path):
    """As many devices as the case has replicas."""
    run(f"benchmarks/{script}.py", f"{arguments} --repeats 1 --output out.json")
    assert_measured(tmp_path, cases)


def test_benchmark_of_calibration(benchmark, tmp_path):
    arguments = "--rows 300 --precision 0.7 --quickstart none --repeats 1 --output out.json"
    benchmark("calibration", arguments)
    assert_measured(tmp_path, 2)


def assert_measured(tmp_path, cases):
    results = json.loads((tmp_path / "out.json").read_text())
    assert len(results) == cases and all(result["seconds"] > 0 for result in results)


def test_benchmark_of_import_time(benchmark, tmp_path):
    """What an import takes in a new process is in test_house.py."""
    benchmark("import_time", "--rounds 1 --output out.json")
    nlp, lit = json.loads((tmp_path / "out.json").read_text())
    assert lit["of_keras_nlp"] == pytest.approx(lit["seconds"] / nlp["seconds"])


def test_benchmark_of_the_input_pipeline(run, tmp_path):
    arguments = "--records 80 --batch 8 --warm-up 2 --rounds 1 --output out.json"
    assert "keras_lit / plain: " in run("benchmarks/input_pipeline.py", arguments)
    results = json.loads((tmp_path / "out.json").read_text())
    assert [result["library"] for result in results] == ["keras_lit", "plain"]
    for result in results:
        seconds = (80 - 2 * 8) / result["images_per_second"]
        assert result["growth_mb"] >= 0 and result["seconds"] == pytest.approx(seconds)


def test_evaluate(photos, run, tmp_path):
    make_model().save(tmp_path / "model.keras")
    arguments = f"model.keras --datasets {photos} cifar100 --data-dir {tmp_path} --output report"
    printed = run("evaluate.py", arguments)
    assert "text_to_image_recall@1" in printed and "left out: cifar100 is not in" in printed
    record = json.loads((tmp_path / "report" / "results.json").read_text())[0]
    assert record["count"] == 80 and "image_retrieval_recall@5" in record["metrics"]
    assert (tmp_path / "report" / "report.html").read_text().count("data:image/png") == 8 * 5


def test_evaluate_keeps_what_can_be_evaluated(run, tmp_path):
    """Of four folders one has no captions, one a picture that does not decode."""
    make_model().save(tmp_path / "model.keras")
    rng = np.random.default_rng(0)
    for file in (
        "classes/cat/1.png",
        "classes/dog/1.png",
        "bare/1.png",
        "some/a.png",
        "some/b.png",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, [9, 9, 3]).astype("uint8")
        (tmp_path / file).write_bytes(tf.io.encode_png(pixels).numpy())
    for name in ("a", "b", "c"):
        (tmp_path / "some" / f"{name}.txt").write_text(f"a {name}")
    (tmp_path / "some" / "c.png").write_bytes(b"broken")
    (tmp_path / "some" / "notes.txt").write_text("of no picture")
    with pytest.raises(AssertionError, match=r"Left out:\n.*bare: ValueError(.|\n)*some/c.png"):
        run("evaluate.py", "model.keras --datasets bare classes some --output report")
    classes, some = json.loads((tmp_path / "report" / "results.json").read_text())
    assert classes["task"] == "zeroshot_classification" and classes["count"] == 2
    assert some["task"] == "zeroshot_retrieval" and some["count"] == 2


def test_checkpoints(run, tmp_path):
    arguments = "--load LiT-B16B_2 --count LiT-B16B LiT-L16S --rounds 1 --output out.json"
    run("benchmarks/checkpoints.py", arguments)
    *counts, loaded = json.loads((tmp_path / "out.json").read_text())
    assert [result["parameters"] for result in counts] == [195_871_489, 331_140_353]
    assert loaded["file_mb"] == pytest.approx(195_280_897 * 4 / 2**20, rel=1e-3)
    # 15 s is the bar of a quiet machine.
    assert loaded["seconds"] < 60 and loaded["growth_of_file"] < 2.5


def test_zero_shot_released(run, tmp_path):
    golden = EXAMPLES.parent / "tests" / "golden" / "lit_bert_no_image_head.npz"
    (tmp_path / "lit.npz").write_bytes(golden.read_bytes())
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat", "photo", "of"]
    (tmp_path / "lit.txt").write_text("\n".join(words))
    for name, grey in (("a", 0), ("b", 200)):
        pixels = np.full([9, 7, 3], grey, "uint8")
        (tmp_path / f"{name}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    arguments = "a.png b.png --classes dog cat --checkpoint lit.npz --text-heads 4"
    lines = run("zero_shot_released.py", arguments).splitlines()
    assert [line.split(":")[0] for line in lines] == ["a.png", "b.png"]
    for line in lines:
        shares = [float(share.rstrip("%")) for share in line.replace(",", "").split()[2::2]]
        assert (
            len(shares) == 2 and shares[0] >= shares[1] and sum(shares) == pytest.approx(100, 1e-3)
        )


@pytest.mark.usefixtures("tiny", "small_pictures")
def test_features(photos, run, tmp_path):
    """Two jobs, joined, and a text tower trained on what they wrote."""
    for job in ("--job 0 --jobs 2", "--job 1 --jobs 2", "--merge"):
        arguments = f"--dataset {photos} --output {tmp_path}/features --shards 2 {job}"
        printed = run("precompute_features.py", arguments)
    assert "train: 80 pairs of " in printed and "0 images skipped" in printed
    arguments = f"--features {tmp_path}/features --output {tmp_path}/run --vocabulary 60"
    assert "on 80 pairs" in run("train_from_features.py", arguments)
    assert (tmp_path / "run" / "saved_model" / "1" / "saved_model.pb").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("small_pictures")
def test_features_of_text(photos, run, tmp_path):
    """Heads alone on two caches, and both towers attached to them."""
    arguments = f"--dataset {photos} --output {tmp_path}/features --shards 2 --text"
    run("precompute_features.py", arguments)
    arguments = f"--features {tmp_path}/features --output {tmp_path}/run --heads mlp --mixup 1"
    printed = run("train_from_features.py", f"{arguments} --width 8 --batch-size 16")
    assert "on 80 pairs" in printed
    model = keras.saving.load_model(tmp_path / "run" / "model.keras")
    assert model.encode_text(["a red balloon"]).shape == (1, 8)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("read --pairs 600 --repeats 1", ["pairs_per_second"]),
        ("fit --pairs 16 --batch 8 --sizes Ti --repeats 1", ["ratio"]),
        ("stream --pairs 6000 --repeats 2", ["bytes_per_pair", "writing_growth", "reading_growth"]),
        (
            "step --batch 2 --towers Ti/32 --repeats 1 --layers 1 --width 64",
            ["pairs_per_second"],
        ),
        ("gap --pairs 16 --batch 8 --sizes Ti --epochs 1", ["loss_gap", "weights_gap"]),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_benchmark_of_features(benchmark, arguments, names, tmp_path):
    benchmark("features", f"{arguments} --rounds 1 --output out.json")
    for result in json.loads((tmp_path / "out.json").read_text()):
        assert all(np.isfinite(result[name]) for name in names)


@pytest.mark.slow
def test_benchmark_of_heads(benchmark, tmp_path):
    sizes = "--batch 16 --pairs 32 --lu-batch 4 --lu-pairs 8"
    benchmark("heads", f"{sizes} --repeats 1 --rounds 1 --output out.json")
    results = json.loads((tmp_path / "out.json").read_text())
    assert [result["tuning"] for result in results] == ["LL", "LL", "LL", "LU"]
    assert all(result["ratio_per_second"] > 0 for result in results)


def test_benchmark_of_lengths(benchmark, tmp_path):
    (tmp_path / "captions.txt").write_text("a dog\na cat in the snow\nthe sea and a balloon\n")
    sizes = "--pairs 6 --batch 3 --layers 1 --width 32 --vocabulary 60 --repeats 1 --rounds 1"
    benchmark("lengths", f"--captions {tmp_path}/captions.txt {sizes} --output out.json")
    results = json.loads((tmp_path / "out.json").read_text())
    assert [x["text"] for x in results] == ["padded", "trimmed", "in groups"]
    assert all(x["gap"] < 1e-5 and x["encoded_per_second_ratio"] > 0 for x in results)
    assert results[1]["mean_tokens"] < 32


def test_search_benchmark(benchmark, tmp_path):
    """The clusters are more than the pictures, so that a sixteenth of the lists misses some."""
    arguments = "--count 1500 --dim 8 --queries 5 --dtypes int8 --peers faiss --output out.json"
    benchmark("search", f"{arguments} --approximate")
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert 0 < found["recall"] < 1 and found["faiss_median_ms"] > 0
    benchmark("search", arguments)
    (found,) = json.loads((tmp_path / "out.json").read_text())
    assert found["recall"] == 1 and found["p99_ms"] >= found["median_ms"] > 0


def test_search(photos, run, tmp_path):
    """The first time it encodes all pictures, then only what is new."""
    make_model().save(tmp_path / "model.keras")
    command = f"{photos} 'a red dog' --model model.keras --count 3 --index index"
    found = run("search.py", command).splitlines()
    assert len(found) == 3
    assert [float(line.split()[0]) for line in found] == sorted(
        (float(line.split()[0]) for line in found), reverse=True
    )
    liked = photos / "odd" / "7.png"
    found = run(
        "search.py", f"{command} --like {liked} {liked} {liked} --minus dog --where 'odd/*'"
    )
    assert len(found.splitlines()) == 3 and "/even/" not in found
    run("search.py", f"{command} --dtype float32")


@pytest.mark.slow
def test_benchmark_of_edge(benchmark, photos, tmp_path):
    """ONNX alone: tests/export/test_edge.py has both formats."""
    make_model().save(tmp_path / "small.keras")
    options = f"--model {tmp_path / 'small.keras'} --source {photos} --count 8 --formats onnx"
    printed = benchmark("edge", f"{options} --threads 1 --output {tmp_path / 'edge.json'}")
    assert "onnx int8" in printed
    rows = json.loads((tmp_path / "edge.json").read_text())
    assert [row["format"] for row in rows] == ["keras", "onnx float32", "onnx int8"]
    assert rows[1]["text_cosine"] > 0.99999
    benchmark("edge", f"{options} --client --output {tmp_path / 'client.json'}")
    rows = json.loads((tmp_path / "client.json").read_text())
    assert [row["of"] for row in rows] == ["8 captions", "8 PNG", "8 JPEG"]
    assert min(float(row["worst cosine"]) for row in rows[:2]) > 0.99999
