"""A study file and `--set` overrides in; plain data with the place of every key out, and errors that point at those places.

Knows YAML and pydantic's errors, but not what a study means: that is `spec`.
"""

import difflib
import json
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from harness import _yaml
from harness._values import shown
from harness._yaml import Path
from harness.errors import StudyError
from harness.text import visible

MAX_ERRORS = 10
END = "Nothing was run."


@dataclass
class Document:
    """Plain data, and for each key its places: (order, text), where `text` is file:line or the override that set it."""

    name: str
    data: dict[str, Any]
    keys: dict[Path, tuple[int, str]] = field(default_factory=dict)
    values: dict[Path, tuple[int, str]] = field(default_factory=dict)

    def place(self, path: Path, key: bool) -> tuple[int, str]:
        """Where a key or its value stands; for what isn't there, where the nearest enclosing block does."""
        places = self.keys if key else self.values
        while path and path not in places:
            path = path[:-1]
        return places.get(path, self.values.get(path, (1, f"{self.name}:1")))


def read(path: FilePath | str, overrides: Sequence[str] = ()) -> Document:
    """Read a study file and apply overrides; StudyError on anything that isn't a mapping in acceptable YAML."""
    name = str(path)
    text = _read_text(FilePath(path), name)
    parsed = _parse(text, name)
    if not isinstance(parsed.data, dict):
        what = "the file is empty" if parsed.data is None else f"the file must be a mapping of keys, not {shown(parsed.data)}"
        raise StudyError(f"{name}:{parsed.value_lines.get((), 1)}: {what}. {END}")
    document = Document(name, parsed.data)
    document.keys = {key: (line, f"{name}:{line}") for key, line in parsed.key_lines.items()}
    document.values = {key: (line, f"{name}:{line}") for key, line in parsed.value_lines.items()}
    for i, override in enumerate(overrides):
        _apply(document, override, order=_yaml.MAX_BYTES + i)
    return document


def write(data: Mapping[str, Any]) -> str:
    """Plain data as the text of a study file: a key a line, in the order given; reading it gives the same data."""
    return "".join(f"{key}: {_flow(value)}\n" for key, value in data.items())


def _flow(value: Any) -> str:
    """In one line; scalars as in JSON, which YAML reads as they are."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in json.dumps(value, ensure_ascii=False))


def _read_text(path: FilePath, name: str) -> str:
    """The file's text, within the limits; a StudyError that says why not."""
    try:
        if not path.is_file():
            raise StudyError(f"{name}: {'is not a file' if path.exists() else 'there is no such file'}.{_siblings(path)} {END}")
        if path.stat().st_size > _yaml.MAX_BYTES:
            raise StudyError(f"{name}: the file is larger than {_yaml.MAX_BYTES:,} bytes; a study file is a page of text. {END}")
        raw = path.read_bytes()
    except (OSError, ValueError) as error:
        raise StudyError(f"{name}: can't be read: {getattr(error, 'strerror', None) or error}. {END}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise StudyError(f"{name}:{line}: the file isn't UTF-8 text (byte 0x{raw[error.start]:02x}). Save it as UTF-8. {END}") from None


def _siblings(path: FilePath) -> str:
    """A sentence that names the study files next to a missing one."""
    found = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    return f" There are: {', '.join(found[:10])}." if found else ""


def _parse(text: str, name: str) -> _yaml.Parsed:
    try:
        return _yaml.parse(text)
    except _yaml.YamlError as error:
        where = name if error.line is None else f"{name}:{error.line}"
        raise StudyError(f"{where}: {error.what}. {END}") from None


def _apply(document: Document, override: str, order: int) -> None:
    """Set one `key.path=value` in the document; the value is read as YAML."""
    one_line = visible(" ".join(override.split()))
    place = f"--set {one_line if len(one_line) <= 200 else one_line[:197] + '...'}"
    dotted, equals, text = override.partition("=")
    parts = dotted.strip().split(".")
    if not equals or not all(parts) or not dotted.isprintable() or len(parts) > _yaml.MAX_DEPTH:
        raise StudyError(f"{place}: write it as key.path=value, such as train.epochs=10. {END}")
    try:
        value = _yaml.parse(text).data
    except _yaml.YamlError as error:
        raise StudyError(f"{place}: {_dotted(tuple(parts))}: {error.what}. {END}") from None
    path: Path = ()
    inner: Any = document.data
    for last, part in ((i == len(parts) - 1, part) for i, part in enumerate(parts)):
        step = _step(inner, part, path, place)
        path = (*path, step)
        if last:
            inner[step] = value
        elif isinstance(inner, dict) and inner.get(step) is None:
            inner[step] = {}
            document.keys[path] = document.values[path] = (order, place)
        inner = inner[step]
    for places in (document.keys, document.values):
        for old in [p for p in places if p[: len(path)] == path]:
            del places[old]
        places[path] = (order, place)


def _step(inner: Any, part: str, path: Path, place: str) -> str | int:
    """The key or index that one part of an override's path means."""
    where = ".".join(map(str, path))
    if isinstance(inner, dict):
        return part
    if not isinstance(inner, list):
        raise StudyError(f"{place}: {where} is {shown(inner)}, which has no keys to set. {END}")
    if not (part.isascii() and part.isdigit()) or len(part) > 6 or int(part) >= len(inner):
        raise StudyError(f"{place}: {where} is a list: name one of its items by a number from 0 to {len(inner) - 1}, not {part!r}. {END}")
    return int(part)


def explain(error: ValidationError, document: Document, model: type[BaseModel]) -> StudyError:
    """One line for each mistake, in the order of the file, at most ten."""
    found = []
    mistakes = [(_path(mistake), mistake) for mistake in error.errors(include_url=False)]
    meant = {nearest_key(path, model) for path, mistake in mistakes if mistake["type"] == "extra_forbidden"}
    for path, mistake in mistakes:
        kind = mistake["type"]
        # A required key that was mistyped is one mistake, not two.
        if kind == "missing" and _dotted(path) in meant:
            continue
        order, place = document.place(path, key=kind in ("extra_forbidden", "missing"))
        what = _sentence(kind, mistake["input"], mistake.get("ctx", {}), path, model)
        found.append((order, f"{place}: {_dotted(path)}: {what.rstrip('.')}{'' if what.endswith('?') else '.'} {END}"))
    lines = [line for _, line in sorted(found, key=lambda item: item[0])]
    more = len(lines) - MAX_ERRORS
    return StudyError("\n".join(lines[:MAX_ERRORS] + ([f"... and {more} more."] if more > 0 else [])))


def _path(mistake: ErrorDetails) -> Path:
    """The key that a mistake is about, without the steps that only pydantic sees."""
    path = tuple(part for part in mistake["loc"] if part not in ("(plain)", "(mapping)"))
    return (*path, *mistake["ctx"]["key"].split(".")) if mistake["type"] == "misfit" else path


def _dotted(path: Path) -> str:
    return ".".join(part if len(part) <= 60 else part[:57] + "..." for part in (visible(str(step)) for step in path))


def _sentence(kind: str, value: Any, context: dict[str, Any], path: Path, model: type[BaseModel]) -> str:
    """What is wrong, for people."""
    if kind == "extra_forbidden":
        near = nearest_key(path, model)
        return f"unknown key. Did you mean {near}?" if near else f"unknown key.{_list_keys(path, model)}"
    if kind == "missing":
        return "this key is required"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"must be {context['expected'].replace(chr(39), '')}, not {shown(value)}{_near(value, context['expected'])}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"must be a mapping of keys, not {shown(value)}"
    if kind in ("tuple_type", "list_type"):
        return f"must be a list, not {shown(value)}"
    if kind == "string_type":
        return f"must be text, not {shown(value)}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    if kind == "too_long":
        return f"must be a list of at most {context['max_length']} items"
    assert kind == "misfit", kind
    return str(context["what"])


def _near(value: Any, expected: str) -> str:
    """A question that suggests the nearest of the words that pydantic lists."""
    known = [word.strip(" '") for word in expected.replace(" or ", ",").split(",")]
    close = difflib.get_close_matches(value, known, n=1, cutoff=0.5) if isinstance(value, str) else []
    return f". Did you mean {close[0]}?" if close else ""


def key_paths(model: type[BaseModel], prefix: Path = ()) -> Iterator[Path]:
    """The path of every key, outermost first; an item of a list adds the step 0."""
    for name, info in model.model_fields.items():
        yield (*prefix, name)
        for step, inner in blocks_in(info.annotation):
            yield from key_paths(inner, (*prefix, name, *step))


def blocks_in(annotation: Any, step: Path = ()) -> Iterator[tuple[Path, type[BaseModel]]]:
    """The blocks that a field's type allows, however deep in unions, lists and annotations."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield step, annotation
        return
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is typing.Annotated:
        arguments = arguments[:1]
    elif origin not in (typing.Union, types.UnionType, tuple):
        return
    for argument in arguments:
        yield from blocks_in(argument, (0,) if origin is tuple else step)


def nearest_key(path: Path, model: type[BaseModel]) -> str | None:
    """The valid key that an unknown one may mean: the same word elsewhere, else the nearest here, else the nearest anywhere."""
    wrong = str(path[-1])
    here = _keys_beside(path, model)
    elsewhere = {str(p[-1]): _dotted(p) for p in reversed(list(key_paths(model))) if 0 not in p}
    if wrong in elsewhere:
        return elsewhere[wrong]
    # Half of a two-letter key is all that is left after one wrong letter.
    close = difflib.get_close_matches(wrong, here, n=1, cutoff=0.5 if len(wrong) <= 3 else 0.6)
    if close:
        return _dotted((*path[:-1], close[0]))
    close = difflib.get_close_matches(wrong, list(elsewhere), n=1, cutoff=0.6)
    return elsewhere[close[0]] if close else None


def _keys_beside(path: Path, model: type[BaseModel]) -> list[str]:
    level = tuple(0 if isinstance(part, int) else part for part in path[:-1])
    return [str(known[-1]) for known in key_paths(model) if known[:-1] == level]


def _list_keys(path: Path, model: type[BaseModel]) -> str:
    here = _keys_beside(path, model)
    return f" There are: {', '.join(here)}." if here else ""
