"""From a checkpoint's tokenizer files to the `tokenizer.*` keys of a GGUF, without torch or transformers.

Three kinds are known: byte-level BPE (tokenizer.json), SentencePiece's BPE (tokenizer.model), and the latter
written as tokenizer.json alone. What is written follows llama.cpp's converter, conversion/*.py; each family's
deviations stand here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gguf import TokenType

from edgeapp.cleantext import clean_line
from edgeapp.errors import InvalidCheckpoint, UnsupportedCheckpoint, UsageError
from edgeapp_converters import pretokenizer, sentencepiece_vocabulary
from edgeapp_converters.bpe import byte_level_keys, merges
from edgeapp_converters.chat_template import read_chat_templates
from edgeapp_converters.metadata import Metadata, boolean, f32s, i32s, string, strings, u32
from edgeapp_converters.raw_json import items, mapping
from edgeapp_converters.special_tokens import read_special_tokens
from edgeapp_converters.tokenizer_files import MAX_TOKEN_ID, SENTENCEPIECE, TOKENIZER, TokenizerFiles

if TYPE_CHECKING:
    from pathlib import Path

    from edgeapp_converters.events import Report
    from edgeapp_converters.vocabulary import Vocabulary

_LLAMA_LIKE = {"llama", "granitemoe"}
"""llama.py, LlamaModel.set_vocab."""
_GEMMA_LIKE = {"gemma3", "gemma4"}
_TAKE_SPACE_PREFIX = _LLAMA_LIKE | {"ernie4_5-moe"}
"""Families that write tokenizer_config.json's add_prefix_space."""
_N_VOCAB_WITHOUT_BOS = 49152
"""llama.py: SmolLM's and Granite's vocabularies."""
_CODE_LLAMA_N_VOCAB = 32016
_CODE_LLAMA_IDS = {"prefix": 32007, "suffix": 32008, "middle": 32009, "eot": 32010}
_GLM = {"Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM"}
_GLM_TOKENS = {"bos": "[gMASK]", "eot": "<|user|>", "unk": "<|endoftext|>", "eom": "<|observation|>"}
"""base.py, _set_vocab_glm; with <|endoftext|> as end of turn an answer never ends."""
_GEMMA4_VISIBLE = {
    *("<|channel>", "<channel|>", "<|tool_call>", "<tool_call|>"),
    *("<|tool_response>", "<tool_response|>", '<|"|>'),
}
"""gemma.py, Gemma4Model.set_vocab: shown, so that whoever reads the answer can parse it."""
_ID_KEYS = {"unk": "unknown", "sep": "seperator", "pad": "padding"}
"""gguf/constants.py, as spelt there."""
_WITHOUT_KEY = "cls"
_ADDABLE = {"bos", "eos", "sep"}
_GEMMA4_SCORE = -1000.0  # gguf/vocab.py, LlamaHfVocab


def read_tokenizer(
    folder: Path, *, config: dict[str, Any], architecture: str, pre: str | None = None, report: Report
) -> Metadata:
    """Return all `tokenizer.*` keys for the checkpoint in `folder`.

    `config` is its config.json, `architecture` llama.cpp's name, `pre` the user's choice of pre-tokenizer.
    Raise `InvalidCheckpoint` for damaged files, `UnsupportedCheckpoint` for other kinds of tokenizers and for
    a pre-tokenizer that is not recognised, `UsageError` for a `pre` that does not exist.
    """
    files = TokenizerFiles(folder)
    n_vocab = _n_vocab(config)
    vocabulary = _vocabulary_keys(files, n_vocab, architecture=architecture, pre=pre, report=report)
    return (
        vocabulary
        | _special_keys(files, config, n_vocab=_n_tokens(vocabulary))
        | _family_keys(files, architecture, n_vocab)
        | read_chat_templates(files, report)
    )


def _n_vocab(config: dict[str, Any]) -> int | None:
    """Return how many rows the embedding has; text_config's vocab_size comes first (base.py, TextModel)."""
    value = mapping(config.get("text_config")).get("vocab_size", config.get("vocab_size"))
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_TOKEN_ID + 1:
        raise InvalidCheckpoint(
            f"config.json gives vocab_size as {clean_line(repr(value), max_chars=40)}, which no model has.",
            hint="The file is damaged; get it again.",
        )
    return value


def _n_tokens(keys: Metadata) -> int:
    tokens = keys["tokenizer.ggml.tokens"].value
    assert isinstance(tokens, tuple)  # noqa: S101 - an array's value
    return len(tokens)


# Vocabularies --------------------------------------------------------------------------------------------


def _vocabulary_keys(
    files: TokenizerFiles, n_vocab: int | None, *, architecture: str, pre: str | None, report: Report
) -> Metadata:
    """Return model, pre-tokenizer, tokens, types, and scores or merges.

    Where tokenizer.json is byte-level it counts even beside a tokenizer.model, as for transformers: some
    repositories carry a tokenizer.model of another format.
    """
    if files.is_byte_level:
        return _byte_level(files, n_vocab, pre=pre, report=report)
    if pre is not None:
        raise UsageError(
            "This checkpoint's tokenizer has no pre-tokenizer that could be chosen.", hint="Leave out --pre."
        )
    if architecture == "gemma4" and files.has_byte_fallback:
        return _gemma4(files, n_vocab)
    if files.has(SENTENCEPIECE):
        return _sentencepiece(sentencepiece_vocabulary.read(files, n_vocab, report))
    if files.has_byte_fallback:
        return _sentencepiece(sentencepiece_vocabulary.from_merges(files, n_vocab))
    raise UnsupportedCheckpoint(
        f"The tokenizer of this checkpoint is neither byte-level BPE ({TOKENIZER}) nor SentencePiece's BPE "
        f"({SENTENCEPIECE}).",
        hint="If one of these files is missing, take it from the original repository.",
    )


def _byte_level(files: TokenizerFiles, n_vocab: int | None, *, pre: str | None, report: Report) -> Metadata:
    found = pretokenizer.recognise(files, pre=pre, report=report)
    keys = byte_level_keys(files, n_vocab, pre=found.name)
    if found.found_by != "hash":
        # Some names make llama.cpp add BOS by itself; what the files say comes later and wins.
        keys["tokenizer.ggml.add_bos_token"] = boolean(False)
    return keys


def _sentencepiece(vocabulary: Vocabulary) -> Metadata:
    return {
        "tokenizer.ggml.model": string("llama"),
        "tokenizer.ggml.pre": string("default"),
        "tokenizer.ggml.tokens": strings(vocabulary.tokens),
        "tokenizer.ggml.scores": f32s(vocabulary.scores),
        "tokenizer.ggml.token_type": i32s(vocabulary.types),
    }


def _gemma4(files: TokenizerFiles, n_vocab: int | None) -> Metadata:
    """Return Gemma-4's own kind: merged as SentencePiece's text, but by merges; scores mean nothing."""
    vocabulary = sentencepiece_vocabulary.from_merges(files, n_vocab)
    types = [
        int(TokenType.USER_DEFINED) if token in _GEMMA4_VISIBLE else kind
        for token, kind in zip(vocabulary.tokens, vocabulary.types, strict=True)
    ]
    return {
        "tokenizer.ggml.model": string("gemma4"),
        "tokenizer.ggml.tokens": strings(vocabulary.tokens),
        "tokenizer.ggml.scores": f32s([_GEMMA4_SCORE] * len(types)),
        "tokenizer.ggml.token_type": i32s(types),
        "tokenizer.ggml.merges": strings(merges(files)),
    }


# Special tokens and what families add --------------------------------------------------------------------


def _special_keys(files: TokenizerFiles, config: dict[str, Any], *, n_vocab: int) -> Metadata:
    special = read_special_tokens(
        definition=files.definition, settings=files.settings, config=config, n_vocab=n_vocab
    )
    ids = special.ids
    if _GLM.intersection(map(str, items(config.get("architectures")))):
        ids = ids | {kind: number for kind, number in _glm_ids(files).items() if kind not in ids}
    if n_vocab == _CODE_LLAMA_N_VOCAB and not files.is_byte_level:
        ids = _CODE_LLAMA_IDS | ids
    return {
        f"tokenizer.ggml.{_ID_KEYS.get(kind, kind)}_token_id": u32(number)
        for kind, number in ids.items()
        if kind != _WITHOUT_KEY
    } | {
        f"tokenizer.ggml.add_{kind}_token": boolean(is_added)
        for kind, is_added in special.added.items()
        if kind in _ADDABLE
    }


def _glm_ids(files: TokenizerFiles) -> dict[str, int]:
    known = files.vocabulary
    return {kind: known[token] for kind, token in _GLM_TOKENS.items() if token in known}


def _family_keys(files: TokenizerFiles, architecture: str, n_vocab: int | None) -> Metadata:
    keys: Metadata = {}
    is_spaced = _space_prefix(files, architecture)
    if is_spaced is not None:
        keys["tokenizer.ggml.add_space_prefix"] = boolean(is_spaced)
    if architecture == "gemma4":
        keys["tokenizer.ggml.add_bos_token"] = boolean(True)
    if architecture in _LLAMA_LIKE and n_vocab == _N_VOCAB_WITHOUT_BOS:
        keys["tokenizer.ggml.add_bos_token"] = boolean(False)
    return keys


def _space_prefix(files: TokenizerFiles, architecture: str) -> bool | None:
    """Whether SentencePiece text begins with a space; None leaves it to llama.cpp, which adds one."""
    configured = files.settings.get("add_prefix_space")
    if architecture in _GEMMA_LIKE and not files.is_byte_level:
        return False
    if architecture in _TAKE_SPACE_PREFIX and isinstance(configured, bool):
        return configured
    return None
