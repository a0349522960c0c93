"""The LoRA adapters of one model: loaded and forgotten by name, applied to a context as a set.

A context applies one set at a time, so requests with different sets cannot share a batch, and what is in
the KV cache belongs to the set it was computed with: `key` tells sets apart. Knows no request and no file
format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.cleantext import clean_line
from edgeapp.engine import bindings
from edgeapp.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from pathlib import Path

    from edgeapp.engine.bindings import AdapterHandle, ContextHandle, ModelHandle
    from edgeapp.protocol import AdapterUse

MAX_NAME_CHARS = 100
_KEY_DIGITS = 16
_MAX_FLOAT32 = 3.4028234663852886e38


@dataclass(frozen=True, kw_only=True)
class _Adapter:
    handle: AdapterHandle
    sha256: str


class Adapters:
    """Belongs to the model at `path`; `free` it before the model and after the last decode."""

    def __init__(self, model: ModelHandle, path: Path) -> None:
        self._model = model
        self._path = path
        self._loaded: dict[str, _Adapter] = {}
        self._applied: dict[ContextHandle, list[tuple[AdapterHandle, float]]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._loaded)

    def load(self, name: str, path: Path) -> int:
        """Read the adapter at `path`, even beside a context in use; return how many weights it changes.

        Raise `UsageError` for a name that cannot be used or an adapter of another model, `ModelError` for a
        missing or damaged file, `LoadFailed` when llama.cpp refuses it.
        """
        self._check_new(name)
        # Only who uses adapters pays for the parser.
        from edgeapp.engine.adapter_file import check_adapter
        from edgeapp.gguf_info.parts import read_parts

        facts = check_adapter(path, read_parts(self._path))
        handle = bindings.load_adapter(self._model, path)
        self._loaded[name] = _Adapter(handle=handle, sha256=facts.sha256)
        return facts.n_weights

    def unload(self, name: str, *, in_use: Container[str] = ()) -> None:
        """Forget an adapter. Raise `UsageError` for an unknown name or one that is in `in_use`."""
        adapter = self._known(name)
        if name in in_use:
            raise UsageError(
                f"The adapter {clean_line(name)} is used by an answer that is being written.",
                hint="Wait for the end of the answer, or cancel it.",
            )
        for context, scaled in self._applied.items():
            if any(handle == adapter.handle for handle, _ in scaled):
                self._set(context, [])
        del self._loaded[name]
        bindings.free_adapter(adapter.handle)

    def check(self, uses: Sequence[AdapterUse]) -> None:
        """Raise `UsageError` for an unknown or repeated name, or a scale that is no float32 number."""
        for use in uses:
            self._known(use.name)
            if not abs(use.scale) <= _MAX_FLOAT32:  # false for what is no number, too
                raise UsageError(
                    f"The scale of adapter {clean_line(use.name)} is {use.scale}.",
                    hint="Use a number like 0.5; 1 is the strength the adapter was trained with.",
                )
        names = [use.name for use in uses]
        repeated = next((name for name in names if names.count(name) > 1), None)
        if repeated is not None:
            raise UsageError(f"The adapter {clean_line(repeated)} is named twice.", hint="Name it once.")

    def key(self, uses: Sequence[AdapterUse]) -> str:
        """Return what tells the KV cache of this set from that of any other; empty for none.

        Made of the files' contents, so it holds across restarts and other names.
        """
        self.check(uses)
        parts = [
            f"{self._loaded[use.name].sha256[:_KEY_DIGITS]}*{use.scale!r}" for use in uses if use.scale != 0
        ]
        return "+".join(sorted(parts))

    def apply(self, context: ContextHandle, uses: Sequence[AdapterUse]) -> None:
        """Let `context` apply this set from the next decode on; it costs time only when the set changes.

        The KV cache is left alone: whoever changes the set must not continue a sequence of another `key`.
        """
        self.check(uses)
        wanted = sorted((self._loaded[use.name].handle, use.scale) for use in uses if use.scale != 0)
        if wanted != self._applied.get(context, []):
            self._set(context, wanted)

    def free(self) -> None:
        self._applied.clear()
        for adapter in self._loaded.values():
            bindings.free_adapter(adapter.handle)
        self._loaded.clear()

    def _set(self, context: ContextHandle, scaled: list[tuple[AdapterHandle, float]]) -> None:
        bindings.set_adapters(context, scaled)
        self._applied[context] = scaled

    def _known(self, name: str) -> _Adapter:
        adapter = self._loaded.get(name)
        if adapter is None:
            known = ", ".join(map(clean_line, self._loaded)) or "none"
            raise UsageError(
                f"There is no adapter {clean_line(name)}.", hint=f"Load it first; loaded now: {known}."
            )
        return adapter

    def _check_new(self, name: str) -> None:
        if not name or len(name) > MAX_NAME_CHARS or clean_line(name, max_chars=MAX_NAME_CHARS) != name:
            raise UsageError(
                f"An adapter cannot have the name {clean_line(name, max_chars=MAX_NAME_CHARS)!r}.",
                hint=f"Use 1 to {MAX_NAME_CHARS} printable characters.",
            )
        if name in self._loaded:
            raise UsageError(f"There is an adapter {name} already.", hint="Unload it, or use another name.")
