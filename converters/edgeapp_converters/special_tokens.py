"""Which ids are BOS, EOS and so on, and which of them a text gets: `tokenizer.ggml.*_token_id`, `add_*`.

Follows llama.cpp's own gguf-py (gguf/vocab.py, SpecialVocab) as of the pinned engine; the published gguf
package is older and leaves out what a ByteLevel post-processor says. Knows no vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from edgeapp_converters.raw_json import mapping, mappings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_KINDS = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids by kind (`bos`, `eos`, `eot`, ...), and by kind whether a text gets them."""

    ids: dict[str, int]
    added: dict[str, bool]


@dataclass(kw_only=True)
class _Special:
    """What has been found so far. `named` are the tokens by kind, which later become ids."""

    named: dict[str, str]
    settings: Mapping[str, Any]
    kinds: list[str] = field(default_factory=lambda: list(_KINDS))
    added: dict[str, bool] = field(default_factory=dict)

    @property
    def is_configured(self) -> bool:
        """Without tokenizer_config.json nothing is renamed, as in SpecialVocab."""
        return bool(self.settings)


def read_special_tokens(
    *,
    definition: Mapping[str, Any],
    settings: Mapping[str, Any],
    config: Mapping[str, Any],
    n_vocab: int,
) -> SpecialTokens:
    """Return what tokenizer.json, tokenizer_config.json and config.json say, in this order of precedence.

    An id that is not below `n_vocab`, or no number at all, is left out.
    """
    found = _Special(named=_named(settings), settings=settings)
    if definition:
        _borrow(found)
    for processor in _processors(definition):
        _follow(processor, found)
    ids = _ids(definition, found, config, n_tokens=n_vocab)
    return SpecialTokens(ids=ids, added=found.added)


def _named(settings: Mapping[str, Any]) -> dict[str, str]:
    """The tokens that tokenizer_config.json names, each a string or an object with `content`."""
    named = {}
    for kind in (*_KINDS, "eot", "eom"):
        entry = settings.get(f"{kind}_token")
        content = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(content, str):
            named[kind] = content
    return named


def _borrow(found: _Special) -> None:
    """BERT's names stand in for the usual ones."""
    for kind, other in (("bos", "cls"), ("eos", "sep")):
        if not found.named.get(kind) and found.named.get(other):
            found.named[kind] = found.named[other]


def _processors(definition: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    processor = mapping(definition.get("post_processor"))
    yield from mappings(processor.get("processors", [processor]))


def _follow(processor: Mapping[str, Any], found: _Special) -> None:
    match processor.get("type"):
        case "ByteLevel":
            found.added.setdefault("bos", False)
            found.added.setdefault("eos", False)
        case "RobertaProcessing":
            found.added |= {"bos": True, "eos": True, "sep": True}
            for kind in ("cls", "sep"):
                entry = processor.get(kind)
                if isinstance(entry, list) and entry and isinstance(entry[0], str) and found.is_configured:
                    found.named.setdefault(kind, entry[0])
        case "TemplateProcessing":
            _follow_template(_tokens(processor.get("single")), _tokens(processor.get("pair")), found)


def _tokens(template: object) -> list[tuple[str, str]]:
    """The parts of a template as (kind, id), for example ("SpecialToken", "<s>"), ("Sequence", "A")."""
    parts: list[tuple[str, str]] = []
    for part in mappings(template):
        parts += [(kind, str(mapping(value).get("id", ""))) for kind, value in part.items()]
    return parts


def _follow_template(single: list[tuple[str, str]], pair: list[tuple[str, str]], found: _Special) -> None:
    first = last = ""
    if len(single) > 1:
        first = _special(single[0])
        if first:
            _begin(first, found)
        last = _special(single[-1])
        if last:
            _end(last, found)
    if pair:
        _separate(pair, found, first=first, last=last)


def _special(part: tuple[str, str]) -> str:
    return part[1] if part[0] == "SpecialToken" else ""


def _begin(first: str, found: _Special) -> None:
    named = found.named
    if not found.is_configured:
        named["bos"] = first
    elif first not in (named.get("bos"), named.get("cls")):
        named["bos"] = named.get("bos") or first
        named["cls"] = named.get("cls") or first
    found.added["bos"] = first in (named.get("bos"), named.get("cls"))


def _end(last: str, found: _Special) -> None:
    """A text ends with `last`: it is EOS, and what was named so is where a turn or a message ends."""
    named = found.named
    if found.is_configured and last != named.get("eos"):
        kind = next((kind for kind in ("eot", "eom") if kind not in found.kinds), None)
        if kind is not None:
            found.kinds.append(kind)
            named.pop(kind, None)
            if "eos" in named:
                named[kind] = named["eos"]
    named["eos"] = last
    found.added["eos"] = True


def _separate(pair: list[tuple[str, str]], found: _Special, *, first: str, last: str) -> None:
    """A pair's texts have a separator between them: `A [sep] [eos] B`."""
    start = 1 if first and _special(pair[0]) == first else 0
    stop = -1 if last and _special(pair[-1]) == last else None
    between = pair[start:stop]
    if len(between) < 3 or between[0] != ("Sequence", "A") or between[-1] != ("Sequence", "B"):  # noqa: PLR2004 - A, something, B
        return
    marks = [_special(part) for part in between[1:-1]]
    ends = {found.named.get("sep"), found.named.get("eos")} - {None, ""}
    adds = (marks[0] in ends and not last) or (len(marks) == 2 and marks[1] in ends)  # noqa: PLR2004 - [sep] [eos]
    found.added["sep"] = adds
    if adds and found.is_configured and not found.named.get("sep") and found.named.get("eos"):
        found.named["sep"] = found.named["eos"]


def _ids(
    definition: Mapping[str, Any], found: _Special, config: Mapping[str, Any], *, n_tokens: int
) -> dict[str, int]:
    """Names become ids by tokenizer.json's added tokens; config.json says the rest."""
    known: dict[str, object] = {}
    for entry in mappings(definition.get("added_tokens")):
        if isinstance(entry.get("content"), str):
            known.setdefault(entry["content"], entry.get("id"))
    ids: dict[str, int] = {}
    for kind in found.kinds:
        if found.is_configured and isinstance(found.settings.get(f"add_{kind}_token"), bool):
            found.added.setdefault(kind, found.settings[f"add_{kind}_token"])
        for candidate in _candidates(kind, found, known, config):
            if _is_id(candidate, n_tokens):
                ids.setdefault(kind, candidate)  # type: ignore[arg-type] # it is an int
    return ids


def _candidates(
    kind: str, found: _Special, known: Mapping[str, object], config: Mapping[str, Any]
) -> Iterator[object]:
    if found.is_configured and kind in found.named:
        yield known.get(found.named[kind])
    number = config.get(f"{kind}_token_id")
    yield mapping(config.get("text_config")).get(f"{kind}_token_id") if number is None else number


def _is_id(number: object, n_tokens: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < n_tokens
