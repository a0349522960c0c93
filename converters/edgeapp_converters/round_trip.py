"""Compare a converted tokenizer with its original: fixed texts must become the same tokens in both.

The original is the `tokenizers` library with tokenizer.json, or SentencePiece with tokenizer.model; the
converted one is llama.cpp, through a worker. Knows nothing of how the file was made.
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Protocol

from edgeapp.errors import ConversionFailed
from edgeapp_converters import sentencepiece_vocabulary
from edgeapp_converters.raw_json import items, mapping
from edgeapp_converters.tokenizer_files import SENTENCEPIECE, TokenizerFiles, shown_token
from edgeapp_converters.vocabulary import looks_special

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tokenizers import AddedToken

_N_CONTROL_TOKENS = 40
"""How many of the checkpoint's own added tokens are tried; some have thousands of unused ones."""


class ConvertedTokenizer(Protocol):
    """What is compared: `WorkerClient` is one."""

    async def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = False
    ) -> tuple[int, ...]: ...


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """A text and the tokens that its original tokenizer makes of it."""

    text: str
    ids: tuple[int, ...]
    parse_special: bool
    """Whether control tokens in the text are tokens or just text."""


@cache
def round_trip_texts() -> tuple[str, ...]:
    """Return the 300 fixed texts: languages, code, digits, white space, emoji, marks, odd sequences."""
    data = resources.files("edgeapp_converters").joinpath("data/round_trip.json").read_text("utf-8")
    return tuple(text for texts in json.loads(data).values() for text in texts)


async def check_round_trip(client: ConvertedTokenizer, folder: Path) -> None:
    """Tokenise the fixed texts with the loaded GGUF and with the checkpoint in `folder`.

    Raise `ConversionFailed` for the first text that becomes different tokens.
    """
    for expected in expectations(folder):
        found = await client.tokenize(expected.text, add_special=False, parse_special=expected.parse_special)
        if tuple(found) != expected.ids:
            raise _different(expected, found)


def expectations(folder: Path) -> Iterator[Expectation]:
    """Yield each text twice, control tokens parsed and not, with what the original makes of it."""
    files = TokenizerFiles(folder)
    if files.has(SENTENCEPIECE) and not files.is_byte_level:
        yield from _of_sentencepiece(files)
    else:
        yield from _of_tokenizers(files)


def _of_tokenizers(files: TokenizerFiles) -> Iterator[Expectation]:
    tokenizer = files.tokenizer
    added = list(tokenizer.get_added_tokens_decoder().values())
    only_parsed = [token.content for token in added if looks_special(token.content) and not token.special]
    composes = _composes(files.definition.get("normalizer"))
    for text in (*round_trip_texts(), *_with_control_tokens(added)):
        # llama.cpp leaves text as it is: a tokenizer that composes characters is compared on composed text.
        given = unicodedata.normalize("NFC", text) if composes else text
        if not files.is_byte_level and _differs_by_design(text, added):
            continue
        for parse_special in (True, False):
            if not parse_special and any(token in given for token in only_parsed):
                continue
            tokenizer.encode_special_tokens = not parse_special
            ids = tuple(tokenizer.encode(given, add_special_tokens=False).ids)
            yield Expectation(text=given, ids=ids, parse_special=parse_special)
    tokenizer.encode_special_tokens = False


def _differs_by_design(text: str, added: Sequence[AddedToken]) -> bool:
    """Whether the leading space that SentencePiece adds depends on the version of a tokenizer.json.

    llama.cpp always adds it, after control tokens too; newer files not to a text that begins with a space,
    and only to a text's beginning.
    """
    return text.startswith((" ", "▁")) or any(token.content in text for token in added)


def _of_sentencepiece(files: TokenizerFiles) -> Iterator[Expectation]:
    """SentencePiece knows no added tokens: texts with one are left out, each control token tried alone."""
    pieces = sentencepiece_vocabulary.processor(files)
    adds_space = pieces.encode("a", out_type=str)[0].startswith("▁")
    wants_space = files.settings.get("add_prefix_space", adds_space)
    # The file follows the setting, the library the model: where they differ, the text makes up for it.
    given = " " if adds_space and not wants_space else ""
    original = " " if wants_space and not adds_space else ""
    added = files.added_tokens
    for text in round_trip_texts():
        if text and not any(token.content in text for token in added.values()):
            ids = tuple(pieces.encode(original + text))
            yield Expectation(text=given + text, ids=ids, parse_special=False)
    for number, token in list(added.items())[:_N_CONTROL_TOKENS]:
        if token.special:
            yield Expectation(text=token.content, ids=(number,), parse_special=True)


def _with_control_tokens(added: Sequence[AddedToken]) -> Iterator[str]:
    """Texts around the checkpoint's own added tokens, as a chat template would write them."""
    for token in added[:_N_CONTROL_TOKENS]:
        yield token.content
        if not (token.lstrip or token.rstrip or token.single_word):  # llama.cpp strips for few models
            yield f"one{token.content}two {token.content}\n{token.content}{token.content} three"


def _composes(normalizer: object) -> bool:
    definition = mapping(normalizer)
    inner = items(definition.get("normalizers"))
    return definition.get("type") == "NFC" or any(_composes(step) for step in inner)


def _different(expected: Expectation, found: Sequence[int]) -> ConversionFailed:
    position = next(
        (k for k, (a, b) in enumerate(zip(expected.ids, found, strict=False)) if a != b),
        min(len(expected.ids), len(found)),
    )
    ours, theirs = (ids[position : position + 3] for ids in (tuple(found), expected.ids))
    return ConversionFailed(
        f"The converted tokenizer makes other tokens of {shown_token(expected.text)}: from token {position} "
        f"on {_listed(ours)} instead of {_listed(theirs)}.",
        hint="The pre-tokenizer is probably another one: try --pre NAME.",
    )


def _listed(ids: Sequence[int]) -> str:
    return ", ".join(str(number) for number in ids) or "none"
