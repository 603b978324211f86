"""Our docstrings as mkdocstrings wants them; mkdocs.yml names this extension of Griffe."""

import re
from typing import Any

import griffe

# From a line with a prompt to the next empty line.
EXAMPLE = re.compile(r"^( *)(>>> .*(?:\n *\S.*)*)", re.MULTILINE)
RETURNS = re.compile(r"^( *Returns:\n +)", re.MULTILINE)
CALL = re.compile(r"^Call arguments:\n((?: +\S.*\n?)+)", re.MULTILINE)
ARGUMENT = re.compile(r"^    (\w+): ", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Fences examples, keeps what is returned in one piece, gives a NamedTuple its signature."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for everything that has a docstring."""
        if obj.docstring:
            # The output of an example would otherwise be read as Markdown.
            text = EXAMPLE.sub(r"\1```pycon\n\1\2\n\1```", obj.docstring.value)
            # Griffe would put this section, which it does not know, into a box.
            text = CALL.sub(_as_list, text)
            # Griffe takes what is before the first colon for a type, which the signature has.
            obj.docstring.value = RETURNS.sub(r"\1_: ", text)

    def on_class(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Called for every class, with its members."""
        if "__init__" in cls.members or "NamedTuple" not in map(str, cls.bases):
            return
        fields = [member for member in cls.members.values() if member.is_attribute]
        parameters = griffe.Parameters(
            griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword),
            *(
                griffe.Parameter(
                    field.name,
                    annotation=field.annotation,
                    default=field.value,
                    kind=griffe.ParameterKind.positional_or_keyword,
                )
                for field in fields
                if field.annotation is not None
            ),
        )
        cls.set_member("__init__", griffe.Function("__init__", parameters=parameters))


def _as_list(section: re.Match) -> str:
    return "**Call arguments:**\n\n" + ARGUMENT.sub(r"- **`\1`**: ", section[1]) + "\n"
