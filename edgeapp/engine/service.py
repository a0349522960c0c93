"""Take requests from a pipe and answer them with events on another. Knows not who is at the other end.

Two threads: the main thread owns llama.cpp and does all the work in steps; a reader thread takes lines in,
so that a cancel, a shutdown or the parent's death takes effect while llama.cpp computes.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import msgspec

from edgeapp import protocol
from edgeapp.engine import bindings, model, probe, template_check
from edgeapp.engine.core import Core
from edgeapp.engine.loop import failed
from edgeapp.errors import EdgeappError, EngineError
from edgeapp.protocol import (
    AnyRequest,
    Cancel,
    Done,
    Event,
    Failed,
    Generate,
    Heartbeat,
    Hello,
    Load,
    Loaded,
    LoadPhase,
    MeasureMachine,
    Memory,
    Notice,
    Probe,
    Progress,
    Shutdown,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.engine.kept_state import Leaving
    from edgeapp.engine.model import LoadedModel

HEARTBEAT_S = 0.5
"""A worker that computes writes something at least this often, between two decodes."""


def serve(events_fd: int) -> None:
    """Say hello on `events_fd`, then answer requests from stdin until `Shutdown` or the end of input."""
    bindings.start()
    bindings.register_rpc_servers()
    service = Service(events_fd)
    service.emit(
        Hello(
            protocol_version=protocol.PROTOCOL_VERSION,
            pid=os.getpid(),
            binding_version=bindings.BINDING_VERSION,
            system_info=bindings.system_info(),
            devices=bindings.devices(),
        )
    )
    threading.Thread(target=service.read_requests, daemon=True).start()
    service.serve()
    bindings.stop()


class Service:
    """The reader thread runs `read_requests`, the main thread `serve`."""

    def __init__(self, events_fd: int) -> None:
        self._events_fd = events_fd
        self._requests: queue.SimpleQueue[AnyRequest] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._ending = threading.Event()
        self._model: LoadedModel | None = None
        self._core: Core | None = None
        self._unwritten = bytearray()
        self._written_s = 0.0
        self._write_lock = threading.Lock()

    # Events ----------------------------------------------------------------------------------------------

    def emit(self, event: Event) -> None:
        """Write an event now, behind those of the running step."""
        self._collect(event)
        self._flush()

    def _collect(self, event: Event) -> None:
        """Keep an event until the end of the step: one write wakes the other side once."""
        if isinstance(event, Heartbeat) and time.monotonic() < self._written_s + HEARTBEAT_S:
            return
        with self._write_lock:
            if isinstance(event, Done):
                self._unwritten += protocol.encode(self._memory(event.id))
            self._unwritten += protocol.encode(event)
        if isinstance(event, Progress):  # a measurement is one long step
            self._flush()

    def _flush(self) -> None:
        with self._write_lock:
            if not self._unwritten:
                return
            line = bytes(self._unwritten)
            self._unwritten.clear()
            self._written_s = time.monotonic()
            while line:
                line = line[os.write(self._events_fd, line) :]

    def _memory(self, request_id: int) -> Memory:
        """Ask only the device in use: one that is lost, or behind a network, costs time or the worker."""
        device = self._model.device if self._model is not None else ""
        gpus = (bindings.device(bindings.gpu_handle(device)),) if device else ()
        return Memory(id=request_id, rss_bytes=_rss_bytes(), devices=gpus)

    # Reader thread ---------------------------------------------------------------------------------------

    def read_requests(self) -> None:
        with os.fdopen(0, "rb") as lines:
            for line in lines:
                self._receive(line)
        # End of file: the parent is gone or done with us. A graceful exit could hang in a GPU call.
        os._exit(0)

    def _receive(self, line: bytes) -> None:
        try:
            request = protocol.decode_request(line)
        except msgspec.MsgspecError as problem:
            message = f"The request is not understood: {problem}."
            self.emit(Failed(id=_id_of(line), code="protocol", message=message))
            return
        if isinstance(request, Cancel):
            self._cancelled.add(request.target)
        if isinstance(request, Shutdown):
            self._ending.set()
        if isinstance(request, Generate) and self._core is not None:
            self._core.prepare(request)
        self._requests.put(request)
        self._abort_if_unwanted()

    def _abort_if_unwanted(self) -> None:
        """Abort the running decode when nobody it works for still wants it."""
        if self._model is None or self._core is None:
            return
        in_flight = self._core.in_flight
        if self._ending.is_set() or (in_flight and in_flight <= self._cancelled):
            self._model.abort.set()

    def _is_called(self) -> bool:
        return bool(self._unwritten) or not self._requests.empty()

    def _is_cancelled(self, request_id: int) -> bool:
        return self._ending.is_set() or request_id in self._cancelled

    # Main thread -----------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer requests until `Shutdown`."""
        with ExitStack() as stack:
            while not self._ending.is_set():
                for request in self._arrived():
                    self._take(request, stack)
                if self._core is not None and self._core.is_busy:
                    self._core.step()
                if self._core is not None and self._core.leaving is not None:
                    self._leave(self._core.leaving, stack)
                self._flush()
            self._model = self._core = None

    def _leave(self, write: Leaving, stack: ExitStack) -> None:
        """Free the model first: whoever asked for that needs its memory, and can wait for the files."""
        self._model = self._core = None
        stack.close()
        for event in write():
            self._collect(event)

    def _arrived(self) -> Iterator[AnyRequest]:
        """Yield what has arrived; wait for something when there is nothing else to do."""
        if self._core is None or not self._core.is_busy:
            yield self._requests.get()
        while not self._requests.empty():
            yield self._requests.get()

    def _take(self, request: AnyRequest, stack: ExitStack) -> None:
        match request:
            case Shutdown():
                return
            case Cancel(target=target):
                # Whatever it is about has been taken before it, from the same queue.
                if self._core is not None:
                    self._core.cancel(target)
                self._cancelled.discard(target)
            case Load() | Probe() | MeasureMachine():
                try:
                    self._first(request, stack)
                except EdgeappError as problem:
                    self._collect(failed(request.id, problem))
            case _ if self._core is None:
                self._collect(failed(request.id, EngineError("No model is loaded.")))
            case _:
                self._core.take(request)

    def _first(self, request: Load | Probe | MeasureMachine, stack: ExitStack) -> None:
        """Answer what only a worker without a model may be asked."""
        if self._model is not None:
            raise EngineError("A model is loaded already.", hint="Start another worker for another model.")
        match request:
            case Load():
                self._load(request, stack)
            case Probe():
                self._collect(probe.probe(request))
            case MeasureMachine():
                # The measurement is nothing that a chat would need.
                from edgeapp.engine.machine_speed import measure

                self._collect(measure(request))

    def _load(self, request: Load, stack: ExitStack) -> None:
        started_s = time.perf_counter()

        def on_progress(phase: LoadPhase, fraction: float) -> None:
            self.emit(Progress(id=request.id, phase=phase, fraction=fraction))

        loaded = stack.enter_context(model.load(request, on_progress))
        load_s = time.perf_counter() - started_s
        core = Core(
            loaded,
            request,
            emit=self._collect,
            is_called=self._is_called,
            is_cancelled=self._is_cancelled,
            load_s=load_s,
        )
        stack.callback(core.free)
        self._model, self._core = loaded, core
        if loaded.template.warning:
            self._collect(
                Notice(
                    id=request.id,
                    code="template_fallback",
                    message=loaded.template.warning,
                    hint="Answers may be worse than with the model's own template.",
                )
            )
        for remark in template_check.check(loaded.template, loaded.vocab):
            self._collect(Notice(id=request.id, code=remark.code, message=remark.message, hint=remark.hint))
        self._collect(self._memory(request.id))
        told = _loaded(request, loaded, load_s=load_s)
        self._collect(msgspec.structs.replace(told, n_conversations=core.n_conversations))


class _Numbered(msgspec.Struct):
    id: int = 0


def _id_of(line: bytes) -> int:
    """Return the id of a request that is not understood otherwise; 0 when not even that is."""
    try:
        return msgspec.json.decode(line, type=_Numbered).id
    except msgspec.MsgspecError:
        return 0


def _loaded(request: Load, loaded: LoadedModel, *, load_s: float) -> Loaded:
    facts = loaded.vocab.facts
    return Loaded(
        id=request.id,
        n_ctx=loaded.n_ctx,
        n_ctx_train=loaded.n_ctx_train,
        n_vocab=facts.n_tokens,
        n_parallel=loaded.n_parallel,
        n_expert=loaded.n_expert,
        n_expert_used=loaded.n_expert_used,
        n_embd=loaded.n_embd,
        reasoning=loaded.template.thinks,
        tools=loaded.template.has_own_tools,
        bos=facts.bos if facts.add_bos else None,
        n_threads=loaded.n_threads,
        template=loaded.template.origin,
        buffers=bindings.memory_use(loaded.context),
        load_s=load_s,
        model_desc=loaded.desc,
    )


def _rss_bytes() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - one read per answer
        resident_pages = int(statm.read().split()[1])
    return resident_pages * os.sysconf("SC_PAGE_SIZE")
