"""Hold an answer to a grammar: before a token is chosen, forbid those that could not go on.

The only door to llguidance, which walks grammar and vocabulary in native code. Knows no sampler and no chat.
numpy and llguidance (0.2 s) are imported with the first grammar.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import cached_property
from typing import TYPE_CHECKING, Any

from edgeapp.cleantext import clean_line
from edgeapp.engine import bindings
from edgeapp.engine.bindings.logit_rows import logits_row
from edgeapp.engine.grammar.gbnf import parse_gbnf
from edgeapp.engine.grammar.json_schema import normalise_schema
from edgeapp.engine.grammar.lark import pattern_to_lark, rules_to_lark
from edgeapp.engine.grammar.pattern import parse_pattern
from edgeapp.errors import EngineError, GrammarError

if TYPE_CHECKING:
    from llguidance._lib import JsonCompileOptions

    from edgeapp.engine.bindings import ContextHandle
    from edgeapp.engine.model import Vocab
    from edgeapp.protocol import Grammar

_ANY_OBJECT = '{"type":"object"}'
_JSON_STYLE: JsonCompileOptions = {
    "item_separator": ", ?",
    "key_separator": ": ?",
    "whitespace_flexible": False,
}
"""One space after a comma or colon, or none: more would let a model fill its answer with spaces."""
_MAX_LEXER_STATES = 50_000  # of about 2 kB each
_SPECIAL_MARK = b"\xff"  # never in UTF-8; llguidance keeps such tokens apart from text
_NOT_ALLOWED = "satisfy the grammar"  # llguidance about a token; everything else is about its limits
_MAX_CACHED = 16


class Constraint:
    """One answer's way through a grammar. Must be used by one thread at a time."""

    def __init__(self, matcher: Any, n_vocab: int) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._bits = bytearray(4 * ((n_vocab + 31) // 32))

    def mask(self, context: ContextHandle, row: int) -> None:
        """Set the logits of every token that may not come next to -inf, in place, at batch index `row`.

        Raise `GrammarError` when the grammar needs more work than llguidance's limits allow.
        """
        import numpy as np

        logits = np.asarray(logits_row(context, row, self._n_vocab))
        logits[np.unpackbits(self._allowed_bits(), count=self._n_vocab, bitorder="little") == 0] = -np.inf

    def accept(self, token: int) -> None:
        """Go on by one token. Raise `EngineError` for one that `mask` forbade, else errors as `mask`."""
        if not self._matcher.consume_token(token):
            raise self._failure(f"The grammar does not allow token {token} here")

    @property
    def is_complete(self) -> bool:
        """Whether the grammar is satisfied and nothing may follow."""
        return bool(self._matcher.is_stopped())

    def _allowed_bits(self) -> Any:
        """Return one bit for each token, uint8 [n_vocab / 8], least significant first."""
        import numpy as np

        bits = np.frombuffer(self._bits, np.uint8)
        self._matcher.unsafe_compute_mask_ptr(bits.ctypes.data, len(self._bits))
        if self._matcher.is_error():
            raise self._failure("The grammar failed")
        return bits

    def _failure(self, what: str) -> EngineError | GrammarError:
        reason = self._matcher.get_error()
        if _NOT_ALLOWED in reason:
            return EngineError(f"{what}.")
        return GrammarError(
            f"The grammar needs too much work at one place of the answer: {_first_line(reason)}.",
            hint="Fewer alternatives that begin alike, and smaller repetition counts, need less.",
        )


class ConstraintFactory:
    """Compiles grammars for one vocabulary. May be used from any thread."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._lock = threading.Lock()
        self._compiled: OrderedDict[Grammar, Any] = OrderedDict()

    def prepare(self) -> None:
        """Read the vocabulary now, which takes 0.3 s for 50,000 tokens, instead of with the first grammar."""
        with self._lock:
            _ = self._tokenizer

    def compile(self, grammar: Grammar) -> Constraint:
        """Return a fresh constraint. Raise `GrammarError` for a grammar that is wrong, too large, endless."""
        with self._lock:
            matcher = self._compiled.get(grammar)
            if matcher is None:
                matcher = self._new_matcher(_native(grammar))
                self._compiled[grammar] = matcher
                if len(self._compiled) > _MAX_CACHED:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(grammar)
            return Constraint(matcher.deep_copy(), self._vocab.facts.n_tokens)

    def _new_matcher(self, native: str) -> Any:
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False)
        matcher = LLMatcher(self._tokenizer, native, log_level=0, limits=limits)
        if matcher.is_error():
            raise GrammarError(f"The grammar cannot be used: {_first_line(matcher.get_error())}.")
        return matcher

    @cached_property
    def _tokenizer(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        if not self._vocab.eog_tokens:
            raise GrammarError("This model has no token that ends an answer, so no grammar can end one.")
        vocabulary = _Vocabulary(self._vocab)
        return LLTokenizer(
            TokenizerWrapper(vocabulary),
            n_vocab=len(vocabulary.tokens),
            eos_token=list(self._vocab.eog_tokens),
        )


class _Vocabulary:
    """A vocabulary in the shape that llguidance's `TokenizerWrapper` reads.

    Special tokens are marked, so that no text of a grammar matches them: control tokens, tokens that end an
    answer, and user-defined tokens that look like tags (`<tool_call>`), which would mean something else than
    their text.
    """

    bos_token_id = None
    special_token_ids: tuple[int, ...] = ()

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self.eos_token_id = vocab.eog_tokens[0]
        tags = {text.encode() for text in vocab.facts.user_defined_texts if text[0] + text[-1] == "<>"}
        special = tags | {b""}
        pieces = [bindings.token_to_piece(vocab.handle, token) for token in range(vocab.facts.n_tokens)]
        self.tokens = [
            _SPECIAL_MARK + vocab.text_of(token).encode() if piece in special else piece
            for token, piece in enumerate(pieces)
        ]
        for token in vocab.eog_tokens:
            self.tokens[token] = _SPECIAL_MARK + vocab.text_of(token).encode()

    def __call__(self, text: bytes | str) -> list[int]:
        decoded = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self._vocab.tokenize(decoded, parse_special=False)


def _native(grammar: Grammar) -> str:
    try:
        return _native_grammar(grammar)
    except RecursionError:
        raise GrammarError("The grammar is nested too deeply.") from None


def _native_grammar(grammar: Grammar) -> str:
    from llguidance import LLMatcher

    match grammar.kind:
        case "json_object":
            return LLMatcher.grammar_from_json_schema(_ANY_OBJECT, overrides=_JSON_STYLE)
        case "json_schema":
            return LLMatcher.grammar_from_json_schema(normalise_schema(grammar.source), overrides=_JSON_STYLE)
        case "gbnf":
            return LLMatcher.grammar_from_lark(rules_to_lark(parse_gbnf(grammar.source)))
        case "regex":
            return LLMatcher.grammar_from_lark(
                pattern_to_lark(parse_pattern(grammar.source, is_search=False))
            )


def _first_line(reason: str) -> str:
    return clean_line(reason.partition("\n")[0]).rstrip(".")
