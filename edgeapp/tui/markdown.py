"""Markdown that grows while it is shown: source text → terminal lines, re-rendering only its open end.

A top-level block (paragraph, list, fence, table …) can no longer change once another one has started
after it, so its lines are kept. One document is one widget for Textual: its own Markdown widget is a tree
of widgets that is laid out anew for every write. Knows no widget; text is taken literally, HTML included.
"""

from __future__ import annotations

import io
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, HorizontalRule, Markdown, MarkdownElement
from rich.padding import Padding
from rich.rule import Rule
from rich.style import Style
from rich.syntax import Syntax
from rich.theme import Theme
from textual.strip import Strip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from markdown_it.token import Token

_MIN_WIDTH = 8
_STYLES = {
    "markdown.code": "cyan",
    "markdown.h1": "bold underline",
    "markdown.h2": "bold underline",
    "markdown.h3": "bold",
    "markdown.h4": "bold italic",
    "markdown.block_quote": "italic",
    "markdown.link": "underline",
    "markdown.link_url": "dim",
    "markdown.item.number": "bold",
    "markdown.list": "none",
    "markdown.table.border": "dim",
    "markdown.table.header": "bold",
}


class _Heading(Heading):
    LEVEL_ALIGN = dict.fromkeys(Heading.LEVEL_ALIGN, "left")


class _CodeBlock(CodeBlock):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        code = str(self.text).rstrip()
        syntax = Syntax(code, self.lexer_name, theme=self.theme, word_wrap=True)
        yield Padding(syntax, (0, 0, 0, 2))


class _HorizontalRule(HorizontalRule):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Rule(style="dim")


class _Markdown(Markdown):
    """Rich's Markdown over tokens that are parsed already, in a quieter dress."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {
        **Markdown.elements,
        "heading_open": _Heading,
        "fence": _CodeBlock,
        "code_block": _CodeBlock,
        "hr": _HorizontalRule,
    }

    def __init__(self, tokens: list[Token], *, code_theme: str) -> None:
        # The base class's own __init__ would build a second parser for every block.
        self.markup = ""
        self.parsed = tokens
        self.code_theme = self.inline_code_theme = code_theme
        self.justify = None
        self.style = "none"
        self.hyperlinks = False
        self.inline_code_lexer = None


class MarkdownDocument:
    """Source text and its lines for the width and colours asked for last."""

    def __init__(self) -> None:
        self._closed: list[str] = []
        self._open = ""
        self._look: tuple[int, bool] = (0, True)
        self._closed_lines: list[Strip] = []
        self._n_rendered = 0
        self._lines: list[Strip] | None = None

    @property
    def source(self) -> str:
        return "".join(self._closed) + self._open

    def append(self, text: str) -> None:
        self._lines = None
        self._open += text
        lines = self._open.split("\n")
        # A start on the unfinished last line may still turn out to be something else (`#` or `#word`).
        n_finished = len(lines) - 1
        starts = [n for n in _block_starts(self._open) if 0 < n < n_finished]
        for first, end in pairwise([0, *starts]):
            self._closed.append("\n".join(lines[first:end]) + "\n")
        if starts:
            self._open = "\n".join(lines[starts[-1] :])

    def lines(self, *, width: int, dark: bool) -> Sequence[Strip]:
        """Return the rendered lines, each at most `width` cells wide."""
        if self._look != (width, dark):
            self._look = (width, dark)
            self._closed_lines = []
            self._n_rendered = 0
            self._lines = None
        if self._lines is None:
            self._lines = self._render_new()
        return self._lines

    def _render_new(self) -> list[Strip]:
        width, dark = self._look
        for source in self._closed[self._n_rendered :]:
            self._closed_lines.extend(_separated(_render(source, width, dark=dark), self._closed_lines))
        self._n_rendered = len(self._closed)
        lines = list(self._closed_lines)
        for source in _blocks(self._open):
            lines.extend(_separated(_render(source, width, dark=dark), lines))
        return lines


def _block_starts(source: str) -> list[int]:
    """Return the line numbers at which top-level blocks start."""
    return [token.map[0] for token in _parse(source) if token.level == 0 and token.map]


def _blocks(source: str) -> list[str]:
    lines = source.split("\n")
    cuts = [0, *(n for n in _block_starts(source) if n > 0), len(lines)]
    return ["\n".join(lines[first:end]) for first, end in pairwise(cuts)]


def _separated(lines: list[Strip], before: list[Strip]) -> list[Strip]:
    return [Strip.blank(0), *lines] if lines and before else lines


def _render(source: str, width: int, *, dark: bool) -> list[Strip]:
    tokens = _parse(source)
    if not tokens:
        return []
    console = _console()
    options = console.options.update(width=max(width, _MIN_WIDTH), height=None)
    markdown = _Markdown(tokens, code_theme="ansi_dark" if dark else "ansi_light")
    rows = [Strip(row) for row in console.render_lines(markdown, options, pad=False)]
    while rows and not rows[-1].text.strip():
        rows.pop()
    while rows and not rows[0].text.strip():
        rows.pop(0)
    return [row.crop(0, width) for row in rows]


def _parse(source: str) -> list[Token]:
    tokens = _parser().parse(source)
    for token in tokens:
        for child in token.children or ():
            # Models end lines of verse and addresses with one newline and mean it.
            if child.type == "softbreak":
                child.type = "hardbreak"
    return tokens


@cache
def _parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])


@cache
def _console() -> Console:
    """Return the console that renders into lines; nothing is ever written to it."""
    styles = {name: Style.parse(style) for name, style in _STYLES.items()}
    return Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", theme=Theme(styles))
