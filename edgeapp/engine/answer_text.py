"""Turn token bytes into text that may be shown. Pure: knows no token, no model and no clock.

Holds back two things at the end of what has arrived: bytes of an unfinished UTF-8 character, and text
that may turn out to be the beginning of a stop string.
"""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


class AnswerText:
    """Feed bytes with `push`; what comes back is final. `stopped` says that a stop string was met."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(s for s in stop if s)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """Return the text that can be shown now; nothing more after a stop string."""
        return self._release(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return what was held back, with U+FFFD for an unfinished character; nothing after a stop string."""
        text = self._release(self._decoder.decode(b"", final=True))
        held, self._held = self._held, ""
        return text + held

    def _release(self, arrived: str) -> str:
        if self.stopped:
            return ""
        text = self._held + arrived
        cut = min((at for s in self._stop if (at := text.find(s)) >= 0), default=-1)
        if cut >= 0:
            self.stopped, self._held = True, ""
            return text[:cut]
        keep = max((_overlap(text, s) for s in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
