"""The decode loop: admit what waits, decode a batch of everybody's tokens, hand out what came of it.

One thread runs it, step by step. Knows the model and the events it emits, no pipe and no thread.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from edgeapp.engine.kv import MIN_SHARED
from edgeapp.engine.pace import Pace
from edgeapp.engine.scheduler import share_out
from edgeapp.engine.waiting import Parked, Waiting, WaitingRoom
from edgeapp.errors import ContextOverflow, EdgeappError, EngineError
from edgeapp.protocol import Event, ExpertUsage, Failed, FinishReason, Generate, Heartbeat, never_begun

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeapp.engine.admission import Admission
    from edgeapp.engine.answering import Answering
    from edgeapp.engine.kv import KvCache
    from edgeapp.engine.model import LoadedModel
    from edgeapp.engine.prompts import Prompt
    from edgeapp.engine.scheduler import Share

HEADROOM_TOKENS = 32
"""Room in the KV cache that each answer in progress is given before another one begins."""
STRETCH_S = 0.25
"""At most so long one answer is decoded before the worker looks after anything else."""
EXPERTS_S = 0.25
"""Pause between two reports about the use of experts."""


class DecodeLoop:
    """Answers up to `model.n_parallel` requests at the same time.

    `is_called` tells that a request has come in, or that events wait to be written.
    """

    def __init__(
        self,
        model: LoadedModel,
        kv: KvCache,
        admission: Admission,
        *,
        emit: Callable[[Event], None],
        is_called: Callable[[], bool],
    ) -> None:
        self._model = model
        self._kv = kv
        self._admission = admission
        self._emit = emit
        self._is_called = is_called
        self._waiting = WaitingRoom()
        self._active: dict[int, tuple[Waiting, Answering]] = {}
        """By slot."""
        self._pace = Pace()
        self._experts_s = 0.0
        self.in_flight: frozenset[int] = frozenset()
        """The requests in the decode that runs now; read by the thread that takes cancels in."""

    # Coming and going ------------------------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        return bool(self._active or self._waiting)

    @property
    def is_decoding(self) -> bool:
        return bool(self._active)

    def submit(self, request: Generate) -> None:
        """Queue a request; it ends with `Done` or `Failed`."""
        self._waiting.arrive(request, now_s=time.perf_counter())

    def cancel(self, request_id: int) -> None:
        """End the request now, if it has not ended by itself."""
        for slot, (waiting, _) in self._active.items():
            if waiting.request.id == request_id:
                self._finish(slot, "cancelled")
                return
        left = self._waiting.leave(request_id)
        if left is not None and left.parked is not None:
            self._emit_done(left.parked.answering, "cancelled")
        elif left is not None:
            queue_s = time.perf_counter() - left.arrived_s
            self._emit(never_begun(id=request_id, n_ctx=self._model.n_ctx, queue_s=queue_s))

    def adapters_in_use(self) -> frozenset[str]:
        """Return the names of the adapters that unfinished requests use."""
        requests = [waiting.request for waiting, _ in self._active.values()]
        requests += [waiting.request for waiting in self._waiting]
        return frozenset(use.name for request in requests for use in request.adapters)

    def watch_experts(self, *, live: bool) -> None:
        """Emit `ExpertUsage` while answers are decoded, or stop that. Raise `EngineError`."""
        if self._model.expert_usage is None:
            raise EngineError("The model was not loaded to watch its experts, or it has none.")
        self._model.expert_usage.is_active = live

    def free(self) -> None:
        """Free what unfinished answers hold."""
        for _, answering in self._active.values():
            answering.free()
        for waiting in self._waiting:
            if waiting.parked is not None:
                waiting.parked.answering.free()

    # One step --------------------------------------------------------------------------------------------

    def step(self, *, admit: bool = True) -> None:
        """Admit what fits and decode one batch."""
        if admit:
            self._admit()
        lone = self._lone_slot()
        if lone is not None:
            self._run_alone(lone)
            return
        shares = self._shares()
        if not shares:
            return
        group = [(self._active[share.slot][1], share) for share in shares]
        started_s = time.perf_counter()
        try:
            result = self._decode(group)
        except EdgeappError as problem:
            self._fail([share.slot for share in shares], problem)
            return
        self._settle(group, result, time.perf_counter() - started_s)

    def _lone_slot(self) -> int | None:
        """Return the slot of the only answer in progress, if its prompt has been read."""
        if len(self._active) != 1:
            return None
        (slot,) = self._active
        return None if self._active[slot][1].is_reading else slot

    def _run_alone(self, slot: int) -> None:
        """Decode the only answer token by token, until there is something to write or to take in.

        Python that runs between two decodes runs with cold caches, so there is as little of it as can be.
        """
        _, answering = self._active[slot]
        self._admission.adapters.apply(self._model.context, answering.request.adapters)
        self.in_flight = frozenset((answering.request.id,))
        until_s = time.perf_counter() + STRETCH_S
        try:
            while self._next_token(answering) and not self._is_called() and time.perf_counter() < until_s:
                pass
        except EdgeappError as problem:
            self._fail([slot], problem)
            return
        finally:
            self.in_flight = frozenset()
        if answering.finished is not None:
            self._finish(slot, answering.finished)
        self._report()

    def _next_token(self, answering: Answering) -> bool:
        """Decode the next token, and drafted ones; tell whether the answer goes on."""
        model = self._model
        model.batch.clear()
        n_tokens = answering.feed_next(model.n_outputs)
        started_s = time.perf_counter()
        if self._decode_batch() != "ok":
            model.abort.clear()
            answering.undo()
            return False
        self._admission.batch_cost.observe(n_tokens, time.perf_counter() - started_s)
        answering.absorb()
        return answering.finished is None

    def _settle(self, group: Sequence[tuple[Answering, Share]], result: str, step_s: float) -> None:
        if result == "aborted":
            self._model.abort.clear()
        if result != "ok":
            for answering, _ in group:
                answering.undo()
            return
        self._learn([share for _, share in group], step_s)
        for answering, share in group:
            self._absorb(answering, share.slot)
        self._report()

    def _absorb(self, answering: Answering, slot: int) -> None:
        try:
            answering.absorb()
        except EdgeappError as problem:
            self._fail([slot], problem)
            return
        if answering.finished is not None:
            self._finish(slot, answering.finished)

    def _report(self) -> None:
        self._report_experts()
        self._emit(Heartbeat())

    def _report_experts(self) -> None:
        counter, now_s = self._model.expert_usage, time.perf_counter()
        if counter is None or not counter.is_active or now_s < self._experts_s + EXPERTS_S:
            return
        self._experts_s = now_s
        n_tokens, layers = counter.take()
        self._emit(ExpertUsage(n_tokens=n_tokens, layers=layers))

    def _learn(self, shares: Sequence[Share], step_s: float) -> None:
        n_tokens = sum(share.n_tokens for share in shares)
        self._pace.observe(n_tokens=n_tokens, step_s=step_s)
        if n_tokens == sum(share.n_rows for share in shares):
            self._admission.batch_cost.observe(n_tokens, step_s)

    def _shares(self) -> tuple[Share, ...]:
        """Return what the next decode computes; all of it uses the same adapters."""
        if not self._active:
            return ()
        group = self._group()
        n_batch = sum(not answering.is_reading for _, answering in group.values())
        work = [
            answering.work(slot=slot, rank=waiting.rank, n_batch=n_batch)
            for slot, (waiting, answering) in group.items()
        ]
        shares = share_out(
            work,
            n_batch=self._model.n_batch,
            n_rows=self._model.n_outputs,
            n_prefill=self._pace.slice_tokens(),
        )
        served = {share.slot for share in shares}
        for slot, (_, answering) in self._active.items():
            answering.n_skipped = 0 if slot in served else answering.n_skipped + 1
        return shares

    def _group(self) -> Mapping[int, tuple[Waiting, Answering]]:
        """Return the active slots with the same adapters as the one that has waited longest."""
        key = max(self._active.values(), key=lambda pair: pair[1].n_skipped)[1].sequence.key
        return {slot: pair for slot, pair in self._active.items() if pair[1].sequence.key == key}

    def _decode(self, group: Sequence[tuple[Answering, Share]]) -> str:
        """Decode the shares, making room in the KV cache where it is full."""
        self._model.batch.clear()
        for answering, share in group:
            answering.feed(share)
        self._admission.adapters.apply(self._model.context, group[0][0].request.adapters)
        self.in_flight = frozenset(answering.request.id for answering, _ in group)
        try:
            return self._decode_batch()
        finally:
            self.in_flight = frozenset()

    def _decode_batch(self) -> str:
        while (result := self._model.batch.decode(self._model.context)) == "no_slot":
            if not self._kv.make_room():
                return self._give_way()
        return result

    def _give_way(self) -> str:
        """Park the answer that came last, so that the others have room. Raise for the only one."""
        slot = max(self._active, key=lambda slot: self._active[slot][0].rank)
        if len(self._active) == 1:
            n_ctx = self._model.n_ctx
            raise ContextOverflow(
                f"The KV cache of {self._model.n_kv} tokens is full.", n_ctx=n_ctx, hint="Start a new chat."
            )
        self._park(slot)
        return "no_slot"

    # Slots -----------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        while (waiting := self._waiting.peek()) is not None:
            try:
                if not self._admit_one(waiting):
                    return
            except EdgeappError as problem:
                self._waiting.leave(waiting.request.id)
                self._emit(failed(waiting.request.id, problem))

    def _admit_one(self, waiting: Waiting) -> bool:
        if waiting.parked is None and waiting.prompt is None:
            waiting = waiting.with_prompt(self._admission.read(waiting.request))
            self._waiting.replace_first(waiting)
        if waiting.prompt is not None and self._is_being_read(waiting.prompt):
            return False
        if self._active and not self._has_room(waiting.n_tokens):
            return False
        slot = self._free_slot(waiting)
        if slot is None:
            return False
        self._waiting.leave(waiting.request.id)
        self._active[slot] = (waiting, self._started(waiting))
        return True

    def _has_room(self, n_tokens: int) -> bool:
        """Tell whether so many tokens more fit beside the answers in progress, which still grow."""
        if not self._kv.is_unified:
            return True
        spare = HEADROOM_TOKENS * (len(self._active) + 1)
        return self._kv.n_busy_cells + n_tokens + spare <= self._model.n_kv

    def _is_being_read(self, prompt: Prompt) -> bool:
        """Tell whether somebody is just computing a beginning that `prompt` can share."""
        return any(
            answering.n_to_share(prompt) >= MIN_SHARED
            for _, answering in self._active.values()
            if answering.is_reading
        )

    def _started(self, waiting: Waiting) -> Answering:
        if waiting.parked is not None:
            answering = waiting.parked.answering
            answering.sequence = self._kv.unpark(waiting.parked.saved)
            return answering
        assert waiting.prompt is not None  # noqa: S101 - read before
        return self._admission.begin(waiting.request, waiting.prompt, arrived_s=waiting.arrived_s)

    def _free_slot(self, waiting: Waiting) -> int | None:
        """Return a free slot; an interactive request takes one from a batch request if need be."""
        for slot in range(self._model.n_parallel):
            if slot not in self._active:
                return slot
        last = max(self._active, key=lambda slot: self._active[slot][0].rank)
        if waiting.is_batch or not self._active[last][0].is_batch:
            return None
        self._park(last)
        return last

    def _park(self, slot: int) -> None:
        """Move an answer out of its slot and out of the KV cache; it goes on when there is room."""
        waiting, answering = self._active.pop(slot)
        answering.undo()
        parked = Parked(answering=answering, saved=self._kv.park(answering.sequence))
        self._waiting.come_back(waiting.parked_as(parked))

    def _finish(self, slot: int, reason: FinishReason) -> None:
        _, answering = self._active.pop(slot)
        self._kv.release(answering.sequence)
        self._emit_done(answering, reason)

    def _emit_done(self, answering: Answering, reason: FinishReason) -> None:
        self._emit(answering.close(reason, load_s=self._admission.load_s))
        answering.free()

    def _fail(self, slots: Sequence[int], problem: EdgeappError) -> None:
        """End answers whose decode failed; what is in their sequences is not to be trusted."""
        for slot in slots:
            waiting, answering = self._active.pop(slot)
            self._kv.forget(answering.sequence)
            self._kv.release(answering.sequence)
            answering.free()
            self._emit(failed(waiting.request.id, problem))


def failed(request_id: int, problem: EdgeappError) -> Failed:
    """Return the event that ends a request with an error."""
    numbers = (problem.n_prompt, problem.n_ctx) if isinstance(problem, ContextOverflow) else (0, 0)
    return Failed(
        id=request_id,
        code=problem.code,
        message=problem.message,
        hint=problem.hint,
        n_prompt=numbers[0],
        n_ctx=numbers[1],
    )
