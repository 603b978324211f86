"""The page that `run_all.py` writes: a table, and where cost grows a plot, for each benchmark."""

import pathlib
from typing import Any

HEAD = """# Benchmarks

Written by `examples/benchmarks/run_all.py`, whose JSON files lie in the folder beside this page.
The rows of one table were measured in turns, each case in a process of its own; `growth_mb` is by
how much the process grew, `late_growth_mb` in the last part of it, `writing_growth` and
`reading_growth` as a part of what it had after the start. Rows of `open_clip` are its own code in
PyTorch, on the same machine and the same data; `plain` is the same written down directly (the loss
in TensorFlow; the input pipeline in one process with PIL, NumPy and SentencePiece). `share` is that
of the matrix multiplication's own rate, `growth_of_file` the growth over the size of the file. The
loss works on at most 64 MB of logits at a time: batches of up to 4,096 are computed whole.

"""
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
        lines += table(record["results"])
        if benchmark.growth:
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
        settings = ", ".join(f"{name} {show(results[0][name])}" for name in shared)
        lines += [f"All rows: {settings}.", ""]
    lines += ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in results:
        lines.append("| " + " | ".join(show(row.get(name, "")) for name in columns) + " |")
    return lines


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


def plot(results: list[dict[str, Any]], growth: tuple[str, ...], path: pathlib.Path) -> None:
    """A panel for each y over x; a line for each combination of the other settings."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    x, *panels = growth
    names = dict.fromkeys(name for row in results for name in row)
    others = [n for n in names if is_setting(n, results) and n not in (x, *QUIET)]
    others = [name for name in others if not same(name, results)]
    # Sizes that grow with x (texts with images) draw no lines of their own.
    others = [n for n in others if type(results[0].get(n)) is not int]
    figure, grid = plt.subplots(1, len(panels), figsize=(8, 2.9), layout="constrained")
    for axes, y in zip(grid, panels, strict=True):
        for line in dict.fromkeys(tuple(row.get(n) for n in others) for row in results):
            rows = [row for row in results if tuple(row.get(n) for n in others) == line]
            label = ", ".join(
                f"{n} {v}" if isinstance(v, bool) else str(v)
                for n, v in zip(others, line, strict=True)
            )
            axes.plot([row[x] for row in rows], [row[y] for row in rows], "o-", label=label)
        axes.set(xlabel=x, title=y.replace("_", " ").replace("mb", "MB"), xscale="log")
        axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xticks(sorted({row[x] for row in results}))
        axes.set_xticklabels([f"{tick:,}" for tick in axes.get_xticks()], fontsize=7)
        axes.minorticks_off()
    if others:
        grid[0].legend(frameon=False, fontsize=7)
    figure.savefig(path, dpi=70)
    plt.close(figure)
