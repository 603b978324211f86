"""Eight logical CPU devices stand in for eight replicas; they must exist before TensorFlow starts."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 8
)


def pytest_collection_modifyitems(items):
    """One process prepares the stamps for all tests that need them (`--dist loadgroup`)."""
    for item in items:
        if "stamps" in item.fixturenames:
            item.add_marker(pytest.mark.xdist_group("stamps"))


@pytest.fixture(scope="session")
def stamps(request):
    """The prepared builder of Tux Paint's stamps; the first run downloads them (80 to 160 MB)."""
    from keras_lit.data import TuxPaintStamps

    data_dir = os.environ.get("KERAS_LIT_TEST_DATA") or request.config.cache.mkdir("tfds")
    builder = TuxPaintStamps(data_dir=data_dir)
    builder.download_and_prepare()
    return builder
