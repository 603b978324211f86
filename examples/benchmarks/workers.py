"""What workers say to each other in a training step, and what that costs 8, 64 or 512 of them.

    python examples/benchmarks/workers.py                # 2 and 4 processes of this machine
    python examples/benchmarks/workers.py --networks 10:50 100:20  # Gbit/s and microseconds

Workers are processes that train a small text tower on image features over the loopback device;
bytes are what passed through it in a step, over all workers, the median of some epochs (others may
use the device, too). "all-reduce" times one collective of a number and one of 32 MB, which give the
latency of a hop and the bandwidth of a worker. The model, with n workers in a ring, P trained
weights and a batch of B pairs in D dimensions, all float32:

    bytes = 2 (n - 1) 4 P  +  (n - 1) 4 B (2 D + 2)             gradient; embeddings, log-sum-exps
    seconds = hops * latency + bytes / n / bandwidth            hops = 2 (n - 1) + 4 (n - 1)

Its rows for many workers are the paper's text towers and batches, on the networks of --networks.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

import harness
import numpy as np

TOKENS, VOCABULARY, LARGE = 8, 1000, 2**23
# Layers and width of the paper's text towers B and L, its vocabulary, its batches.
PAPER = {"B": (12, 768), "L": (24, 1024)}
PAPER_VOCABULARY, PAPER_BATCHES = 32_000, (16_384, 32_768)
MANY = (8, 64, 512)
GATHERS = 4  # Embeddings and log-sum-exps, of images and of texts.


def run(case: harness.Case) -> dict[str, float]:
    """Starts the workers and returns what the first has measured; or is one of them."""
    if "TF_CONFIG" in os.environ:
        found = train(case)
        if json.loads(os.environ["TF_CONFIG"])["task"]["index"] == 0:
            pathlib.Path(os.environ["RESULT"]).write_text(json.dumps(found))
        raise SystemExit
    sys.path.append(str(pathlib.Path(__file__).parents[1]))
    import train_multiworker

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "result.json")
        os.environ["RESULT"] = str(path)
        if code := train_multiworker.launch(case["workers"]):
            raise SystemExit(code)
        return json.loads(path.read_text())


def train(case: harness.Case) -> dict[str, float]:
    """Epochs of some steps; then collectives alone."""
    import keras
    import tensorflow as tf

    import keras_lit

    workers, batch, width, steps = (case[x] for x in ("workers", "batch", "width", "steps"))
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    rng = np.random.default_rng(0)
    pairs = tf.data.Dataset.from_tensors(
        {
            "image_features": rng.normal(size=[batch, width]).astype("float32"),
            "text": rng.integers(1, VOCABULARY, [batch, TOKENS]).astype("int32"),
        }
    ).repeat()
    with strategy.scope():
        text = keras_lit.backbones.TextTransformer(
            VOCABULARY, TOKENS, width, case["layers"], 4 * width, 2
        )
        text_tower = keras_lit.TextTower(text, sequence_length=TOKENS)
        model = keras_lit.LiT(keras_lit.ImageTower.from_features(width), text_tower, "Lu")
        model.compile(keras.optimizers.SGD(1e-3), jit_compile=False)
    meter = make_meter(steps)
    epochs = case["repeats"] + 1
    model.fit(pairs, epochs=epochs, steps_per_epoch=steps, callbacks=[meter], verbose=0)
    weights = sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)

    @tf.function
    def reduce(x: tf.Tensor) -> tf.Tensor:
        def of_replica(x: tf.Tensor) -> tf.Tensor:
            x = tf.identity(x)  # On the replica's device.
            return tf.distribute.get_replica_context().all_reduce("sum", x)

        return strategy.run(of_replica, [x])

    times = []
    for size in (1, LARGE):
        x = tf.ones([size])
        reduce(x)
        laps = []
        for _ in range(case["repeats"] + 2):
            start = time.perf_counter()
            reduce(x)
            laps.append(time.perf_counter() - start)
        times.append(statistics.median(laps))
    hops = 2 * (workers - 1)
    expected = step_bytes(workers, weights, batch, width)
    found = statistics.median(meter.bytes[1:])
    return {
        "weights": weights,
        "step_kb": found / 1e3,
        "model_kb": expected / 1e3,
        "measured_to_model": found / expected,
        "step_ms": 1e3 * statistics.median(meter.seconds[1:]),
        "latency_us": 1e6 * times[0] / hops,
        "gbit_per_second": hops / workers * 4 * LARGE * 8 / 1e9 / max(times[1] - times[0], 1e-9),
    }


def make_meter(steps: int) -> Any:
    """A callback with the bytes and the seconds of a step, by epoch."""
    import keras

    class Meter(keras.callbacks.Callback):
        bytes: list[float] = []  # noqa: RUF012
        seconds: list[float] = []  # noqa: RUF012

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.start = loopback(), time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            self.bytes.append((loopback() - self.start[0]) / steps)
            self.seconds.append((time.perf_counter() - self.start[1]) / steps)

    return Meter()


def loopback() -> int:
    """Bytes that the loopback device has carried."""
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        name, _, counts = line.partition(":")
        if name.strip() == "lo":
            return int(counts.split()[0])
    raise RuntimeError("There is no device lo in /proc/net/dev: this needs Linux.")


def step_bytes(workers: int, weights: int, batch: int, dim: int) -> int:
    """What all workers send in a step."""
    return (workers - 1) * 4 * (2 * weights + batch * (2 * dim + 2))


def step_seconds(
    workers: int, weights: int, batch: int, dim: int, gbit: float, microseconds: float
) -> float:
    """What a step's communication takes, none of it hidden behind computation."""
    hops = (2 + GATHERS) * (workers - 1)
    sent = step_bytes(workers, weights, batch, dim) / workers
    return hops * microseconds / 1e6 + sent * 8 / 1e9 / gbit


def predicted(networks: list[tuple[float, float]]) -> list[dict[str, Any]]:
    """The paper's towers and batches on many workers."""
    rows = []
    for (tower, (layers, width)), batch in zip(PAPER.items(), PAPER_BATCHES, strict=True):
        weights = 12 * layers * width**2 + PAPER_VOCABULARY * width
        for gbit, microseconds in networks:
            for workers in MANY:
                given = workers, weights, batch, width
                rows.append(
                    {
                        "what": "model",
                        "workers": workers,
                        "tower": tower,
                        "batch": batch,
                        "network": f"{gbit:g} Gbit/s, {microseconds:g} us",
                        "weights": weights,
                        "worker_mb": step_bytes(*given) / workers / 1e6,
                        "communication_ms": 1e3 * step_seconds(*given, gbit, microseconds),
                    }
                )
    return rows


def network(text: str) -> tuple[float, float]:
    """Of "100:20"."""
    gbit, microseconds = map(float, text.split(":"))
    return gbit, microseconds


def main() -> None:
    """Measures, then predicts; prints both tables, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--batches", type=int, nargs="+", default=[64])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=5, help="in an epoch")
    parser.add_argument("--repeats", type=int, default=3, help="epochs")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--networks", type=network, nargs="*", default=[(10.0, 50.0), (100.0, 20.0)]
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/workers.json"))
    args = parser.parse_args([] if "--case" in sys.argv else None)
    common = {name: getattr(args, name) for name in ("width", "layers", "steps", "repeats")}
    cases = [
        {"library": "keras_lit", "what": "measured", "workers": n, "batch": batch, **common}
        for n in args.workers
        for batch in args.batches
    ]
    results = harness.main(__file__, run, cases, args.rounds, "")
    # Of this machine's own "network", as measured.
    own = tuple(
        statistics.median(row[x] for row in results) for x in ("gbit_per_second", "latency_us")
    )
    rows = predicted([own, *args.networks])
    harness.report(results, args.output)
    harness.report(rows, args.output.with_suffix(".model.json"))
    args.output.write_text(json.dumps(results + rows, indent=1))


if __name__ == "__main__":
    main()
