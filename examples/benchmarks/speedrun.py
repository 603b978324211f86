"""Minutes to a wished recall of pictures that training has not seen: keras_lit beside other ways.

    python examples/benchmarks/speedrun.py --threads 1
    python examples/benchmarks/speedrun.py --threads 1 --limit 300 --goals 10 15 20  # to try it out

All train on OpenPictures' "train" from the same locked EfficientNet-Lite0 and the same MiniLM, run
once for all, which counts for each of them. The goals are means of the six recalls of "validation",
whose concepts are not in "train"; measuring them does not count. "CPU minutes" are of all threads:
to be read where others use the machine, too. The ways are those of `studies/few_pairs.py`:

- keras_lit: both towers locked, `align`, then `fit`.
- LU, open_clip's LiT: MiniLM's upper half and a random head, a learned temperature.
- dual encoder, as sentence-transformers trains it: the same, a random head on either side, the
  softmax over the batch at the fixed scale of MultipleNegativesRankingLoss, 20 (both ways here).
- ShareLock: both towers locked, a random MLP of texts.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import keras
import tensorflow as tf

import keras_lit

sys.path.append(str(pathlib.Path(__file__).parents[1] / "studies"))
import few_pairs

SCALE = 20.0
# The methods of few_pairs.py.
SYSTEMS = {
    "keras_lit": "align, fit",
    "ShareLock": "ShareLock's MLP",
    "LU": "LU",
    "dual encoder": "dual encoder",
}


def settings(method: str, size: int) -> tuple[float, int, int, int]:
    """As there; the dual encoder has those of LU."""
    return few_pairs.SETTINGS.get(method, few_pairs.SETTINGS["LU"])[size]


Time = tuple[float, float]  # Of the wall and of all threads, in minutes.


def now() -> Time:
    """The time."""
    return time.perf_counter() / 60, time.process_time() / 60


def since(start: Time) -> Time:
    """The time that has passed."""
    return tuple(b - a for a, b in zip(start, now(), strict=True))


class Race(few_pairs.Best):
    """Notes the time of each measurement, which stands still meanwhile; ends at the last goal.

    Args:
        part: what is measured.
        goal: the recall at which to end, %.
    """

    def __init__(self, part: few_pairs.Part, goal: float):
        super().__init__(part)
        self.goal = goal
        self.start = now()
        self.times: list[Time] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Measures."""
        self.times.append(since(self.start))
        before = now()
        super().on_epoch_end(epoch, logs)
        self.start = tuple(a + b for a, b in zip(self.start, since(before), strict=True))
        self.model.stop_training = self.history[-1] >= self.goal

    def until(self, goal: float) -> Time | None:
        """The first time at which the goal was reached."""
        reached = zip(self.times, self.history, strict=True)
        return next((time for time, recall in reached if recall >= goal), None)


def read(folder: pathlib.Path, args: argparse.Namespace) -> tuple[few_pairs.Data, Time]:
    """The features, and how long they took where they were read; a part of them is read again."""
    path, start = folder / "minutes.json", now()
    if not path.exists():
        for part in folder.glob("open_pictures_*.npz"):
            part.unlink()
    options = {"data_dir": args.data_dir, "limit": args.limit}
    data = few_pairs.Data(argparse.Namespace(output=folder, **options))
    if not path.exists():
        path.write_text(json.dumps(since(start)))
    return data, tuple(json.loads(path.read_text()))


def dual_encoder(data: few_pairs.Data) -> keras_lit.LiT:
    """Both heads random, a fixed scale."""
    width = data.parts["train"]["text_features"].shape[-1]
    model = data.unlocked(width, temperature=SCALE)
    model.log_temperature.trainable = False
    return model


def run(
    system: str, data: few_pairs.Data, features: Time, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each goal."""
    method = SYSTEMS[system]
    keras.utils.set_random_seed(args.seed)
    size = len(data.parts["train"]["text"])
    # The settings of the largest of the study's sizes that are there.
    chosen = max(x for x in few_pairs.SIZES if x <= max(args.limit or few_pairs.ALL, 100))
    race = Race(data.parts["validation"], max(args.goals))
    if method == "dual encoder":
        model = dual_encoder(data)
    else:
        model = few_pairs.start(method, data, size, few_pairs.NOISE[chosen])
    few_pairs.fit(model, data.few(size), race, args.seed, *settings(method, chosen))
    curve = [(*time, recall) for time, recall in zip(race.times, race.history, strict=True)]
    print(system, [tuple(round(x, 2) for x in point) for point in curve], flush=True)
    test = few_pairs.recall(model, data.parts["test"])
    rows = []
    for goal in sorted(args.goals):
        reached = race.until(goal)
        minutes, cpu = (
            (a + b for a, b in zip(features, reached, strict=True)) if reached else ("never",) * 2
        )
        rows.append(
            {
                "system": system,
                "goal": f"{goal:g} %",
                "minutes": minutes,
                "cpu_minutes": cpu,
                "best_validation": max(race.history),
                "its_test": test,
                "last_cpu_minutes": features[1] + race.times[-1][1],
            }
        )
    return rows


def commit() -> str:
    """The commit that is run; "unknown" outside of a clone."""
    command = ["git", "describe", "--always", "--dirty"]
    folder = pathlib.Path(__file__).parent
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Reads the features, lets all run in turn, prints the table, writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--goals", type=float, nargs="+", default=[20, 40, 45, 50], help="in %%")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--data-dir", default="~/tensorflow_datasets/open_pictures/1.0.0")
    parser.add_argument("--limit", type=int, help="use only so many pictures of each split")
    parser.add_argument("--folder", type=pathlib.Path, help="keeps the features, and their time")
    parser.add_argument("--threads", type=int, default=0, help="of TensorFlow; 0: one a core")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/speedrun.json"))
    args = parser.parse_args()
    if args.threads:
        tf.config.threading.set_intra_op_parallelism_threads(args.threads)
        tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    with tempfile.TemporaryDirectory() as new:
        data, features = read(args.folder or pathlib.Path(new), args)
        data.folder = pathlib.Path(new)  # Nothing else is there from before.
        print(f"features of all pictures and captions: {features[1]:.1f} CPU minutes", flush=True)
        shared = {
            "limit": args.limit or "all",
            "features_cpu_minutes": features[1],
            "threads": args.threads,
            "commit": commit(),
        }
        args.output.parent.mkdir(parents=True, exist_ok=True)
        rows = []
        for system in args.systems:
            rows += [{**row, **shared} for row in run(system, data, features, args)]
            args.output.write_text(json.dumps(rows, indent=1))
    for row in rows:
        times = [f"{x:.1f}" if isinstance(x, float) else x for x in list(row.values())[2:6]]
        print(f"{row['system']:14}{row['goal']:>6}" + "".join(f"{x:>10}" for x in times))


if __name__ == "__main__":
    main()
