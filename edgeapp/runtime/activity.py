"""The sign of work of another process: a number that changes while it computes or reads."""

from __future__ import annotations

from pathlib import Path

# proc(5), /proc/pid/stat, counted from the field after the command's name.
_MINOR_FAULTS, _MAJOR_FAULTS, _USER_TICKS, _SYSTEM_TICKS = 7, 9, 11, 12


def read_activity(pid: int) -> int | None:
    """Return page faults plus clock ticks of all threads of `pid`; None when the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        fields = stat.rpartition(")")[2].split()
        return sum(int(fields[n]) for n in (_MINOR_FAULTS, _MAJOR_FAULTS, _USER_TICKS, _SYSTEM_TICKS))
    except (OSError, ValueError, IndexError):
        return None
