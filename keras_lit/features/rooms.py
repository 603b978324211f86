"""How much room on the disk a cache takes, before it is written."""

import math
import pathlib
import shutil

import numpy as np

from keras_lit.features import manifests


def bytes_each(plan: manifests.Record) -> int:
    """What the features of one picture take."""
    count = math.prod(manifests.feature_shape(plan)) * plan["views"]
    return count * np.dtype(plan["dtype"]).itemsize


def in_words(plan: manifests.Record) -> str:
    """What the features of one picture and of all take."""
    each = bytes_each(plan)
    return (
        f"{each:,} bytes of image features a picture ({plan['dtype']}), "
        f"{each * plan['pairs'] / 1e6:,.1f} MB of {plan['pairs']:,} pairs."
    )


def check(
    directory: pathlib.Path, plan: manifests.Record, missing: int, max_bytes: int | None
) -> None:
    """Raises ValueError unless all fit into `max_bytes`, and what is missing on the disk."""
    each, free = bytes_each(plan), shutil.disk_usage(directory).free
    remedy = 'Take fewer pairs, `dtype="float16"`, or a tower that pools. Nothing was written.'
    if max_bytes is not None and each * plan["pairs"] > max_bytes:
        raise ValueError(
            f"The features would take more than `max_bytes`={max_bytes:,}: "
            f"{in_words(plan)} {remedy}"
        )
    if each * missing > free:
        raise ValueError(
            f"The features would not fit into {str(directory)!r}, where {free:,} bytes are free: "
            f"{in_words(plan)} {remedy}"
        )
