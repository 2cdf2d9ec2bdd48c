"""Preset files: a mapping of plain values, or a sentence that says what to mend."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

__all__ = ["mapping"]

_FORM = "write one NAME: VALUE in each line"
_WHOLE = re.compile(r"[-+]?(0|[1-9][0-9]*)")  # and not YAML's octal or sexagesimal numbers
_KINDS = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "float", "int", "str")}


def mapping(path: Path) -> dict[str, Any]:
    """The values that a preset file gives to names, in the order of its lines.

    Numbers, words, true, false and flat lists of them: no tag of YAML makes anything else, no name
    stands twice, and no code of the file is run.

    Args:
        path: The file.

    Raises:
        ValueError: If the file is another one; the sentence says in which line, and what to do.
    """
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_bytes().decode("utf-8-sig"))
        root = loader.get_single_node()
        return _values(loader, root)
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); make it a readable file") from error
    except RecursionError:
        raise ValueError(f"is nested too deeply; {_FORM}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{_place(error)}; {_FORM}") from error


def _place(error: Any) -> str:
    """What YAML says is wrong, in one line, and where."""
    mark, what = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    where = f"line {mark.line + 1}" if mark else "it"
    return f"{where} is not YAML ({what or str(error).splitlines()[0]})"


def _values(loader: Any, root: Any) -> dict[str, Any]:
    """A mapping of names, each once, from the tree of the file."""
    import yaml

    if root is None:
        raise ValueError(f"is empty; {_FORM}")
    if not isinstance(root, yaml.MappingNode) or root.tag != "tag:yaml.org,2002:map":
        raise ValueError(f"is no mapping of names to values; {_FORM}")
    values: dict[str, Any] = {}
    for key, node in root.value:
        line = f"line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode) or key.tag != "tag:yaml.org,2002:str":
            raise ValueError(f"{line} begins with something else than a name; {_FORM}")
        if key.value in values:
            raise ValueError(f"{line} gives {key.value} a second time; keep one of them")
        values[key.value] = _value(loader, node, f"{line}: {key.value}")
    return values


def _value(loader: Any, node: Any, where: str) -> Any:
    """A plain value, or a list of them."""
    import yaml

    nested = isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq"
    entries = node.value if nested else [node]
    for entry in entries:
        if not isinstance(entry, yaml.ScalarNode) or entry.tag not in _KINDS:
            raise ValueError(
                f"{where} is of the kind {entry.tag.rpartition(':')[2]}; it takes a number, a "
                "word, true or false, or a list of them"
            )
    try:
        found = loader.construct_object(node, deep=True)
    except (ValueError, KeyError) as error:  # what a tag in the file promises is not there
        raise ValueError(f"{where} cannot be read; write a plain number or word") from error
    for entry in entries:
        if entry.tag.endswith(":int") and not _WHOLE.fullmatch(entry.value):
            read = loader.construct_object(entry)
            raise ValueError(f"{where} is {entry.value}, which YAML reads as {read}; write {read}")
    return found
