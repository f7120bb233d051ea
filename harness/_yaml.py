"""YAML text in, plain data and the line of every key out; used only by `study_file`.

The YAML 1.2 core schema (`1e-3` is a number; `no`, `on`, `1:30` are text), without tags, duplicate keys or merge keys, and with
limits on depth, aliases and size, so that no file can hang or surprise the reader.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 200_000
MAX_DEPTH = 20
MAX_ALIASES = 50
MAX_NODES = 10_000
MAX_DIGITS = 40

Path = tuple[str | int, ...]

# The core schema of YAML 1.2.2, section 10.3.2, in its order.
_CORE: list[tuple[re.Pattern[str], Callable[[str], Any]]] = [
    (re.compile(r"null|Null|NULL|~|"), lambda _: None),
    (re.compile(r"true|True|TRUE"), lambda _: True),
    (re.compile(r"false|False|FALSE"), lambda _: False),
    (re.compile(r"[-+]?[0-9]+"), int),
    (re.compile(r"0o[0-7]+"), lambda text: int(text[2:], 8)),
    (re.compile(r"0x[0-9a-fA-F]+"), lambda text: int(text[2:], 16)),
    (re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"), float),
    (re.compile(r"[-+]?\.(inf|Inf|INF)"), lambda text: float(text.replace(".", ""))),
    (re.compile(r"\.(nan|NaN|NAN)"), lambda _: float("nan")),
]


class YamlError(Exception):
    """Text that is not acceptable YAML: a sentence and the line (from 1, or None where there is none)."""

    def __init__(self, what: str, line: int | None) -> None:
        super().__init__(what)
        self.what, self.line = what, line


@dataclass
class Parsed:
    """Plain data, with the line (from 1) of each key, and that of each value (for a mapping or list: of its key)."""

    data: Any = None
    key_lines: dict[Path, int] = field(default_factory=dict)
    value_lines: dict[Path, int] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """Composes nodes within the limits; which plain scalar means what is decided by the core schema, later."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (PyYAML's own interface)
    depth = aliases = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        assert event.start_mark is not None
        line = event.start_mark.line + 1
        self.aliases += isinstance(event, yaml.AliasEvent)
        self.nodes += 1
        self.depth += 1
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise YamlError(f"a tag ({_short(tag)}) is not allowed; write the plain value", line)
        _limit(self.depth, MAX_DEPTH, "levels of nesting", line)
        _limit(self.aliases, MAX_ALIASES, "aliases", line)
        _limit(self.nodes, MAX_NODES, "values", line)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse(text: str) -> Parsed:
    """Read one YAML document; YamlError says what is wrong and where."""
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise YamlError(f"not valid YAML: {what}", mark.line + 1 if mark else None) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if isinstance(error.position, int) else None
        raise YamlError(f"not valid YAML: the character U+{ord(text[error.position]):04X} is not allowed", line) from None
    except (ValueError, OverflowError):
        raise YamlError("not valid YAML: an escape or a version number is out of range", None) from None
    parsed = Parsed()
    if root is not None:
        parsed.data = _Builder(parsed).build(root, (), root.start_mark.line + 1)
    return parsed


class _Builder:
    """Turns nodes into plain data; an alias becomes a copy, so the number of values is bounded here as well."""

    def __init__(self, parsed: Parsed) -> None:
        self.parsed = parsed
        self.nodes = 0

    def build(self, node: yaml.Node, path: Path, line: int) -> Any:
        """The value of a node; `line` is where its key stands."""
        self.nodes += 1
        own_line = node.start_mark.line + 1
        _limit(self.nodes, MAX_NODES, "values", own_line)
        _limit(len(path), MAX_DEPTH, "levels of nesting", own_line)
        self.parsed.value_lines[path] = own_line if isinstance(node, yaml.ScalarNode) else line
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.build(item, (*path, i), item.start_mark.line + 1) for i, item in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return _scalar(node, own_line)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        built: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise YamlError("a key must be text, not a list or a mapping", line)
            key = _text(key_node.value, line)
            if key in built:
                raise YamlError(f"the key {_short(key)} is given twice, on lines {self.parsed.key_lines[(*path, key)]} and {line}", line)
            self.parsed.key_lines[(*path, key)] = line
            built[key] = self.build(value_node, (*path, key), line)
        return built


def _scalar(node: yaml.ScalarNode, line: int) -> Any:
    """The value of a scalar; quoted and block scalars are text."""
    if node.style is not None:
        return _text(node.value, line)
    for pattern, convert in _CORE:
        if pattern.fullmatch(node.value):
            if len(node.value) > MAX_DIGITS:
                raise YamlError(f"a number of more than {MAX_DIGITS} digits", line)
            return convert(node.value)
    return _text(node.value, line)


def _text(text: str, line: int) -> str:
    """The text itself, if it can be written as UTF-8 (an escape can make half a character)."""
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise YamlError("not valid YAML: an escape makes half a character (a lone surrogate)", line)
    return text


def _limit(count: int, most: int, what: str, line: int) -> None:
    if count > most:
        raise YamlError(f"more than {most:,} {what}", line)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")
