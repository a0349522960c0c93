"""Find marked places in text that arrives in pieces, and end it at a stop string.

Pure: knows no token, no model and no clock. What may turn out to be the beginning of a marker is held back.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Markers:
    """Some texts to look for; where two begin at the same place, the longer wins."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(sorted({text for text in texts if text}, key=len, reverse=True))
        self._whole = re.compile("|".join(map(re.escape, self.texts)) or r"(?!)")
        self._begun = re.compile("|".join({re.escape(text[0]) for text in self.texts}) or r"(?!)")
        self._n_back = max((len(text) for text in self.texts), default=1) - 1

    def find(self, text: str) -> re.Match[str] | None:
        return self._whole.search(text)

    def n_held(self, text: str) -> int:
        """Return how long the end of `text` is that is a proper beginning of a marker."""
        for start in self._begun.finditer(text, max(0, len(text) - self._n_back)):
            end = text[start.start() :]
            if any(marker.startswith(end) for marker in self.texts):
                return len(end)
        return 0


class StopFilter:
    """Feed text with `push`; what comes back is final. `stopped` says that a stop string was met."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._markers = Markers(stop)
        self._held = ""
        self.stopped = False

    def push(self, arrived: str) -> str:
        """Return the text that can be shown now; nothing more after a stop string."""
        if not self._markers.texts:
            return arrived
        if self.stopped:
            return ""
        text = self._held + arrived
        if found := self._markers.find(text):
            self.stopped, self._held = True, ""
            return text[: found.start()]
        n_shown = len(text) - self._markers.n_held(text)
        self._held = text[n_shown:]
        return text[:n_shown]

    def finish(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return held
