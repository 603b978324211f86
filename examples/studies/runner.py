"""Runs a study: named variants x seeds, each trained and measured, into one table and one figure.

Every result is written to `<output>/<study>.json` when it is there, so that a study that was killed
goes on where it was. `results()` reads that file back.
"""

import argparse
import gc
import json
import pathlib
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import keras
import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from keras_lit import files

# One measurement: numbers by name, "pairs" (seen so far) among them where there is a curve.
Point = dict[str, float]


class Clock:
    """Seconds per stage, and how many of a processor's (of all threads)."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.cpu_seconds: dict[str, float] = {}
        self._start = time.perf_counter(), time.process_time()

    def lap(self, stage: str) -> None:
        """Ends a stage and prints how long it took."""
        now = time.perf_counter(), time.process_time()
        taken = [round(end - start, 1) for end, start in zip(now, self._start, strict=True)]
        self.seconds[stage], self.cpu_seconds[stage] = taken
        self._start = now
        print(f"[{taken[0]:6.1f} s, {taken[1]:6.1f} s of processors] {stage}", flush=True)


def parser(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """The command line that all studies share."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/studies"))
    parser.add_argument("--data-dir", help="of the prepared stamps")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", help="only these")
    parser.add_argument("--limit", type=int, help="use only so many pictures (to try it out)")
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    return parser


def run(
    study: str,
    args: argparse.Namespace,
    variants: Iterable[str],
    train: Callable[[str, int], list[Point]],
) -> list[dict[str, Any]]:
    """Trains what is still missing and returns all results.

    Args:
        study: its name, and that of its file.
        args: of `parser()`; results of other settings in the same file are refused.
        variants: their names.
        train: (variant, seed) -> the measurements, the last of which is the result.

    Returns:
        A list of {"variant", "seed", "curve": [points], "seconds"}.

    Raises:
        ValueError: the file holds results of other settings.
    """
    path = args.output / f"{study}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    free = ("output", "data_dir", "seeds", "variants")
    settings = {name: value for name, value in vars(args).items() if name not in free}
    record = {"study": study, "settings": settings, "results": []}
    if path.exists():
        record = json.loads(path.read_text())
        if record["settings"] != settings:
            raise ValueError(
                f"{path} is of other settings: {record['settings']}. Received: {settings}. Move it "
                "away, or pass another --output."
            )
    done = {(result["variant"], result["seed"]) for result in record["results"]}
    # Seeds outermost: whatever is there when time is up compares all variants.
    for seed in range(args.seeds):
        for variant in variants:
            if (variant, seed) in done or (args.variants and variant not in args.variants):
                continue
            keras.utils.set_random_seed(seed)
            start = time.perf_counter()
            curve = train(variant, seed)
            seconds = round(time.perf_counter() - start, 1)
            record["results"].append(
                {"variant": variant, "seed": seed, "curve": curve, "seconds": seconds}
            )
            with files.whole(path) as working:
                working.write_text(json.dumps(record, indent=1))
            print(f"[{seconds:6.1f} s] {study}: {variant}, seed {seed}", flush=True)
            gc.collect()
    return record["results"]


def summarise(results: list[dict[str, Any]], metric: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over seeds of the last measurement, by variant."""
    values: dict[str, list[float]] = {}
    for result in results:
        values.setdefault(result["variant"], []).append(result["curve"][-1][metric])
    return {variant: mean_and_deviation(of) for variant, of in values.items()}


def mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """And standard deviation; one value has none."""
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def table(
    results: list[dict[str, Any]], metrics: dict[str, str], format: str = "{:.1f} ± {:.1f}"
) -> str:
    """Markdown: a line for each variant, mean ± standard deviation over seeds.

    Args:
        results: of `run`.
        metrics: name in the points -> title of the column.
        format: of mean and deviation.
    """
    columns = {title: summarise(results, metric) for metric, title in metrics.items()}
    lines = [["", *columns, "seeds", "seconds"]]
    for variant in next(iter(columns.values())):
        own = [result for result in results if result["variant"] == variant]
        cells = [format.format(*column[variant]) for column in columns.values()]
        seconds = statistics.mean(result["seconds"] for result in own)
        lines.append([variant, *cells, str(len(own)), f"{seconds:.0f}"])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(
    results: list[dict[str, Any]],
    metrics: dict[str, str],
    path: pathlib.Path,
    x: str | None = "pairs",
    xlabel: str = "pairs seen",
    xscale: str = "linear",
) -> None:
    """A panel for each metric: curves over `x`, or (None) a bar for each variant; ± one deviation.

    Args:
        results: of `run`.
        metrics: name in the points -> title of the panel.
        path: of the PNG.
        x: name in the points of what the curves run over.
        xlabel: its title.
        xscale: "linear" or "log".
    """
    figure, panels = plt.subplots(
        1, len(metrics), figsize=(4.2 * len(metrics), 3.4), layout="constrained", squeeze=False
    )
    variants = list(dict.fromkeys(result["variant"] for result in results))
    for axes, (metric, title) in zip(panels[0], metrics.items(), strict=True):
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        if x is None:
            bars = summarise(results, metric)
            axes.barh(variants, [bars[v][0] for v in variants], xerr=[bars[v][1] for v in variants])
            axes.invert_yaxis()
            continue
        for i, variant in enumerate(variants):
            curves = [result["curve"] for result in results if result["variant"] == variant]
            steps = list(zip(*curves, strict=True))
            values = [[point[metric] for point in points] for points in steps]
            places = [points[0][x] for points in steps]
            means = [statistics.mean(of) for of in values]
            spread = [statistics.stdev(of) if len(of) > 1 else 0 for of in values]
            axes.errorbar(
                places, means, spread, label=variant, marker="o", ms=3, capsize=2, color=f"C{i}"
            )
        axes.set_xlabel(xlabel)
        axes.set_xscale(xscale)
    if x is not None:
        panels[0][0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80, bbox_inches="tight")
    plt.close(figure)


def report(
    study: str,
    args: argparse.Namespace,
    results: list[dict[str, Any]],
    metrics: dict[str, str],
    format: str = "{:.1f} ± {:.1f}",
    **options: Any,
) -> None:
    """Prints the table and draws the figure beside the JSON file; `options` of `plot`."""
    print(table(results, metrics, format))
    plot(results, metrics, args.output / f"{study}.png", **options)
    print(f"{study}.json and {study}.png in {args.output}")
