"""A loaded model at work: hands each request to whoever answers it, and does everybody's work step by step.

Knows requests and events, no pipe and no thread.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, assert_never

from edgeapp.engine import text_requests
from edgeapp.engine.adapters import Adapters
from edgeapp.engine.admission import Admission
from edgeapp.engine.batch_cost import BatchCost
from edgeapp.engine.constraint import ConstraintFactory
from edgeapp.engine.embedding import Embedder
from edgeapp.engine.kept_state import KeptState
from edgeapp.engine.kv import KvCache
from edgeapp.engine.loop import DecodeLoop, failed
from edgeapp.engine.measurement import Measurement
from edgeapp.engine.prefix_store import PrefixStore
from edgeapp.engine.presets import PresetPrefixes
from edgeapp.engine.solo import Solo
from edgeapp.errors import EdgeappError, EngineError
from edgeapp.protocol import (
    AdapterLoaded,
    AdapterUnloaded,
    Collect,
    CountTokens,
    Detokenize,
    DropCaches,
    Dropped,
    Embed,
    Evaluate,
    Event,
    Generate,
    LiveSet,
    LoadAdapter,
    Park,
    ReadExpertUsage,
    SetLive,
    TokenCount,
    Tokenize,
    UnloadAdapter,
    WriteImatrix,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from edgeapp.engine.draft_model import DraftModel
    from edgeapp.engine.kept_state import Leaving
    from edgeapp.engine.model import LoadedModel
    from edgeapp.protocol import Load

Measure: TypeAlias = Evaluate | Collect | WriteImatrix | ReadExpertUsage
"""Needs the whole context, so it waits until nobody answers."""
WorkRequest: TypeAlias = (
    Generate
    | Tokenize
    | Detokenize
    | CountTokens
    | Embed
    | LoadAdapter
    | UnloadAdapter
    | SetLive
    | DropCaches
    | Park
    | Measure
)


class Core:
    """Answers requests about one model.

    `is_called` tells that somebody waits for the end of a step, `is_cancelled` is asked while a measurement
    decodes.
    """

    def __init__(
        self,
        model: LoadedModel,
        load: Load,
        *,
        emit: Callable[[Event], None],
        is_called: Callable[[], bool],
        is_cancelled: Callable[[int], bool],
        load_s: float,
    ) -> None:
        self._resources = ExitStack()
        self._model = model
        self._emit = emit
        self._adapters = Adapters(model.handle, model.path)
        self._kept = KeptState(model, load)
        parked = self._kept.parked()
        self.n_conversations = len(parked) if parked is not None else 0
        """How many an earlier worker left for this one."""
        self._kv = KvCache(
            model.context,
            n_sequences=model.n_sequences,
            store=PrefixStore(load.cache_ram_bytes),
            is_unified=model.is_unified,
            parked=parked,
        )
        self._constraints = ConstraintFactory(model.vocab)
        admission = Admission(
            model=model,
            kv=self._kv,
            adapters=self._adapters,
            constraints=self._constraints,
            presets=PresetPrefixes(model, self._kv, self._kept.prefixes),
            batch_cost=BatchCost(),
            draft_model=self._draft_model(model, load),
            emit=emit,
            load_s=load_s,
        )
        self._loop = DecodeLoop(model, self._kv, admission, emit=emit, is_called=is_called)
        self._measurement = Measurement(model, Solo(model, self._kv, is_cancelled=is_cancelled), emit=emit)
        self._measures: deque[Measure | Park] = deque()
        self.leaving: Leaving | None = None
        """Set once conversations were parked: the model is to be freed, then this is to be called."""
        self._embedder = Embedder(
            model.handle,
            n_ctx=model.n_ctx,
            n_vocab=model.vocab.facts.n_tokens,
            n_threads=model.n_threads,
            kv_type=load.kv_type,
        )
        self._embeds: deque[tuple[int, Generator[None, None, Event]]] = deque()
        self._measuring: frozenset[int] = frozenset()

    def _draft_model(self, model: LoadedModel, load: Load) -> DraftModel | None:
        if not load.draft_path:
            return None
        from edgeapp.engine.draft_model import load_draft_model

        return self._resources.enter_context(
            load_draft_model(
                load.draft_path,
                model.vocab,
                n_kv=model.n_kv,
                n_sequences=model.n_sequences,
                n_threads=model.n_threads,
            )
        )

    @property
    def is_busy(self) -> bool:
        return self._loop.is_busy or bool(self._measures) or bool(self._embeds)

    @property
    def in_flight(self) -> frozenset[int]:
        """The requests that the decode that runs now is for."""
        return self._loop.in_flight or self._measuring

    def prepare(self, request: Generate) -> None:
        """Compile the request's grammar, in the thread that takes requests in: the first takes a while."""
        if request.grammar is not None:
            with suppress(EdgeappError):  # told when the request is begun
                self._constraints.compile(request.grammar)

    def take(self, request: WorkRequest) -> None:
        """Answer a request at once, or queue it. A failure is an event."""
        try:
            self._take(request)
        except EdgeappError as problem:
            self._emit(failed(request.id, problem))

    def _take(self, request: WorkRequest) -> None:
        vocab = self._model.vocab
        match request:
            case Generate():
                self._loop.submit(request)
            case Tokenize():
                self._emit(text_requests.tokenize(vocab, request))
            case Detokenize():
                self._emit(text_requests.detokenize(vocab, request))
            case CountTokens():
                self._emit(self._count(request))
            case Embed():
                self._embeds.append((request.id, text_requests.embed(vocab, self._embedder, request)))
            case LoadAdapter() | UnloadAdapter() | SetLive() | DropCaches():
                self._emit(self._done(request))
            case Evaluate() | Collect() | WriteImatrix() | ReadExpertUsage() | Park():
                self._measures.append(request)
            case _:
                assert_never(request)

    def _done(self, request: LoadAdapter | UnloadAdapter | SetLive | DropCaches) -> Event:
        match request:
            case LoadAdapter(name=name):
                n_tensors = self._adapters.load(name, Path(request.path))
                return AdapterLoaded(id=request.id, name=name, n_tensors=n_tensors)
            case UnloadAdapter(name=name):
                self._adapters.unload(name, in_use=self._loop.adapters_in_use())
                return AdapterUnloaded(id=request.id, name=name)
            case SetLive():
                self._loop.watch_experts(live=request.expert_usage)
                return LiveSet(id=request.id)
            case DropCaches():
                n_dropped, n_bytes = self._kv.drop_idle()
                return Dropped(id=request.id, n_conversations=n_dropped, bytes=n_bytes)
            case _:
                assert_never(request)

    def _count(self, request: CountTokens) -> TokenCount:
        text = self._model.render(request.messages, tools=request.tools, options=request.template_options)
        tokens = self._model.vocab.tokenize_prompt(text, is_start=True)
        return TokenCount(id=request.id, n_tokens=len(tokens))

    def cancel(self, request_id: int) -> None:
        """End a request that has not ended by itself."""
        self._loop.cancel(request_id)
        for entry in [entry for entry in self._embeds if entry[0] == request_id]:
            self._embeds.remove(entry)
            entry[1].close()
            self._emit(failed(request_id, EngineError("The request was cancelled.")))

    def step(self) -> None:
        """Do a piece of everybody's work."""
        self._loop.step(admit=not self._measures)
        if self._embeds:
            self._embed_a_piece()
        if self._measures and not self._loop.is_decoding:
            self._measure(self._measures.popleft())

    def _embed_a_piece(self) -> None:
        request_id, work = self._embeds[0]
        try:
            next(work)
        except StopIteration as ended:
            self._embeds.popleft()
            self._emit(ended.value)
        except EdgeappError as problem:
            self._embeds.popleft()
            self._emit(failed(request_id, problem))

    def _measure(self, request: Measure | Park) -> None:
        self._measuring = frozenset((request.id,))
        self._adapters.apply(self._model.context, ())
        try:
            if isinstance(request, Park):
                self.leaving = self._kept.park(request, self._kv.conversations())
            else:
                self._emit(self._measured(request))
        except EdgeappError as problem:
            self._emit(failed(request.id, problem))
        except OSError as problem:
            self._emit(failed(request.id, _unwritable(problem)))
        finally:
            self._measuring = frozenset()

    def _measured(self, request: Measure) -> Event:
        match request:
            case Evaluate():
                return self._measurement.evaluate(request)
            case Collect():
                return self._measurement.collect(request)
            case WriteImatrix():
                return self._measurement.write_imatrix(request)
            case ReadExpertUsage():
                return self._measurement.read_expert_usage(request)
            case _:
                assert_never(request)

    def free(self) -> None:
        """Give back what is not the model's own."""
        self._loop.free()
        self._embedder.free()
        self._adapters.free()
        self._resources.close()


def _unwritable(problem: OSError) -> EngineError:
    return EngineError(
        f"A file of the measurement cannot be written: {problem.strerror or problem}.",
        hint="The disk may be full.",
    )
