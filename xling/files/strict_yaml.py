"""YAML that says settings and nothing else: nothing twice, nothing to run, nothing that swells."""

from __future__ import annotations

import re
from typing import Any

import yaml

from xling.messages.values import format_name, format_value

# A study file is some pages; what is longer, deeper or swells by aliases is not one.
MAX_CHARS = 100_000
MOST_VALUES = 20_000
MOST_DEPTH = 40

_TAG = "tag:yaml.org,2002:"
_KINDS = {f"{_TAG}{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map")}
# Numbers and truth values that YAML 1.1 and 1.2 read alike: 010, 1:30 and yes are none of them.
_UNAMBIGUOUS = re.compile(
    r"[-+]?(0|[1-9][0-9]*|[0-9]*\.[0-9]*([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))|0x[0-9a-fA-F]+"
    r"|\.(nan|NaN|NAN)|true|True|TRUE|false|False|FALSE"
)
_MERGE = f"{_TAG}merge"


class _Loader(yaml.SafeLoader):
    """A safe loader that says where a number is that Python cannot hold."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """Construct a value as yaml.SafeLoader does, which gives no place of errors of int()."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise ValueError(
                f"line {_line(node)}: {format_value(node.value)} is not a number that can be read"
            ) from error


def read_settings(text: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: one document; aliases and merge keys are followed.

    Raises:
        ValueError: it is not YAML, a key appears twice or is not text, a tag asks for more than
            text, numbers, lists and keys, it holds itself, it is too long, too deep, or swells
            too much by its aliases, or a text holds what no file takes. One line, which says the
            text's line.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"it has {len(text)} characters; a study file has {MAX_CHARS} at most")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _Checks(loader).size(node, depth=0)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError as error:
        raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep") from error
    except yaml.YAMLError as error:
        raise ValueError(_what_is_wrong(error, text)) from error


class _Checks:
    """A walk over the nodes of a document, each once, before anything is made of them."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._sizes: dict[int, int] = {}
        self._open: set[int] = set()

    def size(self, node: yaml.Node, depth: int) -> int:
        """Return how many values a node has with its aliases written out; refuse what is wrong."""
        if id(node) in self._open:
            raise ValueError(f"line {_line(node)}: it holds itself; write the value out")
        if depth > MOST_DEPTH:
            raise ValueError(f"line {_line(node)}: it is nested more than {MOST_DEPTH} levels deep")
        if id(node) not in self._sizes:
            self._open.add(id(node))
            self._check(node)
            found = 1 + sum(self.size(inner, depth + 1) for inner in _inner(node))
            self._open.discard(id(node))
            if found > MOST_VALUES:
                raise ValueError(
                    f"line {_line(node)}: with its aliases written out it has more than "
                    f"{MOST_VALUES} values"
                )
            self._sizes[id(node)] = found
        return self._sizes[id(node)]

    def _check(self, node: yaml.Node) -> None:
        where = f"line {_line(node)}"
        if node.tag not in _KINDS and node.tag != _MERGE:
            kind = format_name(node.tag.removeprefix(_TAG), 40)
            raise ValueError(
                f"{where}: {kind} is not something that a setting can be; write text in quotes, a "
                "number, true, false, or a list"
            )
        if isinstance(node, yaml.MappingNode):
            self._check_keys(node)
        if isinstance(node, yaml.ScalarNode):
            _check_text(node.value, where)
            plain = (True, False)  # as if it had neither quotes nor a tag
            meant = self._loader.resolve(  # type: ignore[no-untyped-call]
                yaml.ScalarNode, node.value, plain
            )
            if node.tag not in (f"{_TAG}str", meant):
                kind = node.tag.removeprefix(_TAG)
                raise ValueError(f"{where}: {format_value(node.value)} is not of the type {kind}")
            kinds = (f"{_TAG}int", f"{_TAG}float", f"{_TAG}bool")
            if node.tag in kinds and not _UNAMBIGUOUS.fullmatch(node.value):
                raise ValueError(
                    f"{where}: versions of YAML read {format_value(node.value)} differently; write "
                    "a decimal number, true or false, or put text in quotes"
                )

    def _check_keys(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            where = f"line {_line(key)}"
            if key.tag == _MERGE:
                continue
            if not isinstance(key, yaml.ScalarNode) or key.tag != f"{_TAG}str":
                what = (
                    format_name(key.value)
                    if isinstance(key, yaml.ScalarNode)
                    else "of several values"
                )
                raise ValueError(f"{where}: the key {what} is not text; put it in quotes")
            if key.value in seen:
                raise ValueError(
                    f"{where}: the key {format_value(key.value)} appears twice; keep one"
                )
            seen.add(key.value)


def _inner(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [inner for pair in node.value for inner in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _check_text(text: str, where: str) -> None:
    if "\0" in text:
        raise ValueError(f"{where}: a null character; remove it")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ValueError(f"{where}: half a surrogate pair; write whole characters")


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _what_is_wrong(error: yaml.YAMLError, text: str) -> str:
    """Return what a parser says, in one line, and the line of the text."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        words = ": ".join(part for part in (error.context, error.problem) if part)
        return f"line {mark.line + 1 if mark else 1}: {format_name(words, 200)}"
    if isinstance(error, yaml.reader.ReaderError):
        line = text[: error.position].count("\n") + 1
        return f"line {line}: the character {format_value(str(error.character), 8)} is not allowed"
    return format_name(str(error), 200)
