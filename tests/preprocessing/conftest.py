"""Graphs are rewritten here, as they are for users: eager code and graphs are to agree all the same."""

import pytest
import tensorflow as tf


@pytest.fixture(scope="module", autouse=True)
def rewritten_graphs():
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
