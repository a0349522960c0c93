"""Ask a worker for numbers instead of text: logits of given tokens, sums of activations.

The arrays go through files in memory, not through the pipe. numpy is imported here, so only who measures
imports this module.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgeapp import paths
from edgeapp.errors import EngineError, NotEnoughDisk
from edgeapp.protocol import Collect, Collected, Evaluate, Evaluated, WriteImatrix

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from numpy.typing import NDArray

    from edgeapp.runtime.worker_client import WorkerClient

BLOCK_BYTES = 32 << 20
"""Logits that are asked for at once: `rows_at_once` of them."""
TOKENIZED_CHARS = 512 * 1024
"""Text that is tokenised at once: at worst two million tokens, 15 MB of JSON, which one line can hold."""
_PREFIX = "edgeapp-"
_ABANDONED_S = 60.0
"""A folder that has just been made may not be locked yet."""
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own in it, readable by the user alone


def rows_at_once(n_vocab: int) -> int:
    """Return for how many tokens the logits fit into `BLOCK_BYTES`."""
    return max(1, BLOCK_BYTES // (n_vocab * np.dtype(np.float32).itemsize))


async def tokenize_text(client: WorkerClient, text: str, *, max_tokens: int | None = None) -> list[int]:
    """Return the tokens of a long text, the first `max_tokens`, with BOS where the vocabulary wants it."""
    loaded = await client.load()
    tokens = [] if loaded.bos is None else [loaded.bos]
    for start in range(0, len(text), TOKENIZED_CHARS):
        tokens += await client.tokenize(text[start : start + TOKENIZED_CHARS])
        if max_tokens is not None and len(tokens) >= max_tokens:
            break
    return tokens[:max_tokens]


@asynccontextmanager
async def evaluate(
    client: WorkerClient, tokens: Sequence[int], *, first_logits: int = 0, reuse_prefix: bool = False
) -> AsyncIterator[NDArray[np.float32]]:
    """Yield the logits [len(tokens) - first_logits, n_vocab] that follow each token from `first_logits` on.

    They are computed as one sequence from an empty KV cache; `reuse_prefix` lets what the previous call
    left there stand where `tokens` begins with it. The array is mapped from a file that is gone after the
    block. Raise `EdgeappError`.
    """
    n_vocab = (await client.load()).n_vocab
    n_rows = len(tokens) - first_logits
    with private_file(n_rows * n_vocab * np.dtype(np.float32).itemsize) as path:
        request = Evaluate(
            id=0,
            tokens=tuple(tokens),
            first_logits=first_logits,
            file=str(path),
            reuse_prefix=reuse_prefix,
        )
        done = await client.ask(request, Evaluated)
        yield np.memmap(path, dtype=np.float32, mode="r", shape=(done.n_rows, done.n_vocab))


async def collect(
    client: WorkerClient,
    tokens: Sequence[int],
    *,
    keep_inputs: Sequence[str] = (),
    inputs_folder: Path | None = None,
) -> int:
    """Add the squared inputs of all weights over `tokens` to the worker's sums; return all tokens so far.

    The client's `Load` must say `collect`. The inputs of the tensors `keep_inputs` are appended as float16
    rows, one a token, to `0.f16`, `1.f16`, … in `inputs_folder`. Raise `EdgeappError`; then the sums are
    not to be used.
    """
    request = Collect(
        id=0,
        tokens=tuple(tokens),
        keep_inputs=tuple(keep_inputs),
        inputs_folder=str(inputs_folder or ""),
    )
    return (await client.ask(request, Collected)).n_tokens


def kept_inputs(folder: Path, index: int, *, n_tokens: int) -> NDArray[np.float16]:
    """Return the rows [n_tokens, columns] that `collect` kept of the tensor number `index`.

    Raise `EngineError` when the model has no such tensor, or not one row for each token (experts).
    """
    rows = np.fromfile(folder / f"{index}.f16", dtype=np.float16)
    if not rows.size or rows.size % n_tokens:
        raise EngineError(
            f"The engine kept {rows.size or 'no'} input values of tensor {index} for {n_tokens} tokens.",
            hint="The model has no such tensor, or its rows are not those of all tokens.",
        )
    return rows.reshape(n_tokens, -1)


async def write_imatrix(client: WorkerClient, path: Path, *, datasets: Sequence[str], chunk_size: int) -> int:
    """Have the worker write its sums as llama.cpp's importance matrix; return their number of tokens."""
    request = WriteImatrix(id=0, file=str(path), datasets=tuple(datasets), chunk_size=chunk_size)
    return (await client.ask(request, Collected)).n_tokens


@contextmanager
def private_folder(n_bytes: int) -> Iterator[Path]:
    """Yield an empty folder with room for `n_bytes`: in memory if there is enough, else in the cache.

    It is gone after the block, and what a killed process left behind is gone before. Raise `NotEnoughDisk`.
    """
    _remove_abandoned(_SHARED_MEMORY)
    parent = _roomy_parent(n_bytes)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=parent) as folder, _locked(Path(folder)):
        yield Path(folder)


@contextmanager
def private_file(n_bytes: int) -> Iterator[Path]:
    """Yield an empty file in a `private_folder`."""
    with private_folder(n_bytes) as folder:
        path = folder / "rows"
        path.touch(mode=0o600)
        yield path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on `folder`, which the kernel lets go when this process ends, however it ends."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_abandoned(parent: Path) -> None:
    """Remove our folders that nobody has locked: memory that a killed process would keep until a restart."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, or gone already
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - os.fstat(descriptor).st_mtime > _ABANDONED_S:
                    shutil.rmtree(folder)
            finally:
                os.close(descriptor)


def _roomy_parent(n_bytes: int) -> Path:
    if os.access(_SHARED_MEMORY, os.W_OK) and shutil.disk_usage(_SHARED_MEMORY).free > n_bytes:
        return _SHARED_MEMORY
    cache = paths.make_private(paths.cache_dir())
    free_bytes = shutil.disk_usage(cache).free
    if free_bytes <= n_bytes:
        raise NotEnoughDisk(
            f"Measuring needs {n_bytes / 1e6:.0f} MB in {cache}, {free_bytes / 1e6:.0f} MB are free.",
            needed_bytes=n_bytes,
            free_bytes=free_bytes,
            hint="Remove what you no longer need; `edgeapp models` shows how large each model is.",
        )
    return cache
