"""The tests, two files at a time: python -m tests [options of pytest]

Each file runs in a process forked after all were collected and before TensorFlow started: it costs
no import, and its end gives all of its memory back to the system. On Windows there is one process.
"""

import atexit
import contextlib
import gc
import itertools
import json
import os
import signal
import sys
import tempfile

import pytest

AT_A_TIME = 2


class Forked:
    """A plugin of pytest that runs files in processes and hears their reports."""

    def __init__(self):
        self.cpu = {}  # Seconds by file.
        self.peaks = [0]  # Bytes resident.

    def pytest_collectreport(self, report):
        context = sys.modules.get("tensorflow.python.eager.context")
        if context and context.context()._initialized:
            pytest.exit(
                f"{report.nodeid} starts TensorFlow while it is imported, and a process forked after"
                " that waits forever: compute tensors in the tests, or in a `functools.cache`.",
                returncode=pytest.ExitCode.USAGE_ERROR,
            )

    def pytest_runtestloop(self, session):
        if session.testsfailed or session.config.option.collectonly or not hasattr(os, "fork"):
            return None  # pytest's own loop.
        gc.collect()
        gc.freeze()  # What was imported is looked through, and so copied, by no process.
        files = [list(items) for _, items in itertools.groupby(session.items, lambda i: i.path)]
        # The longest first, so that none is left alone at the end.
        files.sort(key=lambda f: sum(i.get_closest_marker("slow") is not None for i in f))
        running = {}
        with contextlib.ExitStack() as opened:
            opened.callback(lambda: [os.kill(pid, signal.SIGTERM) for pid in running])
            while files or running:
                while files and len(running) < AT_A_TIME:
                    reports = opened.enter_context(tempfile.TemporaryFile("w+"))
                    items = files.pop()
                    running[fork(items, reports)] = items, reports
                pid, status, usage = os.wait4(-1, 0)
                items, reports = running.pop(pid)
                self.cpu[items[0].path.name] = usage.ru_utime + usage.ru_stime
                self.peaks.append(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
                repeat(items, reports, os.waitstatus_to_exitcode(status))
                if session.shouldfail:
                    raise session.Failed(session.shouldfail)
        return True

    def pytest_terminal_summary(self, terminalreporter):
        dearest = sorted(self.cpu, key=self.cpu.get, reverse=True)[:10]
        terminalreporter.write_line(
            f"The largest process had {max(self.peaks) / 1e9:.1f} GB; seconds of CPU: "
            + ", ".join(f"{name} {self.cpu[name]:.0f}" for name in dearest)
        )


def fork(items, reports):
    """Runs the tests of a file in a new process, which writes `reports`; returns its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    status = 1
    try:
        config = items[0].config
        config.pluginmanager.unregister(name="terminalreporter")  # The parent prints.
        config.pluginmanager.register(Reports(config, reports))
        capture = config.pluginmanager.getplugin("capturemanager")
        capture.stop_global_capturing()  # Its file is the parent's.
        capture.start_global_capturing()
        capture.suspend_global_capture()
        for item, after in itertools.pairwise([*items, None]):
            if not item.session.shouldfail:  # As after -x.
                config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        reports.flush()
        atexit._run_exitfuncs()  # They end what the tests have started.
        status = 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


class Reports:
    """A plugin of pytest that writes what it is told, a line each."""

    def __init__(self, config, file):
        self.config, self.file = config, file

    def pytest_runtest_logreport(self, report):
        data = self.config.hook.pytest_report_to_serializable(config=self.config, report=report)
        print(json.dumps(data), file=self.file, flush=True)


def repeat(items, reports, status):
    """Tells pytest here what a process has told, and of the test in which it ended."""
    hook, config = items[0].config.hook, items[0].config
    reports.seek(0)
    reports = [json.loads(line) for line in reports]
    reports = [hook.pytest_report_from_serializable(config=config, data=data) for data in reports]
    for item in items:
        if item.session.shouldfail:
            return
        own = [report for report in reports if report.nodeid == item.nodeid]
        ended = not own or own[-1].when != "teardown"
        if ended:
            why = f"The process ended here with exit status {status}; the rest of the file did not run."
            own.append(pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call"))
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in own:
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if ended:
            return


if __name__ == "__main__":
    sys.exit(pytest.main(plugins=[Forked()]))
