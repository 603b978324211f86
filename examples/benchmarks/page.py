"""The page that `run_all.py` writes: a table, and where cost grows a plot, for each benchmark."""

import contextlib
import math
import pathlib
import statistics
from typing import Any

HEAD = """# Benchmarks

What things cost on one machine, beside open_clip and plain code where these do the same. Under each
title stands what came out, then the numbers. `python examples/benchmarks/run_all.py --quick`
measures a few things on your machine; without `--quick` it writes this page, beside open_clip with
`--peer PYTHON`.

How to read the tables: the rows of one were measured in turns, each in a process of its own.
"Memory growth" is by how much the process grew during the work. Rows of open_clip are its own code
in PyTorch, on the same machine and the same data; "plain" is the same written down directly (the
loss in TensorFlow, the input pipeline in one process with PIL, NumPy and SentencePiece). "Share" is
that of the speed of a bare matrix multiplication.

"""
# What a column is called on the page, where its name alone does not say it.
WORDS = {
    "growth_mb": "memory growth, MB",
    "late_growth_mb": "memory growth in the last part, MB",
    "peak_mb": "peak memory, MB",
    "writing_mb": "memory while writing, MB",
    "reading_mb": "memory while reading, MB",
    "writing_growth": "growth while writing, part",
    "reading_growth": "growth while reading, part",
    "file_mb": "file, MB",
    "growth_of_file": "memory growth / file",
    "of_keras_nlp": "/ keras_nlp",
    "jit": "XLA",
    "request_ms": "request, ms",
    "forward_ms": "forward pass, ms",
    "overhead_percent": "overhead, %",
}
# Constants that say nothing of the work.
QUIET = ("repeats", "rounds", "what", "rate_seconds", "warm_up")


def section(
    name: str,
    benchmark: Any,
    commands: tuple[str, ...],
    record: dict[str, Any] | None,
    folder: pathlib.Path,
) -> str:
    """One benchmark in Markdown; other pages include what is between the marks."""
    lines = [f"## {benchmark.title}", "", f"<!-- --8<-- [start:{name}] -->"]
    if record is None:
        wanted = " and ".join(f"`{command}`" for command in commands)
        lines += [f"Not run yet: {wanted}." if commands else "Not run: not part of --quick."]
    else:
        lines += found(record["results"], benchmark.found)
        lines += table(record["results"])
        if benchmark.growth:
            lines += exponents(record["results"], benchmark.growth)
            plot(record["results"], benchmark.growth, folder / f"{name}.png")
            lines += ["", f"![{benchmark.title}]({folder.name}/{name}.png)"]
        versions = ", ".join(f"{package} {v}" for package, v in record["versions"].items())
        lines += [
            "",
            f"{record['date']}, {record['machine']}, {record['minutes']} minutes; {versions}. "
            + " ".join(f"`{command}`" for command in record["commands"]),
        ]
        if benchmark.peer and not record["peer"]:
            lines += ["", "open_clip was not run beside it."]
    return "\n".join([*lines, f"<!-- --8<-- [end:{name}] -->", ""])


def table(results: list[dict[str, Any]]) -> list[str]:
    """Rows of what differs; what all rows share is said once, above."""
    names = [n for n in dict.fromkeys(k for row in results for k in row) if n not in QUIET]
    shared = [n for n in names if len(results) > 1 and is_setting(n, results) and same(n, results)]
    columns = [name for name in names if name not in shared]
    lines = []
    if shared:
        settings = ", ".join(f"{words(name)} {show(results[0][name])}" for name in shared)
        lines += [f"All rows: {settings}.", ""]
    heads = " | ".join(words(name) for name in columns)
    lines += [f"| {heads} |", "|---" * len(columns) + "|"]
    for row in results:
        lines.append("| " + " | ".join(show(row.get(name, "")) for name in columns) + " |")
    return lines


def words(name: str) -> str:
    """The head of a column."""
    return WORDS.get(name, name.replace("_per_second", "/s").replace("_", " "))


def found(results: list[dict[str, Any]], sentence: str) -> list[str]:
    """What came out: the benchmark's own sentence, and the times beside those of open_clip."""
    said = []
    with contextlib.suppress(IndexError, KeyError, ValueError):  # Fewer cases were measured.
        said += [sentence.format(*results)]
    ours, theirs = (
        [row for row in results if row.get("library") == library and row.get("loss") != "plain"]
        for library in ("keras_lit", "open_clip")
    )
    ratios = [
        row["seconds"] / other["seconds"]
        for row in ours
        for other in theirs
        if all(row[name] == other.get(name) for name in row if compared(name, results))
    ]
    if ratios:
        said += [f"keras_lit takes {min(ratios):.2f} to {max(ratios):.2f} of open_clip's time."]
    said = [line for line in said if line]
    return ["**" + " ".join(said) + "**", ""] if said else []


def compared(name: str, results: list[dict[str, Any]]) -> bool:
    """Whether rows that are compared should be equal in this."""
    return is_setting(name, results) and name not in ("library", "loss")


def is_setting(name: str, results: list[dict[str, Any]]) -> bool:
    """Whether a column says what was run, and not what was found."""
    return not any(isinstance(row.get(name), float) for row in results)


def same(name: str, results: list[dict[str, Any]]) -> bool:
    """Whether all rows have the same value."""
    return all(name in row and row[name] == results[0][name] for row in results)


def show(value: Any) -> str:
    """Three digits of a measurement, and settings as they are."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def by_line(results: list[dict[str, Any]], x: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of each line of a plot over `x`, by the settings in which lines differ."""
    names = dict.fromkeys(name for row in results for name in row)
    others = [n for n in names if is_setting(n, results) and n not in (x, *QUIET)]
    others = [name for name in others if not same(name, results)]
    # Sizes that grow with x (texts with images) draw no lines of their own.
    others = [n for n in others if type(results[0].get(n)) is not int]
    lines: dict[str, list[dict[str, Any]]] = {}
    for row in results:
        given = [(n, row.get(n)) for n in others]
        label = ", ".join(f"{n} {v}" if isinstance(v, bool) else str(v) for n, v in given)
        lines.setdefault(label, []).append(row)
    return lines


def exponents(results: list[dict[str, Any]], growth: tuple[str, ...]) -> list[str]:
    """The powers of x with which each y grows: slopes of least squares between logarithms."""
    x, *panels = growth
    said = []
    for y in panels:
        slopes = {}
        for label, rows in by_line(results, x).items():
            if len({row[x] for row in rows}) > 1 and all(row[y] > 0 for row in rows):
                logs = [[math.log(row[name]) for row in rows] for name in (x, y)]
                slopes[label] = statistics.linear_regression(*logs).slope
        powers = [f"{slope:.2f}{label and f' ({label})'}" for label, slope in slopes.items()]
        if powers:
            said.append(f"{words(y)}: {', '.join(powers)}")
    return ["", f"Powers of {x} with which cost grows. {'; '.join(said)}."] if said else []


def plot(results: list[dict[str, Any]], growth: tuple[str, ...], path: pathlib.Path) -> None:
    """A panel for each y over x; a line for each combination of the other settings."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    x, *panels = growth
    grouped = by_line(results, x)
    figure, grid = plt.subplots(1, len(panels), figsize=(8, 2.9), layout="constrained")
    for axes, y in zip(grid, panels, strict=True):
        for label, rows in grouped.items():
            axes.plot([row[x] for row in rows], [row[y] for row in rows], "o-", label=label)
        axes.set(xlabel=x, title=y.replace("_", " ").replace("mb", "MB"), xscale="log")
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xticks(sorted({row[x] for row in results}))
        axes.set_xticklabels([f"{tick:,}" for tick in axes.get_xticks()], fontsize=7)
        axes.minorticks_off()
        ends = [end([row[y] for row in results]) for end in (min, max)]
        axes.set_yticks(ends, [show(tick) for tick in ends])  # Powers of ten may be neither.
    if len(grouped) > 1:
        grid[0].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=70)
    plt.close(figure)
