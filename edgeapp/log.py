"""Logging to stderr, as events with fields. stdout is the product and is never logged to.

Prompts and answers are logged at debug only.
"""

from __future__ import annotations

import logging
import sys


def set_up(level: str) -> None:
    """Send records of `level` ("debug", "info", "warning", "error") and above to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
    logger = logging.getLogger("edgeapp")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
