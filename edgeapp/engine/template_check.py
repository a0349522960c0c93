"""Try a model's chat template on a small conversation, and say what looks wrong.

A model file whose template and vocabulary do not fit answers without an end, or hides its thoughts in the
answer. Both are easier to understand before the first answer than after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.engine.templates import ChatTemplate, Remark
from edgeapp.errors import TemplateError
from edgeapp.protocol import Message, Tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.engine.model import Vocab

_SYSTEM, _QUESTION, _ANSWER, _NEXT = "Be brief.", "What is checked?", "The template.", "And now?"
_TOOL = Tool(name="check_tool", description="Checks.")


def check(template: ChatTemplate, vocab: Vocab) -> list[Remark]:
    """Return what the user should know; nothing for a template that fits its model."""
    turns = (
        Message(role="system", content=_SYSTEM),
        Message(role="user", content=_QUESTION),
        Message(role="assistant", content=_ANSWER),
        Message(role="user", content=_NEXT),
    )
    try:
        text = template.render(turns)
        ended = template.render(turns[:3], add_generation_prompt=False)
        template.render(turns, tools=(_TOOL,))
    except TemplateError as problem:
        return [Remark(code="template_refuses", message=problem.message, hint=problem.hint)]
    return [
        *_lost(template, text),
        *_start(text, vocab),
        *_end(text, ended, vocab),
        *_thoughts(template, vocab),
    ]


def _lost(template: ChatTemplate, text: str) -> Iterator[Remark]:
    """Look for what the template leaves out."""
    if _QUESTION not in text or _NEXT not in text:
        yield Remark(
            code="template_drops_user",
            message="The model's chat template leaves out what the user says.",
            hint="The model file is damaged or was made for another purpose: get another one.",
        )
    if not template.abilities.system:
        yield Remark(
            code="template_no_system",
            message="The model's chat template takes no system message: it is put before the first question.",
        )


def _start(text: str, vocab: Vocab) -> Iterator[Remark]:
    tokens = vocab.tokenize_prompt(text, is_start=True)
    bos = vocab.facts.bos
    if bos is not None and tokens[:2] == [bos, bos]:
        yield Remark(
            code="template_two_bos",
            message="The model's chat template writes the token that begins a text twice.",
            hint="Answers may be worse: get a newer file of this model.",
        )


def _end(text: str, ended: str, vocab: Vocab) -> Iterator[Remark]:
    """Look for a token behind an answer that ends it; without one the model would talk on."""
    between = text.partition(_ANSWER)[2].partition(_NEXT)[0]
    after = ended.partition(_ANSWER)[2]
    if not any(vocab.is_eog(token) for part in (between, after) for token in vocab.tokenize(part)):
        shown = between.strip()[:40]
        yield Remark(
            code="template_no_end",
            message=f"The chat template ends an answer with {shown!r}, which the vocabulary takes for text.",
            hint="Answers may run on: set a stop string, or get a newer file of this model.",
        )


def _thoughts(template: ChatTemplate, vocab: Vocab) -> Iterator[Remark]:
    known = {*vocab.facts.control_texts, *vocab.facts.user_defined_texts}
    missing = sorted(template.dialect.thought_tokens - known)
    if missing:
        yield Remark(
            code="template_thoughts",
            message=f"The chat template marks thoughts with {' and '.join(missing)}, which are no tokens.",
            hint="Thoughts may show up in answers: get a newer file of this model.",
        )
