"""Tell the other programs of this user what happens to an engine; `edgeapp top` shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.runtime.client import EngineDown, Released

if TYPE_CHECKING:
    from edgeapp.monitor.running import RunningEngine
    from edgeapp.runtime.client import EngineClient, StatusEvent


def follow(client: EngineClient, running: RunningEngine) -> None:
    """Publish every status event of `client`; what is generated goes to `running.observe` by itself."""

    def on_status(event: StatusEvent) -> None:
        match event:
            case EngineDown():
                running.set_state("down")
            case Released():
                running.set_state("released")
            case _:
                running.observe(event)

    client.watch(on_status)
