"""From a request to the tokens of its prompt. Knows the template and the vocabulary, no KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.engine.dialects.dialect import ForcedCall
from edgeapp.errors import ContextOverflow, EngineError, UsageError

if TYPE_CHECKING:
    from edgeapp.engine.kv import KvCache
    from edgeapp.engine.model import LoadedModel
    from edgeapp.protocol import Generate, Grammar, Tool


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the model reads: the template's text, and the beginning of an answer it does not choose."""

    text: str
    """As the template wrote it."""
    begun: str
    """The beginning of the answer: an opened thought or tool call, usually nothing."""
    tokens: list[int]
    """Of `text` and `begun`."""
    key: str
    """Of the adapters it is read with."""
    grammar: Grammar | None
    """What the answer must obey."""


def render(model: LoadedModel, request: Generate) -> str:
    """Return the prompt's text as the template writes it. Raise `TemplateError`."""
    if request.prompt is not None:
        return request.prompt
    return model.render(request.messages, tools=tools_of(request), options=request.template_options)


def tools_of(request: Generate) -> tuple[Tool, ...]:
    """Return the tools that the model may call."""
    return () if request.tool_choice == "none" else request.tools


def _begun(model: LoadedModel, request: Generate, text: str) -> ForcedCall:
    """Return how the answer has to begin, and the grammar for the rest. Raise `UsageError`."""
    tools, choice = tools_of(request), request.tool_choice
    if request.prompt is not None:
        return ForcedCall(prefix="", grammar=request.grammar)
    dialect = model.template.dialect
    if choice in {"auto", "none"}:
        # A grammar would forbid the model to open a thought.
        thought = dialect.reasoning_prefix(text) if request.grammar and not request.raw else ""
        return ForcedCall(prefix=thought, grammar=request.grammar)
    forced = dialect.forced_call(tools, choice, prompt=text)
    if forced is None:
        raise UsageError(
            f"The call of a tool ({choice}) cannot be forced with this model.",
            hint="Give the tool with the request, or let the model choose: auto.",
        )
    return forced


def read(model: LoadedModel, kv: KvCache, request: Generate, *, key: str) -> Prompt:
    """Render and tokenise. Raise `ContextOverflow`, `TemplateError`, `UsageError` or `EngineError`."""
    text = render(model, request)
    begun = _begun(model, request, text)
    tokens = _tokenize(model, kv, text + begun.prefix, key=key)
    if not tokens:
        raise EngineError("The prompt is empty.", hint="Write something.")
    if len(tokens) >= model.n_ctx:
        raise ContextOverflow(
            f"The conversation has {len(tokens)} tokens, the context holds {model.n_ctx}.",
            n_prompt=len(tokens),
            n_ctx=model.n_ctx,
            hint=more_room(model),
        )
    return Prompt(text=text, begun=begun.prefix, tokens=tokens, key=key, grammar=begun.grammar)


def _tokenize(model: LoadedModel, kv: KvCache, text: str, *, key: str) -> list[int]:
    known = kv.known_start(key, text) if model.vocab.facts.is_bpe else None
    if known is None:
        return model.vocab.tokenize_prompt(text, is_start=True)
    tokens, rest = known
    return tokens + model.vocab.tokenize_prompt(rest, is_start=False)


def more_room(model: LoadedModel) -> str:
    """Say what helps against a context that is too short."""
    n_ctx, most = model.n_ctx, model.n_ctx_train
    return f"Start a new chat, or use a larger --ctx, up to {most}." if n_ctx < most else "Start a new chat."
