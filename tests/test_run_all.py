"""The runner of all benchmarks: what it keeps, what its page says, that its plots show growth."""

import functools
import importlib
import json
import pathlib
import socket
import subprocess
import sys
import types

import keras_nlp
import numpy as np
import pytest

BENCHMARKS = pathlib.Path(__file__).parent.parent / "examples" / "benchmarks"


@pytest.fixture
def run_all(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("run_all")


def made(commands, peer):
    """As if measured: a step that costs batch / 1000 seconds."""
    rows = [
        {"library": library, "batch": batch, "dtype": "float32", "seconds": batch / 1000}
        for batch in (16, 32)
        for library in ("keras_lit", "open_clip")
    ]
    rows = [{**row, "growth_mb": 1234.5} for row in rows if peer or row["library"] == "keras_lit"]
    return {
        "date": "2026-01-02",
        "minutes": 1.5,
        "commands": commands,
        "peer": bool(peer),
        "machine": "A processor, 2 cores, 8 GB",
        "versions": {"numpy": "2.0"},
        "results": rows,
    }


def test_every_benchmark_is_run(run_all):
    commands = [c for b in run_all.BENCHMARKS.values() for c in b.commands + b.quick]
    scripts = {command.split()[0] for command in commands}
    helpers = {"harness.py", "page.py", "run_all.py", "synthetic.py"}
    assert scripts == {path.name for path in BENCHMARKS.glob("*.py")} - helpers
    for command in commands:
        script, *arguments = command.split()
        source = (BENCHMARKS / script).read_text()
        assert all(f'"{a}"' in source for a in arguments if a.startswith("--")), command


def test_results_are_kept(run_all, tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(
        run_all, "measure", lambda c, peer: (measured.append((c, peer)), made(c, peer))[1]
    )

    def run(options):
        arguments = f"run_all.py --only batch loss --output {tmp_path / 'all'} {options}"
        monkeypatch.setattr(sys, "argv", arguments.split())
        run_all.main()
        return (tmp_path / "all.md").read_text()

    run("--peer other")
    assert [peer for _, peer in measured] == ["other"] * 2
    first = run("")
    assert len(measured) == 2, "measured again what has a result"
    (tmp_path / "all" / "loss.json").unlink()
    second = run("")
    assert len(measured) == 3 and "open_clip was not run" in second and second != first
    run("--force")
    assert len(measured) == 5


def test_the_others_run_when_one_fails(run_all, tmp_path, monkeypatch):
    def fails(commands, peer):
        if "train_step" in commands[0]:
            raise subprocess.CalledProcessError(1, "train_step.py")
        return made(commands, peer)

    monkeypatch.setattr(run_all, "measure", fails)
    arguments = f"run_all.py --only batch loss --output {tmp_path / 'all'}"
    monkeypatch.setattr(sys, "argv", arguments.split())
    with pytest.raises(SystemExit, match=r"batch: Command 'train_step.py' returned"):
        run_all.main()
    assert not (tmp_path / "all" / "batch.json").exists()
    assert (tmp_path / "all" / "loss.json").exists() and "0.016" in (
        tmp_path / "all.md"
    ).read_text()


def test_page(run_all, tmp_path):
    benchmark = run_all.BENCHMARKS["batch"]
    text = run_all.page.section("batch", benchmark, (), made(["x.py --y"], "other"), tmp_path)
    assert "All rows: dtype float32." in text
    assert "| library | batch | seconds | memory growth, MB |" in text
    assert "**keras_lit takes 1.00 to 1.00 of open_clip's time.**" in text
    assert "| open_clip | 32 | 0.032 | 1,234 |" in text
    assert "2026-01-02, A processor, 2 cores, 8 GB, 1.5 minutes; numpy 2.0. `x.py --y`" in text
    assert (tmp_path / "batch.png").read_bytes().startswith(b"\x89PNG")
    assert "open_clip was not run" not in text


def test_what_came_out_is_said(run_all):
    """With the numbers of the rows; nothing where a row that it names was not measured."""
    rows = [{"library": "keras_lit", "ratio": 2.5}]
    assert run_all.page.found(rows, "{0[ratio]:.1f} times.") == ["**2.5 times.**", ""]
    assert run_all.page.found(rows, "{1[ratio]:.1f} times.") == []


def test_the_exponent_of_growth(run_all):
    """Of 3 x^1.5; one size tells none, and neither does what is nothing."""
    rows = [
        {"library": name, "batch": x, "seconds": 3 * x**power, "growth_mb": 0.0}
        for name, power in (("a", 1.5), ("b", -0.25))
        for x in (2, 4, 16)
    ]
    growth = ("batch", "seconds", "growth_mb")
    (_, line) = run_all.page.exponents(rows, growth)
    assert line == "Powers of batch with which cost grows. seconds: 1.50 (a), -0.25 (b)."
    assert run_all.page.exponents(rows[:1], growth) == []


def test_what_was_not_run_has_no_numbers(run_all, tmp_path):
    benchmark = run_all.BENCHMARKS["loss"]
    text = run_all.page.section("loss", benchmark, ("loss.py --batches 16",), None, tmp_path)
    assert "Not run yet: `loss.py --batches 16`." in text and "|" not in text


@pytest.fixture
def speedrun(monkeypatch):
    """With the features of 24 pictures and a MiniLM of few weights."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    module = importlib.import_module("speedrun")
    rng = np.random.default_rng(0)

    def read(directory, split):
        real = np.arange(10) < rng.integers(1, 11, [24, 2, 1])
        return {
            "features": rng.normal(size=[24, 6]).astype("float32"),
            "text": np.array([f"{split} {i}" for i in range(24)]),
            "group": np.arange(24),
            "real": real,
            "states": rng.normal(size=[24, 2, 10, 384]).astype("float16"),
            "text_features": rng.normal(size=[24, 2, 8]).astype("float32"),
        }

    monkeypatch.setattr(module.few_pairs, "read", read)
    make = functools.partial(keras_nlp.models.BertBackbone, 30, 6, 2, 384, 16)
    monkeypatch.setattr(module.keras_lit.demo, "minilm_backbone", make)
    return module


@pytest.mark.slow
def test_speedrun(speedrun, tmp_path, monkeypatch):
    """Nothing trains: what each way starts from is measured twice."""
    models = []

    def fit(model, part, race, *settings):
        models.append(model)
        race.set_model(model)
        race.on_train_begin()
        race.on_epoch_end(0)

    monkeypatch.setattr(speedrun.few_pairs, "fit", fit)
    monkeypatch.setattr(speedrun.few_pairs, "recall", lambda model, part: 10.0 * len(models))
    arguments = f"speedrun.py --goals 25 10 --folder {tmp_path} --output {tmp_path / 'out.json'}"
    monkeypatch.setattr(sys, "argv", arguments.split())
    speedrun.main()
    rows = json.loads((tmp_path / "out.json").read_text())
    assert [(row["system"], row["goal"], row["cpu_minutes"] == "never") for row in rows] == [
        (system, goal, goal == "25 %" and number < 2)
        for number, system in enumerate(speedrun.SYSTEMS)
        for goal in ("10 %", "25 %")
    ]
    for number, row in enumerate(rows):
        assert row["best_validation"] == row["its_test"] == 10 * (1 + number // 2)
        if row["cpu_minutes"] != "never":
            assert row["features_cpu_minutes"] <= row["cpu_minutes"] <= row["last_cpu_minutes"]
    names = [[x.name for x in model.trainable_variables] for model in models]
    assert ["log_temperature" in of for of in names] == [True, True, True, False]
    assert [model.tuning for model in models] == ["LL", "LL", "LU", "LU"]
    assert [bool(m.image_tower.trainable_variables) for m in models] == [True, False, False, True]
    assert float(models[3].temperature) == pytest.approx(20)


def test_the_clock_of_a_speedrun_stands_still_while_it_is_measured(speedrun, monkeypatch):
    """A minute of training before each measurement, which takes 10; the third reaches the goal."""
    clock, recalls = [0.0], iter([10, 20, 30])

    def recall(model, part):
        clock[0] += 10
        return next(recalls)

    monkeypatch.setattr(speedrun, "now", lambda: (clock[0], 2 * clock[0]))
    monkeypatch.setattr(speedrun.few_pairs, "recall", recall)
    race = speedrun.Race({}, 30)
    race.set_model(types.SimpleNamespace(trainable_variables=[]))
    for epoch in range(3):
        clock[0] += 1
        race.on_epoch_end(epoch)
        assert race.model.stop_training == (epoch == 2)
    assert race.times == [(1, 2), (2, 4), (3, 6)]
    assert race.until(20) == race.until(15) == (2, 4) and race.until(31) is None


def test_what_workers_say(run_all):
    """3 workers, 10 weights, 6 pairs of 2 dimensions, 8 Gbit/s and a millisecond a hop."""
    workers = importlib.import_module("workers")
    gradient = 3 * 2 * 2 / 3 * 10 * 4  # Each of them reduces and gathers two thirds of it.
    pairs = 3 * 4 * (2 * 2 + 2) * 4  # Each gets six numbers of each of the four others.
    assert workers.step_bytes(3, 10, 6, 2) == gradient + pairs
    seconds = 12 * 1e-3 + (gradient + pairs) / 3 / 1e9
    assert workers.step_seconds(3, 10, 6, 2, 8, 1000) == pytest.approx(seconds)
    rows = workers.predicted([workers.network("8:1000")])
    assert [row["workers"] for row in rows] == [8, 64, 512] * 2
    before = workers.loopback()
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(server.getsockname()) as client:
        client.sendall(bytes(50_000))
    assert workers.loopback() - before >= 50_000


@pytest.mark.slow
def test_quick(tmp_path):
    command = [sys.executable, BENCHMARKS / "run_all.py", "--quick", "--only", "retrieval"]
    subprocess.run([*command, "--output", tmp_path / "quick"], check=True, cwd=tmp_path)
    record = json.loads((tmp_path / "quick" / "retrieval.json").read_text())
    assert [row["texts"] for row in record["results"]] == [100, 200]
    assert "tensorflow" in record["versions"] and record["machine"].endswith("GB")
    text = (tmp_path / "quick.md").read_text()
    assert "quick/retrieval.png" in text and "Not run" in text
