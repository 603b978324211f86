"""What image, text and name are called in tables and TensorFlow datasets."""

from typing import Any

IMAGE_KEYS = ("image", "image_path", "path", "file_name", "filename", "file")
TEXT_KEYS = ("text", "caption", "captions", "captions/text", "title", "description")
NAME_KEYS = ("path", "name", "image/filename", "file_name", "filename", "image/id", "id")


def column(
    available: Any, key: str | None, candidates: tuple[str, ...], argument: str, where: Any
) -> str:
    """The `key`, or the first candidate that is there; ValueError names the `argument` to pass."""
    for candidate in candidates if key is None else (key,):
        if candidate in available:
            return candidate
    expected = " or ".join(map(repr, candidates)) if key is None else repr(key)
    raise ValueError(
        f"{where}: expected {expected}. Received: {', '.join(map(repr, available))}. Pass "
        f"`{argument}`."
    )
