"""The version, by itself, so that setup can read it without TensorFlow."""

__version__ = "0.1.0"
