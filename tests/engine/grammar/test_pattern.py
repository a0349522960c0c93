from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeapp.engine.grammar.pattern import MAX_PATTERN_CHARS, parse_pattern
from edgeapp.engine.grammar.tree import to_regex
from edgeapp.errors import GrammarError

_PATTERNS = [
    "a", "a|b", "^a", "a$", "^a|b$", "(^a$)|b", "^(a|b)*?c{1,2}$", "[^a-c]", "[\\]\\-^]", "^$",
    "\\w\\d?", "a.c", "(?:ab)+", "(?<name>a)b", "[\\d.]", "a{2,}", "\\.\\*", "\\u{61}", "\\ud83d\\ude00",
    "\\x41\\u0042",
]  # fmt: skip
_TEXTS = st.text(st.sampled_from("abcAB1.-]^* \n😀"), max_size=5)


def _python(tree_regex: str) -> str:
    """Rust writes a character as \\x{61}, Python as \\U00000061."""
    return re.sub(r"\\x\{([0-9a-f]+)\}", lambda found: f"\\U{int(found[1], 16):08x}", tree_regex)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(pattern=st.sampled_from(_PATTERNS), text=_TEXTS)
def test_a_pattern_finds_what_python_finds(pattern: str, text: str) -> None:
    ours = re.fullmatch(_python(to_regex(parse_pattern(pattern, is_search=True))), text)
    theirs = pattern.replace("(?<", "(?P<").replace("\\u{61}", "a").replace("\\ud83d\\ude00", "😀")
    assert bool(ours) == bool(re.search(theirs.replace("$", "\\Z"), text))


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?=a)", "looks ahead"),
        ("(?<!a)", "looks ahead or behind"),
        ("(a)\\1", "back-reference"),
        ("\\bword", "word boundary"),
        ("\\p{L}", "Unicode property"),
        ("a(b$|c)", "only at the ends"),
        ("*a", "nothing before"),
        ("a**", "nothing before"),
        ("(a", "closing parenthesis"),
        ("a)", "unexpected"),
        ("[b-a]", "does not run"),
        ("\\q", "unknown escape"),
        ("\\ud800", "not a character"),
        ("a{4097}", "the most is 4096"),
        ("a{2,1}", "at least 2 and at most 1"),
        ("((a{200}){200}){200}", "repetitions written out"),
        ("(" * 70 + "a" + ")" * 70, "levels deep"),
        ("a" * (MAX_PATTERN_CHARS + 1), "4097 characters"),
    ],
)
def test_what_a_tree_cannot_say_is_refused_by_name(pattern: str, reason: str) -> None:
    with pytest.raises(GrammarError, match=reason):
        parse_pattern(pattern, is_search=True)
