"""Measure what ggml reaches on this machine: reading weights, multiplying, copying to a GPU.

One token reads every weight once (matrix times vector), a long prompt multiplies each with hundreds of
columns: those two are timed, in Q4_K, with the layout that the engine would use. Everything is the best of
several runs, because what disturbs a run only slows it. Knows no model and no plan.
"""

from __future__ import annotations

import ctypes
import statistics
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from edgeapp.engine import bindings
from edgeapp.engine.bindings import products
from edgeapp.engine.bindings.products import Backend, Matrices
from edgeapp.errors import NotEnoughMemory
from edgeapp.hardware import read_host
from edgeapp.protocol import MachineMeasured, MeasureMachine

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024**2
N_COLUMNS = 512
"""Tokens of a micro-batch."""
_WEIGHTS_BYTES = 512 * MIB
"""More than any last level of cache: large server processors have up to 384 MB."""
_MEMORY_SHARE = 4
"""A measurement takes at most this part of what is free."""
_COPY_BYTES = 64 * MIB
_RUNS_S = 0.25
"""How long runs are repeated, three at least."""
_LEAST_RUNS = 3
_READ = Matrices(n=1, n_in=8192, n_out=14336)
"""One of the matrices that are read; 63 MiB."""
_SMALL = Matrices(n=1, n_in=4096, n_out=2048, n_columns=N_COLUMNS)
_LARGE = Matrices(n=4, n_in=8192, n_out=14336, n_columns=N_COLUMNS)
_TOO_SHORT_S = 0.005
_SYNC = Matrices(n=1, n_in=2048, n_out=2048)
_N_SYNC = 50
_ENOUGH = 0.97
"""Of the fastest reading; fewer threads that reach it leave the others to other programs."""


def measure(request: MeasureMachine) -> MachineMeasured:
    """Measure the host with up to `n_threads`, and `device` if there is one. Takes all cores for seconds.

    Raise `NotEnoughMemory`, `UsageError` for a device that there is not.
    """
    device = bindings.gpu_handle(request.device) if request.device else None
    if device is not None:
        _reading(bindings.device(device).free_bytes)  # raises before anything takes time
    is_repacked = device is None or bindings.pinned_buffer_type(device) is None
    with products.open_backend(bindings.cpu_handle()) as cpu:
        readings = _readings(cpu, request.n_threads, is_repacked=is_repacked)
        n_best = _fewest(readings)
        cpu.use_threads(n_best)
        host_flops = _flops(cpu, is_repacked=is_repacked)
    measured = MachineMeasured(
        id=request.id, ram_read_bps=readings[n_best], host_flops=host_flops, n_threads_best=n_best
    )
    return measured if device is None else _with_device(measured, device)


def _with_device(measured: MachineMeasured, device: int) -> MachineMeasured:
    free_bytes = bindings.device(device).free_bytes
    with products.open_backend(device) as backend:
        return msgspec.structs.replace(
            measured,
            device_read_bps=_read_bps(backend, _reading(free_bytes)),
            device_flops=_flops(backend),
            pinned_bps=_pinned_bps(device, free_bytes),
            pageable_bps=_pageable_bps(device, free_bytes),
            sync_s=_sync_s(backend),
        )


# Reading -------------------------------------------------------------------------------------------------


def _readings(cpu: Backend, n_threads: int, *, is_repacked: bool) -> dict[int, float]:
    """Return bytes of weights per second by number of threads: powers of two, and all."""
    matrices = _reading(read_host().available_ram_bytes)
    counts = sorted({n_threads, *(1 << n for n in range(n_threads.bit_length()))})
    readings = {}
    with products.open_product(cpu, matrices, repacked=is_repacked) as product:
        for n in counts:
            cpu.use_threads(n)
            readings[n] = matrices.weights_bytes / _best_s(product.compute)
    return readings


def _fewest(readings: dict[int, float]) -> int:
    enough = _ENOUGH * max(readings.values())
    return min(n for n, read_bps in readings.items() if read_bps >= enough)


def _read_bps(backend: Backend, matrices: Matrices) -> float:
    with products.open_product(backend, matrices) as product:
        return matrices.weights_bytes / _best_s(product.compute)


def _reading(free_bytes: int) -> Matrices:
    """Return as many matrices as the memory allows. Raise `NotEnoughMemory` for too few to mean anything."""
    n = min(free_bytes // _MEMORY_SHARE, _WEIGHTS_BYTES) // _READ.matrix_bytes
    if n < 1:
        raise NotEnoughMemory(
            f"Measuring needs {_MEMORY_SHARE * _READ.matrix_bytes / MIB:.0f} MiB of free memory, "
            f"{free_bytes / MIB:.0f} MiB are free.",
            needed_bytes=_MEMORY_SHARE * _READ.matrix_bytes,
            free_bytes=free_bytes,
            hint="Close other programs.",
        )
    return replace(_READ, n=n)


# Multiplying ---------------------------------------------------------------------------------------------


def _flops(backend: Backend, *, is_repacked: bool = False) -> float:
    """A fast GPU does the small product in the time that it takes to ask for it, so it gets a large one."""
    took_s = _product_s(backend, _SMALL, is_repacked=is_repacked)
    if took_s >= _TOO_SHORT_S:
        return _SMALL.n_flops / took_s
    return _LARGE.n_flops / _product_s(backend, _LARGE, is_repacked=is_repacked)


def _product_s(backend: Backend, matrices: Matrices, *, is_repacked: bool) -> float:
    with products.open_product(backend, matrices, repacked=is_repacked) as product:
        return _best_s(product.compute)


# Copying -------------------------------------------------------------------------------------------------


def _pinned_bps(device: int, free_bytes: int) -> float:
    """Return 0 where the backend has no page-locked memory."""
    n_bytes = min(_COPY_BYTES, free_bytes // _MEMORY_SHARE)
    with products.page_locked(device, n_bytes) as address:
        return _copy_bps(device, address, n_bytes) if address else 0.0


def _pageable_bps(device: int, free_bytes: int) -> float:
    data = ctypes.create_string_buffer(b"\x11" * min(_COPY_BYTES, free_bytes // _MEMORY_SHARE))
    return _copy_bps(device, ctypes.addressof(data), len(data))


def _copy_bps(device: int, address: int, n_bytes: int) -> float:
    n_bytes -= n_bytes % 4
    with products.device_tensor(device, n_bytes) as tensor:
        return n_bytes / _best_s(lambda: products.copy_to(tensor, address, n_bytes))


def _sync_s(backend: Backend) -> float:
    """Return what one layer on the CPU costs a token: its vector comes from the GPU and goes back."""
    vector = (ctypes.c_float * _SYNC.n_in)()
    with products.open_product(backend, _SYNC) as product:

        def there_and_back() -> None:
            product.copy_in(vector)
            product.compute()
            product.copy_out(vector)

        return statistics.median(_timed_s(there_and_back) for _ in range(_N_SYNC))


# Timing --------------------------------------------------------------------------------------------------


def _best_s(run: Callable[[], None]) -> float:
    """Return the shortest of several runs; the first, which warms up, is never that."""
    times_s: list[float] = []
    while len(times_s) < _LEAST_RUNS or sum(times_s) < _RUNS_S:
        times_s.append(_timed_s(run))
    return min(times_s)


def _timed_s(run: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    run()
    return time.perf_counter() - started_s
