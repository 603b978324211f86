"""Apache Beam: perceptual hashes of millions of images, on any runner.

`pip install keras_lit[beam,data]`.
"""

from typing import Any

import apache_beam as beam
import numpy as np

from keras_lit.data import duplicates


class PerceptualHashes(beam.PTransform):
    """From numbered images to their numbered `duplicates.perceptual_hashes`, bit for bit.

    Takes a PCollection of (number, image) in any order: bytes of a file or uint8 pixels [height,
    width, channels], or a dict with these as "image". Returns one of (number, [bytes] uint8 array).

    Args:
        hash_size, mirrored: those of `keras_lit.data.duplicates.perceptual_hashes`.

    Raises:
        ValueError: `hash_size` is not a multiple of 4.

    Example: sorted by number they are the rows of `duplicates.match_hashes`.

    >>> with beam.Pipeline() as pipeline:
    ...     numbered = pipeline | ReadMyPairs()
    ...     hashes = numbered | keras_lit.data.beam.PerceptualHashes()
    ...     _ = hashes | WriteMyHashes()
    """

    def __init__(self, hash_size: int = 16, mirrored: bool = False):
        super().__init__()
        duplicates.perceptual_hashes([], hash_size)  # Raises now instead of on a worker.
        self._options = (hash_size, mirrored)

    def expand(self, numbered: beam.PCollection) -> beam.PCollection:
        return numbered | "hash" >> beam.MapTuple(self._hashed)

    def _hashed(self, number: int, image: Any) -> tuple[int, np.ndarray]:
        pair = image if isinstance(image, dict) else {"image": image}
        named = {"image": pair["image"], "name": pair.get("name", f"number {number}")}
        return number, duplicates.perceptual_hashes([named], *self._options)[0]
