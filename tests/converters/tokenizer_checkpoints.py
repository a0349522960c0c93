"""Tiny checkpoints whose tokenizers are of the kinds that real ones are of; see test_tokenizer_golden.py."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

from gguf import TokenType
from sentencepiece import SentencePieceTrainer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from edgeapp.gguf_info.parts import read_header
from edgeapp_converters.dense_tokenizer import read_dense_tokenizer, tokenizer_files
from tests.converters.checkpoints import write_checkpoint
from tests.tiny_moe import cut_vocabulary, demo_model_path

if TYPE_CHECKING:
    from pathlib import Path

PRE = {"smollm2": None, "sentencepiece": None, "merges": None, "glm": "glm4", "llama3": "llama-bpe"}
"""Each checkpoint, and its pre-tokenizer where the cut vocabulary has a hash that nobody knows."""
_SPEC = {
    "smollm2": "llama",
    "sentencepiece": "mixtral",
    "merges": "mixtral",
    "glm": "glm4_moe",
    "llama3": "llama",
}
_N_VOCAB = 512
_N_BASE = 480
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_DIGITS = [("1", "2"), ("12", "3")]
"""SmolLM2 has no token of several digits, and how digits are grouped is where families differ."""
_GLM = (
    *("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>"),
    *("<|assistant|>", "<|observation|>"),
)
_LLAMA3 = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def write_tokenizer_checkpoint(folder: Path, name: str) -> Path:
    """Write the checkpoint `name` of `PRE` to `folder`, and return the folder."""
    write_checkpoint(folder, _SPEC[name])
    for old in (*folder.glob("tokenizer*"), *folder.glob("chat_template*"), *folder.glob("special*")):
        old.unlink()
    _FILES[name](folder)
    return folder


def _smollm2(folder: Path) -> None:
    tokenizer = read_dense_tokenizer(read_header(demo_model_path()), max_tokens=2048)
    for name, text in tokenizer_files(tokenizer).items():
        (folder / name).write_text(text, encoding="utf-8")
    _configure(folder, vocab_size=49152)


def _sentencepiece(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(trained_sentencepiece())
    _write(folder, "added_tokens.json", {"<|extra|>": 400, "▁two words": 401, "beyond": 9999})
    added = {
        "0": _added("<unk>"),
        "1": _added("<s>"),
        "2": _added("</s>"),
        "3": _added("renamed", special=False),
        "402": _added("[INST]"),
        "403": _added("▁▁tool", special=False),
        "404": _added("<|looks_special|>", special=False),
    }
    _write(folder, "tokenizer_config.json", {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": "<s>",
        "eos_token": {"content": "</s>", "special": True},
        "unk_token": "<unk>",
        "pad_token": None,
        "chat_template": [
            {"name": "default", "template": "{{ messages[0]['content'] }}"},
            {"name": "tool use", "template": "tools: {{ tools }}"},
        ],
    })  # fmt: skip
    _configure(folder, vocab_size=_N_VOCAB, bos_token_id=1, eos_token_id=2, pad_token_id=2)


def _merges(folder: Path) -> None:
    """SentencePiece's BPE as tokenizer.json alone: every pair of a few words."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁helowrd"]
    pairs = [("▁", "h"), ("▁h", "e"), ("l", "l"), ("▁he", "ll"), ("▁hell", "o"), ("▁", "w"), ("o", "r")]
    tokens += [left + right for left, right in pairs]
    vocab = {token: number for number, token in enumerate(tokens)}
    model = models.BPE(vocab=vocab, merges=pairs, byte_fallback=True, unk_token=tokens[0], fuse_unk=True)
    built = Tokenizer(model)
    built.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    built.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens[:3]])
    built.save(str(folder / "tokenizer.json"))
    _write(folder, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "add_bos_token": True,
    })  # fmt: skip
    _configure(folder, vocab_size=len(tokens), bos_token_id=1, eos_token_id=2)


def _glm(folder: Path) -> None:
    built = _byte_level(_GLM)
    built.post_processor = processors.ByteLevel(trim_offsets=False)
    built.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    built.save(str(folder / "tokenizer.json"))
    _write(folder, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    })  # fmt: skip
    (folder / "chat_template.jinja").write_text("[gMASK]<sop>{{ messages }}\n", encoding="utf-8")
    _configure(folder, vocab_size=_N_VOCAB, eos_token_id=[480, 487, 489], pad_token_id=480)


def _llama3(folder: Path) -> None:
    built = _byte_level(_LLAMA3)
    start = [("<|begin_of_text|>", built.token_to_id("<|begin_of_text|>"))]
    template = processors.TemplateProcessing(
        single="<|begin_of_text|> $A",
        pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
        special_tokens=start,
    )
    built.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    built.save(str(folder / "tokenizer.json"))
    _write(folder, "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
        "chat_template": "{{ bos_token }}{{ messages }}",
    })  # fmt: skip
    _configure(folder, vocab_size=_N_VOCAB, bos_token_id=480, eos_token_id=481)


_FILES = {
    "smollm2": _smollm2,
    "sentencepiece": _sentencepiece,
    "merges": _merges,
    "glm": _glm,
    "llama3": _llama3,
}


def trained_sentencepiece() -> bytes:
    """Return a tokenizer.model of 400 tokens, like LLaMA-2's in everything but size."""
    words = "the quick brown fox jumps over a lazy dog while seven wizards judge my sphinx of black quartz"
    sentences = [f"{a} {b} {a}{b}" for a in words.split() for b in words.split()]
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _byte_level(special: tuple[str, ...]) -> Tokenizer:
    """SmolLM2's first merges with another family's split and special tokens, which come last."""
    cut = cut_vocabulary(_N_BASE - len(_DIGITS))
    tokens = [
        # SmolLM2's own: llama.cpp takes some for control tokens whatever their type
        f"(spare{number})" if kind == TokenType.CONTROL else token
        for number, (token, kind) in enumerate(zip(cut.tokens, cut.types, strict=True))
    ]
    tokens += [left + right for left, right in _DIGITS]
    vocab = {token: number for number, token in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in cut.merges)]
    pairs += _DIGITS
    built = Tokenizer(models.BPE(vocab=vocab, merges=pairs, ignore_merges=True))
    split = pre_tokenizers.Split(Regex(_GPT4), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return built


def _added(content: str, *, special: bool = True) -> dict[str, Any]:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {"content": content, "special": special, **plain}


def _configure(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    _write(folder, "config.json", config | changes)


def _write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
