from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pytest

from edgeapp import paths
from edgeapp.monitor import running
from edgeapp.monitor.rate import LiveRate
from edgeapp.monitor.running import RunningEngine, read_running
from edgeapp.placement.plan import plan
from edgeapp.placement.wishes import Wishes
from edgeapp.protocol import BufferUse, Delta, Done, Failed, Loaded, Timings, Usage
from tests.placement.made import NEED, SHAPE, made_machine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_USE = BufferUse(device="CUDA0", weights_bytes=3, kv_bytes=2, compute_bytes=1)
_LOADED = Loaded(
    n_ctx=4096,
    n_ctx_train=4096,
    n_vocab=10,
    n_threads=2,
    template="gguf",
    load_s=1.0,
    model_desc="x",
    buffers=(_USE,),
)
_DONE = Done(
    finish_reason="stop",
    usage=Usage(prompt_tokens=5, completion_tokens=7, cached_tokens=0),
    timings=Timings(load_s=0.0, ttft_s=0.1, prompt_tps=100.0, decode_tps=38.5),
    n_ctx=4096,
    n_ctx_used=12,
)


@pytest.fixture
async def engine(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RunningEngine]:
    monkeypatch.setattr(running, "PERIOD_S", 0.01)
    engine = RunningEngine(front_end="chat", model="demo")
    yield engine
    engine.close()


def files() -> list[Path]:
    return sorted(paths.runtime_dir().glob("*"))


async def published() -> None:
    await asyncio.sleep(0.05)


async def test_an_engine_tells_what_it_is_and_what_it_does(engine: RunningEngine) -> None:
    made = plan(SHAPE, made_machine(40), NEED, Wishes(n_ctx=4096))
    engine.describe(made, SHAPE.expert_layers)
    engine.observe(_LOADED)
    engine.observe(Delta(text="a", n_tokens=1, n_ctx_used=6))
    engine.observe(_DONE)
    await published()

    (status,) = read_running()

    assert (status.front_end, status.model, status.plan) == ("chat", "demo", made.reason)
    assert (status.pid, status.state) == (os.getpid(), "ready")
    assert status.buffers == (_USE,)
    assert (status.n_ctx, status.n_ctx_used, status.decode_tps, status.n_requests) == (4096, 12, 38.5, 1)
    assert (status.device, status.expert_places) == ("CUDA0", ("gpu",) * 48)


async def test_the_last_of_many_changes_is_published(engine: RunningEngine) -> None:
    for n_tokens in range(200):
        engine.observe(Delta(text="a", n_tokens=n_tokens, n_ctx_used=n_tokens))
        await asyncio.sleep(0)
    await published()

    assert read_running()[0].n_ctx_used == 199


async def test_a_file_is_written_no_more_often_than_the_period(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "PERIOD_S", 1000.0)
    engine = RunningEngine(front_end="chat", model="demo")
    written = set()
    for n_tokens in range(200):
        engine.observe(Delta(text="a", n_tokens=n_tokens, n_ctx_used=n_tokens))
        await asyncio.sleep(0.001)
        written |= {file.stat().st_mtime_ns for file in files()}
    engine.close()

    assert len(written) == 1


async def test_what_does_not_change_is_not_written_again(engine: RunningEngine) -> None:
    engine.observe(_LOADED)
    await published()
    (file,) = files()
    before = file.stat().st_ino

    engine.observe("some other event")
    await published()

    assert files()[0].stat().st_ino == before


async def test_prompts_and_answers_are_not_published(engine: RunningEngine) -> None:
    engine.observe(Delta(text="a secret", n_tokens=1, n_ctx_used=1))
    await published()

    assert b"secret" not in files()[0].read_bytes()


async def test_a_released_engine_holds_nothing(engine: RunningEngine) -> None:
    engine.observe(_LOADED)
    engine.set_state("released")
    await published()

    assert read_running()[0].state == "released"
    assert read_running()[0].buffers == ()


async def test_a_failed_request_counts_and_ends_the_answer(engine: RunningEngine) -> None:
    engine.observe(Delta(text="a", n_tokens=1))
    engine.observe(Failed(code="x", message="y"))
    await published()

    assert (read_running()[0].state, read_running()[0].n_requests) == ("ready", 1)


async def test_the_file_is_gone_at_the_end_and_stays_gone(engine: RunningEngine) -> None:
    engine.observe(_LOADED)
    await published()
    engine.close()
    engine.observe(_DONE)
    await published()

    assert files() == []
    engine.close()


async def test_a_folder_that_cannot_be_written_ends_no_chat(engine: RunningEngine) -> None:
    paths.runtime_dir().parent.mkdir(parents=True, exist_ok=True)
    paths.runtime_dir().write_text("a file where the folder should be")

    engine.observe(_LOADED)
    await published()

    assert read_running() == ()


async def test_two_engines_of_one_program_are_two(engine: RunningEngine) -> None:
    second = RunningEngine(front_end="bench", model="other")
    engine.observe(_LOADED)
    second.observe(_LOADED)
    await published()
    second_seen = [status.model for status in read_running()]
    second.close()

    assert second_seen == ["demo", "other"]


async def test_a_killed_front_end_is_ignored_and_its_file_removed(engine: RunningEngine) -> None:
    engine.observe(_LOADED)
    await published()
    (file,) = files()
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    left = json.loads(file.read_bytes()) | {"pid": child.pid}
    (file.parent / "left.json").write_text(json.dumps(left))

    assert [status.pid for status in read_running()] == [os.getpid()]
    assert files() == [file]


async def test_a_process_number_that_is_used_again_is_recognised(engine: RunningEngine) -> None:
    engine.observe(_LOADED)
    await published()
    (file,) = files()
    status = json.loads(file.read_bytes())
    boot = status["identity"].partition(":")[0]
    file.write_text(json.dumps(status | {"identity": f"{boot}:1"}))

    assert read_running() == ()
    assert files() == []


async def test_files_of_another_machine_are_ignored_and_left_alone(engine: RunningEngine) -> None:
    engine.observe(_LOADED)
    await published()
    (file,) = files()
    file.write_text(json.dumps(json.loads(file.read_bytes()) | {"identity": "another-boot:5"}))

    assert read_running() == ()
    assert files() == [file]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"pid": "x"}', b"\xff\xfe"])
async def test_a_damaged_file_is_ignored(engine: RunningEngine, content: bytes) -> None:
    engine.observe(_LOADED)
    await published()
    files()[0].write_bytes(content)

    assert read_running() == ()


async def test_texts_from_other_programs_are_cleaned(engine: RunningEngine) -> None:
    engine.status = msgspec.structs.replace(engine.status, model="evil\x1b[2J\nmodel")
    engine.observe(_LOADED)
    await published()

    assert read_running()[0].model == "evil[2J model"


def test_nothing_runs_where_nothing_was_started() -> None:
    assert read_running() == ()


def test_a_rate_is_tokens_over_time_since_the_last_one() -> None:
    rate = LiveRate(interval_s=1.0)

    told = [
        rate.observe(n_tokens=n, now_s=s) for n, s in [(1, 0.0), (5, 0.5), (21, 2.0), (51, 3.0), (1, 3.1)]
    ]

    assert told == [None, None, 10.0, 30.0, None]
