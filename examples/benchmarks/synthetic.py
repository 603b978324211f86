"""A cache of synthetic features, written by the real writer."""

import pathlib
from typing import Any

import harness
import numpy as np

TOKENS, VOCABULARY, DIM = 16, 32_000, 768


class Tokens:
    """Stands for a text preprocessor: the token ids of `write` come from none."""

    def get_config(self) -> dict[str, Any]:
        return {}


def write(
    directory: pathlib.Path,
    pairs: int,
    tokens: bool = False,
    watch: list[float] | None = None,
    dtype: str = "float16",
    dim: int = DIM,
    text_dim: int = 0,
) -> int:
    """Writes the same features each time, stored as `dtype`; returns their size in bytes.

    With `text_dim` features of text too.
    """
    from keras_lit.features import manifests, tfrecords
    from keras_lit.towers import fingerprints

    shards = max(1, pairs // 50_000)
    plan = {
        **{"split": "train", "dtype": dtype, "views": 1, "seed": 0, "shards": shards},
        **{"format": manifests.FORMAT, "dim": dim, "pairs": pairs, "batch_size": 1},
        "fields": {"text": {"dtype": "string", "shape": []}},
        "tokens": None,
        "tower": {},
        "augmentation": None,
        "first_input": 0,
    }
    if text_dim:
        plan["text"] = {"dim": text_dim, "tower": {}}
    if tokens:
        preprocessor = fingerprints.of_preprocessor(Tokens())
        plan["tokens"] = {"length": TOKENS, "preprocessor": preprocessor}
    manifests.agree_on_plan(directory, plan)
    rng = np.random.default_rng(0)

    def rows(start: int, stop: int) -> Any:
        for i in range(start, stop):
            row = {"image_features": rng.normal(size=dim).astype(dtype)}
            row["text"] = f"a caption of a usual length, with the number {i}"
            if text_dim:
                row["text_features"] = rng.normal(size=text_dim).astype(dtype)
            if tokens:
                row["token_ids"] = rng.integers(1, VOCABULARY, TOKENS).astype("int32")
            if watch is not None and i % 10_000 == 0:
                watch.append(harness._memory("VmRSS"))
            yield row

    for shard in range(shards):
        edges = (pairs * i // shards for i in (shard, shard + 1))
        notes = {"skipped": [], "last_input": 0}
        tfrecords.write(directory, plan, shard, rows(*edges), notes)
    return tfrecords.finish(directory, plan)["bytes"]
