"""Take requests one after the other and answer them with events. Knows pipes, not who is at the other end.

Two threads: the main thread owns llama.cpp and runs the only decode loop; a reader thread takes lines in,
so that a cancel, a shutdown or the parent's death takes effect while llama.cpp computes.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import ExitStack
from typing import assert_never

import msgspec

from edgeapp import protocol
from edgeapp.engine import bindings, model
from edgeapp.engine.loop import DecodeLoop
from edgeapp.engine.measurement import Measurement
from edgeapp.engine.sequence import CachedSequence
from edgeapp.errors import EdgeappError, EngineError
from edgeapp.protocol import (
    AnyRequest,
    Cancel,
    Collect,
    Evaluate,
    Event,
    Failed,
    Generate,
    Hello,
    Load,
    Loaded,
    LoadPhase,
    Memory,
    Notice,
    Progress,
    Shutdown,
    Tokenize,
    Tokens,
    WriteImatrix,
)


def serve(events_fd: int) -> None:
    """Say hello on `events_fd`, then answer requests from stdin until `Shutdown` or the end of input."""
    bindings.start()
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
    """Takes requests one after the other; the reader thread runs `read_requests`."""

    def __init__(self, events_fd: int) -> None:
        self._events_fd = events_fd
        self._requests: queue.SimpleQueue[AnyRequest] = queue.SimpleQueue()
        self._cancelled: set[int] = set()
        self._ending = threading.Event()
        self._model: model.LoadedModel | None = None
        self._loop: DecodeLoop | None = None
        self._measurement: Measurement | None = None
        self._write_lock = threading.Lock()

    def emit(self, event: Event) -> None:
        line = protocol.encode(event)
        with self._write_lock:
            while line:
                line = line[os.write(self._events_fd, line) :]

    # Reader thread ---------------------------------------------------------------------------

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
            self.emit(Failed(code="protocol", message=f"The request is not understood: {problem}."))
            return
        match request:
            case Cancel(target=target):
                self._cancelled.add(target)
                self._abort()
            case Shutdown():
                self._ending.set()
                self._requests.put(request)
                self._abort()
            case _:
                self._requests.put(request)

    def _is_cancelled(self, request_id: int) -> bool:
        return self._ending.is_set() or request_id in self._cancelled

    def _abort(self) -> None:
        if self._model is not None:
            self._model.abort.set()

    # Main thread ---------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer requests until `Shutdown`."""
        with ExitStack() as stack:
            while not isinstance(request := self._requests.get(), Shutdown):
                try:
                    self._serve_one(request, stack)
                except EdgeappError as problem:
                    self.emit(
                        Failed(id=request.id, code=problem.code, message=problem.message, hint=problem.hint)
                    )
            self._model = self._loop = self._measurement = None

    def _serve_one(
        self,
        request: AnyRequest,
        stack: ExitStack,
    ) -> None:
        match request:
            case Load():
                self._load(request, stack)
            case Generate():
                self._generate(request)
            case Tokenize():
                ids = self._loaded().vocab.tokenize(
                    request.text, add_special=request.add_special, parse_special=request.parse_special
                )
                self.emit(Tokens(id=request.id, ids=tuple(ids)))
            case Evaluate() | Collect() | WriteImatrix():
                self._measure(request)
            case Cancel():
                pass  # the reader thread has dealt with it
            case _:
                raise EngineError("This request is not supported yet.")

    def _load(self, request: Load, stack: ExitStack) -> None:
        if self._model is not None:
            raise EngineError("A model is loaded already.", hint="Start another worker for another model.")
        started_s = time.perf_counter()

        def on_progress(phase: LoadPhase, fraction: float) -> None:
            self.emit(Progress(id=request.id, phase=phase, fraction=fraction))

        loaded = stack.enter_context(model.load(request, on_progress))
        load_s = time.perf_counter() - started_s
        self._model = loaded
        sequence = CachedSequence(loaded, is_cancelled=self._is_cancelled)
        self._loop = DecodeLoop(loaded, sequence, load_s=load_s, emit=self.emit)
        self._measurement = Measurement(loaded, sequence, emit=self.emit)
        if loaded.template.warning:
            self.emit(
                Notice(
                    id=request.id,
                    code="template_fallback",
                    message=loaded.template.warning,
                    hint="Answers may be worse than with the model's own template.",
                )
            )
        self.emit(_memory(request.id))
        self.emit(
            Loaded(
                id=request.id,
                n_ctx=loaded.n_ctx,
                n_ctx_train=loaded.n_ctx_train,
                n_vocab=loaded.vocab.facts.n_tokens,
                bos=loaded.vocab.facts.bos if loaded.vocab.facts.add_bos else None,
                n_threads=loaded.n_threads,
                template=loaded.template.origin,
                load_s=load_s,
                model_desc=loaded.desc,
            )
        )

    def _generate(self, request: Generate) -> None:
        self._loaded()
        assert self._loop is not None  # noqa: S101 - set together with the model
        try:
            done = self._loop.answer(request)
        finally:
            self._cancelled.discard(request.id)
        self.emit(_memory(request.id))
        self.emit(done)

    def _measure(self, request: Evaluate | Collect | WriteImatrix) -> None:
        self._loaded()
        assert self._measurement is not None  # noqa: S101 - set together with the model
        try:
            match request:
                case Evaluate():
                    done: Event = self._measurement.evaluate(request)
                case Collect():
                    done = self._measurement.collect(request)
                case WriteImatrix():
                    done = self._measurement.write_imatrix(request)
                case _:
                    assert_never(request)
        except OSError as problem:
            raise EngineError(
                f"A file of the measurement cannot be written: {problem.strerror or problem}.",
                hint="The disk may be full.",
            ) from problem
        finally:
            self._cancelled.discard(request.id)
        self.emit(done)

    def _loaded(self) -> model.LoadedModel:
        if self._model is None:
            raise EngineError("No model is loaded.")
        return self._model


def _memory(request_id: int) -> Memory:
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - one read per answer
        resident_pages = int(statm.read().split()[1])
    gpus = tuple(device for device in bindings.devices() if device.kind in ("gpu", "igpu"))
    return Memory(id=request_id, rss_bytes=resident_pages * os.sysconf("SC_PAGE_SIZE"), devices=gpus)
