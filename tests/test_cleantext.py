from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.cleantext import clean, clean_line


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b]52;c;cm0gLXJm\x07hello", "]52;c;cm0gLXJmhello"),
        ("\x1b[2Jwiped", "[2Jwiped"),
        ("\x9b31mred", "31mred"),
        ("abc\u202ecba", "abccba"),
        ("a\u2066b\u2069c", "abc"),
        ("tag\U000e0041\U000e007f", "tag"),
        ("one\r\ntwo", "one\ntwo"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("half\ud800surrogate", "halfsurrogate"),
    ],
)
def test_clean_removes_what_could_steer_a_terminal(hostile: str, shown: str) -> None:
    assert clean(hostile) == shown


@pytest.mark.parametrize(
    "text",
    ["tab\tand\nnewline", "中文 العربية עברית", "👩\u200d🔧 family", "می\u200cخواهم", "naïve café ½"],
)
def test_clean_keeps_text_of_every_script(text: str) -> None:
    assert clean(text) == text


@given(st.text(alphabet=st.characters()))
def test_clean_never_leaves_a_control_character(text: str) -> None:
    kept = clean(text)
    assert not [c for c in kept if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    assert clean(kept) == kept


def test_clean_line_folds_white_space_and_cuts_with_an_ellipsis() -> None:
    assert clean_line("a\n\n  b\tc") == "a b c"
    assert clean_line("x" * 300, max_chars=10) == "x" * 9 + "…"
