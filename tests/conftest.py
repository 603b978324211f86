"""Eight logical CPU devices stand in for eight replicas; they must exist before TensorFlow starts."""

import ctypes
import fcntl
import functools
import gc
import os
import sys
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest

# Under oneDNN TensorFlow's allocator keeps what was freed: a process of these tests grew to 6 GB.
# What they start as processes (examples, notebooks, workers) runs as at a user's, with oneDNN.
with mock.patch.dict(os.environ, TF_ENABLE_ONEDNN_OPTS="0"):
    import tensorflow as tf
    from tensorflow.python.autograph.core import config as autograph
    from tensorflow.python.distribute import mirrored_run
    from tensorflow.python.eager import context
    from tensorflow.python.framework import ops

    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 8
    )
    # Many small graphs run once each: to optimise them takes longer than to run them.
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

import keras_nlp  # noqa: F401

import keras_lit  # noqa: F401

# keras_lit needs no rewriting by AutoGraph, which takes a fifth of the time and hides lines from
# `--cov`. Examples, notebooks and workers run as at a user's, with it.
plain = [autograph.DoNotConvert(x) for x in ("keras_lit", "keras_hub", "tensorflow_text")]
autograph.CONVERSION_RULES = (*plain, *autograph.CONVERSION_RULES)
# Each operation of a graph keeps the Python stack that made it, for messages alone. Under pytest
# that is a hundred frames: a quarter of a small fit's time, and memory.
ops._create_c_op = functools.partial(ops._create_c_op, extract_traceback=False)
# A dataset's graph is optimised for each iterator, a quarter of a small fit that is traced already.
as_written = tf.data.Options()
as_written.experimental_optimization.apply_default_optimizations = False
as_written.autotune.enabled = False
tf.data.Dataset._apply_debug_options = lambda self: self.with_options(as_written)
gc.set_threshold(50_000, 20, 20)  # Graphs are many small objects: to look through them costs 8 %.


def free_memory():
    """Frees models and graphs that nothing refers to: a process that kept all would hold 10 GB."""
    # TensorFlow never forgets a traced `tf.custom_gradient`, nor the variables of its graph.
    registered = ops.gradient_registry._registry
    for name in [name for name in registered if name.startswith("CustomGradient-")]:
        del registered[name]
    # Nor a function that `strategy.run` called eagerly: the weak key stands in its own value.
    mirrored_run._cfer_fn_cache.clear()
    gc.collect()
    # Nor what it prepared to run graphs that are gone.
    context.context().clear_kernel_cache()
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # Gives what was freed back to the system.


@pytest.fixture
def free_memory_after_test():
    """For tests that leave much behind."""
    yield
    free_memory()


@pytest.fixture(scope="session")
def stamps(request):
    """The prepared builder of Tux Paint's stamps; the first run downloads them (80 to 160 MB)."""
    from keras_lit.data import TuxPaintStamps

    data_dir = os.environ.get("KERAS_LIT_TEST_DATA") or request.config.cache.mkdir("tfds")
    builder = TuxPaintStamps(data_dir=data_dir)
    with open(f"{data_dir}/lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # One process prepares, others wait.
        builder.download_and_prepare()
    return builder


@pytest.fixture
def photos(tmp_path):
    """A table of 80 one-colour pictures in two folders."""
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (99, 99, 99)}
    rows = ["image,caption"]
    rng = np.random.default_rng(0)
    for i in range(80):
        name, colour = list(colours.items())[i % 4]
        folder = tmp_path / "photos" / ("even" if i % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(rng.normal(colour, 20, [40, 40, 3]), 0, 255).astype("uint8")
        (folder / f"{i}.png").write_bytes(tf.io.encode_png(pixels).numpy())
        rows.append(f"{folder.name}/{i}.png,a {name} picture number {i}")
    (tmp_path / "photos" / "captions.csv").write_text("\n".join(rows))
    return tmp_path / "photos"
