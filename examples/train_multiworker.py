"""Trains a LiT on several workers, here as processes of this machine.

    python examples/train_multiworker.py --workers 2

On a cluster start it once on each machine with TF_CONFIG set and without --workers: the code is the
same. Every worker reads the same batches in the same order and preprocesses only its own rows of
them; loss and weights are those that one device would have had with the global batch.
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import tensorflow as tf

import keras_lit


def main() -> None:
    """Launches the workers, or is one."""
    args = parse_arguments()
    if args.workers and "TF_CONFIG" not in os.environ:
        keras_lit.data.image_text_pairs(args.dataset)  # Prepared once, not by all at a time.
        raise SystemExit(launch(args.workers))
    train(tf.distribute.MultiWorkerMirroredStrategy(), args)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=0, help="processes to start on this machine")
    parser.add_argument(
        "--dataset", default="tux_paint_stamps", help="a TensorFlow dataset, folder or table"
    )
    parser.add_argument("--text", default="Ti", help="size of the text tower: Ti, S, B, L")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64, help="of all workers together")
    parser.add_argument("--micro-batch-size", type=int, help="pairs that a replica encodes at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/multiworker"))
    return parser.parse_args()


def launch(workers: int) -> int:
    """Starts this script once for each worker, waits for all, and returns the first bad exit."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
    addresses = [f"127.0.0.1:{server.getsockname()[1]}" for server in sockets]
    for server in sockets:
        server.close()
    processes = []
    for index in range(workers):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(task)}
        processes.append(subprocess.Popen([sys.executable, *sys.argv], env=environment))
    return next((code for code in [process.wait() for process in processes] if code), 0)


def train(strategy: tf.distribute.Strategy, args: argparse.Namespace) -> None:
    """Builds everything in the strategy's scope and trains; the first worker prints and saves."""
    keras.utils.set_random_seed(args.seed)
    pairs = keras_lit.data.image_text_pairs(args.dataset, shuffle_buffer=10_000, seed=args.seed)
    captions = [pair["text"] for pair in pairs.as_numpy_iterator()]
    tokenizer = keras_lit.tokenizers.train_sentencepiece(sorted(captions), 8_000)
    # Equal shapes on all replicas in every step; TPUs need that.
    batches = pairs.batch(args.batch_size, drop_remainder=True)
    steps = args.epochs * (len(captions) // args.batch_size)
    with strategy.scope():
        model = keras_lit.LiT(
            keras_lit.demo.efficientnet_lite0(args.image_size),
            keras_lit.TextTower.from_size(args.text, tokenizer),
            tuning="Lu",
        )
        schedule = keras_lit.optimizers.WarmupSchedule(1e-3, steps, steps // 10)
        model.compile(
            keras_lit.optimizers.Adafactor(schedule), micro_batch_size=args.micro_batch_size
        )
    first = not strategy.cluster_resolver or strategy.cluster_resolver.task_id in (0, None)
    model.fit(batches, epochs=args.epochs, verbose=2 if first else 0)
    if first:
        args.output.mkdir(parents=True, exist_ok=True)
        model.save(args.output / "model.keras")
        print(f"{strategy.num_replicas_in_sync} replicas trained {args.output / 'model.keras'}")


if __name__ == "__main__":
    main()
