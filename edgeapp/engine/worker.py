"""The engine process: `python -m edgeapp.engine.worker PARENT_PID`. Sets the process up, then serves.

Events go to what was stdout; a native print can only reach stderr. The process dies with its parent.
`edgeapp.runtime.supervisor` is the only one to start it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from edgeapp import protocol
from edgeapp.errors import EdgeappError
from edgeapp.protocol import Failed

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Serve until shutdown or end of input; say why and exit with 1 when llama.cpp cannot be loaded."""
    _die_with(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C belongs to the front end
    events_fd = os.dup(1)
    os.dup2(2, 1)
    try:
        from edgeapp.engine.service import serve
    except EdgeappError as problem:
        failed = Failed(code=problem.code, message=problem.message, hint=problem.hint)
        os.write(events_fd, protocol.encode(failed))
        sys.exit(1)
    serve(events_fd)


def _die_with(parent_pid: int) -> None:
    """Ask the kernel for SIGKILL when the parent dies; end at once if it is dead already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent_pid and os.getppid() != parent_pid:
        os._exit(0)


if __name__ == "__main__":
    main()
