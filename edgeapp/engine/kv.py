"""The KV cache: which sequence holds which tokens, and where a new conversation finds its beginning.

Sequences that no answer uses keep their tokens, so that the next turn computes only what is new. When room
is needed the least recently used one leaves for host memory, and comes back when it is asked for. Knows no
prompt and no answer.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from edgeapp.engine import bindings
from edgeapp.engine.prefix import common_length, rest_of
from edgeapp.engine.prefix_store import SavedSequence
from edgeapp.engine.saved_conversations import SavedConversations
from edgeapp.engine.sequence import Sequence
from edgeapp.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from edgeapp.engine.bindings import ContextHandle
    from edgeapp.engine.park import ParkedConversations
    from edgeapp.engine.prefix_store import PrefixStore

MIN_SHARED = 16
"""A shorter common beginning is computed again rather than copied: every conversation starts with a few
tokens of its template."""


class KvCache:
    """All sequences of one context.

    `is_unified` says that they share one pool of cells; else each has a stream of its own. `parked` are
    conversations of an earlier worker.
    """

    def __init__(
        self,
        context: ContextHandle,
        *,
        n_sequences: int,
        store: PrefixStore,
        is_unified: bool,
        parked: ParkedConversations | None = None,
    ) -> None:
        self._context = context
        self._kind = bindings.memory_kind(context)
        self._saved = SavedConversations(store, parked)
        self._clock = itertools.count(1)
        self.is_unified = is_unified
        self.sequences = tuple(Sequence(id=n) for n in range(n_sequences))

    # Finding a beginning ---------------------------------------------------------------------------------

    def known_start(self, key: str, prompt: str) -> tuple[list[int], str] | None:
        """Return the tokens that are known to spell the beginning of `prompt`, and the rest of its text.

        The tokens of an answer stay as they were sampled, even where tokenising its text again would cut it
        differently.
        """
        data = prompt.encode()
        known: list[Sequence | SavedSequence] = [s for s in self.sequences if not s.is_busy]
        known += self._saved
        for one in sorted(known, key=lambda one: len(one.rendered), reverse=True):
            rest = rest_of(data, one.rendered) if one.key == key else None
            if rest is not None and (isinstance(one, Sequence) or self._saved.is_true(one)):
                return list(one.tokens), rest
        return None

    def claim(self, key: str, tokens: list[int], *, saved: SavedSequence | None = None) -> Sequence:
        """Return an idle sequence, now busy, that holds as much of the beginning of `tokens` as is known.

        At least the last token is left to compute: its logits choose the next one. `saved` is one more place
        to look. There must be an idle sequence.
        """
        most = len(tokens) - 1
        source, n_common = self._best(key, tokens, most)
        n_known = max(n_common, len(saved.tokens) if saved else 0)
        stored = self._saved.take(key, tokens[:most], n_known=n_known)
        if stored is not None:
            sequence = self._restored(stored)
        elif saved is not None and len(saved.tokens) > n_common:
            sequence = self._restored(saved)
        elif source is None:
            sequence = self._free(None)
        else:
            sequence = self._continued(source, n_common)
        self._occupy(sequence, key)
        self.truncate(sequence, min(common_length(sequence.tokens, tokens), most))
        return sequence

    def _best(self, key: str, tokens: list[int], most: int) -> tuple[Sequence | None, int]:
        """Return the sequence with the longest usable beginning, an idle one before a busy one."""
        best: Sequence | None = None
        best_n = 0
        for sequence in self.sequences:
            n_common = self._usable(sequence, min(common_length(sequence.tokens, tokens), most))
            if sequence.key != key or not n_common:
                continue
            if n_common > best_n or (n_common == best_n and best is not None and best.is_busy):
                best, best_n = sequence, n_common
        return best, best_n

    def _usable(self, sequence: Sequence, n_common: int) -> int:
        if n_common >= self._least(sequence):
            return n_common
        if sequence.is_busy:
            return 0
        found = sequence.checkpoints.best(n_common)
        return found[0] if found else 0

    def _least(self, sequence: Sequence) -> int:
        """Return the fewest tokens to which the sequence can be cut."""
        return self._kind.least_kept(
            bindings.first_position(self._context, sequence.id), len(sequence.tokens)
        )

    def _continued(self, source: Sequence, n_common: int) -> Sequence:
        """Go on in `source` itself when it is idle and most of it is wanted, else in a copy."""
        if not source.is_busy and 2 * n_common >= len(source.tokens):
            return source
        target = self._free(source)
        if target is not source and n_common >= max(MIN_SHARED, self._least(source)):
            self._copy(source, target, n_common)
        return target

    def _copy(self, source: Sequence, target: Sequence, n_common: int) -> None:
        if self.is_unified:
            bindings.kv_copy(self._context, source.id, target.id, n_common)
            target.tokens = source.tokens[:n_common]
            target.n_shared = n_common
        elif bindings.load_sequence(
            self._context, target.id, bindings.save_sequence(self._context, source.id)
        ):
            # Between streams only a whole sequence can be copied; what is too much is cut off.
            target.tokens = list(source.tokens)

    def _free(self, spared: Sequence | None) -> Sequence:
        """Return an idle sequence, empty unless it is `spared`, when there is no other."""
        idle = [s for s in self.sequences if not s.is_busy]
        sequence = min(idle, key=lambda s: (s is spared, bool(s.tokens), s.used_at))
        if sequence is not spared:
            self._evict(sequence)
        return sequence

    def _restored(self, saved: SavedSequence) -> Sequence:
        """Put a saved sequence into an idle one; it stays empty when llama.cpp refuses the state."""
        sequence = self._free(None)
        while not bindings.load_sequence(self._context, sequence.id, saved.data):
            if not self.make_room():
                return sequence
        sequence.tokens = list(saved.tokens)
        sequence.rendered = saved.rendered
        return sequence

    def _occupy(self, sequence: Sequence, key: str) -> None:
        sequence.is_busy = True
        sequence.key = key
        sequence.used_at = next(self._clock)

    # Keeping it consistent -------------------------------------------------------------------------------

    def append(self, sequence: Sequence, tokens: Iterable[int]) -> None:
        """Note what has been decoded."""
        sequence.tokens.extend(tokens)

    def truncate(self, sequence: Sequence, n_keep: int) -> int:
        """Forget what lies behind `n_keep` tokens; return how many are left.

        Fewer than `n_keep` are when the model cannot forget a part: then its last checkpoint before counts.
        """
        if n_keep == len(sequence.tokens):
            # An aborted decode may have written more than is known.
            if not self._kind.is_recurrent:
                bindings.kv_truncate(self._context, sequence.id, n_keep)
            return n_keep
        sequence.rendered = b""
        can_keep = n_keep > 0 and n_keep >= self._least(sequence)
        if not can_keep or not bindings.kv_truncate(self._context, sequence.id, n_keep):
            n_keep = self._rewind(sequence, n_keep)
        sequence.checkpoints.truncate(n_keep)
        del sequence.tokens[n_keep:]
        return n_keep

    def truncate_drafts(self, sequence: Sequence, n_keep: int) -> None:
        """Forget tokens whose text has not been noted yet, so that what is known stays known."""
        bindings.kv_truncate(self._context, sequence.id, n_keep)
        del sequence.tokens[n_keep:]

    def _rewind(self, sequence: Sequence, n_keep: int) -> int:
        """Go back to the last checkpoint, or to the beginning."""
        found = sequence.checkpoints.best(n_keep)
        if found is not None and self._go_back(sequence, *found):
            return found[0]
        bindings.kv_forget(self._context, sequence.id)
        sequence.checkpoints.clear()
        return 0

    def _go_back(self, sequence: Sequence, n_tokens: int, state: bytes | bytearray) -> bool:
        is_back = bindings.load_sequence(self._context, sequence.id, state, partial=True)
        return is_back and bindings.kv_truncate(self._context, sequence.id, n_tokens)

    def checkpoint(self, sequence: Sequence) -> None:
        """Remember the present state of a model that cannot forget a part."""
        if self.needs_checkpoints:
            data = bindings.save_sequence(self._context, sequence.id, partial=True)
            sequence.checkpoints.add(len(sequence.tokens), data)

    @property
    def needs_checkpoints(self) -> bool:
        """Whether going back means going back to a checkpoint: a recurrent state or a sliding window."""
        return self._kind.is_recurrent or self._kind.n_swa > 0

    def release(self, sequence: Sequence) -> None:
        """Keep the sequence for whoever continues it."""
        sequence.is_busy = False
        sequence.used_at = next(self._clock)

    def forget(self, sequence: Sequence) -> None:
        bindings.kv_forget(self._context, sequence.id)
        sequence.tokens = []
        sequence.n_shared = 0
        sequence.rendered = b""
        sequence.checkpoints.clear()

    def clear(self) -> None:
        """Forget everything that is not in use."""
        for sequence in self.sequences:
            if not sequence.is_busy:
                self.forget(sequence)

    def park(self, sequence: Sequence) -> SavedSequence:
        """Take a busy sequence out of the KV cache, for `unpark` to bring it back."""
        saved = self.saved(sequence)
        self.forget(sequence)
        self.release(sequence)
        return saved

    def unpark(self, saved: SavedSequence) -> Sequence:
        """Return a busy sequence that goes on where it was parked. Raise `EngineError`."""
        sequence = self._restored(saved)
        if len(sequence.tokens) != len(saved.tokens):
            raise EngineError("llama.cpp did not take back the state of an answer that had to wait.")
        self._occupy(sequence, saved.key)
        return sequence

    # Leaving ---------------------------------------------------------------------------------------------

    def conversations(self) -> Iterator[SavedSequence]:
        """Yield all that no answer uses, the least recently used first, each as bytes of its own."""
        yield from self._saved.handed_over()
        for sequence in self._idle():
            if len(sequence.tokens) >= MIN_SHARED:
                yield self.saved(sequence)

    def drop_idle(self) -> tuple[int, int]:
        """Forget all conversations but the last one; return how many, and the host memory they held.

        The last one is most likely the one that is continued.
        """
        n_dropped, n_bytes = self._saved.clear()
        for sequence in self._idle()[:-1]:
            self.forget(sequence)
            n_dropped += 1
        return n_dropped, n_bytes

    def _idle(self) -> list[Sequence]:
        """Return the sequences that hold something for nobody in particular, the oldest first."""
        idle = [sequence for sequence in self.sequences if not sequence.is_busy and sequence.tokens]
        return sorted(idle, key=lambda sequence: sequence.used_at)

    @property
    def n_busy_cells(self) -> int:
        """About how many tokens of the KV cache cannot be given up."""
        return sum(len(s.tokens) - min(s.n_shared, len(s.tokens)) for s in self.sequences if s.is_busy)

    # Making room -----------------------------------------------------------------------------------------

    def make_room(self) -> bool:
        """Move the least recently used idle sequence out of the KV cache; False when there is none."""
        idle = self._idle()
        if not idle:
            return False
        self._evict(idle[0])
        return True

    def _evict(self, sequence: Sequence) -> None:
        if sequence.tokens and self._saved.has_room:
            self._saved.put(self.saved(sequence))
        self.forget(sequence)

    def saved(self, sequence: Sequence) -> SavedSequence:
        """Return the sequence as bytes that `claim` and `unpark` take."""
        return SavedSequence(
            key=sequence.key,
            tokens=tuple(sequence.tokens),
            rendered=sequence.rendered,
            data=bindings.save_sequence(self._context, sequence.id),
            n_least=self._kind.least_saved(len(sequence.tokens)),
        )
