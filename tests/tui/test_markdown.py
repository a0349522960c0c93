from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeapp.tui.markdown import MarkdownDocument

ANSWER = """\
# Title

Some **bold** text with `code`
and a second line.

- one
- two
  - nested

1. first
2. second

```python
def f():
    return "# not a heading"

x = 1
```

> quoted

| a | b |
|---|---|
| 1 | 2 |

---

See [the site](https://example.org).
"""

PIECES = st.sampled_from(
    ("word ", "\n", "\n\n", "# ", "- ", "1. ", "> ", "```", "```py\n", "    ", "|", "|---|\n", "**", "`")
) | st.sampled_from(
    ("[a](b)", "![i](u)", "<div>", "---\n", "~~", "漢字", "שלום", "\t", "\\", "&amp;", "*", "_", "===")
)


def texts(document: MarkdownDocument, *, width: int = 60) -> list[str]:
    return [line.text.rstrip() for line in document.lines(width=width, dark=True)]


def document_of(*pieces: str) -> MarkdownDocument:
    document = MarkdownDocument()
    for piece in pieces:
        document.append(piece)
        document.lines(width=60, dark=True)
    return document


def test_an_answer_that_came_letter_by_letter_looks_like_one_that_came_at_once() -> None:
    assert texts(document_of(*ANSWER)) == texts(document_of(ANSWER))
    assert document_of(*ANSWER).source == ANSWER


def test_blocks_are_separated_by_one_empty_line() -> None:
    assert texts(document_of("one\n\n\n\ntwo\n\n- a\n- b")) == ["one", "", "two", "", " • a", " • b"]


def test_line_ends_inside_a_paragraph_stay() -> None:
    assert texts(document_of("roses are red\nviolets are blue")) == ["roses are red", "violets are blue"]


def test_html_and_markup_are_shown_as_they_are() -> None:
    assert texts(document_of("<b>x</b> [red]y[/red]\n\n<div>z</div>")) == [
        "<b>x</b> [red]y[/red]",
        "",
        "<div>z</div>",
    ]


def test_a_link_shows_its_address_and_is_not_clickable() -> None:
    document = document_of("[text](https://example.org)")
    assert texts(document) == ["text (https://example.org)"]
    segments = [segment for line in document.lines(width=60, dark=True) for segment in line]
    assert all(segment.style is None or segment.style.link is None for segment in segments)


def test_code_keeps_its_spaces_and_is_not_read_as_markdown() -> None:
    assert texts(document_of("```\n# a\n  **b**\n```")) == ["  # a", "    **b**"]


def test_an_unclosed_fence_is_already_code() -> None:
    assert texts(document_of("```python\nx = '*a*'")) == ["  x = '*a*'"]


@pytest.mark.parametrize(("start", "rest"), [("***", "bold***"), ("#", "hashtag"), ("```", "x```")])
def test_an_unfinished_line_does_not_end_the_paragraph_before_it(start: str, rest: str) -> None:
    assert texts(document_of("text\n", start, rest)) == texts(document_of(f"text\n{start}{rest}"))
    assert len(texts(document_of("text\n", start, rest))) == 2


def test_a_new_width_lays_the_whole_answer_out_again() -> None:
    document = document_of("aaaa bbbb cccc\n\ndddd eeee ffff")
    assert texts(document, width=9) == ["aaaa bbbb", "cccc", "", "dddd eeee", "ffff"]


@pytest.mark.parametrize("opener", ["> ", "- ", "1. ", "[", "*", "`", "((", "~~"])
def test_deep_nesting_is_survived(opener: str) -> None:
    assert document_of(opener * 3000 + "x").source.endswith("x")


@settings(deadline=None, max_examples=150)
@given(pieces=st.lists(PIECES, max_size=30), width=st.integers(1, 90))
def test_any_markdown_fits_the_width_and_keeps_its_source(pieces: list[str], width: int) -> None:
    document = MarkdownDocument()
    for piece in pieces:
        document.append(piece)
        assert all(line.cell_length <= width for line in document.lines(width=width, dark=False))
    assert document.source == "".join(pieces)


@settings(deadline=None, max_examples=150)
@given(pieces=st.lists(PIECES, max_size=30))
def test_pieces_never_change_what_the_whole_shows(pieces: list[str]) -> None:
    assert texts(document_of(*pieces)) == texts(document_of("".join(pieces)))
