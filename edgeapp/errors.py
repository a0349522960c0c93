"""Every error that edgeapp raises on purpose.

    EdgeappError                      exit 1
    ├── UsageError                    exit 2   what was typed cannot be meant
    │   ├── ConfigError                        a setting in a file, the environment or a flag
    │   └── GrammarError                       a grammar or JSON schema that cannot constrain an answer
    ├── ModelError                             the model file or reference
    │   ├── ModelNotFound                      no such file, name or repository
    │   │   └── NoGguf                         the repository is there, but holds no GGUF
    │   ├── ModelUnreadable                    permission, folder, I/O error
    │   ├── InvalidModel                       not a GGUF, damaged or hostile header
    │   ├── UnsupportedModel                   a GGUF that this engine cannot run
    │   ├── InvalidCheckpoint                  a checkpoint that is damaged, hostile or incomplete
    │   ├── UnsupportedCheckpoint              a checkpoint that cannot be converted as it is
    │   └── VerificationFailed                 content differs from its recorded sha256
    ├── DownloadError                          the hub could not be reached, or said no
    ├── ConversionFailed                       a conversion that began could not be finished
    ├── NotEnoughDisk                          with the numbers
    ├── NotEnoughMemory                        host or GPU memory, with the numbers
    ├── HistoryError                           the chat history
    │   ├── NotInHistory                       no such conversation or message
    │   ├── InvalidExport                      a file that is no export of conversations
    │   ├── HistoryFull                        the disk has no room for what was to be kept
    │   ├── HistoryBusy                        another edgeapp keeps it locked
    │   ├── HistoryDamaged                     its file is broken
    │   └── HistoryTooNew                      a newer edgeapp wrote its file
    └── EngineError                            the worker process or llama.cpp
        ├── BindingMismatch                    llama-cpp-python is missing or has another layout
        ├── LoadFailed                         llama.cpp refused the model
        ├── TemplateError                      the chat template cannot be rendered
        ├── ContextOverflow                    prompt and answer do not fit into n_ctx
        ├── EngineCrashed                      the worker died
        │   └── DeviceLost                     because its GPU has gone
        ├── EngineHung                         the worker stopped sending heartbeats
        └── EngineQuarantined                  the worker died too often with this model

Each error is one sentence with the numbers in it, a hint at the next step, a stable `code` for machines,
and the exit code of the command line.
"""

from __future__ import annotations

from typing import ClassVar


class EdgeappError(Exception):
    """A failure with a sentence for people and a code for programs."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(EdgeappError):
    code = "usage"
    exit_code = 2


class ConfigError(UsageError):
    code = "config"


class GrammarError(UsageError):
    code = "grammar"


class ModelError(EdgeappError):
    code = "model"


class ModelNotFound(ModelError):
    code = "model_not_found"


class NoGguf(ModelNotFound):
    code = "no_gguf"


class ModelUnreadable(ModelError):
    code = "model_unreadable"


class InvalidModel(ModelError):
    code = "invalid_model"


class UnsupportedModel(ModelError):
    code = "unsupported_model"


class InvalidCheckpoint(ModelError):
    code = "invalid_checkpoint"


class UnsupportedCheckpoint(ModelError):
    code = "unsupported_checkpoint"


class VerificationFailed(ModelError):
    code = "verification_failed"


class DownloadError(EdgeappError):
    code = "download"


class ConversionFailed(EdgeappError):
    code = "conversion"


class NotEnoughDisk(EdgeappError):
    code = "not_enough_disk"

    def __init__(self, message: str, *, needed_bytes: int = 0, free_bytes: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class NotEnoughMemory(EdgeappError):
    code = "not_enough_memory"

    def __init__(self, message: str, *, needed_bytes: int = 0, free_bytes: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class HistoryError(EdgeappError):
    code = "history"


class NotInHistory(HistoryError):
    code = "not_in_history"


class InvalidExport(HistoryError):
    code = "invalid_export"


class HistoryFull(HistoryError):
    code = "history_full"


class HistoryBusy(HistoryError):
    code = "history_busy"


class HistoryDamaged(HistoryError):
    code = "history_damaged"


class HistoryTooNew(HistoryError):
    code = "history_too_new"


class EngineError(EdgeappError):
    code = "engine"


class BindingMismatch(EngineError):
    code = "binding_mismatch"


class LoadFailed(EngineError):
    code = "load_failed"


class TemplateError(EngineError):
    code = "template"


class ContextOverflow(EngineError):
    code = "context_overflow"

    def __init__(self, message: str, *, n_prompt: int = 0, n_ctx: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.n_prompt = n_prompt
        self.n_ctx = n_ctx


class EngineCrashed(EngineError):
    code = "engine_crashed"

    def __init__(
        self, message: str, *, hint: str = "", returncode: int = 0, out_of_memory: bool = False
    ) -> None:
        super().__init__(message, hint=hint)
        self.returncode = returncode
        """The worker's, negative for a signal; 0 when it is not known."""
        self.out_of_memory = out_of_memory


class DeviceLost(EngineCrashed):
    code = "device_lost"


class EngineHung(EngineError):
    code = "engine_hung"


class EngineQuarantined(EngineError):
    code = "engine_quarantined"


def from_code(code: str, message: str, hint: str) -> EdgeappError:
    """Rebuild the error that a worker reported by its code; an unknown code becomes an `EngineError`."""
    pending: list[type[EdgeappError]] = [EdgeappError]
    while pending:
        kind = pending.pop()
        if kind.code == code:
            return kind(message, hint=hint)
        pending.extend(kind.__subclasses__())
    return EngineError(message, hint=hint)
