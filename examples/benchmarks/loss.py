"""Time and memory of the contrastive loss with its text-side gradient.

    python examples/benchmarks/loss.py                      # the full table, about an hour
    python examples/benchmarks/loss.py --batches 16384 --dims 512 --replicas 1 --peer PYTHON

Compares `keras_lit` with the loss written plainly in TensorFlow (all logits, their gradient by
automatic differentiation) and, given a Python that has open_clip_torch, with its `ClipLoss`.
"""

import argparse
import pathlib
import sys
from typing import Any

import harness
import numpy as np


def run(case: harness.Case) -> dict[str, float]:
    """Measures one case in this process."""
    rng = np.random.default_rng(0)
    image, text = (rng.normal(size=[case["batch"], case["dim"]]).astype("float32") for _ in "it")
    image, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    step = open_clip_step if case["library"] == "open_clip" else tensorflow_step
    return harness.measure(step(image, text, case), case["repeats"])


def tensorflow_step(image: np.ndarray, text: np.ndarray, case: harness.Case) -> Any:
    """A step on one device or on logical ones, each with its rows."""
    import tensorflow as tf

    from keras_lit.losses import sigmoid_contrastive_loss, softmax_contrastive_loss

    replicas = case["replicas"]
    if replicas > 1:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * replicas,
        )
        strategy = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    else:
        strategy = tf.distribute.get_strategy()

    repeated = case.get("repeated")
    groups = np.arange(case["batch"])
    groups[: int((repeated or 0) * len(groups) / 2)] += len(groups) // 2

    def plain(image: tf.Tensor, text: tf.Tensor, log_temperature: tf.Tensor) -> tf.Tensor:
        cosines = tf.cast(tf.matmul(image, text, transpose_b=True), tf.float32)
        logits = tf.exp(log_temperature) * cosines
        labels = tf.range(tf.shape(image)[0])
        losses = [
            tf.nn.sparse_softmax_cross_entropy_with_logits(labels, x)
            for x in (logits, tf.transpose(logits))
        ]
        return tf.reduce_mean(sum(losses)) / 2

    function = {
        "softmax": softmax_contrastive_loss,
        "sigmoid": lambda i, t, s, **groups: sigmoid_contrastive_loss(i, t, s, -10.0, **groups),
        "plain": plain,
    }[case["loss"]]

    @tf.function
    def local_step(image: tf.Tensor, text: tf.Tensor, **groups: tf.Tensor) -> Any:
        log_temperature = tf.constant(np.log(20.0), tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(text)
            loss = function(image, text, log_temperature, **groups)
        return loss, tape.gradient(loss, text)

    dtype = case["dtype"]
    rows = case["batch"] // replicas

    def own(x: np.ndarray, dtype: str) -> Any:
        return strategy.experimental_distribute_values_from_function(
            lambda c: tf.cast(x[c.replica_id_in_sync_group * rows :][:rows], dtype)
        )

    arguments = (own(image, dtype), own(text, dtype))
    known = repeated is not None and case["loss"] != "plain"
    options = {"groups": own(groups, "int64")} if known else {}

    def step() -> None:
        _, gradient = strategy.run(local_step, args=arguments, kwargs=options)
        for result in strategy.experimental_local_results(gradient):
            result.numpy()

    return step


def open_clip_step(image: np.ndarray, text: np.ndarray, case: harness.Case) -> Any:
    """The same with open_clip's loss."""
    import torch
    from open_clip.loss import ClipLoss

    torch.set_num_threads(2)
    dtype = getattr(torch, case["dtype"])
    image, text = (torch.tensor(x).to(dtype) for x in (image, text))
    text.requires_grad_(True)
    loss = ClipLoss()

    def step() -> None:
        text.grad = None
        loss(image, text, torch.tensor(20.0, dtype=dtype)).backward()

    return step


def main() -> None:
    """Runs the cases, prints the table, writes JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1024, 4096, 16384, 32768, 65536])
    parser.add_argument("--dims", type=int, nargs="+", default=[512])
    parser.add_argument("--dtypes", nargs="+", default=["float32"])
    parser.add_argument("--losses", nargs="+", default=["softmax", "sigmoid", "plain", "open_clip"])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1])
    parser.add_argument("--repeated", type=float, help="with groups: the share of pairs in twos")
    parser.add_argument("--largest-plain", type=int, default=16384, help="beyond it memory ends")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--peer", default="", help="a Python that has open_clip_torch")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/loss.json"))
    is_child = "--case" in sys.argv
    args = parser.parse_args([] if is_child else None)
    cases = [
        {
            "library": "open_clip" if loss == "open_clip" else "keras_lit",
            "loss": loss,
            "batch": batch,
            "dim": dim,
            "dtype": dtype,
            "replicas": replicas,
            "repeats": args.repeats if batch <= 16384 else 1,
            **({} if args.repeated is None else {"repeated": args.repeated}),
        }
        for batch in args.batches
        for dim in args.dims
        for dtype in args.dtypes
        for replicas in args.replicas
        for loss in args.losses
        if loss in ("softmax", "sigmoid") or (batch <= args.largest_plain and replicas == 1)
    ]
    results = harness.main(__file__, run, cases, args.rounds, args.peer)
    harness.report(results, args.output)
    plot(results, args.output.with_suffix(".png"))


def plot(results: list[harness.Case], path: pathlib.Path) -> None:
    """Seconds and memory over the batch size."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    keys = ("loss", "dim", "dtype", "replicas")
    for line in dict.fromkeys(tuple(result[key] for key in keys) for result in results):
        points = [result for result in results if tuple(result[key] for key in keys) == line]
        label = "{}, dim {}, {}, {} replica(s)".format(*line)
        batches = [point["batch"] for point in points]
        for axes, name in zip(panels, ("seconds", "growth_mb"), strict=True):
            axes.plot(batches, [point[name] for point in points], "o-", label=label)
    for axes, title in zip(panels, ("seconds a step", "growth of the process, MB"), strict=True):
        axes.set(title=title, xlabel="batch", xscale="log", yscale="log")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
