"""The public API as text: every public name with its kind and signature, and the members of classes.

    python tools/public_api.py            print it
    python tools/public_api.py --check    compare it with tests/public_api.txt, show the difference
    python tools/public_api.py --write    renew tests/public_api.txt

A public name stands in the ``__all__`` of a module of everbus; the command line and the soak
scenarios are programs, not an API. The text is the same on every supported Python.
"""

from __future__ import annotations

import difflib
import enum
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, GenericAlias, ModuleType, UnionType
from typing import Any, ForwardRef

SNAPSHOT = Path(__file__).resolve().parent.parent / "tests" / "public_api.txt"
PROGRAMS = frozenset({"__main__", "cli", "soak"})
OPERATORS = re.compile(
    "__(aenter|aexit|aiter|anext|await|bool|bytes|call|contains|delitem|enter|eq|exit"
    "|getitem|hash|int|iter|len|lt|next|setitem|str)__"
)
"""Methods that callers use by way of the language, listed where a class writes them."""

ONE_LINE = 4
"""A constructor with more parameters than this has each on its own line."""


def public_modules(package: str) -> Iterator[ModuleType]:
    """The package and its modules, without programs and private ones, in the order of their names.

    A package below the top that only holds modules needs no ``__all__``.

    Raises:
        AttributeError: a module does not say what of it is public.
    """
    root = importlib.import_module(package)
    for name in sorted([package, *(found.name for found in pkgutil.walk_packages(root.__path__, f"{package}."))]):
        parts = name.split(".")
        if any(part.startswith("_") for part in parts) or not PROGRAMS.isdisjoint(parts[1:2]):
            continue
        module = importlib.import_module(name)
        if hasattr(module, "__all__"):
            yield module
        elif not hasattr(module, "__path__"):
            raise AttributeError(f"{name} has no __all__")


def describe(package: str) -> str:
    """The public API of a package as text."""
    lines: list[str] = []
    for module in public_modules(package):
        lines += ["", module.__name__]
        for name in sorted(module.__all__):
            lines += [f"    {line}" for line in _describe_name(module, name, package)]
    return "\n".join(lines[1:]) + "\n"


def _describe_name(module: ModuleType, name: str, package: str) -> Iterator[str]:
    value = getattr(module, name)
    if isinstance(value, (type, FunctionType)) and value.__module__ != module.__name__:
        yield f"{name} = {value.__module__}.{value.__qualname__}"
    elif isinstance(value, type):
        yield from _describe_class(value, package)
    elif isinstance(value, FunctionType):
        yield _describe_function(name, value)
    elif isinstance(value, (GenericAlias, UnionType)) or type(value).__module__ == "typing":
        yield f"{name} = {_annotation(value)}"
    else:
        yield f"{name}: {type(value).__name__}"


def _describe_class(cls: type, package: str) -> Iterator[str]:
    written = vars(cls).get("__orig_bases__", cls.__bases__)
    bases = ", ".join(_annotation(base) for base in written if base is not object)
    yield f"class {cls.__name__}({bases})" if bases else f"class {cls.__name__}"
    parameters = _constructor(cls, package)
    if len(parameters) > ONE_LINE:
        yield from ("    (", *(f"        {parameter}," for parameter in parameters), "    )")
    elif parameters:
        yield f"    ({', '.join(parameters)})"
    for name, (owner, value) in sorted(_members(cls, package).items()):
        yield f"    {_describe_member(name, owner, value)}"


def _constructor(cls: type, package: str) -> list[str]:
    """The parameters, if the class or an ancestor in the package has a constructor that people call."""
    if issubclass(cls, enum.Enum) or getattr(cls, "_is_protocol", False):
        return []
    for ancestor in _own(cls, package):
        for name in ("__init__", "__new__"):
            if name in vars(ancestor):
                return _parameters(getattr(ancestor, name), drop_first=True)
    return []


def _own(cls: type, package: str) -> list[type]:
    """The class and its ancestors within the package."""
    return [ancestor for ancestor in cls.__mro__ if ancestor.__module__.split(".")[0] == package]


def _members(cls: type, package: str) -> dict[str, tuple[type, Any]]:
    """Public members by name, each with the class it comes from and what stands there."""
    members: dict[str, tuple[type, Any]] = {}
    for ancestor in reversed(_own(cls, package)):
        for name in (*vars(ancestor), *inspect.get_annotations(ancestor)):
            value = vars(ancestor).get(name)
            if not name.startswith("_") or (OPERATORS.fullmatch(name) and _is_written(value)):
                members[name] = (ancestor, value)
    return members


def _is_written(member: object) -> bool:
    """Whether a method was written by hand: what ``dataclass`` makes has no file."""
    return isinstance(member, FunctionType) and not member.__code__.co_filename.startswith("<")


def _describe_member(name: str, owner: type, value: Any) -> str:
    if isinstance(value, property):
        settable = ", settable" if value.fset else ""
        return f"{name}: {_annotation(inspect.signature(value.fget).return_annotation)} (property{settable})"  # type: ignore[arg-type]
    if isinstance(value, classmethod):
        return f"classmethod {_describe_function(name, value.__func__, drop_first=True)}"
    if isinstance(value, staticmethod):
        return f"staticmethod {_describe_function(name, value.__func__)}"
    if isinstance(value, FunctionType):
        return _describe_function(name, value, drop_first=True)
    if isinstance(value, enum.Enum):
        return f"{name} = {_value(value.value)}"
    annotation = inspect.get_annotations(owner).get(name)
    if annotation is not None:
        return f"{name}: {_annotation(annotation)}"
    return f"{name} = {value.__name__}" if isinstance(value, type) else name


def _describe_function(name: str, function: Any, *, drop_first: bool = False) -> str:
    prefix = "async def" if inspect.iscoroutinefunction(function) else "def"
    parameters = ", ".join(_parameters(function, drop_first=drop_first))
    return f"{prefix} {name}({parameters}) -> {_annotation(inspect.signature(function).return_annotation)}"


def _parameters(function: Any, *, drop_first: bool) -> list[str]:
    """The parameters as written, with ``/`` and ``*``, without ``self`` or ``cls``."""
    shown: list[str] = []
    is_bare_star_due = True
    was_positional_only = False
    for parameter in list(inspect.signature(function).parameters.values())[int(drop_first) :]:
        if was_positional_only and parameter.kind is not parameter.POSITIONAL_ONLY:
            shown.append("/")
        if parameter.kind is parameter.KEYWORD_ONLY and is_bare_star_due:
            shown.append("*")
        is_bare_star_due &= parameter.kind not in (parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY)
        was_positional_only = parameter.kind is parameter.POSITIONAL_ONLY
        shown.append(_parameter(parameter))
    return [*shown, "/"] if was_positional_only else shown


def _parameter(parameter: inspect.Parameter) -> str:
    stars = {"VAR_POSITIONAL": "*", "VAR_KEYWORD": "**"}.get(parameter.kind.name, "")
    text = f"{stars}{parameter.name}: {_annotation(parameter.annotation)}"
    return text if parameter.default is parameter.empty else f"{text} = {_value(parameter.default)}"


def _value(value: object) -> str:
    """A value as code, as far as that says something that stays the same."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if inspect.isfunction(value):
        return value.__qualname__
    shown = repr(value)
    return f"<{type(value).__name__}>" if " object at " in shown else shown


def _annotation(annotation: Any) -> str:
    """An annotation as written, without the modules of its names."""
    if annotation is inspect.Signature.empty:
        return "?"
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, ForwardRef):
        return annotation.__forward_arg__
    if isinstance(annotation, (type, FunctionType)):
        return annotation.__name__
    return re.sub(r"\b(?:\w+\.)+(?=\w)|~", "", inspect.formatannotation(annotation))


def compare(recorded: str, now: str) -> str:
    """The difference between two texts of the API; empty where there is none."""
    lines = difflib.unified_diff(recorded.splitlines(), now.splitlines(), "recorded", "now", lineterm="")
    return "\n".join(lines)


def main(arguments: list[str], snapshot: Path = SNAPSHOT, package: str = "everbus") -> int:
    """Print, check or write; 1 if the check finds a difference, 2 for a wrong call."""
    if arguments not in ([], ["--check"], ["--write"]):
        print("usage: public_api.py [--check | --write]", file=sys.stderr)
        return 2
    now = describe(package)
    if not arguments:
        print(now, end="")
    elif arguments == ["--write"]:
        snapshot.write_text(now, encoding="utf-8")
    else:
        difference = compare(snapshot.read_text(encoding="utf-8") if snapshot.exists() else "", now)
        if difference:
            print(difference)
            print("If this is meant: python tools/public_api.py --write, and a line in CHANGELOG.md.")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
