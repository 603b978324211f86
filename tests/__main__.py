"""The tests in two processes: python -m tests [options of pytest]

Each process takes the next file that none has taken. One that has grown ends and another goes on
in its place: what many small graphs leave of TensorFlow's heap goes back to the system only then.
"""

import collections
import concurrent.futures
import json
import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile
import time

import pytest
import tqdm

PROCESSES = 2
GROWN = float(os.environ.get("KERAS_LIT_TESTS_GROWN", 1.5e9))  # bytes resident
GOES_ON = 100  # The exit status of a process that has grown.
FOLDER = "KERAS_LIT_TESTS_FOLDER"  # Set for such a process: where it says what it has taken.


def peak():
    """Bytes that this process has had resident at most."""
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def resident():
    """Bytes that this process has resident now; elsewhere than on Linux its peak."""
    try:
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return peak()


class Turns:
    """A plugin of pytest that runs the files which no other process has taken."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.grown = False
        self.counts = collections.Counter()

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1

    def take(self, path):
        """The file in which to write how `path` went, or None if it is taken."""
        record = self.folder / (re.sub(r"\W", "_", path) + ".json")
        try:
            with record.open("x") as file:
                json.dump({"path": path}, file)
        except FileExistsError:
            return None
        return record

    def pytest_runtestloop(self, session):
        if session.testsfailed or session.config.option.collectonly:
            return None  # pytest's own loop says why no test runs.
        files = collections.defaultdict(list)
        for item in session.items:
            files[item.nodeid.split("::")[0]].append(item)
        # The longest first, so that none is left alone at the end.
        slow = {p: sum(i.get_closest_marker("slow") is not None for i in files[p]) for p in files}
        for path in sorted(files, key=lambda path: (-slow[path], -len(files[path]))):
            if self.grown or not (record := self.take(path)):
                continue
            self.counts.clear()
            for item, after in zip(files[path], [*files[path][1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
                if session.shouldstop:
                    raise session.Interrupted(session.shouldstop)
            counts = dict(self.counts)
            record.write_text(json.dumps({"path": path, "counts": counts, "peak": peak()}))
            self.grown = resident() > GROWN
        return True


def one_after_another(folder, options):
    """Runs processes until no file is left; their exit statuses."""
    statuses = []
    while True:
        taken = len(list(folder.iterdir()))
        command = [sys.executable, "-m", "tests", "-q", *options]
        environment = {**os.environ, FOLDER: str(folder)}
        # A file, not a pipe, which whatever a test leaves running would keep open.
        with tempfile.TemporaryFile("w+", errors="replace") as output:
            child = subprocess.run(command, env=environment, stdout=output, stderr=output)
            output.seek(0)
            tqdm.tqdm.write(output.read())
        statuses.append(child.returncode)
        crashed = child.returncode not in [*pytest.ExitCode, GOES_ON]
        # After a crash the next process goes on, unless even to start is what crashes.
        if child.returncode != GOES_ON and not (crashed and len(list(folder.iterdir())) > taken):
            return statuses


def main(options):
    """Runs the tests, prints their sum and returns the exit status of pytest."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name, concurrent.futures.ThreadPoolExecutor() as pool:
        folder = pathlib.Path(name)
        runs = [pool.submit(one_after_another, folder, options) for _ in range(PROCESSES)]
        with tqdm.tqdm(desc="files of tests", unit="", mininterval=5) as bar:
            while concurrent.futures.wait(runs, timeout=1).not_done:
                bar.update(len(list(folder.iterdir())) - bar.n)
        statuses = [status for run in runs for status in run.result()]
        records = [json.loads(path.read_text()) for path in sorted(folder.iterdir())]
    counts = sum((collections.Counter(r.get("counts")) for r in records), collections.Counter())
    unfinished = [record["path"] for record in records if "counts" not in record]
    sizes = [record["peak"] / 1e9 for record in records if "peak" in record]
    print(*(f"NOT FINISHED {path}" for path in unfinished), sep="\n")
    print(
        ", ".join(f"{n} {outcome}" for outcome, n in sorted(counts.items())) or "no tests",
        f"in {time.monotonic() - begin:.0f} s by {len(statuses)} processes,",
        f"the largest {max(sizes, default=0):.1f} GB",
    )
    if unfinished or counts["failed"]:
        return pytest.ExitCode.TESTS_FAILED
    bad = [s for s in statuses if s not in (0, GOES_ON, pytest.ExitCode.NO_TESTS_COLLECTED)]
    return bad[0] if bad else 0 if counts else pytest.ExitCode.NO_TESTS_COLLECTED


def child(options):
    """Runs files that no other process has taken; the exit status."""
    turns = Turns(os.environ.pop(FOLDER))
    status = pytest.main(options, plugins=[turns])
    return GOES_ON if turns.grown else status


if __name__ == "__main__":
    sys.exit((child if FOLDER in os.environ else main)(sys.argv[1:]))
