"""A conversion from beginning to end: importance, types, one streaming pass, checks, measured loss.

Each step is another module's; this one knows their order and what is thrown away afterwards.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp_converters import imatrix as imatrix_file
from edgeapp_converters.base_model import base_model, base_precision
from edgeapp_converters.collect import collect_imatrix
from edgeapp_converters.fit import fit_types
from edgeapp_converters.general_metadata import file_type_metadata
from edgeapp_converters.load_check import check_loads
from edgeapp_converters.provenance import conversion_metadata, measured_quality, unmeasured_quality
from edgeapp_converters.quality import measure_quality
from edgeapp_converters.recipe import RecipeSummary, choose_types, file_type_of, summary
from edgeapp_converters.writer import write_gguf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from edgeapp_converters.budget import Budget
    from edgeapp_converters.events import Report
    from edgeapp_converters.imatrix import Imatrix
    from edgeapp_converters.metadata import Metadata
    from edgeapp_converters.opening import OpenedModel
    from edgeapp_converters.plan import TypedTensor
    from edgeapp_converters.quality import QualityReport
    from edgeapp_converters.recipe import Recipe
    from edgeapp_converters.retention import Task
    from edgeapp_converters.texts import NamedText
    from edgeapp_converters.writer import PartialGguf

FIT = "fit"
"""What stands for a recipe's name where types were chosen by measured sensitivity."""
_CALIBRATED_PRECISION = "q8_0"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What the loss is measured on. `task` None leaves out the multiple-choice task."""

    text: NamedText
    task: Task | None = None
    max_tokens: int | None = None
    """Of the text; None for all of it."""


@dataclass(frozen=True, kw_only=True)
class ConversionOptions:
    """How a model is to be converted. A `budget` replaces the recipe's types by measured sensitivity."""

    recipe: Recipe
    n_threads: int
    imatrix: Imatrix | None = None
    calibration: NamedText | None = None
    budget: Budget | None = None
    verification: Verification | None = None

    @property
    def recipe_name(self) -> str:
        return FIT if self.budget is not None else self.recipe.name


@dataclass(frozen=True, kw_only=True)
class ConversionResult:
    """What a conversion made."""

    path: Path
    sha256: str
    n_bytes: int
    recipe: str
    budget: Budget | None
    summary: RecipeSummary
    quality: QualityReport | None
    quality_base: str
    """Type of the model that it was compared with; empty when it was not."""
    seconds: float


def convert(
    opened: OpenedModel, target: Path, options: ConversionOptions, *, report: Report
) -> ConversionResult:
    """Convert `opened` to the GGUF file `target` and return what came of it.

    What stands at `target` is replaced only at the very end. An interrupted run leaves `target.part`, from
    which the next one goes on. Raise `EdgeappError`.
    """
    started_s = time.monotonic()
    importance = _importance(opened, target, options, report=report)
    tensors = choose(opened, options, importance, report=report)
    base = base_precision(opened, target) if options.verification else ""
    part = write_gguf(
        target,
        metadata=_metadata(opened, options, tensors, base=base),
        tensors=tensors,
        source=opened.source,
        imatrix=importance,
        n_threads=options.n_threads,
        fingerprint=opened.source.fingerprint,
        report=report,
    )
    try:
        asyncio.run(
            check_loads(part.path, folder=opened.tokenizer_folder, n_threads=options.n_threads, report=report)
        )
        measured = _measure(opened, target, part, options, base=base, report=report)
        sha256 = part.commit()
    finally:
        part.close()
    _saved_importance(target).unlink(missing_ok=True)
    return ConversionResult(
        path=target,
        sha256=sha256,
        n_bytes=target.stat().st_size,
        recipe=options.recipe_name,
        budget=options.budget,
        summary=summary(tensors),
        quality=measured,
        quality_base=base.upper(),
        seconds=time.monotonic() - started_s,
    )


def choose(
    opened: OpenedModel, options: ConversionOptions, importance: Imatrix | None, *, report: Report
) -> tuple[TypedTensor, ...]:
    """Return every tensor with its type: by measured sensitivity under a budget, or by the recipe."""
    if options.budget is None:
        return choose_types(opened.plan, options.recipe, has_imatrix=importance is not None)
    return fit_types(
        opened.plan,
        opened.source,
        importance,
        budget_bytes=options.budget.file_bytes,
        n_threads=options.n_threads,
        report=report,
    )


def _importance(
    opened: OpenedModel, target: Path, options: ConversionOptions, *, report: Report
) -> Imatrix | None:
    """Return the importance matrix: the given one, or one collected on the calibration text.

    A collected one stays beside the part until the conversion is done: collecting again could differ in
    the last bit, and then an interrupted conversion could not go on.
    """
    text = options.calibration
    if text is None:
        return options.imatrix
    saved = _saved_importance(target)
    dataset = f"{text.name} {text.sha256[:16]} {opened.source.fingerprint[:16]}"
    if saved.exists() and (known := imatrix_file.read(saved)).datasets == (dataset,):
        return known.shrunk()
    with base_model(
        opened, target, _CALIBRATED_PRECISION, n_threads=options.n_threads, report=report
    ) as base:
        collected = asyncio.run(
            collect_imatrix(base, text.text, dataset=dataset, n_threads=options.n_threads, report=report)
        )
    imatrix_file.write(saved, collected)
    return collected.shrunk()


def _saved_importance(target: Path) -> Path:
    return target.with_name(f"{target.name}.part.imatrix")


def _metadata(
    opened: OpenedModel, options: ConversionOptions, tensors: Sequence[TypedTensor], *, base: str
) -> Metadata:
    file_type = file_type_of(tensors) if options.budget is not None else options.recipe.file_type
    metadata = opened.metadata | file_type_metadata(file_type)
    metadata |= conversion_metadata(recipe=options.recipe_name, calibration=options.calibration)
    wanted = options.verification
    if wanted is None:
        return metadata
    task = wanted.task.name if wanted.task else None
    return metadata | unmeasured_quality(
        source_sha256=opened.source.sha256(), base=base.upper(), text=wanted.text, task=task
    )


def _measure(
    opened: OpenedModel,
    target: Path,
    part: PartialGguf,
    options: ConversionOptions,
    *,
    base: str,
    report: Report,
) -> QualityReport | None:
    wanted = options.verification
    if wanted is None:
        return None
    with base_model(opened, target, base, n_threads=options.n_threads, report=report) as compared:
        measured = asyncio.run(
            measure_quality(
                compared,
                part.path,
                wanted.text.text,
                text_name=wanted.text.name,
                max_tokens=wanted.max_tokens,
                task=wanted.task,
                n_threads=options.n_threads,
                report=report,
            )
        )
    for key, value in measured_quality(measured).items():
        part.patch(key, value)
    return measured
