"""What is public, listed: python -m tests.api > docs/public_names.txt

Public is what `__all__` of keras_lit and of its public modules holds, and the methods of the classes
among it that have no underscore and are not Keras' or TensorFlow Datasets' own.
"""

import ast
import inspect
import re
import textwrap
import types

import keras_lit

# Methods of Keras that a user calls, and that do more here.
OWN = ("compile", "evaluate", "fit", "predict")
# "[batch, dim]", or that it is a single number.
SHAPE = re.compile(r"\[\*?\w[\w +*]*(, \*?\w[\w +*]*)*\]|scalar")


def modules():
    """(full name, module) of keras_lit and of the public modules in it, in order."""
    found = [("keras_lit", keras_lit)]
    for path, module in found:
        values = {f"{path}.{name}": getattr(module, name) for name in module.__all__}
        found += [(full, x) for full, x in values.items() if isinstance(x, types.ModuleType)]
    return found


def public():
    """(full name, object) of every public name, modules left out, in order."""
    found = []
    for path, module in modules():
        for name in module.__all__:
            value, full = getattr(module, name), f"{path}.{name}"
            if isinstance(value, types.ModuleType):
                continue
            found.append((full, value))
            if inspect.isclass(value):
                found += [(f"{full}.{method}", f) for method, f in methods(value)]
    return found


def methods(cls):
    """What keras_lit adds to its bases."""
    ours, others = {}, set()
    for base in cls.__mro__:
        names = {name: value for name, value in vars(base).items() if not name.startswith("_")}
        if base.__module__.startswith("keras_lit"):
            ours = {**names, **ours}
        else:
            others |= set(names)
    for name, value in sorted(ours.items()):
        value = getattr(value, "__func__", value)
        callable_or_property = inspect.isfunction(value) or isinstance(value, property)
        if callable_or_property and (name not in others or name in OWN):
            yield name, value


def sections_missing(value):
    """What its docstring should have and does not: Args, Returns, Raises, shapes, an example."""
    text = inspect.getdoc(value) or ""
    if not text:
        return ["a docstring"]
    if not callable(value) and not isinstance(value, property):
        return []
    wanted = {"Args": False}
    function = value.fget if isinstance(value, property) else value
    if inspect.isclass(value):
        function = vars(value).get("__init__")
        wanted = {"Args": bool(parameters(value)), "Raises": bool(function) and raises(function)}
    elif callable(value):
        returns = inspect.signature(value).return_annotation
        wanted = {"Args": bool(parameters(value)), "Returns": returns not in (None, "None")}
        wanted |= {"Raises": raises(value)}
    missing = [name for name, needed in wanted.items() if needed and name not in _titles(text)]
    if takes_or_gives_arrays(function) and not SHAPE.search(text):
        missing.append("shapes")
    # Code that runs, or one line of it where it would take a download.
    return missing if re.search(r">>> |Example: `.+\(", text) else [*missing, "an example"]


def takes_or_gives_arrays(function):
    """Whether its signature names NumPy arrays or tensors."""
    if function is None or function.__code__.co_filename == "<string>":  # Made by dataclass.
        return False
    return bool(re.search(r"ndarray|Tensor\b", str(inspect.signature(function))))


def _titles(text):
    lines = [line.strip() for line in text.splitlines()]
    return {line.split(":")[0].split(" (")[0] for line in lines if ":" in line}


def parameters(value):
    try:
        names = list(inspect.signature(value).parameters)
    except ValueError:
        return []
    return [name for name in names if name not in ("self", "cls", "args", "kwargs")]


def raises(function):
    """Whether a function itself raises or checks."""
    if function.__code__.co_filename == "<string>":  # Made by dataclass.
        return False
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    checks = any(isinstance(f, ast.Attribute) and f.attr.startswith("check_") for f in calls)
    return checks or any(isinstance(node, ast.Raise) for node in ast.walk(tree))


def listing():
    lines = []
    for name, value in public():
        try:
            names = [*inspect.signature(value).parameters] if callable(value) else None
        except ValueError:
            names = None
        shown = (
            "" if names is None else f"({', '.join(n for n in names if n not in ('self', 'cls'))})"
        )
        lines.append(f"{name}{shown}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(listing(), end="")
