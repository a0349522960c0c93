"""What placements would take of each device's memory, asked of llama.cpp itself, without loading weights.

The header is read into a model that owns no memory (`no_alloc`), and a context on it plans its buffers as
the real one would. Reading the header takes longer than a context, so shapes that place the weights alike
share one.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import msgspec

from edgeapp.engine import bindings
from edgeapp.engine.load_options import context_options, model_options
from edgeapp.errors import LoadFailed, NotEnoughMemory
from edgeapp.protocol import Load, Probe, Probed, ProbeShape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.engine.bindings import ModelHandle
    from edgeapp.protocol import BufferUse


def probe(request: Probe) -> Probed:
    """Return the buffers of each shape; none where llama.cpp refuses its context.

    Raise what `bindings.load_model` raises: `LoadFailed`, `UnsupportedModel`, `UsageError`.
    """
    loads = [_load(request, shape) for shape in request.shapes]
    uses: dict[int, tuple[BufferUse, ...]] = {}
    for placement in dict.fromkeys(map(_placement, loads)):
        alike = [n for n, load in enumerate(loads) if _placement(load) == placement]
        with _header(loads[alike[0]]) as handle:
            uses |= {n: _uses(handle, loads[n]) for n in alike}
    return Probed(id=request.id, shapes=tuple(uses[n] for n in range(len(loads))))


def _load(request: Probe, shape: ProbeShape) -> Load:
    """Return the load that the shape stands for, whose context is made by the same rules."""
    return Load(path=request.path, n_threads=request.n_threads, **msgspec.structs.asdict(shape))


def _placement(load: Load) -> tuple[object, ...]:
    return load.device, load.n_gpu_layers, load.tensor_overrides


@contextmanager
def _header(load: Load) -> Iterator[ModelHandle]:
    options = model_options(load, has_weights=False)
    handle = bindings.load_model(load.path, options, lambda _fraction: True)
    try:
        yield handle
    finally:
        bindings.free_model(handle)


def _uses(handle: ModelHandle, load: Load) -> tuple[BufferUse, ...]:
    can_truncate = not bindings.model_is_recurrent(handle)
    options = context_options(load, can_truncate=can_truncate)
    with suppress(LoadFailed, NotEnoughMemory):
        context = bindings.new_context(handle, options, abort=None)
        try:
            return bindings.memory_use(context)
        finally:
            bindings.free_context(context)
    return ()
