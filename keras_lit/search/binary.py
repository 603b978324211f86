"""One bit per dimension: the signs of rotated vectors, and the distance of a query to them.

A fixed random rotation spreads a vector's information evenly over its dimensions, so that each sign
carries about as much (CCA and `dims` put most of it into the first ones). The query keeps more than
its signs: a differing bit is weighted by the query's magnitude there, rounded to 4 bits, so that a
distance is four bit counts (as in RaBitQ, SIGMOD 2024, arXiv 2405.12497).
"""

import functools

import numpy as np
import tensorflow as tf

_BITS = 4  # Of a query's magnitudes.


def words(dim: int) -> int:
    """The number of uint64 words that hold a vector's signs."""
    return -(-dim // 64)


def codes(vectors: np.ndarray) -> np.ndarray:
    """[n, dim] float32 -> [n, words] uint64."""
    return _packed(vectors @ _rotation(vectors.shape[1]) > 0)


def planes(queries: np.ndarray) -> np.ndarray:
    """[n, dim] float32 -> [n, 1 + 4, words] uint64: the signs, then the bits of the magnitudes."""
    turned = queries @ _rotation(queries.shape[1])
    largest = np.maximum(np.abs(turned).max(axis=1, keepdims=True), 1e-12)
    magnitudes = np.rint(np.abs(turned) / largest * (2**_BITS - 1)).astype("uint8")
    bits = [magnitudes >> bit & 1 for bit in range(_BITS)]
    return np.stack([_packed(x > 0) for x in (turned, *bits)], axis=1)


@tf.function(jit_compile=True, autograph=False)
def closeness(tile: tf.Tensor, queries: tf.Tensor) -> tf.Tensor:
    """`codes` [rows, words], `planes` [n, 1 + 4, words] -> [n, rows] float32, larger if closer."""
    signs, *magnitudes = tf.unstack(queries[:, :, tf.newaxis], axis=1)
    differs = tf.bitwise.bitwise_xor(tile, signs)
    distance = tf.constant(0)
    for bit, plane in enumerate(magnitudes):
        counts = tf.raw_ops.PopulationCount(x=tf.bitwise.bitwise_and(differs, plane))
        distance += 2**bit * tf.reduce_sum(tf.cast(counts, tf.int32), axis=2)
    return -tf.cast(distance, tf.float32)


def _packed(bits: np.ndarray) -> np.ndarray:
    """[n, dim] bool -> [n, words] uint64, padded with zeros."""
    missing = 64 * words(bits.shape[1]) - bits.shape[1]
    return np.packbits(np.pad(bits, [(0, 0), (0, missing)]), axis=1).view("uint64")


@functools.lru_cache(maxsize=4)
def _rotation(dim: int) -> np.ndarray:
    """[dim, dim] float32, the same on every machine: it is part of the format."""
    q, r = np.linalg.qr(np.random.RandomState(dim).standard_normal([dim, dim]))
    return (q * np.sign(np.diag(r))).astype("float32")
