"""YAML text to plain data, with the line and column of every key and value in it."""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from attrs import Factory, define, frozen

from rolemesh.config.problems import ConfigError, Position, Problem, quoted

MAX_BYTES = 1024 * 1024
MAX_DEPTH = 32

Trail = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_REFERENCE = re.compile(
    r"\$(?P<literal>\$\{)|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<or>:-(?P<default>[^}]*))?\}"
    r"|(?P<broken>\$\{)"
)


class Unreadable:
    """Stands for a value whose problem is already told."""


@define
class Document:
    """One file as plain data.

    `positions` has each value by its trail of keys and indexes, `keys` the key that leads to it,
    `written` each scalar as it stands in the file, before `${…}` is filled in; `named` are the
    files that it was found to name. Where it is `patient` some of those may come later.
    """

    name: str
    folder: Path
    environ: Mapping[str, str]
    data: Any = None
    positions: dict[Trail, Position] = Factory(lambda: {(): Position()})
    keys: dict[Trail, Position] = Factory(dict)
    written: dict[Trail, str] = Factory(dict)
    problems: list[Problem] = Factory(list)
    warnings: list[Problem] = Factory(list)
    named: list[Path] = Factory(list)
    patient: bool = False


def parse(content: bytes, path: Path, environ: Mapping[str, str]) -> Document:
    """Read YAML; duplicate keys and the like are the document's `problems`.

    :raises ConfigError: when it is no YAML, or YAML of a kind that is not taken: too long, too
        deep, with aliases or tags.
    """
    document = Document(str(path), path.parent, environ)
    node = _compose(_decode(content, document), document)
    if node is not None:
        document.data = _Builder(document).value(node, ())
    return document


class _Refused(yaml.YAMLError):
    """YAML that is well-formed and not taken."""

    def __init__(self, text: str, mark: Any) -> None:
        self.text, self.mark = text, mark


class _Loader(yaml.SafeLoader):
    """PyYAML's composer, without aliases and tags, and never deep."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._refuse(self.peek_event())  # type: ignore[no-untyped-call]
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def _refuse(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.AliasEvent):
            raise _Refused("YAML aliases are not taken: write the value out", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _Refused("YAML tags are not taken: write the plain value", event.start_mark)
        if self.depth >= MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)


@frozen
class _Builder:
    """Turns composed nodes into data, writing positions and problems into the document."""

    document: Document

    def value(self, node: yaml.Node, trail: Trail) -> Any:
        self.document.positions[trail] = _position(node.start_mark)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, trail)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(each, (*trail, index)) for index, each in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        return self._scalar(node, trail)

    def _mapping(self, node: yaml.MappingNode, trail: Trail) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, position = self._key(key_node), _position(key_node.start_mark)
            if key is None:
                continue
            if key in found:
                first = self.document.keys[*trail, key].line
                self._problem(position, f"{quoted(key)} appears twice (first at line {first})")
                continue
            self.document.keys[*trail, key] = position
            found[key] = self.value(value_node, (*trail, key))
        return found

    def _key(self, node: yaml.Node) -> str | None:
        position = _position(node.start_mark)
        if not isinstance(node, yaml.ScalarNode):
            self._problem(position, "a key must be text, not a list or a mapping")
            return None
        text: str = node.value
        if not isinstance(_scalar(node), str):
            self._problem(position, f'a key must be text: write "{text}" in quotes if it is meant')
            return None
        if not text.isprintable():
            self._problem(position, "a key must be text without control characters")
            return None
        return text

    def _scalar(self, node: yaml.ScalarNode, trail: Trail) -> Any:
        self.document.written[trail] = node.value
        try:
            value = _scalar(node)
            if isinstance(value, float) and math.isinf(value):
                raise ValueError(f"{quoted(node.value)} is too large a number")
            return self._filled(value) if isinstance(value, str) else value
        except ValueError as error:
            self._problem(_position(node.start_mark), str(error))
            return Unreadable()

    def _filled(self, text: str) -> str:
        filled = _REFERENCE.sub(self._referred, text)
        if not filled.isascii() and not _is_unicode(filled):
            raise ValueError("holds half a character, which is no text")
        return filled

    def _referred(self, reference: re.Match[str]) -> str:
        if reference["literal"]:
            return "${"
        if reference["broken"]:
            raise ValueError("'${' must be ${NAME} or ${NAME:-a default}; a real one is '$${'")
        value = self.document.environ.get(reference["name"])
        if reference["or"]:
            return value or reference["default"]
        if value is None:
            name = reference["name"]
            raise ValueError(f"${{{name}}} is not set: set it, or write ${{{name}:-a default}}")
        return value

    def _problem(self, position: Position, text: str) -> None:
        self.document.problems.append(Problem(self.document.name, position, text))


def _decode(content: bytes, document: Document) -> str:
    if len(content) > MAX_BYTES:
        raise _error(document, Position(), "longer than 1 MiB, which no configuration needs")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8-sig", "replace")
        raise _error(document, _end_of(before), "not UTF-8: save the file as UTF-8") from None


def _compose(text: str, document: Document) -> yaml.Node | None:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except _Refused as error:
        raise _error(document, _position(error.mark), error.text) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        raise _error(document, _end_of(before), "control characters are not taken") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        raise _error(document, _position(mark), f"not YAML: {reason}") from None
    except (ValueError, OverflowError):  # what PyYAML makes of "\U00110000"
        mark = loader.get_mark() if loader else None
        raise _error(document, _position(mark), "not YAML: a number is too large") from None


def _scalar(node: yaml.ScalarNode) -> Any:
    """A scalar by YAML 1.2's rules: `no`, `on` and `12:30` are text."""
    text: str = node.value
    if node.style is not None:
        return text
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1) if mark else Position()


def _end_of(text: str) -> Position:
    return Position(text.count("\n") + 1, len(text) - text.rfind("\n"))


def _error(document: Document, position: Position, text: str) -> ConfigError:
    return ConfigError([Problem(document.name, position, text)])
