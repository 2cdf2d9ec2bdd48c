"""The parameters of the book's notebooks: what they are, which values they take, presets of them.

The cell tagged ``parameters`` is the only declaration. Each of its lines reads
``name: type = default  # help (range)``: papermill lists it, command line and notebook check
against it. A range ends the help: ``(0.1 to 4)`` for numbers, and for each number in a list;
``(one of a, b)`` for words. After a semicolon it says more: ``(-1 to 8; not 0)``, and of a list
``(0 to 9; two or more)``. The entries of a list are distinct, and ascend where the help reads
``, ascending`` before the range. A word is empty only where the help says ``empty for`` what.
"""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from reprlib import Repr
from typing import Any

from . import presets as files
from . import relations

__all__ = [
    "Parameter", "ParameterError", "check", "declared", "names", "parse", "preset", "presets",
    "validate",
]  # fmt: skip

#: Parameters that change where a run reads and writes and how fast it is, not what it finds.
PLACES = ("results", "store", "n_jobs")
_TYPES: dict[str, Any] = {"int": int, "float": float, "str": str, "bool": bool}
_MORE = r"(?:; (?:not (?P<never>\S+)|(?P<least>two|three) or more))?\)$"
_RANGE = re.compile(r"\((\S+) to ([^\s;]+)" + _MORE)
_CHOICES = re.compile(r"\(one of ([^);]*)" + _MORE)
_COUNTS = {None: 1, "two": 2, "three": 3}
_shown = Repr()  # a message is short, whatever was given
_shown.maxstring = _shown.maxother = _shown.maxlong = 100


class ParameterError(ValueError):
    """A parameter with an unknown name, another type, or out of range."""


@dataclass(frozen=True)
class Parameter:
    """A line of the parameters cell.

    Attributes:
        name: Its name.
        type: ``int``, ``float``, ``str``, ``bool``, or a list of them, ``list[int]``.
        default: Its value in the notebook.
        help: The comment.
    """

    name: str
    type: str
    default: Any
    help: str

    def convert(self, value: Any) -> Any:
        """The value in the declared type.

        Raises:
            ParameterError: If it is of another type, out of range, or a list of too few entries or
                of one twice.
        """
        if not self.type.startswith("list["):
            return self._one(value, self.type)
        kind, told = self.type[5:-1], _RANGE.search(self.help) or _CHOICES.search(self.help)
        least = told["least"] if told else None
        entries = [self._one(v, kind) for v in value] if isinstance(value, (list, tuple)) else []
        if len(entries) < _COUNTS[least]:
            raise ParameterError(
                f"{self.name} takes a {self.type} with at least {least or 'one'} "
                f"{'entries' if least else 'entry'}, got {_shown.repr(value)}"
            )
        if len(set(entries)) < len(entries):
            twice = next(entry for entry in entries if entries.count(entry) > 1)
            raise ParameterError(f"{self.name} has {twice!r} twice; its entries are distinct")
        if ", ascending" in self.help and entries != sorted(entries):
            raise ParameterError(f"{self.name} is {_shown.repr(value)}; its entries must ascend")
        return entries

    def _one(self, value: Any, kind: str) -> Any:
        if kind == "float" and type(value) is int and abs(value) < 1e300:
            value = float(value)
        if type(value) is not _TYPES[kind]:
            raise ParameterError(
                f"{self.name} takes {self.type}, got {_shown.repr(value)} ({type(value).__name__})"
                + _as_number(kind, value)
            )
        if kind == "float" and not math.isfinite(value):
            raise ParameterError(f"{self.name} is {value}; it takes a finite number")
        if kind == "str":
            self._check_word(value)
        if found := _RANGE.search(self.help):
            never = found["never"]
            low, high = map(float, found.groups()[:2])
            if not low <= value <= high or (never and value == float(never)):
                raise ParameterError(
                    f"{self.name} is {_shown.repr(value)}; it can be {found[1]} to {found[2]}"
                    + (f", not {never}" if never else "")
                )
        if found := _CHOICES.search(self.help):
            choices = [word.strip() for word in found[1].split(",")]
            if value not in choices:
                raise ParameterError(
                    f"{self.name} is {_shown.repr(value)}; it can be {', '.join(choices)}"
                    + _nearest(value, choices)
                )
        return value

    def _check_word(self, value: str) -> None:
        if not value.strip() and "empty for" not in self.help:
            raise ParameterError(f"{self.name} is empty; it takes {self.help}")
        if not value.isprintable():
            raise ParameterError(
                f"{self.name} is {_shown.repr(value)}; it takes letters that can be printed"
            )


def _as_number(kind: str, value: Any) -> str:
    """Why 1e-3 in a preset is a word: YAML's numbers have a point."""
    try:
        _TYPES[kind](value if isinstance(value, str) and kind in ("int", "float") else "no")
    except ValueError:
        return ""
    return "; in YAML a number stands without quotes, and one with an exponent has a point: 1.0e-3"


def _nearest(word: str, choices: list[str]) -> str:
    close = difflib.get_close_matches(word, choices, n=1)
    return f". Did you mean {close[0]!r}?" if close else ""


# --- where things are ----------------------------------------------------------------------------


def root() -> Path:
    """The folder of ``_toc.yml`` and ``book/``: above the working folder, else in this clone.

    Raises:
        FileNotFoundError: If there is none.
    """
    places = [Path.cwd(), *Path.cwd().parents, Path(__file__).resolve().parents[2]]
    for place in places:
        if (place / "_toc.yml").is_file() and (place / "book").is_dir():
            return place
    raise FileNotFoundError("the book is not here: run this inside a clone of the repository")


def names() -> list[str]:
    """The notebooks of the book."""
    return sorted(path.stem for path in (root() / "book").glob("[!.]*.ipynb"))


def path_of(name: str) -> Path:
    """The file of a notebook."""
    if name not in names():
        raise ParameterError(
            f"no notebook {name!r}; there are {', '.join(names())}{_nearest(name, names())}"
        )
    return root() / "book" / f"{name}.ipynb"


def read(name: str) -> dict[str, Any]:
    """A notebook as it is stored."""
    path = path_of(name)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ParameterError(f"{path} is no notebook ({error}); restore it from git") from error


def source(cell: Mapping[str, Any]) -> str:
    """The text of a cell."""
    return "".join(cell["source"])


# --- their values --------------------------------------------------------------------------------


def declared(name: str) -> dict[str, Parameter]:
    """The parameters of a notebook, in the order of its parameters cell.

    Args:
        name: Notebook, e.g. ``"connectivity"``.

    Raises:
        ParameterError: If there is no such notebook, or its parameters cell is not as it must be.
    """
    cells = [c for c in read(name)["cells"] if "parameters" in c["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise ParameterError(f"{name} has {len(cells)} cells tagged 'parameters', not one")
    text = source(cells[0])
    lines, found = text.splitlines(), {}
    for node in ast.parse(text).body:
        if not (
            isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value
        ):
            raise ParameterError(
                f"{name}: a parameter reads 'name: type = default  # help', not "
                f"{lines[node.lineno - 1]!r}"
            )
        words = lines[(node.end_lineno or node.lineno) - 1].partition("#")[2].strip()
        kind = ast.unparse(node.annotation)
        found[node.target.id] = Parameter(node.target.id, kind, ast.literal_eval(node.value), words)
    return found


def validate(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values for a notebook's parameters, each in its declared type.

    Args:
        name: Notebook.
        values: Some or all parameters by name.

    Raises:
        ParameterError: For an unknown name (the nearest one is suggested), another type, or out of
        range.
    """
    known = declared(name)
    for key in values:
        if key not in known:
            raise ParameterError(
                f"{name} has no parameter {_shown.repr(key)}; it has {', '.join(known)}"
                + _nearest(str(key), [*known])
            )
    return {key: known[key].convert(value) for key, value in values.items()}


def check(namespace: dict[str, Any], name: str) -> None:
    """Check the parameters of the notebook that calls this, in the cell after its parameters.

    Every plain value in the namespace is taken for a parameter, so that one that was injected
    under a wrong name does not pass unseen.

    Args:
        namespace: ``globals()`` of the notebook; values are put back in their declared types.
        name: The notebook's name.

    Raises:
        ParameterError: As `validate` and `check_together`.
    """
    plain = (bool, int, float, str, list, tuple, dict)
    given = {
        key: value
        for key, value in namespace.items()
        if isinstance(value, plain) and not key.startswith("_") and key not in ("In", "Out")
    }
    namespace.update(validate(name, given))
    check_together(name, namespace)


def check_together(name: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a notebook, and whether they go together.

    Args:
        name: Notebook.
        values: Some or all parameters, each valid; the others are the notebook's.

    Raises:
        ParameterError: As `toroid.book.relations.check_together` says.
    """
    complete = {key: values.get(key, p.default) for key, p in declared(name).items()}
    try:
        relations.check_together(name, complete)
    except ValueError as error:
        raise ParameterError(str(error)) from error
    return complete


def parse(name: str, assignments: list[str]) -> dict[str, Any]:
    """Values from ``name=value`` words, as the command line gives them.

    Args:
        name: Notebook.
        assignments: E.g. ``["width=0.5", "seeds=0,1,2"]``.

    Raises:
        ParameterError: As `validate`, and if a name is given twice, or a word cannot be read in
            the declared type.
    """
    known, values = declared(name), {}
    for word in assignments:
        key, equals, text = word.partition("=")
        if not equals:
            raise ParameterError(
                f"a parameter is given as name=value, not {word!r}; `toroid explain {name}` lists "
                "them"
            )
        if key in values:
            raise ParameterError(f"{key} is given twice; give it once")
        values[key] = _from_text(known[key], text) if key in known else text
    return validate(name, values)


def _from_text(parameter: Parameter, text: str) -> Any:
    kind = parameter.type.removeprefix("list[").removesuffix("]")
    words = (
        [w.strip().strip("'\"") for w in text.strip("[]").split(",")]
        if kind != parameter.type
        else [text]
    )
    try:
        if kind == "bool":
            found = [{"true": True, "false": False}[w.lower()] for w in words]
        else:
            found = [_TYPES[kind](w) for w in words]
    except (KeyError, ValueError):
        raise ParameterError(f"{parameter.name} takes {parameter.type}, got {text!r}") from None
    return found if kind != parameter.type else found[0]


def preset(name: str, title: str) -> dict[str, Any]:
    """The values of ``book/params/<name>.<title>.yaml``; ``quick`` is the notebook as it stands.

    Args:
        name: Notebook.
        title: Preset.

    Raises:
        ParameterError: If there is no such preset, its file is not as it must be (the file and the
            line are named), or as `validate`.
    """
    path_of(name)
    if title not in presets(name):
        raise ParameterError(
            f"{name} has no preset {title!r}; it has {', '.join(presets(name))}"
            + _nearest(title, presets(name))
        )
    if title == "quick":
        return {}
    path = Path("book", "params", f"{name}.{title}.yaml")
    try:
        return validate(name, files.mapping(root() / path))
    except ValueError as error:
        raise ParameterError(f"{path}: {error}") from error


def presets(name: str) -> list[str]:
    """The presets of a notebook, ``quick`` first.

    Args:
        name: Notebook.
    """
    found = sorted((root() / "book" / "params").glob(f"{name}.*.yaml"))
    return ["quick", *(path.name[len(name) + 1 : -5] for path in found if path.is_file())]
