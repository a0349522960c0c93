"""What the engine holds of the machine's memory: remembered from its status events. Knows no screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.protocol import Loaded
from edgeapp.runtime.client import EngineDown, Released

if TYPE_CHECKING:
    from edgeapp.protocol import BufferUse
    from edgeapp.runtime.client import EngineClient, StatusEvent


class Holdings:
    """Follows one engine."""

    def __init__(self, client: EngineClient) -> None:
        self.buffers: tuple[BufferUse, ...] = ()
        """By device, empty while nothing is loaded."""
        self.n_waiting = 0
        """Conversations whose computed state waits on disk while the engine is released."""
        client.watch(self._on_status)

    def _on_status(self, event: StatusEvent) -> None:
        match event:
            case Loaded(buffers=buffers):
                self.buffers, self.n_waiting = buffers, 0
            case Released(n_conversations=n_conversations):
                self.buffers, self.n_waiting = (), n_conversations
            case EngineDown():
                self.buffers = ()
            case _:
                pass
