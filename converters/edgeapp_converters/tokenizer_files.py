"""The tokenizer's files in a checkpoint folder, bounded and parsed. Knows no model family and no GGUF."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Tokenizer

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint
from edgeapp_converters.raw_json import items, mapping
from edgeapp_converters.safetensors import parse_object
from edgeapp_converters.small_files import read_small_file

if TYPE_CHECKING:
    from pathlib import Path

TOKENIZER, SETTINGS, SENTENCEPIECE = "tokenizer.json", "tokenizer_config.json", "tokenizer.model"
MAX_TOKEN_ID = (1 << 22) - 1
"""Ten times the largest vocabulary in use."""
_MAX_TOKEN_CHARS = 1 << 16
_FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")


class TokenizerFiles:
    """What a folder says about its tokenizer. Raises `InvalidCheckpoint` for files that are damaged."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def has(self, name: str) -> bool:
        return (self._folder / name).exists()

    def names_in(self, subfolder: str, *, suffix: str) -> list[str]:
        """The files of a subfolder, relative to the checkpoint."""
        return [f"{subfolder}/{path.name}" for path in sorted(self._folder.glob(f"{subfolder}/*{suffix}"))]

    def content(self, name: str) -> bytes:
        return read_small_file(self._folder, name)

    def json_object(self, name: str) -> dict[str, Any]:
        """The JSON object in a file; empty when there is no such file."""
        return parse_object(self.content(name), what=name) if self.has(name) else {}

    @cached_property
    def definition(self) -> dict[str, Any]:
        """tokenizer.json."""
        return self.json_object(TOKENIZER)

    @cached_property
    def model(self) -> dict[str, Any]:
        """The part of tokenizer.json that turns pieces of text into tokens."""
        return mapping(self.definition.get("model"))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """tokenizer_config.json."""
        return self.json_object(SETTINGS)

    @cached_property
    def is_byte_level(self) -> bool:
        """Byte-level BPE: text becomes UTF-8, each byte a printable character, then pairs are merged."""
        steps = list(_steps(self.definition.get("pre_tokenizer")))
        is_bpe = self.model.get("type", "BPE") == "BPE" and bool(self.model)
        return is_bpe and not self.model.get("byte_fallback") and "ByteLevel" in steps

    @cached_property
    def has_byte_fallback(self) -> bool:
        """SentencePiece's BPE written as tokenizer.json: what has no token becomes bytes."""
        return self.model.get("type") == "BPE" and bool(self.model.get("byte_fallback"))

    @cached_property
    def added_tokens(self) -> dict[int, AddedToken]:
        """tokenizer_config.json's added tokens by id."""
        added = mapping(self.settings.get("added_tokens_decoder"))
        return {token_id(number): _added_token(entry) for number, entry in added.items()}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of tokenizer.json, with tokenizer_config.json's added tokens.

        As transformers does it (PreTrainedTokenizerFast.__init__), the latter's flags win.
        """
        tokenizer = _parsed(self.content(TOKENIZER))
        for number, token in sorted(self.added_tokens.items()):
            is_new = tokenizer.token_to_id(token.content) is None
            tokenizer.add_tokens([token])
            if is_new and tokenizer.token_to_id(token.content) != number:
                raise InvalidCheckpoint(
                    f"{SETTINGS} adds the token {shown_token(token.content)} as {number}, but the next free "
                    f"id in {TOKENIZER} is {tokenizer.token_to_id(token.content)}.",
                    hint="The two files do not belong together; get both again.",
                )
        return tokenizer

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Ids by token, added tokens included, checked: ids are unique and not absurdly large."""
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
        if len(set(vocabulary.values())) != len(vocabulary):
            raise InvalidCheckpoint(
                f"Two tokens in {TOKENIZER} have the same id.", hint="The file is damaged; get it again."
            )
        largest = max(vocabulary.values(), default=0)
        if largest > MAX_TOKEN_ID:
            raise InvalidCheckpoint(f"{TOKENIZER} has a token with the id {largest}, which no model has.")
        for token in vocabulary:
            require_token(token)
        return vocabulary


def token_id(number: object) -> int:
    """Return the id that JSON writes as a number, or as text where it is a key."""
    if (
        isinstance(number, str)
        and number.isascii()
        and number.isdecimal()
        and len(number) <= len(str(MAX_TOKEN_ID))
    ):
        number = int(number)
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number <= MAX_TOKEN_ID:
        return number
    raise InvalidCheckpoint(
        f"{shown_token(str(number))} is not a token id between 0 and {MAX_TOKEN_ID}.",
        hint="The tokenizer's files are damaged; get them again.",
    )


def require_token(token: str) -> None:
    """Raise `InvalidCheckpoint` for a token that no GGUF should hold."""
    if len(token) > _MAX_TOKEN_CHARS:
        raise InvalidCheckpoint(
            f"A token has {len(token)} characters; at most {_MAX_TOKEN_CHARS} are accepted."
        )
    try:
        token.encode()
    except UnicodeEncodeError as problem:
        raise InvalidCheckpoint(f"The token {shown_token(token)} holds half a character.") from problem


def shown_token(token: str) -> str:
    """Return a token that is safe to show."""
    return clean_line(ascii(token), max_chars=80)


def _added_token(entry: object) -> AddedToken:
    content = mapping(entry).get("content")
    if not isinstance(content, str):
        raise InvalidCheckpoint(f"{SETTINGS} has an added token without content.", hint="Get it again.")
    require_token(content)
    flags = {name: bool(mapping(entry)[name]) for name in _FLAGS if name in mapping(entry)}
    return AddedToken(content, **flags)


def _steps(pre_tokenizer: object) -> list[object]:
    definition = mapping(pre_tokenizer)
    inner = items(definition.get("pretokenizers"))
    return [kind for step in inner for kind in _steps(step)] or [definition.get("type")]


def _parsed(data: bytes) -> Tokenizer:
    parse_object(data, what=TOKENIZER)
    try:
        return Tokenizer.from_buffer(data)
    except BaseException as problem:  # the library raises bare Exceptions, and panics that are not even those
        if isinstance(problem, (KeyboardInterrupt, SystemExit, MemoryError)):
            raise
        reason = clean_line(str(problem), max_chars=200)
        raise InvalidCheckpoint(
            f"{TOKENIZER} does not describe a tokenizer: {reason}.", hint="Get the file again."
        ) from problem
