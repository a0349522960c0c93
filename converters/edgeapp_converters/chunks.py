"""Cut a text's tokens into chunks that are computed one by one, as llama.cpp's tools do. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def chunks(tokens: Sequence[int], *, n_ctx: int, bos: int | None) -> list[list[int]]:
    """Return whole chunks of `n_ctx` tokens; what is left over is dropped.

    Where the vocabulary has a `bos`, it takes the place of each chunk's first token (llama.cpp,
    tools/perplexity/perplexity.cpp and tools/imatrix/imatrix.cpp).
    """
    parts = [list(tokens[start : start + n_ctx]) for start in range(0, len(tokens) - n_ctx + 1, n_ctx)]
    if bos is not None:
        for part in parts:
            part[0] = bos
    return parts
