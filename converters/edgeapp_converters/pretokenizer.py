"""Recognise how a byte-level BPE tokenizer splits text before merging: GGUF's `tokenizer.ggml.pre`.

llama.cpp has these splits built in and knows them by name. The name is found as its own converter finds it,
by the hash of how a fixed text is tokenised; else by the split's definition, where that is unambiguous.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

from edgeapp.cleantext import clean_line
from edgeapp.errors import UnsupportedCheckpoint, UsageError
from edgeapp_converters.events import Warned
from edgeapp_converters.raw_json import items, mapping

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from edgeapp_converters.events import Report
    from edgeapp_converters.tokenizer_files import TokenizerFiles

_N_CANDIDATES = 3


@dataclass(frozen=True, kw_only=True)
class Pretokenizer:
    """llama.cpp's name, and how sure it is."""

    name: str
    found_by: Literal["user", "hash", "structure"]


def recognise(files: TokenizerFiles, *, pre: str | None, report: Report) -> Pretokenizer:
    """Return the pre-tokenizer of tokenizer.json. `pre` is the user's choice and wins.

    Raise `UsageError` when llama.cpp does not know `pre`, and `UnsupportedCheckpoint` when nothing is
    given and nothing is recognised.
    """
    if pre is not None:
        return Pretokenizer(name=_known(pre), found_by="user")
    hashed = (_table()["hashes"].get(digest) for digest in text_hashes(files.tokenizer))
    by_hash = next((name for name in hashed if name is not None), None)
    if by_hash is not None:
        return Pretokenizer(name=by_hash, found_by="hash")
    by_structure = _by_structure(files.definition)
    if by_structure is None:
        raise _unrecognised(files.definition)
    report(
        Warned(
            message=f"This tokenizer is not a known one, but its definition splits text like {by_structure}.",
            hint="The finished file is compared with it on 300 texts. --pre NAME overrules the choice.",
        )
    )
    return Pretokenizer(name=by_structure, found_by="structure")


def text_hashes(tokenizer: Tokenizer) -> tuple[str, str]:
    """Return the hashes by which llama.cpp's converter knows a tokenizer, with and without BOS and EOS.

    Source: conversion/base.py, get_vocab_base_pre: sha256 of a fixed text's ids, as Python prints them.
    """
    ids = (tokenizer.encode(_table()["text"], add_special_tokens=added).ids for added in (True, False))
    with_special, without = (hashlib.sha256(str(numbers).encode()).hexdigest() for numbers in ids)
    return with_special, without


def _known(pre: str) -> str:
    names: list[str] = _table()["names"]
    if pre in names:
        return pre
    near = difflib.get_close_matches(pre, names, n=5, cutoff=0.4)
    raise UsageError(
        f"llama.cpp knows no pre-tokenizer {clean_line(ascii(pre), max_chars=60)}.",
        hint=f"Near it are {', '.join(near)}." if near else "For example: --pre qwen2 or --pre llama-bpe.",
    )


def _by_structure(definition: dict[str, Any]) -> str | None:
    normalizer = mapping(definition.get("normalizer")).get("type")
    if normalizer not in {None, "NFC"}:  # llama.cpp normalises nothing; NFC text is what people type
        return None
    sought = (_steps(definition.get("pre_tokenizer")), _ignores_merges(definition))
    matching = (s for s in _table()["structures"] if (s["steps"], s["ignore_merges"]) == sought)
    return next((str(structure["pre"]) for structure in matching), None)


def _ignores_merges(definition: dict[str, Any]) -> bool:
    return mapping(definition.get("model")).get("ignore_merges") is True


def _unrecognised(definition: dict[str, Any]) -> UnsupportedCheckpoint:
    near = ", ".join(_candidates(definition))
    return UnsupportedCheckpoint(
        "How this checkpoint's tokenizer splits text is not recognised, and a guess could spoil answers.",
        hint=f"If you know which tokenizer it follows, say so with --pre NAME. The most similar are {near}.",
    )


def _candidates(definition: dict[str, Any]) -> list[str]:
    steps = json.dumps(_steps(definition.get("pre_tokenizer")))[:10_000]

    def likeness(structure: dict[str, Any]) -> float:
        return difflib.SequenceMatcher(None, steps, json.dumps(structure["steps"]), autojunk=False).ratio()

    ranked = sorted(_table()["structures"], key=likeness, reverse=True)
    return [str(structure["pre"]) for structure in ranked[:_N_CANDIDATES]]


def _steps(definition: object) -> list[dict[str, Any]]:
    """The steps of a pre-tokenizer with what decides how they split, nested sequences flattened."""
    step = mapping(definition)
    match step.get("type"):
        case None:
            return []
        case "Sequence":
            return [inner for item in items(step.get("pretokenizers")) for inner in _steps(item)]
        case "ByteLevel" if step.get("add_prefix_space") is False:
            return [{"type": "ByteLevel", "use_regex": step.get("use_regex", True)}]
        case "Digits":
            return [{"type": "Digits", "individual_digits": step.get("individual_digits")}]
        case "Split" if _isolates(step):
            return [{"type": "Split", "pattern": mapping(step.get("pattern")).get("Regex")}]
        case other:
            return [{"type": f"another {other}"}]


def _isolates(split: dict[str, Any]) -> bool:
    """Whether matches become words of their own; removing what is between matches comes to the same."""
    behavior, invert = split.get("behavior"), split.get("invert", False)
    return (behavior == "Isolated" and not invert) or (behavior == "Removed" and invert is True)


@cache
def _table() -> dict[str, Any]:
    text = resources.files("edgeapp_converters").joinpath("data/pretokenizers.json").read_text("utf-8")
    table: dict[str, Any] = json.loads(text)
    return table
