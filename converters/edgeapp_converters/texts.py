"""The texts that importance and loss are measured on: bundled ones by name, or a file of the user's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from edgeapp import paths
from edgeapp.cleantext import clean_line
from edgeapp.errors import UsageError

EVALUATION = "evaluation"
"""The bundled text for measuring; calibration texts are others, so that nothing is measured on itself."""
ALL = "all"
"""All calibration texts, one after the other."""
_MAX_BYTES = 256 * 1024**2


@dataclass(frozen=True, kw_only=True)
class NamedText:
    """A text with the name under which a file or a report mentions it."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def find(name_or_path: str) -> NamedText:
    """Return a bundled text or the content of a file. Raise `UsageError` when there is neither."""
    bundled = bundled_texts()
    if name_or_path == ALL:
        families = [path for name, path in bundled.items() if name != EVALUATION]
        return NamedText(name=ALL, text="\n\n".join(map(_read, families)))
    if name_or_path in bundled:
        return NamedText(name=name_or_path, text=_read(bundled[name_or_path]))
    path = Path(name_or_path).expanduser()
    if not path.is_file():
        raise UsageError(
            f"There is no text {clean_line(name_or_path, max_chars=200)!r}.",
            hint=f"Give a file, or one of {', '.join([*bundled, ALL])}.",
        )
    return NamedText(name=clean_line(path.name, max_chars=80), text=_read(path))


def bundled_texts() -> dict[str, Path]:
    """Return the texts that come with edgeapp by name."""
    return {path.stem: path for path in sorted((paths.data_dir() / "calibration").glob("*.txt"))}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as problem:
        raise UsageError(f"{clean_line(str(path))} cannot be read: {problem.strerror}.") from problem
    if len(data) > _MAX_BYTES:
        raise UsageError(
            f"{clean_line(str(path))} has more than {_MAX_BYTES >> 20} MiB.",
            hint="A few hundred kilobytes of varied text are enough.",
        )
    text = data.decode("utf-8", "replace")
    if not text.strip():
        raise UsageError(f"{clean_line(str(path))} holds no text.")
    return text
