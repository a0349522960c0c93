"""Whether models run as fast as was predicted, and what is in the way when they do not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.doctor.finding import Finding
from edgeapp.profiles.likely_cause import deviation, likely_cause

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp.profiles.predictions import Prediction, Record

_N_LOOKED_AT = 10
_CHECK = "speed"


def check_predictions(records: Sequence[Record]) -> Finding:
    """Judge the last requests, the newest last: a warning when most of them were slower than predicted.

    The cause named is that of the newest one; a single slow answer is no finding.
    """
    looked_at = records[-_N_LOOKED_AT:]
    if not looked_at:
        return Finding(check=_CHECK, level="ok", found="nothing was run yet")
    newest = looked_at[-1]
    off = [record for record in looked_at if likely_cause(record)]
    slow = [record for record in off if deviation(record.speeds) < 0]
    if 2 * len(slow) >= len(looked_at):
        return Finding(check=_CHECK, level="warn", found=_said(slow[-1]), fix=likely_cause(slow[-1]))
    return Finding(
        check=_CHECK,
        level="ok",
        found=_said(newest) if newest in off else f"as predicted: {_rates(newest.speeds)}",
        fix=likely_cause(newest),
    )


def _said(record: Record) -> str:
    model = clean_line(record.model, max_chars=40)
    return f"{model}: {_rates(record.speeds)}, {deviation(record.speeds):+.0%} against the prediction"


def _rates(speeds: Prediction) -> str:
    rates = (
        ("decode", speeds.actual_decode_tps, speeds.decode_tps),
        ("prefill", speeds.actual_prefill_tps, speeds.prefill_tps),
    )
    said = [f"{name} {actual:.0f} of {wanted:.0f} tokens/s" for name, actual, wanted in rates if actual > 0]
    return ", ".join(said)
