"""From what the user points at to a source with its plan and metadata, whatever kind of source it is.

Knows that there are checkpoints and GGUF files; families, tokenizers and readers are other modules'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp_converters import arch
from edgeapp_converters.checkpoint import open_folder
from edgeapp_converters.events import Warned
from edgeapp_converters.general_metadata import general_metadata
from edgeapp_converters.gguf_source import open_gguf
from edgeapp_converters.tokenizer import read_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.checkpoint import Checkpoint
    from edgeapp_converters.events import Report
    from edgeapp_converters.metadata import Metadata
    from edgeapp_converters.plan import ModelPlan
    from edgeapp_converters.source import TensorSource


@dataclass(frozen=True, kw_only=True)
class OpenedModel:
    """A source that is ready to be converted."""

    name: str
    source: TensorSource
    plan: ModelPlan
    metadata: Metadata
    """Everything but the file type and what edgeapp adds about the conversion."""
    licence: str
    """As the model card names it; empty when nobody says."""
    tokenizer_folder: Path | None
    """Where the tokenizer lies that the result must agree with; None when the source is a GGUF."""


def open_model(path: Path, *, pre: str | None = None, report: Report) -> OpenedModel:
    """Open a checkpoint folder or a GGUF file. Raise `ModelError` for what is neither or is damaged.

    `pre` names the pre-tokenizer (llama.cpp's name) of a checkpoint whose own is not recognised.
    """
    if path.is_dir():
        return open_checkpoint(open_folder(path), pre=pre, report=report)
    opened = open_gguf(path)
    return OpenedModel(
        name=opened.name,
        source=opened.source,
        plan=opened.plan,
        metadata=opened.plan.metadata,
        licence=opened.licence,
        tokenizer_folder=None,
    )


def open_checkpoint(checkpoint: Checkpoint, *, pre: str | None = None, report: Report) -> OpenedModel:
    """Plan a checkpoint that has been opened."""
    plan = arch.plan_model(checkpoint.config, checkpoint.source.tensors)
    for note in plan.notes:
        report(Warned(message=note))
    tokenizer = read_tokenizer(
        checkpoint.folder,
        config=checkpoint.config,
        architecture=plan.architecture,
        pre=pre,
        report=report,
    )
    general = general_metadata(plan, name=checkpoint.name, folder=checkpoint.folder)
    return OpenedModel(
        name=checkpoint.name,
        source=checkpoint.source,
        plan=plan,
        metadata=general | plan.metadata | tokenizer,
        licence=str(general["general.license"].value) if "general.license" in general else "",
        tokenizer_folder=checkpoint.folder,
    )
