"""One way to fail and one way to be interrupted for the scripts in this folder."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable


class SetupError(Exception):
    """One sentence about what went wrong, and a hint at the remedy."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def run(main: Callable[[], None]) -> NoReturn:
    """Run `main` and exit: 0 done, 1 failure, 130 interrupted. A hang-up or SIGTERM counts as Ctrl+C."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        main()
    except SetupError as problem:
        print(f"error: {problem.message}", file=sys.stderr)
        if problem.hint:
            print(f"hint: {problem.hint}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nStopped. Nothing half-built was kept.", file=sys.stderr)
        sys.exit(130)
    sys.exit(0)


def _interrupt(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
