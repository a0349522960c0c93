"""What a worker was told that must hold in the next one too: adapters, live reports. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.protocol import (
    AdapterLoaded,
    Event,
    LiveSet,
    LoadAdapter,
    Request,
    SetLive,
    UnloadAdapter,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


class StandingRequests:
    """Requests that a new worker is sent before anything else, in the order in which they were first sent."""

    def __init__(self) -> None:
        self._adapters: dict[str, LoadAdapter] = {}
        self._live: SetLive | None = None

    def done(self, request: Request) -> None:
        """`request` has been carried out."""
        match request:
            case LoadAdapter(name=name):
                self._adapters[name] = request
            case UnloadAdapter(name=name):
                self._adapters.pop(name, None)
            case SetLive():
                self._live = request
            case _:
                pass

    def refused(self, request: Request) -> None:
        """A new worker could not do it, so later ones are not asked."""
        match request:
            case LoadAdapter(name=name):
                self._adapters.pop(name, None)
            case SetLive():
                self._live = None
            case _:
                pass

    def __iter__(self) -> Iterator[tuple[Request, type[Event]]]:
        """Yield each request with the event that answers it."""
        for adapter in tuple(self._adapters.values()):
            yield adapter, AdapterLoaded
        if self._live is not None:
            yield self._live, LiveSet
