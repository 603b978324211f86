"""Whatever comes in: a result or an error, in bounded time and memory, and right answers after it."""

import itertools
import pathlib
import time

import numpy as np
import pytest
import tensorflow as tf
from hostile import images, texts

pytest.importorskip("tensorflow_serving")
from serving import Server

SECONDS = 10.0
MEGABYTES = 1500


def memory(name):
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024


def attack(saved, image_count, text_count):
    """{kind of result: count}; fails when a request takes too long or answers go wrong."""
    server = Server(saved.path)

    def check_answers():
        for name in ("encode_image", "encode_text"):
            (key,) = server.signatures[name].inputs
            found = server.run(name, {key: saved.inputs[key]})["embedding"]
            expected = saved.outputs[name]["embedding"]
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)

    check_answers()
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    before, results = memory("VmRSS"), {}
    requests = [
        ("encode_image", "image_bytes", itertools.islice(images(), image_count)),
        ("encode_text", "text", itertools.islice(texts(), text_count)),
    ]
    for signature, key, inputs in requests:
        for i, (name, contents) in enumerate(inputs):
            start = time.perf_counter()
            try:
                found = server.run(signature, {key: np.array([contents], object)})["embedding"]
                np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1], atol=1e-5)
                results[name] = "answered"
            except tf.errors.InvalidArgumentError as error:
                assert "does not decode" in error.message and "[0]" in error.message, name
                results[name] = "refused"
            seconds = time.perf_counter() - start
            assert seconds < SECONDS, f"{name} took {seconds:.1f} s"
            if i % 50 == 49:
                check_answers()
    check_answers()
    assert memory("VmHWM") - before < MEGABYTES
    return results


@pytest.mark.slow
def test_hostile_inputs(saved):
    results = attack(saved, 46, 18)
    answered = "jpeg, cmyk, 16-bit, animated gif, webp, 64 megapixels"
    refused = "animated webp, nothing, svg, large png square, a whole png of 100 megapixels, tiff"
    assert {results[name] for name in answered.split(", ")} == {"answered"}
    assert {results[name] for name in refused.split(", ")} == {"refused"}


@pytest.mark.slow
def test_a_thousand_hostile_inputs(saved):
    results = attack(saved, 800, 200)
    assert len(results) > 950 and set(results.values()) == {"answered", "refused"}
