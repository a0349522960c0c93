"""Damaged model files against the whole way a file takes: header check, then the disposable worker."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from edgeapp.errors import EdgeappError, ModelError
from edgeapp.gguf_info import read_gguf_info
from edgeapp.protocol import Done, Failed
from tests.gguf_mutations import header_bytes, mutations
from tests.runtime.engines import ask, finish, real_engine
from tests.tiny_moe import write_tiny_moe

if TYPE_CHECKING:
    from pathlib import Path

N_MUTATIONS = 220


@pytest.mark.slow
async def test_every_damaged_header_is_refused_or_loaded_and_the_parent_lives(tmp_path: Path) -> None:
    whole = write_tiny_moe(tmp_path / "whole.gguf", n_layer=1, n_vocab=320).read_bytes()
    n_header = header_bytes(whole)
    n_refused = n_loaded = n_failed = 0
    gate = asyncio.Semaphore(2)

    async def load(path: Path) -> Done | Failed:
        async with gate, real_engine(path, n_ctx=128) as client:
            return (await finish(client.generate(ask("hello", max_tokens=2))))[1]

    accepted: list[Path] = []
    for number, header in enumerate(mutations(whole[:n_header], N_MUTATIONS, seed=1)):
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(header + whole[n_header:])
        try:
            read_gguf_info(path)
        except ModelError:
            n_refused += 1
        else:
            accepted.append(path)
    for end in await asyncio.gather(*map(load, accepted)):
        match end:
            case Done():
                n_loaded += 1
            case Failed(message=message):
                assert message
                n_failed += 1
    assert n_refused + n_loaded + n_failed == N_MUTATIONS
    assert n_refused > N_MUTATIONS // 2
    # The whole file is fine, so that the refusals above are about the damage.
    (tmp_path / "whole.gguf").write_bytes(whole)
    assert isinstance(await load(tmp_path / "whole.gguf"), Done)


async def test_a_model_that_fails_an_assertion_while_loading_is_refused_at_once(tmp_path: Path) -> None:
    # Two tokens with one text pass the header check, which does not compare 150,000 of them.
    model = write_tiny_moe(tmp_path / "twice.gguf", n_layer=1, n_vocab=320)
    data = model.read_bytes()
    first, second = (b"\x01\x00\x00\x00\x00\x00\x00\x00" + text for text in (b"!", b'"'))
    assert data.count(second) >= 1
    model.write_bytes(data.replace(second, first, 1))
    read_gguf_info(model)
    async with real_engine(model) as client:
        with pytest.raises(EdgeappError) as caught:
            await client.load()
    assert caught.value.code == "load_failed"
