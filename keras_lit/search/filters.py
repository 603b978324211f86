"""Which pictures a search may find: `where`."""

import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from keras_lit.search.database import stored
from keras_lit.search.store import Snapshot

_HAS = (
    "EXISTS (SELECT 1 FROM json_each(metadata) AS field, json_each(?) AS wanted WHERE "
    "field.key = ? AND (field.value IS wanted.value OR EXISTS (SELECT 1 FROM json_each(CASE "
    "field.type WHEN 'array' THEN field.value ELSE '[]' END) AS item WHERE "
    "item.value IS wanted.value)))"
)


def allowed(
    database: sqlite3.Connection, snapshot: Snapshot, where: Mapping[str, Any]
) -> np.ndarray:
    """[rows] bool: those that `where` allows."""
    if not isinstance(where, Mapping):
        raise TypeError(
            "`where` should be a dict of fields and values, such as "
            f'{{"name": "2024/*.jpg", "label": [1, 2]}}. Received: {where!r:.80}.'
        )
    conditions, values = [], []
    for field, wanted in where.items():
        if field == "name":
            conditions.append("name GLOB ?")
            values.append(stored(str(wanted)))
        else:
            conditions.append(_HAS)
            values += [_as_json(wanted, field), field]
    try:
        query = f"SELECT row FROM pictures WHERE {' AND '.join(conditions)}"
        rows = [row for (row,) in database.execute(query, values)]
    except (sqlite3.Error, UnicodeError) as error:
        raise ValueError(f"`where` asks what SQLite cannot compare: {error}.") from error
    found = np.zeros_like(snapshot.alive)
    found[rows] = True
    return found


def _as_json(wanted: Any, field: str) -> str:
    """A list of the values, one of which a picture should have."""
    if isinstance(wanted, str | bytes) or not isinstance(wanted, Iterable):
        wanted = [wanted]
    values = [x.item() if hasattr(x, "item") else x for x in wanted]
    values = [os.fsdecode(x) if isinstance(x, bytes) else x for x in values]
    try:
        return json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`where` should compare {field!r} with strings or finite numbers. Received: "
            f"{values!r:.80}."
        ) from error
