import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.callbacks.test_evaluation import expected_metrics
from tests.small import make_model
from tests.test_distribution import free_ports


@pytest.mark.slow
def test_every_worker_finds_what_one_device_finds(tmp_path):
    expected = expected_metrics(make_model())
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    root = pathlib.Path(__file__).parent.parent.parent
    processes = []
    for i in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}}
        environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
        command = [sys.executable, "-m", "tests.callbacks.worker", str(tmp_path / f"{i}.json")]
        log = (tmp_path / f"{i}.log").open("w")
        processes.append(
            subprocess.Popen(command, env=environment, cwd=root, stdout=log, stderr=log)
        )
    try:
        codes = [process.wait(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0, 0], (tmp_path / "0.log").read_text()[-3000:]
    for i in range(2):
        history = json.loads((tmp_path / f"{i}.json").read_text())
        for name, value in expected.items():
            assert history[name] == [pytest.approx(value)], name
