"""Bars, legends and sparklines of memory, as styled text fitted to a width in cells. Pure: knows no widget.

Every kind of memory has its own character, so that the picture can be read without colour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from rich.cells import cell_len, set_cell_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.monitor.components import Part, PartKind
    from edgeapp.monitor.status import ExpertPlace

Span: TypeAlias = tuple[str, str]
"""A text and its style; an empty style is plain."""
Line: TypeAlias = tuple[Span, ...]

_GLYPHS: dict[PartKind, str] = {
    "weights": "█",
    "kv": "▓",
    "compute": "▒",
    "runtime": "▚",
    "engine": "█",
    "other": "▞",
    "system": "░",
    "mapped": "▒",
    "free": "·",
    "lost": "×",
}
_STYLES: dict[PartKind, str] = {
    "weights": "$primary",
    "kv": "$success",
    "compute": "$warning",
    "runtime": "$accent",
    "engine": "$primary",
    "other": "$secondary",
    "system": "$text-muted",
    "mapped": "$success",
    "free": "dim",
    "lost": "$error",
}
_NAMES: dict[PartKind, str] = {
    "weights": "weights",
    "kv": "KV cache",
    "compute": "compute",
    "runtime": "driver context",
    "engine": "engines",
    "other": "other",
    "system": "system",
    "mapped": "mapped weights",
    "free": "free",
    "lost": "lost",
}
_PLACES: dict[ExpertPlace, tuple[str, str, str]] = {
    "gpu": ("█", "$primary", "on the GPU"),
    "partial": ("▒", "$warning", "partly"),
    "ram": ("░", "$secondary", "in RAM"),
}
_SPARKS = "▁▂▃▄▅▆▇█"
_GAP = "  "
_SIDE_GAP = 2
_LEAST_BYTES = 52 << 20  # less would be written as 0.0 GiB


def memory_bar(parts: Sequence[Part], width: int) -> Line:
    """Return a bar of exactly `width` cells. What is there at all gets a cell, while there are enough."""
    cells = share_cells([part.size_bytes for part in parts], width)
    return tuple(
        (_GLYPHS[part.kind] * n_cells, _STYLES[part.kind])
        for part, n_cells in zip(parts, cells, strict=True)
        if n_cells
    )


def share_cells(sizes: Sequence[int], width: int) -> list[int]:
    """Split `width` cells by `sizes`: their sum is `width`, and what is not 0 gets one before others get two.

    All zeros when there is nothing to show.
    """
    total = sum(sizes)
    cells = [0] * len(sizes)
    if not total or width <= 0:
        return cells
    by_size = sorted(range(len(sizes)), key=lambda i: sizes[i], reverse=True)
    for i in by_size[:width]:
        cells[i] = 1 if sizes[i] else 0
    wanted = [size * width / total for size in sizes]
    for _ in range(width - sum(cells)):
        neediest = max(by_size, key=lambda i: wanted[i] - cells[i])
        cells[neediest] += 1
    return cells


def legend(parts: Sequence[Part], width: int) -> Line:
    """Name the parts with their sizes in GiB, as many as fit in `width` cells; the smallest are left out."""
    shown = [part for part in parts if part.kind != "free" and part.size_bytes >= _LEAST_BYTES]
    last = [part for part in parts if part.kind == "free"]
    while shown:
        spans = _legend_spans([*shown, *last])
        if line_len(spans) <= width:
            return spans
        shown.remove(min(shown, key=lambda part: part.size_bytes))
    return _legend_spans(last) if line_len(_legend_spans(last)) <= width else ()


def _legend_spans(parts: Sequence[Part]) -> Line:
    spans: list[Span] = []
    for part in parts:
        if spans:
            spans.append((_GAP, ""))
        name = part.label or _NAMES[part.kind]
        spans += [(_GLYPHS[part.kind], _STYLES[part.kind]), (f" {name} {gib(part.size_bytes)}", "")]
    return tuple(spans)


def sparkline(shares: Sequence[float], width: int) -> str:
    """Return the last `width` of `shares`, 0 to 1, as small columns; the newest is at the right."""
    steps = [min(max(share, 0.0), 1.0) * (len(_SPARKS) - 1) for share in shares[-max(width, 0) :]]
    return "".join(_SPARKS[round(step)] for step in steps).rjust(width) if width > 0 else ""


def expert_strip(places: Sequence[ExpertPlace], width: int) -> Line:
    """Return one cell for each layer, the first at the left; with more layers than cells, for some layers."""
    if not places or width <= 0:
        return ()
    per_cell = -(-len(places) // width)
    groups = [places[i : i + per_cell] for i in range(0, len(places), per_cell)]
    return tuple(_PLACES[_place_of(group)][:2] for group in groups)


def _place_of(group: Sequence[ExpertPlace]) -> ExpertPlace:
    return group[0] if len(set(group)) == 1 else "partial"


def expert_counts(places: Sequence[ExpertPlace]) -> tuple[str, str]:
    """Say how many layers have their experts where: "8 on the GPU, 39 in RAM", and short "█ 8 ░ 39"."""
    counts = [(places.count(place), glyph, words) for place, (glyph, _, words) in _PLACES.items()]
    there = [(count, glyph, words) for count, glyph, words in counts if count]
    return (
        ", ".join(f"{count} {words}" for count, _, words in there),
        " ".join(f"{glyph} {count}" for count, glyph, _ in there),
    )


def two_sided(left: Line, rights: Sequence[str], width: int) -> Line:
    """Return a line of exactly `width` cells: `left`, and the longest of `rights` beside it that fits.

    When none does, `left` is cut, but not below a third of the line.
    """
    rooms = (width - line_len(left) - _SIDE_GAP, width - width // 3 - _SIDE_GAP)
    fitting = (text for room in rooms for text in rights if cell_len(text) <= room)
    right = next(fitting, "")
    left_room = width - cell_len(right)
    cut = cut_line(left, left_room - (_SIDE_GAP if right else 0))
    return (*cut, (" " * (left_room - line_len(cut)), ""), (right, ""))


def cut_line(line: Line, width: int) -> Line:
    """Return the part of `line` that fits, with an ellipsis where something is missing."""
    if line_len(line) <= width:
        return line
    kept: list[Span] = []
    room = max(width - 1, 0)
    for text, style in line:
        piece = text if cell_len(text) <= room else set_cell_size(text, room)
        room -= cell_len(piece)
        kept.append((piece, style))
        if room <= 0:
            break
    return (*kept, ("…" if width > 0 else "", ""))


def line_len(line: Line) -> int:
    """Return the width of `line` in cells."""
    return sum(cell_len(text) for text, _ in line)


def gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.1f}"
