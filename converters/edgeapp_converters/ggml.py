"""llama.cpp's number formats: quantise, widen and check rows. The one door to libggml-base.

The library is taken from beside the llama_cpp package, which is not imported: it would load all of llama.cpp.
Calls go through `ctypes.CDLL`, which releases the interpreter's lock, so threads quantise side by side. A
failed assertion in ggml ends the process, so whatever it would assert is checked here first.

Knows no tensor, no file and no model.
"""

from __future__ import annotations

import ctypes
import importlib.util
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edgeapp.errors import BindingMismatch, ConversionFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

_LIBRARY = "libggml-base.so"
_NOT_FOR_STORAGE = {GGMLQuantizationType.Q8_1, GGMLQuantizationType.Q8_K}
"""Types of activations while a model runs. ggml cannot quantise to them, and gguf has Q8_1's bytes wrong."""
_NOT_FOR_WEIGHTS = {GGMLQuantizationType[name] for name in ("I8", "I16", "I32", "I64", "F64")}
_LARGEST_F16 = 65504.0
_LARGEST_STEP = 127.0
"""Of Q8_0: the largest multiple of its F16 scale that any quantised type can hold."""
_GRID_TYPES = ("IQ1", "IQ2", "IQ3")
_LARGEST_WEIGHTED_SQUARE = 1e15
"""The search on a grid squares sums of importance × number² in F32, and aborts when that overflows."""


class _TypeTraits(ctypes.Structure):
    """`struct ggml_type_traits` in ggml.h, up to the member that is used."""

    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
    )


_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


def version() -> str:
    """Return ggml's version and commit: with the same ones, the same rows become the same bytes."""
    library = _library()
    return f"{library.ggml_version().decode()} {library.ggml_commit().decode()}"


def row_bytes(kind: GGMLQuantizationType, columns: int) -> int:
    """Return the bytes of one row. Raise `ConversionFailed` if `columns` is not a whole number of blocks."""
    block, block_bytes = GGML_QUANT_SIZES[kind]
    if columns % block:
        raise ConversionFailed(
            f"A row of {columns} numbers cannot be {kind.name}: that takes a multiple of {block}."
        )
    return int(columns // block * block_bytes)


def block_size(kind: GGMLQuantizationType) -> int:
    """Return how many numbers of a row are stored together."""
    return int(GGML_QUANT_SIZES[kind][0])


def requires_importance(kind: GGMLQuantizationType) -> bool:
    """Tell whether ggml quantises to `kind` with an importance matrix only."""
    return bool(_library().ggml_quantize_requires_imatrix(int(kind)))


def prepare(kinds: Iterable[GGMLQuantizationType]) -> None:
    """Build the tables of these types now; otherwise the first of many threads does while others wait."""
    for kind in kinds:
        _library().ggml_quantize_init(int(kind))


def free() -> None:
    """Give back the tables that `prepare` or `quantize` built."""
    _library().ggml_quantize_free()


def quantize(
    kind: GGMLQuantizationType,
    rows: npt.NDArray[np.float32],
    into: npt.NDArray[np.uint8],
    importance: npt.NDArray[np.float32] | None = None,
) -> int:
    """Write `rows` ([n_rows, columns], contiguous, finite) as `kind` to the start of `into`.

    Return the bytes written. `importance` weighs the error of each column ([columns], F32). F32, F16 and BF16
    are rounded as ggml does. Raise `ConversionFailed` for what ggml would abort on.
    """
    n_rows, columns = rows.shape
    n_bytes: int = n_rows * row_bytes(kind, columns)
    _require_arguments(kind, rows, into, n_bytes)
    weights = _importance_address(kind, columns, importance)
    if n_rows:
        _require_tame(kind, rows, importance)
        _library().ggml_quantize_chunk(
            int(kind), rows.ctypes.data, into.ctypes.data, 0, n_rows, columns, weights
        )
    return n_bytes


def largest(kind: GGMLQuantizationType) -> float:
    """Return a bound above which no number of magnitude can be written as `kind`."""
    if kind in {GGMLQuantizationType.F32, GGMLQuantizationType.BF16}:
        return float(np.finfo(np.float32).max)
    if kind == GGMLQuantizationType.F16:
        return _LARGEST_F16
    return _LARGEST_F16 * _LARGEST_STEP


def widen(kind: GGMLQuantizationType, data: npt.NDArray[np.uint8], into: npt.NDArray[np.float32]) -> None:
    """Write the numbers that the bytes `data` of `kind` stand for to `into`, as many as it has."""
    if data.nbytes != row_bytes(kind, into.size) or not (data.flags.c_contiguous and into.flags.c_contiguous):
        raise ValueError(f"{data.nbytes} bytes are not {into.size} contiguous numbers of {kind.name}")
    if kind == GGMLQuantizationType.F32:
        into.reshape(-1).view(np.uint8)[:] = data.reshape(-1)
    elif into.size:
        _to_float(kind)(data.ctypes.data, into.ctypes.data, into.size)


def is_valid(kind: GGMLQuantizationType, data: npt.NDArray[np.uint8]) -> bool:
    """Tell whether no number or scale in `data` is NaN or infinite. ggml says on stderr where one is."""
    return bool(_library().ggml_validate_row_data(int(kind), data.ctypes.data, data.nbytes))


def _require_arguments(
    kind: GGMLQuantizationType, rows: npt.NDArray[np.float32], into: npt.NDArray[np.uint8], n_bytes: int
) -> None:
    if kind in _NOT_FOR_STORAGE or kind in _NOT_FOR_WEIGHTS:
        raise ConversionFailed(f"{kind.name} is not a type that weights can be stored in.")
    if not (rows.dtype == np.float32 and rows.flags.c_contiguous and into.flags.c_contiguous):
        raise ValueError("rows must be contiguous F32")
    if into.nbytes < n_bytes:
        raise ValueError(f"{n_bytes} bytes do not fit into {into.nbytes}")


def _importance_address(
    kind: GGMLQuantizationType, columns: int, importance: npt.NDArray[np.float32] | None
) -> int | None:
    if importance is None:
        if requires_importance(kind):
            raise ConversionFailed(
                f"{kind.name} cannot be made without an importance matrix.",
                hint="Pass --calibrate TEXT or --imatrix FILE, or choose another recipe.",
            )
        return None
    if importance.shape != (columns,) or importance.dtype != np.float32 or not importance.flags.c_contiguous:
        raise ConversionFailed(
            f"The importance matrix has {importance.size} columns where the weights have {columns}."
        )
    if not 0 <= importance.min() <= importance.max() < np.inf:
        raise ConversionFailed("The importance matrix holds negative or infinite numbers.")
    return importance.ctypes.data


def _require_tame(
    kind: GGMLQuantizationType, rows: npt.NDArray[np.float32], importance: npt.NDArray[np.float32] | None
) -> None:
    if not kind.name.startswith(_GRID_TYPES):
        return
    largest_weight = 1.0 if importance is None else float(importance.max())
    magnitude = max(float(rows.max()), -float(rows.min()))
    if largest_weight * magnitude**2 > _LARGEST_WEIGHTED_SQUARE:
        raise ConversionFailed(
            f"Weights up to {magnitude:.3g} of importance {largest_weight:.3g} are too large for {kind.name}."
        )


@cache
def _library() -> ctypes.CDLL:
    """Load and check the library. Raise `BindingMismatch` if it is missing or has other block sizes."""
    library = _load(_library_path())
    _declare(library)
    for kind, (block, block_bytes) in GGML_QUANT_SIZES.items():
        if kind in _NOT_FOR_STORAGE:
            continue
        if (actual := library.ggml_row_size(int(kind), block)) != block_bytes:
            raise BindingMismatch(
                f"libggml stores {block} numbers of {kind.name} in {actual} bytes, not in {block_bytes}.",
                hint="llama-cpp-python and gguf must be the versions that edgeapp asks for.",
            )
    return library


def _library_path() -> Path:
    spec = importlib.util.find_spec("llama_cpp")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / "lib" / _LIBRARY).exists():
            return path
    raise BindingMismatch(
        f"llama-cpp-python's {_LIBRARY} is not installed.", hint="`make run` installs what is missing."
    )


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as problem:
        raise BindingMismatch(
            f"{path.name} cannot be loaded: {problem}.", hint="`make clean run` builds it again."
        ) from problem


def _declare(library: ctypes.CDLL) -> None:
    """Give the functions their types, as in ggml.h."""
    kind, address, count = ctypes.c_int, ctypes.c_void_p, ctypes.c_int64
    prototypes = {
        "ggml_version": (ctypes.c_char_p, []),
        "ggml_commit": (ctypes.c_char_p, []),
        "ggml_row_size": (ctypes.c_size_t, [kind, count]),
        "ggml_quantize_init": (None, [kind]),
        "ggml_quantize_free": (None, []),
        "ggml_quantize_requires_imatrix": (ctypes.c_bool, [kind]),
        "ggml_quantize_chunk": (ctypes.c_size_t, [kind, address, address, count, count, count, address]),
        "ggml_validate_row_data": (ctypes.c_bool, [kind, address, ctypes.c_size_t]),
        "ggml_get_type_traits": (ctypes.POINTER(_TypeTraits), [kind]),
    }
    for name, (result, arguments) in prototypes.items():
        try:
            function = getattr(library, name)
        except AttributeError as problem:
            raise BindingMismatch(
                f"{name} is missing from {_LIBRARY}.", hint="`make clean run` builds it again."
            ) from problem
        function.restype, function.argtypes = result, arguments


@cache
def _to_float(kind: GGMLQuantizationType) -> ctypes._FuncPointer:
    address = _library().ggml_get_type_traits(int(kind)).contents.to_float
    if not address:
        raise ConversionFailed(f"ggml cannot read {kind.name} back as numbers.")
    return _ToFloat(address)
