"""Shows the `>>>` examples of docstrings as code; mkdocs.yml names this extension of Griffe."""

import re
from typing import Any

import griffe

# From a line with a prompt to the next empty line.
EXAMPLE = re.compile(r"^( *)(>>> .*(?:\n *\S.*)*)", re.MULTILINE)


class Doctests(griffe.Extension):
    """Fences the examples, whose output would otherwise be read as Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for everything that has a docstring."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(r"\1```pycon\n\1\2\n\1```", obj.docstring.value)
