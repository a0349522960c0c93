"""Tokens, counts, embeddings and adapters, asked of the real worker."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import pytest

from edgeapp.errors import ContextOverflow, InvalidModel, UsageError
from edgeapp.protocol import AdapterUse, Failed, Message
from edgeapp.runtime import asking, measuring
from tests.runtime.engines import answer, ask, finish, real_engine
from tests.tiny_lora import write_tiny_lora

if TYPE_CHECKING:
    from edgeapp.protocol import Generate
    from edgeapp.runtime.worker_client import WorkerClient

TEXT = "Ünïcode, 日本語 and 🙂 emoji\n\twith <|im_end|> in it"


# Tokens ----------------------------------------------------------------------------------------------------


async def test_tokens_become_the_text_they_came_from(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        tokens = await client.tokenize(TEXT)
        assert await asking.detokenize(client, tokens) == TEXT


async def test_half_a_character_is_a_replacement_character(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        first, *rest = await client.tokenize("é")
        assert rest, "the tiny vocabulary has no é"
        assert await asking.detokenize(client, [first]) == "\ufffd"


async def test_control_tokens_have_no_text_unless_they_are_spelled_out(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        (end,) = await client.tokenize("<|im_end|>", parse_special=True)
        assert await asking.detokenize(client, [end]) == ""
        assert await asking.detokenize(client, [end], special=True) == "<|im_end|>"


async def test_a_number_that_is_no_token_is_refused(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe) as client:
        for token in (-1, 1024, 2**40):
            with pytest.raises(UsageError, match=f"{token} is not a token: the vocabulary has 1024"):
                await asking.detokenize(client, [20, token])


async def test_a_conversation_is_counted_as_its_prompt(tiny_moe: Path) -> None:
    messages = [
        Message(role="system", content="Be brief."),
        Message(role="user", content=TEXT),
        Message(role="assistant", content="Yes."),
        Message(role="user", content="Why?"),
    ]
    async with real_engine(tiny_moe) as client:
        counted = await asking.count_tokens(client, messages)
        request = msgspec.structs.replace(ask("", max_tokens=1), messages=tuple(messages))
        _, end = await answer(client, request)
    assert counted == end.usage.prompt_tokens > 50


# Embeddings ------------------------------------------------------------------------------------------------


async def test_many_texts_are_embedded_in_order(tiny_moe: Path) -> None:
    texts = [f"Text number {number}" for number in range(2 * asking.TEXTS_AT_ONCE + 5)]
    async with real_engine(tiny_moe) as client:
        many = await asking.embed(client, texts)
        last = await asking.embed(client, texts[-1:])
        n_tokens = sum([len(await client.tokenize(text)) for text in texts])
    vectors = np.array(many.vectors)
    assert vectors.shape == (len(texts), 64)
    assert many.n_tokens == n_tokens
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[-1], last.vectors[0], atol=0.05)  # F16: a router may flip


async def test_embedding_does_not_disturb_an_answer(tiny_moe: Path) -> None:
    question = ask("Tell me a story", max_tokens=60)
    async with real_engine(tiny_moe) as client:
        alone, _ = await answer(client, question)
        running = asyncio.create_task(answer(client, question))
        vectors = [await asking.embed(client, [TEXT] * 20) for _ in range(4)]
        together, _ = await running
    assert together == alone
    assert all(vector == vectors[0] for vector in vectors)


async def test_an_embedding_that_nobody_waits_for_leaves_a_worker_that_works(demo_model: Path) -> None:
    async with real_engine(demo_model) as client:
        await client.load()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asking.embed(client, ["word " * 400] * 32)
        assert len((await asking.embed(client, ["short"])).vectors) == 1


async def test_texts_that_cannot_be_embedded_are_refused(tiny_moe: Path) -> None:
    async with real_engine(tiny_moe, n_ctx=256) as client:
        with pytest.raises(UsageError, match="no text"):
            await asking.embed(client, [])
        with pytest.raises(UsageError, match="Text 2 to embed is empty"):
            await asking.embed(client, ["a", ""])
        with pytest.raises(ContextOverflow, match="the context holds 256"):
            await asking.embed(client, ["word " * 500])


# Adapters --------------------------------------------------------------------------------------------------


def with_adapter(scale: float, *, name: str = "style") -> Generate:
    use = AdapterUse(name=name, scale=scale)
    return msgspec.structs.replace(ask("Tell me a story", max_tokens=24), adapters=(use,))


async def refusal(client: WorkerClient, request: Generate) -> Failed:
    _, end = await finish(client.generate(request))
    assert isinstance(end, Failed)
    return end


async def test_each_request_has_the_adapters_it_asks_for(tiny_moe: Path, tmp_path: Path) -> None:
    lora = write_tiny_lora(tmp_path / "lora.gguf", tiny_moe)
    async with real_engine(tiny_moe) as client:
        plain, _ = await answer(client, ask("Tell me a story", max_tokens=24))
        assert await asking.load_adapter(client, "style", lora) == 6
        adapted, end = await answer(client, with_adapter(1.0))
        zero, _ = await answer(client, with_adapter(0.0))
        mixed = await asyncio.gather(
            *(answer(client, with_adapter(scale)) for scale in (1.0, 0.0, 1.0, 0.0, 0.0, 1.0))
        )
    assert plain == zero != adapted
    # What the plain prompt left in the KV cache belongs to the plain model.
    assert end.usage.cached_tokens == 0
    assert [text for text, _ in mixed] == [adapted, zero, adapted, zero, zero, adapted]


async def test_an_adapter_is_swapped_under_its_name_from_the_callers_folder(
    tiny_moe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_lora(tmp_path / "first.gguf", tiny_moe)
    write_tiny_lora(tmp_path / "second.gguf", tiny_moe, seed=1)
    texts = []
    async with real_engine(tiny_moe) as client:
        await client.load()
        monkeypatch.chdir(tmp_path)  # the worker stays where it was
        for name in ("first.gguf", "second.gguf", "first.gguf"):
            await asking.load_adapter(client, "style", Path(name))
            texts.append((await answer(client, with_adapter(1.0)))[0])
            await asking.unload_adapter(client, "style")
        gone = await refusal(client, with_adapter(1.0))
    assert texts[0] == texts[2] != texts[1]
    assert (gone.code, gone.message) == ("usage", "There is no adapter style.")


async def test_what_is_measured_is_the_model_without_the_last_answers_adapters(
    tiny_moe: Path, tmp_path: Path
) -> None:
    lora = write_tiny_lora(tmp_path / "lora.gguf", tiny_moe)
    rows = []
    async with real_engine(tiny_moe) as client:
        await asking.load_adapter(client, "style", lora)
        for request in (ask("Hello", max_tokens=2), with_adapter(1.0)):
            await answer(client, request)
            async with measuring.evaluate(client, [30, 40, 50], first_logits=2) as logits:
                rows.append(np.array(logits))
    np.testing.assert_array_equal(rows[0], rows[1])


async def test_an_adapter_that_does_not_fit_is_refused_and_the_worker_lives(
    tiny_moe: Path, tmp_path: Path
) -> None:
    other_base = write_tiny_lora(tmp_path / "arch.gguf", tiny_moe, arch="qwen3moe")
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(other_base.read_bytes()[:-1])
    async with real_engine(tiny_moe) as client:
        with pytest.raises(UsageError, match="qwen3moe"):
            await asking.load_adapter(client, "style", other_base)
        with pytest.raises(InvalidModel, match="truncated"):
            await asking.load_adapter(client, "style", cut)
        with pytest.raises(UsageError, match="There is no adapter style"):
            await asking.unload_adapter(client, "style")
        assert (await refusal(client, with_adapter(1e300))).code == "usage"
        await answer(client, ask("Hello", max_tokens=2))
