"""Parse a regular expression as JSON Schema means it (ECMA-262) into a tree.

What a tree of characters cannot say is refused by name: lookaround, back-references, word boundaries, Unicode
properties, and anchors anywhere but at the two ends.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeapp.engine.grammar.reader import Reader
from edgeapp.engine.grammar.tree import (
    EMPTY,
    MAX_CODE_POINT,
    MAX_POSITIONS,
    Chars,
    Choice,
    Node,
    Repeat,
    Sequence,
    char_set,
    choice,
    n_positions,
    sequence,
    walk,
)
from edgeapp.errors import GrammarError

MAX_PATTERN_CHARS = 4096
_LINE_ENDS = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]  # ECMA-262, LineTerminator
_SPACE = [
    (0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
    (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF),
]  # fmt: skip  # ECMA-262, WhiteSpace and LineTerminator
_CLASSES = {
    "d": [(0x30, 0x39)],
    "w": [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)],
    "s": _SPACE,
}
_CONTROL_ESCAPES = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}
_START, _END = Chars(ranges=((-1, -1),)), Chars(ranges=((-2, -2),))
"""Marks for ^ and $; no text contains them, and `_without_anchors` removes them."""
_SIGNS: dict[str, Node] = {"^": _START, "$": _END, ".": Chars(ranges=char_set(_LINE_ENDS, negated=True))}
_ANYTHING = Repeat(item=Chars(ranges=char_set([], negated=True)), at_least=0, at_most=None)


def parse_pattern(source: str, *, is_search: bool) -> Node:
    """Return what the whole text must be. Raise `GrammarError` for a syntax error or a broken cap.

    With `is_search` the pattern may be found anywhere in the text, as JSON Schema wants it; without, it must
    match all of the text.
    """
    if len(source) > MAX_PATTERN_CHARS:
        raise GrammarError(
            f"The regular expression has {len(source)} characters, the most is {MAX_PATTERN_CHARS}."
        )
    reader = Reader(source, subject="regular expression")
    parsed = _alternatives(reader)
    if reader.here:
        reader.fail(f"has an unexpected {reader.here!r}")
    node = _without_anchors(parsed, padding=_ANYTHING if is_search else EMPTY)
    if (size := n_positions(node)) > MAX_POSITIONS:
        raise GrammarError(
            f"The regular expression describes {size} characters with its repetitions written out, "
            f"the most is {MAX_POSITIONS}.",
            hint="Smaller repetition counts, or none (*), are cheaper.",
        )
    return node


# Anchors -------------------------------------------------------------------------------------------------


def _without_anchors(node: Node, *, padding: Node) -> Node:
    """Replace ^ and $ at the ends of each alternative; an end without one gets `padding`."""
    match node:
        case Choice(options=options):
            return Choice(options=tuple(_without_anchors(option, padding=padding) for option in options))
        case Sequence(items=(Choice() as only,)):
            return _without_anchors(only, padding=padding)
        case Sequence(items=items):
            parts = list(items)
        case _:
            parts = [node]
    before = parts.pop(0) if parts[:1] == [_START] else None
    after = parts.pop() if parts[-1:] == [_END] else None
    body = sequence(parts)
    if any(inner in (_START, _END) for inner in walk(body)):
        raise GrammarError(
            "A regular expression has ^ or $ inside; here they may stand only at the ends of an alternative.",
            hint="^(a|b)$ says the same as (^a$|^b$).",
        )
    return Sequence(items=(EMPTY if before else padding, body, EMPTY if after else padding))


# Syntax --------------------------------------------------------------------------------------------------


def _alternatives(reader: Reader) -> Node:
    with reader.nested():
        options = [_branch(reader)]
        while reader.take("|"):
            options.append(_branch(reader))
        return choice(options)


def _branch(reader: Reader) -> Node:
    items: list[Node] = []
    while reader.here and reader.here not in "|)":
        reader.count_node()
        atom = _atom(reader)
        items.append(atom if atom in (_START, _END) else _quantified(reader, atom))
    return sequence(items)


def _atom(reader: Reader) -> Node:
    char = reader.next_char()
    if char in "*+?{":
        reader.fail(f"has nothing before {char!r} to repeat")
    match char:
        case "(":
            return _group(reader)
        case "[":
            return _char_class(reader)
        case "\\":
            return Chars(ranges=_as_class(_escape(reader)))
        case _:
            return _SIGNS.get(char) or Chars(ranges=_one(reader, ord(char)))


def _group(reader: Reader) -> Node:
    if reader.take("?"):
        if reader.take("<") and reader.here not in "=!":
            while reader.next_char() != ">":
                pass
        elif not reader.take(":"):
            reader.fail("looks ahead or behind, or changes flags, which is not supported")
    node = _alternatives(reader)
    if not reader.take(")"):
        reader.fail("needs a closing parenthesis")
    return node


def _quantified(reader: Reader, atom: Node) -> Node:
    bounds = _quantifier(reader)
    if bounds is None:
        return atom
    reader.count_node()
    reader.take("?")  # lazy or greedy: the same texts match
    if reader.here and reader.here in "*+?{":
        reader.fail(f"has nothing before {reader.here!r} to repeat")
    return Repeat(item=atom, at_least=bounds[0], at_most=bounds[1])


def _quantifier(reader: Reader) -> tuple[int, int | None] | None:
    for sign, bounds in (("*", (0, None)), ("+", (1, None)), ("?", (0, 1))):
        if reader.take(sign):
            return bounds
    return _counted(reader) if reader.take("{") else None


def _counted(reader: Reader) -> tuple[int, int | None]:
    at_least = reader.number()
    if at_least is None:
        reader.fail("needs a number after {")
    at_most = reader.number() if reader.take(",") else at_least
    if not reader.take("}"):
        reader.fail("needs a closing brace")
    if at_most is not None and at_most < at_least:
        reader.fail(f"repeats something at least {at_least} and at most {at_most} times")
    return at_least, at_most


# Characters ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Class:
    """An escape that stands for many characters, as backslash d for digits."""

    ranges: tuple[tuple[int, int], ...]


def _as_class(escaped: int | _Class) -> tuple[tuple[int, int], ...]:
    return escaped.ranges if isinstance(escaped, _Class) else ((escaped, escaped),)


def _char_class(reader: Reader) -> Node:
    negated = reader.take("^")
    ranges: list[tuple[int, int]] = []
    while not reader.take("]"):
        reader.count_node()
        ranges += _class_member(reader)
    chars = char_set(ranges, negated=negated)
    if not chars:
        reader.fail("has a character class that no character is in")
    return Chars(ranges=chars)


def _class_member(reader: Reader) -> tuple[tuple[int, int], ...]:
    low = _class_char(reader)
    if not (reader.here == "-" and not reader.text.startswith("-]", reader.position)):
        return _as_class(low)
    reader.next_char()
    high = _class_char(reader)
    if isinstance(low, _Class) or isinstance(high, _Class) or high < low:
        reader.fail("has a character range that does not run from one character to a later one")
    return ((low, high),)


def _class_char(reader: Reader) -> int | _Class:
    char = reader.next_char()
    if char != "\\":
        return _one(reader, ord(char))[0][0]
    return 0x08 if reader.take("b") else _escape(reader)


def _escape(reader: Reader) -> int | _Class:
    """Read what follows a backslash."""
    char = reader.next_char()
    if char.lower() in _CLASSES:
        return _Class(ranges=char_set(_CLASSES[char.lower()], negated=char.isupper()))
    match char:
        case "x":
            return reader.hexadecimal(2)
        case "u":
            return _unicode_escape(reader)
        case "b" | "B":
            reader.fail("has a word boundary, which is not supported")
        case "p" | "P":
            reader.fail("has a Unicode property, which is not supported")
        case "k":
            reader.fail("has a back-reference, which is not supported")
    if char in _CONTROL_ESCAPES and not (char == "0" and reader.here.isdigit()):
        return _CONTROL_ESCAPES[char]
    if char.isdigit():
        reader.fail("has a back-reference, which is not supported")
    if char.isalpha():
        reader.fail(f"has an unknown escape \\{char}")
    return _one(reader, ord(char))[0][0]


def _unicode_escape(reader: Reader) -> int:
    if reader.take("{"):
        end = reader.text.find("}", reader.position)
        code = reader.hexadecimal(min(max(end - reader.position, 1), 8))
        if not reader.take("}"):
            reader.fail("needs a closing brace")
    else:
        code = reader.hexadecimal(4)
        if 0xD800 <= code <= 0xDBFF and reader.take("\\u"):  # noqa: PLR2004 - high surrogates
            low = reader.hexadecimal(4)
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00)
    return _one(reader, code)[0][0]


def _one(reader: Reader, code: int) -> tuple[tuple[int, int], ...]:
    chars = char_set([(code, code)]) if 0 <= code <= MAX_CODE_POINT else ()
    if not chars:
        reader.fail(f"names U+{code & 0xFFFFFFFF:X}, which is not a character")
    return chars
