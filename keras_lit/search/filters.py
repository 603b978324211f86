"""Which pictures a search may find: `where`."""

import json
import os
import sqlite3
import unicodedata
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_lit.search.database import stored
from keras_lit.search.store import Snapshot

_PATH = (str, bytes, os.PathLike)
_HAS = (
    "EXISTS (SELECT 1 FROM json_each(metadata) AS field, json_each(?) AS wanted WHERE "
    "field.key = ? AND (field.value IS wanted.value OR EXISTS (SELECT 1 FROM json_each(CASE "
    "field.type WHEN 'array' THEN field.value ELSE '[]' END) AS item WHERE "
    "item.value IS wanted.value)))"
)


def check_where(where: Any) -> None:
    """Raises TypeError unless `where` is a dict, or None."""
    if where is not None and not isinstance(where, Mapping):
        raise TypeError(
            "`where` should be a dict of fields and values, such as "
            f'{{"name": "2024/*.jpg", "label": [1, 2]}}. Received: {where!r:.80}.'
        )


def allowed(
    database: sqlite3.Connection, snapshot: Snapshot, where: Mapping[str, Any]
) -> np.ndarray:
    """[rows] bool: which rows `where` allows."""
    conditions: list[str] = []
    values: list[str | bytes] = []
    for field, wanted in where.items():
        if field == "name":
            found = _several(wanted)
            names = [os.fsdecode(x) if isinstance(x, _PATH) else str(x) for x in found]
            # Accents are one character or two, as the system wrote them.
            forms = {unicodedata.normalize(form, x) for x in names for form in ("NFC", "NFD")}
            try:
                patterns = [stored(x) for x in sorted({*names, *forms})]
            except UnicodeError as error:
                raise ValueError(f"`where` asks for a name that no file has: {error}.") from error
            # As it is, too: "[1].jpg" is a name, and a pattern that does not match it.
            conditions.append(" OR ".join(["name GLOB ? OR name = ?"] * len(patterns)) or "FALSE")
            values += [x for pattern in patterns for x in (pattern, pattern)]
        else:
            conditions.append(_HAS)
            values += [_as_json(wanted, field), field]
    try:
        query = f"SELECT row FROM pictures WHERE ({') AND ('.join(conditions)})"
        rows = [row for (row,) in database.execute(query, values)]
    except (sqlite3.Error, UnicodeError, OverflowError) as error:
        raise ValueError(f"`where` asks what SQLite cannot compare: {error}.") from error
    if not rows and set(where) != {"name"}:
        _say_what_is_unknown(database, where)
    rows_found = np.zeros_like(snapshot.alive)
    rows_found[rows] = True
    return rows_found


def _say_what_is_unknown(database: sqlite3.Connection, where: Mapping[str, Any]) -> None:
    """Warns of fields that no picture has, which may be misspelt."""
    found = database.execute("SELECT DISTINCT key FROM pictures, json_each(metadata)")
    known = {"name", *(key for (key,) in found)}
    if unknown := sorted(set(map(str, where)) - known):
        warnings.warn(
            f"No picture of the index has {', '.join(map(repr, unknown))}, so `where` allows none. "
            f"Their fields: {', '.join(map(repr, sorted(known)))}.",
            stacklevel=2,
        )


def _several(wanted: Any) -> list[Any]:
    """What is wanted as a list; it may be one value, of NumPy or TensorFlow, too."""
    if isinstance(wanted, np.ndarray | tf.Tensor):
        wanted = np.asarray(wanted).tolist()
    if isinstance(wanted, _PATH) or not isinstance(wanted, Iterable):
        return [wanted]
    return list(wanted)


def _as_json(wanted: Any, field: str) -> str:
    """The wanted values as a JSON list; a picture should have one of them."""
    values = [x.item() if hasattr(x, "item") else x for x in _several(wanted)]
    values = [os.fsdecode(x) if isinstance(x, bytes) else x for x in values]
    try:
        if isinstance(wanted, Mapping) or None in values:
            raise TypeError("There are no operators, and None is kept of no picture.")
        return json.dumps(values, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`where` should compare {field!r} with strings or finite numbers (a list: one of "
            f"them). Received: {wanted!r:.80}."
        ) from error
