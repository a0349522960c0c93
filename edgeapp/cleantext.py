"""Make untrusted text safe to show in a terminal. The only place that decides which characters may pass.

Text from a model, from GGUF metadata and from file names can carry escape sequences (clipboard writes,
titles, screen clears), bidirectional overrides (CVE-2021-42574) and invisible tag characters. Terminals
and Textual pass them through, so they are removed here, once, where text enters the parent process.
Joiners (U+200C, U+200D) and directional marks (U+200E, U+200F) stay: Persian, emoji and Arabic need them.
"""

from __future__ import annotations

_REMOVED = (
    [c for c in range(0x20) if chr(c) not in "\n\t"]  # C0 controls, ESC and CR among them
    + list(range(0x7F, 0xA0))  # DEL and C1 controls (U+009B is an 8-bit CSI)
    + list(range(0x202A, 0x202F))  # bidirectional embeddings and overrides
    + list(range(0x2066, 0x206A))  # bidirectional isolates
    + [0x200B, 0x2060, 0xFEFF]  # zero-width space, word joiner, byte order mark
    + [0x2028, 0x2029]  # line and paragraph separators
    + list(range(0xFFF9, 0xFFFC))  # interlinear annotation
    + list(range(0xD800, 0xE000))  # lone surrogates cannot be encoded
    + list(range(0xE0000, 0xE0080))  # tag characters
)
_DROP = dict.fromkeys(_REMOVED)


def clean(text: str) -> str:
    """Return `text` without control, bidirectional and tag characters; newlines and tabs stay."""
    return text if text.isascii() and text.isprintable() else text.translate(_DROP)


def clean_line(text: str, *, max_chars: int = 200) -> str:
    """Return `text` as one short line: cleaned, white space folded, cut with an ellipsis at `max_chars`."""
    line = " ".join(clean(text).split())
    return line if len(line) <= max_chars else line[: max_chars - 1] + "…"
