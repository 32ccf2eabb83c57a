"""YAML as settings are written in: plain values, nothing that runs, nothing that explodes."""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from steadymap.bench.core.errors import ConfigError, message_of

# Settings are pages, not books; beyond these a file is a slip, or meant to do harm.
MOST_CHARACTERS = 200_000
MOST_TEXT = 1000
MOST_DEPTH = 30
# Of all nodes, each alias counted as what it stands for: a few lines of these can stand for 10**9.
MOST_NODES = 100_000


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, within bounds and without keys that are given twice."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.depth = 0
        self.sizes: dict[int, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:  # noqa: ANN401 - as PyYAML has it
        """Compose a node, and count what it holds."""
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise yaml.YAMLError(f"it is nested more than {MOST_DEPTH} levels deep")
        alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if node is None:
            return None
        if alias and id(node) not in self.sizes:
            where = f"line {node.start_mark.line + 1}"
            raise yaml.YAMLError(f"the value of {where} holds an alias of itself")
        if not alias:
            _refuse_twice(node)
            _refuse_text(node)
            self.sizes[id(node)] = 1 + sum(self.sizes[id(part)] for part in _parts(node))
        if self.sizes[id(node)] > MOST_NODES:
            raise yaml.YAMLError(f"its aliases stand for more than {MOST_NODES} values")
        return node


def _parts(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [part for pair in node.value for part in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _refuse_twice(node: Node) -> None:
    """See that no key is given twice: the later one would silently win."""
    seen: set[Hashable] = set()
    for key, _ in node.value if isinstance(node, MappingNode) else ():
        if not isinstance(key, ScalarNode):
            continue
        if (key.tag, key.value) in seen:
            where = f"line {key.start_mark.line + 1}"
            raise yaml.YAMLError(
                f"the key {key.value!r} is given twice, the second time in {where}"
            )
        seen.add((key.tag, key.value))


def _refuse_text(node: Node) -> None:
    """See that a text is one: escapes can say halves of signs, which no file or page can hold."""
    if not isinstance(node, ScalarNode):
        return
    if len(node.value) > MOST_TEXT:
        where, size = f"line {node.start_mark.line + 1}", len(node.value)
        raise yaml.YAMLError(
            f"the text in {where} has {size} characters, settings at most {MOST_TEXT}"
        )
    if re.search("[\ud800-\udfff]", node.value):
        raise yaml.YAMLError(f"{ascii(node.value)[:40]} is no text")


def parse_yaml(text: str) -> object:
    """Return what YAML says: dicts, lists, texts, numbers, dates, true, false and null.

    Raises:
        yaml.YAMLError: it is no YAML, names a type of its own, gives a key twice, or is larger,
            deeper or, with its aliases written out, longer than settings are.
    """
    if len(text) > MOST_CHARACTERS:
        raise yaml.YAMLError(f"it has {len(text)} characters, settings at most {MOST_CHARACTERS}")
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except yaml.YAMLError:
        raise
    except Exception as error:  # a date or a number that is none raises anything
        raise yaml.YAMLError(f"a value is not what its form says: {error}") from error


def read_config(path: Path) -> dict[str, Any]:
    """Read the settings of a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or not keys with values.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config: cannot read {path}: {error}") from error
    return parse_mapping(text, path.name)


def parse_mapping(text: str, name: str) -> dict[str, Any]:
    """Return the settings that a YAML text of this name holds.

    Raises:
        ConfigError: not YAML, or not keys with values.
    """
    try:
        content = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"config: {name} is not YAML: {message_of(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ConfigError(f"config: {name} must hold keys with values, e.g. 'limit: 60'")
    return content
