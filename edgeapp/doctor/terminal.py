"""Whether this terminal can show the chat."""

from __future__ import annotations

import codecs
import locale
import os
import shutil
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.doctor.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping

_MIN_COLUMNS, _MIN_ROWS = 60, 16


@dataclass(frozen=True, kw_only=True)
class Terminal:
    """What is known about the terminal that the command writes to."""

    is_tty: bool
    columns: int
    rows: int
    codeset: str
    variables: Mapping[str, str]


def read_terminal() -> Terminal:
    size = shutil.get_terminal_size()
    return Terminal(
        is_tty=sys.stdout.isatty(),
        columns=size.columns,
        rows=size.lines,
        codeset=locale.nl_langinfo(locale.CODESET),
        variables=os.environ,
    )


def check_terminal(terminal: Terminal) -> Finding:
    if not _is_utf8(terminal.codeset):
        fix = "export LANG=C.UTF-8"
        found = f"the locale's character set is {terminal.codeset}, not UTF-8"
        return Finding(check="terminal", level="warn", found=found, fix=fix)
    if not terminal.is_tty:
        return Finding(check="terminal", level="ok", found="output goes to a pipe or file, UTF-8")
    found = f"{terminal.columns} × {terminal.rows}, UTF-8{_inside(terminal.variables)}"
    if terminal.columns < _MIN_COLUMNS or terminal.rows < _MIN_ROWS:
        fix = f"enlarge the window to {_MIN_COLUMNS} × {_MIN_ROWS} or more"
        return Finding(check="terminal", level="warn", found=found, fix=fix)
    return Finding(check="terminal", level="ok", found=found)


def check_colours(variables: Mapping[str, str]) -> Finding:
    """Judge the colours that TERM and COLORTERM promise. Textual goes by the same two variables."""
    term, colour_term = variables.get("TERM", ""), variables.get("COLORTERM", "").lower()
    if colour_term in ("truecolor", "24bit"):
        return Finding(check="colours", level="ok", found="16 million (COLORTERM)")
    if term in ("", "dumb"):
        fix = "use a terminal emulator, or export TERM=xterm-256color; `edgeapp run -p` needs none"
        return Finding(check="colours", level="warn", found=f"none: TERM is {term or 'not set'}", fix=fix)
    if "256color" in term or "direct" in term:
        fix = "" if "TMUX" not in variables else "in tmux.conf: set -ga update-environment COLORTERM"
        return Finding(check="colours", level="ok", found=f"256 (TERM={clean_line(term)})", fix=fix)
    fix = "export COLORTERM=truecolor if your terminal shows 24-bit colours"
    return Finding(check="colours", level="warn", found=f"16 (TERM={clean_line(term)})", fix=fix)


def _inside(variables: Mapping[str, str]) -> str:
    return ", inside tmux" if variables.get("TMUX") else ""


def _is_utf8(codeset: str) -> bool:
    try:
        return codecs.lookup(codeset).name == "utf-8"
    except LookupError:
        return False
