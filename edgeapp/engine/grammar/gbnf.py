"""Parse GBNF, llama.cpp's grammar format (grammars/README.md there), into a tree of rules.

Left recursion is allowed, which llama.cpp refuses. Token references (`<think>`, `<[1000]>`) are not: a
constrained answer is text.
"""

from __future__ import annotations

from edgeapp.engine.grammar.reader import Reader
from edgeapp.engine.grammar.tree import (
    MAX_CODE_POINT,
    MAX_POSITIONS,
    Chars,
    Choice,
    Node,
    Reference,
    Repeat,
    Rules,
    Sequence,
    char_set,
    choice,
    in_order,
    literal,
    n_positions,
    references,
    sequence,
)
from edgeapp.errors import GrammarError

MAX_GBNF_BYTES = 16 * 1024
MAX_RULES = 512
ROOT = "root"
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_CONTROL_ESCAPES = {"t": "\t", "r": "\r", "n": "\n"}
_HEX_ESCAPES = {"x": 2, "u": 4, "U": 8}
_SELF_ESCAPES = frozenset('\\"[]-^')


def parse_gbnf(source: str) -> Rules:
    """Return the rules that `root` reaches. Raise `GrammarError` for a syntax error or a broken cap."""
    n_bytes = len(source.encode("utf-8", "replace"))
    if n_bytes > MAX_GBNF_BYTES:
        raise GrammarError(
            f"The grammar has {n_bytes} bytes, the most is {MAX_GBNF_BYTES}.",
            hint="A JSON schema may be larger, and describes JSON better.",
        )
    rules = _rules(Reader(source, subject="grammar"))
    if ROOT not in rules:
        raise GrammarError(f"The grammar has no rule named {ROOT!r}, with which the answer begins.")
    reached = _reached(rules)
    _check_every_rule_can_end(reached)
    _check_size(reached)
    return reached


def _rules(reader: Reader) -> dict[str, Node]:
    rules: dict[str, Node] = {}
    _skip_space(reader, newlines=True)
    while reader.here:
        name = _name(reader)
        if name in rules:
            reader.fail(f"defines the rule {name!r} twice")
        _skip_space(reader, newlines=False)
        if not reader.take("::="):
            reader.fail("needs ::= after a rule's name")
        _skip_space(reader, newlines=True)
        rules[name] = _alternatives(reader, nested=False)
        if len(rules) > MAX_RULES:
            reader.fail(f"has more than {MAX_RULES} rules")
        if reader.here and reader.here not in "\r\n":
            reader.fail(f"has an unexpected {reader.here!r}")
        _skip_space(reader, newlines=True)
    return rules


def _alternatives(reader: Reader, *, nested: bool) -> Node:
    with reader.nested():
        options = [_sequence(reader, nested=nested)]
        while reader.take("|"):
            _skip_space(reader, newlines=True)
            options.append(_sequence(reader, nested=nested))
        return choice(options)


def _sequence(reader: Reader, *, nested: bool) -> Node:
    items: list[Node] = []
    while (item := _item(reader)) is not None:
        _skip_space(reader, newlines=nested)
        while (repeated := _repetition(reader, item)) is not None:
            item = repeated
            _skip_space(reader, newlines=nested)
        items.append(item)
    return sequence(items)


def _item(reader: Reader) -> Node | None:
    """Read one element; None where a sequence ends."""
    reader.count_node()
    char = reader.here
    if char in _WORD and char:
        return Reference(name=_name(reader))
    if char and char in "<!":
        reader.fail("names a token; only text can be constrained")
    match char:
        case '"':
            return _literal(reader)
        case "[":
            return _char_class(reader)
        case "(":
            return _group(reader)
        case ".":
            reader.next_char()
            return Chars(ranges=char_set([], negated=True))
        case _:
            return None


def _group(reader: Reader) -> Node:
    reader.next_char()
    _skip_space(reader, newlines=True)
    node = _alternatives(reader, nested=True)
    _skip_space(reader, newlines=True)
    if not reader.take(")"):
        reader.fail("needs a closing parenthesis")
    return node


def _repetition(reader: Reader, item: Node) -> Node | None:
    match reader.here:
        case "*":
            bounds: tuple[int, int | None] = (0, None)
        case "+":
            bounds = (1, None)
        case "?":
            bounds = (0, 1)
        case "{":
            return _counted(reader, item)
        case _:
            return None
    reader.next_char()
    reader.count_node()
    return Repeat(item=item, at_least=bounds[0], at_most=bounds[1])


def _counted(reader: Reader, item: Node) -> Node:
    reader.next_char()
    reader.count_node()
    _skip_space(reader, newlines=True)
    at_least = reader.number()
    _skip_space(reader, newlines=True)
    at_most = at_least
    if reader.take(","):
        _skip_space(reader, newlines=True)
        at_most = reader.number()
        _skip_space(reader, newlines=True)
    elif at_least is None:
        reader.fail("needs a number after {")
    if not reader.take("}"):
        reader.fail("needs a closing brace")
    if at_most is not None and at_most < (at_least or 0):
        reader.fail(f"repeats something at least {at_least} and at most {at_most} times")
    return Repeat(item=item, at_least=at_least or 0, at_most=at_most)


def _literal(reader: Reader) -> Node:
    reader.next_char()
    chars: list[str] = []
    while not reader.take('"'):
        reader.count_node()
        chars.append(_char(reader))
    return literal("".join(chars))


def _char_class(reader: Reader) -> Node:
    reader.next_char()
    negated = reader.take("^")
    ranges: list[tuple[int, int]] = []
    while not reader.take("]"):
        reader.count_node()
        low = high = ord(_char(reader))
        if reader.here == "-" and not reader.text.startswith("-]", reader.position):
            reader.next_char()
            high = ord(_char(reader))
        if high < low:
            reader.fail("has a character range that ends before it begins")
        ranges.append((low, high))
    chars = char_set(ranges, negated=negated)
    if not chars:
        reader.fail("has a character class that no character is in")
    return Chars(ranges=chars)


def _char(reader: Reader) -> str:
    char = reader.next_char()
    if char != "\\":
        return char
    escape = reader.next_char()
    if escape in _CONTROL_ESCAPES:
        return _CONTROL_ESCAPES[escape]
    if escape in _SELF_ESCAPES:
        return escape
    if escape not in _HEX_ESCAPES:
        reader.fail(f"has an unknown escape \\{escape}")
    code = reader.hexadecimal(_HEX_ESCAPES[escape])
    if code > MAX_CODE_POINT or 0xD800 <= code <= 0xDFFF:  # noqa: PLR2004 - the surrogates
        reader.fail(f"names U+{code:X}, which is not a character")
    return chr(code)


def _name(reader: Reader) -> str:
    start = reader.position
    while reader.here in _WORD and reader.here:
        reader.next_char()
    if reader.position == start:
        reader.fail("needs a rule's name here")
    return reader.text[start : reader.position]


def _skip_space(reader: Reader, *, newlines: bool) -> None:
    blank = " \t\r\n" if newlines else " \t"
    while reader.here:
        if reader.here in blank:
            reader.next_char()
        elif reader.here == "#":
            while reader.here and reader.here not in "\r\n":
                reader.next_char()
        else:
            return


# Rules ---------------------------------------------------------------------------------------------------


def _reached(rules: Rules) -> dict[str, Node]:
    """Return the rules that can be reached from the root, the root first."""
    reached: dict[str, Node] = {}
    pending = [ROOT]
    while pending:
        name = pending.pop()
        if name in reached:
            continue
        if name not in rules:
            raise GrammarError(f"The grammar uses a rule {name!r} that it does not define.")
        reached[name] = rules[name]
        pending += sorted(references(rules[name]))
    return reached


def _check_every_rule_can_end(rules: Rules) -> None:
    """Raise `GrammarError` for a rule that always needs itself again: an answer in it would have no end."""
    ending: set[str] = set()
    while True:
        more = {name for name, node in rules.items() if name not in ending and _can_end(node, ending)}
        if not more:
            break
        ending |= more
    endless = [name for name in rules if name not in ending]
    if endless:
        raise GrammarError(f"The rule {endless[0]!r} of the grammar always needs itself again, without end.")


def _check_size(rules: Rules) -> None:
    known: dict[str, int] = {}
    for name in in_order(rules):
        known[name] = n_positions(rules[name], known)
    recurring = [name for name in rules if name not in known]
    known |= dict.fromkeys(recurring, 1)
    size = max(known[ROOT], sum(n_positions(rules[name], known) for name in recurring))
    if size > MAX_POSITIONS:
        raise GrammarError(
            f"The grammar describes more than {MAX_POSITIONS} characters with its repetitions written out.",
            hint="Smaller repetition counts, or none (*), are cheaper.",
        )


def _can_end(node: Node, ending: set[str]) -> bool:
    match node:
        case Chars():
            return True
        case Reference(name=name):
            return name in ending
        case Repeat(item=item, at_least=at_least):
            return at_least == 0 or _can_end(item, ending)
        case Choice(options=options):
            return any(_can_end(option, ending) for option in options)
        case Sequence(items=items):
            return all(_can_end(item, ending) for item in items)
