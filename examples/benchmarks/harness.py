"""Runs each case of a benchmark in a process of its own, in turns, and reports medians."""

import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

Case = dict[str, Any]


def measure(step: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median seconds of a step, and by how many MB the process grew beyond what it held before.

    The growth counts the first step too, with whatever it allocates for good.
    """
    before = _memory("VmRSS")
    _forget_peak()
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return {
        "seconds": statistics.median(seconds[1:] or seconds),  # The first one traces or compiles.
        "growth_mb": max(0.0, _memory("VmHWM") - before),
    }


def main(
    script: str, run: Callable[[Case], dict[str, float]], cases: list[Case], rounds: int, peer: str
) -> list[Case]:
    """Runs `cases` `rounds` times in turns (or, in a child process, the one on the command line).

    Args:
        script: the benchmark's `__file__`.
        run: measures one case.
        cases: what to run; one whose "library" is "open_clip" runs with the interpreter `peer`.
        rounds: how often, each time in a new process.
        peer: path of a Python that has open_clip_torch; empty to leave such cases out.

    Returns:
        The cases with "seconds" and "growth_mb", the medians over the rounds.
    """
    if len(sys.argv) == 3 and sys.argv[1] == "--case":
        print("RESULT " + json.dumps(run(json.loads(sys.argv[2]))))
        raise SystemExit
    cases = [case for case in cases if peer or case["library"] != "open_clip"]
    found: list[list[dict[str, float]]] = [[] for _ in cases]
    for turn in range(rounds):
        for case, results in zip(cases, found, strict=True):
            python = peer if case["library"] == "open_clip" else sys.executable
            child = subprocess.run(
                [python, script, "--case", json.dumps(case)], capture_output=True, text=True
            )
            lines = [line for line in child.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                raise RuntimeError(f"{case} failed:\n{child.stderr[-3000:]}")
            results.append(json.loads(lines[0].removeprefix("RESULT ")))
            print(f"round {turn + 1}: {case} {results[-1]}", flush=True)
    return [
        {**case, **{name: statistics.median(r[name] for r in results) for name in results[0]}}
        for case, results in zip(cases, found, strict=True)
    ]


def report(results: list[Case], output: pathlib.Path) -> None:
    """Prints a table and writes it as JSON."""
    columns = list(dict.fromkeys(name for result in results for name in result))
    rows = [[_show(result.get(name, "")) for name in columns] for result in results]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    for row in [columns, *rows]:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1))
    print(f"written to {output}")


def settled(seen: list[float], phase: int | None = None) -> tuple[float, float]:
    """What a phase leaves of the memory that was seen in it, MB, and by what part it still grows.

    What its first tenth allocates is there for good; `phase`: the length of the first of several.
    """
    rest = seen[(phase or len(seen)) // 10 :]
    return rest[0], max(rest) / rest[0] - 1


def _show(value: Any) -> str:
    return (
        f"{value:.3g}"
        if isinstance(value, float) and value < 100
        else f"{value:.0f}"
        if (isinstance(value, float))
        else str(value)
    )


def _memory(name: str) -> float:
    """VmRSS or VmHWM (the peak) of this process in MB."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _forget_peak() -> None:
    pathlib.Path("/proc/self/clear_refs").write_text("5")
