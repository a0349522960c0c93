"""What of a model's state outlives a worker: prefixes of presets, and conversations for the next worker.

Opens the files of both under the key of the loaded model. Most of it is imported when it is first needed:
hashing is not part of a plain chat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from edgeapp.errors import EngineError, ModelError
from edgeapp.protocol import Event, Notice, Park, Parked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgeapp.engine.model import LoadedModel
    from edgeapp.engine.park import Parcel, ParkedConversations
    from edgeapp.engine.prefix_disk import PrefixDisk
    from edgeapp.engine.prefix_store import SavedSequence
    from edgeapp.protocol import Load

Leaving: TypeAlias = Callable[[], Iterable[Event]]
"""Writes conversations that have been copied, once their model is freed, and tells how it went."""


class KeptState:
    """The folders that `load` names, for `model`."""

    def __init__(self, model: LoadedModel, load: Load) -> None:
        self._model = model
        self._load = load

    def prefixes(self) -> PrefixDisk | None:
        """Return where prefixes are kept; None when they are not."""
        key = self._key() if self._load.prefix_folder else None
        if key is None:
            return None
        from edgeapp.engine.prefix_disk import PrefixDisk

        return PrefixDisk(Path(self._load.prefix_folder), key)

    def parked(self) -> ParkedConversations | None:
        """Return what an earlier worker left; None when nothing was to be taken in."""
        key = self._key() if self._load.parked_folder else None
        if key is None:
            return None
        from edgeapp.engine.park import ParkedConversations

        return ParkedConversations(Path(self._load.parked_folder), key)

    def park(self, request: Park, conversations: Iterable[SavedSequence]) -> Leaving:
        """Copy `conversations`; what this returns writes them where `request` says, without the model."""
        key = self._key()
        if key is None:
            raise EngineError("The model's file has changed, so its conversations cannot be kept.")
        from edgeapp.engine.park import Parcel

        parcel = Parcel(Path(request.folder), key)
        parcel.collect(conversations, most_bytes=_available_ram_bytes() // 2)
        return partial(_written, request, parcel)

    def _key(self) -> str | None:
        """Return what a state depends on; None when the model's file has gone since it was loaded."""
        from edgeapp.engine.model_identity import model_key

        n_expert_used = self._model.n_expert_used
        try:
            return model_key(self._model.path, kv_type=self._load.kv_type, n_expert_used=n_expert_used)
        except (OSError, ModelError):
            return None


def _written(request: Park, parcel: Parcel) -> Iterator[Event]:
    """Yield what is to be told: a notice of what could not be kept, if any, and `Parked`."""
    outcome = parcel.written()
    if outcome.n_lost:
        yield _lost(request, outcome.n_lost, outcome.problem)
    yield Parked(id=request.id, n_conversations=outcome.n_conversations, bytes=outcome.n_bytes)


def _available_ram_bytes() -> int:
    """Return what programs may still take without swapping; 0 when the system does not say (proc(5))."""
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text("ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 0


def _lost(request: Park, n_lost: int, problem: str) -> Notice:
    conversations = "1 conversation" if n_lost == 1 else f"{n_lost} conversations"
    return Notice(
        id=request.id,
        code="not_parked",
        message=f"The computed state of {conversations} could not be kept: {problem}.",
        hint="Nothing is lost: when it is continued, it is read again from its text, which takes longer.",
    )
