"""Write a tree of rules in llguidance's Lark dialect (docs/syntax.md there)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgeapp.engine.grammar.gbnf import ROOT
from edgeapp.engine.grammar.lexemes import cut
from edgeapp.engine.grammar.tree import (
    Chars,
    Choice,
    Node,
    Reference,
    Repeat,
    Rules,
    Sequence,
    chars_regex,
    in_order,
    quantifier,
    to_regex,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_PARENTHESES = 20  # llguidance refuses 30 inside each other
_START = "start"


def rules_to_lark(rules: Rules) -> str:
    """Return a Lark grammar for what `root` of `rules` matches: one terminal when nothing in it recurs."""
    order = in_order(rules)
    writer = _Writer()
    if ROOT in order:
        for name in order:
            writer.name(name, "T")
        writer.lines.append(f"{_START}: {writer.names[ROOT]}")
        writer.define({name: rules[name] for name in order}, "T")
    else:
        parts = cut(rules, ROOT)
        writer.names[ROOT] = _START
        for name in parts.rules:
            writer.name(name, "r")
        for name in parts.terminals:
            writer.name(name, "T")
        writer.define(parts.rules, "r")
        writer.define(parts.terminals, "T")
    return "\n".join(writer.lines) + "\n"


def pattern_to_lark(node: Node) -> str:
    """Return a Lark grammar for a tree without references."""
    return f"{_START}: /{to_regex(node)}/\n"


class _Writer:
    """Lines of a Lark grammar. Terminals are named with T, rules with r."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.names: dict[str, str] = {}

    def name(self, name: str, kind: Literal["r", "T"]) -> str:
        return self.names.setdefault(name, f"{kind}{len(self.names)}")

    def define(self, bodies: Mapping[str, Node], kind: Literal["r", "T"]) -> None:
        for name, body in bodies.items():
            self.lines.append(f"{self.names[name]}: {self._expression(body, kind, 0)}")

    def _expression(self, node: Node, kind: Literal["r", "T"], depth: int) -> str:
        match node:
            case Chars(ranges=ranges):
                return f"/{chars_regex(ranges)}/"
            case Reference(name=name):
                return self.names[name]
            case Sequence(items=items):
                return " ".join(self._expression(item, kind, depth) for item in items) if items else '""'
            case _ if depth >= MAX_PARENTHESES:
                return self._defined_apart(node, kind)
            case Repeat(item=item):
                return f"({self._expression(item, kind, depth + 1)}){quantifier(node)}"
            case Choice(options=options):
                return "(" + " | ".join(self._expression(one, kind, depth + 1) for one in options) + ")"

    def _defined_apart(self, node: Node, kind: Literal["r", "T"]) -> str:
        # No rule's name in GBNF has a space in it.
        name = self.name(f"part {len(self.names)}", kind)
        self.lines.append(f"{name}: {self._expression(node, kind, 0)}")
        return name
