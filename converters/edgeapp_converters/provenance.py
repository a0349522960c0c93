"""The `edgeapp.*` keys of a converted file: how it was made, and what was measured. Pure.

Numbers that are known only after the file has been written stand as NaN at first; they have a fixed size,
so they are filled in place before the file gets its name.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgeapp import __version__
from edgeapp_converters.metadata import Metadata, f32, string, u32

if TYPE_CHECKING:
    from edgeapp_converters.quality import QualityReport
    from edgeapp_converters.texts import NamedText

_MEASURED = (
    *("kld_mean", "kld_median", "kld_p999", "top1_agreement", "top1_ci_low", "top1_ci_high"),
    *("ppl_base", "ppl_quant", "ppl_ratio", "retention", "retention_ci_low", "retention_ci_high"),
)
_COUNTS = ("n_tokens", "task_items")


def conversion_metadata(*, recipe: str, calibration: NamedText | None) -> Metadata:
    """Return the keys that say how the file was made."""
    keys: Metadata = {"edgeapp.version": string(__version__), "edgeapp.recipe": string(recipe)}
    if calibration is not None:
        keys["edgeapp.calibration.text"] = string(calibration.name)
        keys["edgeapp.calibration.sha256"] = string(calibration.sha256)
    return keys


def unmeasured_quality(*, source_sha256: str, base: str, text: NamedText, task: str | None) -> Metadata:
    """Return the keys of a measurement that is still to come. `base` is the type compared with."""
    keys: Metadata = {
        "edgeapp.source.sha256": string(source_sha256),
        "edgeapp.quality.base": string(base),
        "edgeapp.quality.text": string(text.name),
        "edgeapp.quality.text_sha256": string(text.sha256),
    }
    if task is not None:
        keys["edgeapp.quality.task"] = string(task)
    keys |= {f"edgeapp.quality.{name}": f32(math.nan) for name in _MEASURED}
    return keys | {f"edgeapp.quality.{name}": u32(0) for name in _COUNTS}


def measured_quality(measured: QualityReport) -> Metadata:
    """Return the values for the keys of `unmeasured_quality`."""
    low, high = measured.top1_ci
    retention_low, retention_high = measured.retention_ci or (math.nan, math.nan)
    values = {
        "kld_mean": measured.kld_mean,
        "kld_median": measured.kld_median,
        "kld_p999": measured.kld_p999,
        "top1_agreement": measured.top1_agreement,
        "top1_ci_low": low,
        "top1_ci_high": high,
        "ppl_base": measured.ppl_base,
        "ppl_quant": measured.ppl_quant,
        "ppl_ratio": measured.ppl_ratio,
        "retention": math.nan if measured.retention is None else measured.retention,
        "retention_ci_low": retention_low,
        "retention_ci_high": retention_high,
    }
    keys: Metadata = {f"edgeapp.quality.{name}": f32(value) for name, value in values.items()}
    keys["edgeapp.quality.n_tokens"] = u32(measured.n_tokens)
    keys["edgeapp.quality.task_items"] = u32(measured.task_items or 0)
    return keys
