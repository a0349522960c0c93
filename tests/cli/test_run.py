"""`edgeapp run` as a script sees it: plain text, JSON, exit codes, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.cli.processes import COMMAND, assert_gone, edgeapp, wait_for, workers_of
from tests.tiny_lora import write_tiny_lora

if TYPE_CHECKING:
    from pathlib import Path


DENSE_DEMO = "smollm2-135m"


def test_a_prompt_is_answered_as_plain_text() -> None:
    done = edgeapp("run", DENSE_DEMO, "-p", "Say hello.", "--temp", "0", "--max-tokens", "12")
    assert done.returncode == 0
    assert done.stdout.strip()
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_json_prints_one_object_with_the_documented_keys() -> None:
    done = edgeapp("run", DENSE_DEMO, "-p", "Say hello.", "--temp", "0", "--max-tokens", "12", "--json")
    result = json.loads(done.stdout)
    assert {"text", "finish_reason", "usage", "timings", "model"} <= set(result)
    assert set(result["usage"]) >= {"prompt_tokens", "completion_tokens", "cached_tokens"}
    assert set(result["timings"]) >= {"load_s", "ttft_s", "prompt_tps", "decode_tps"}
    assert result["model"] == "SmolLM2-135M-Instruct"
    assert result["usage"]["completion_tokens"] <= 12


def test_greedy_answers_are_the_same_twice(tiny_moe: Path) -> None:
    runs = [edgeapp("run", tiny_moe, "-p", "Hello", "--temp", "0", "--max-tokens", "30") for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stdout.strip()


def test_a_seed_makes_sampling_repeatable(tiny_moe: Path) -> None:
    arguments = ("run", tiny_moe, "-p", "Hello", "--max-tokens", "30", *ENDLESS)
    runs = [edgeapp(*arguments, "--seed", seed).stdout for seed in ("5", "5", "6")]
    assert runs[0] == runs[1] != runs[2]


def test_piped_text_is_the_prompt(tiny_moe: Path) -> None:
    piped = edgeapp("run", tiny_moe, "--json", "--temp", "0", "--max-tokens", "1", stdin="Hello there")
    given = edgeapp("run", tiny_moe, "--json", "--temp", "0", "--max-tokens", "1", "-p", "Hello there")
    assert json.loads(piped.stdout)["usage"] == json.loads(given.stdout)["usage"]


def test_piped_text_comes_before_the_prompt(tiny_moe: Path) -> None:
    both = edgeapp("run", tiny_moe, "--json", "--max-tokens", "1", "-p", "Sum up:", stdin="A long report.")
    alone = edgeapp("run", tiny_moe, "--json", "--max-tokens", "1", "-p", "Sum up:")
    counts = [json.loads(run.stdout)["usage"]["prompt_tokens"] for run in (both, alone)]
    assert counts[0] > counts[1]


def test_a_system_prompt_reaches_the_model(tiny_moe: Path) -> None:
    arguments = ("run", tiny_moe, "--json", "--max-tokens", "1", "-p", "Hi")
    plain, told = edgeapp(*arguments), edgeapp(*arguments, "--system", "Be brief, please.")
    counts = [json.loads(run.stdout)["usage"]["prompt_tokens"] for run in (told, plain)]
    assert counts[0] > counts[1]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("run", "missing.gguf", "-p", "x"), 1, "missing.gguf"),
        (("run", "no-such-name", "-p", "x"), 1, "no-such-name"),
        (("run", DENSE_DEMO, "-p", "x", "--temp", "-1"), 2, "temp"),
        (("run", DENSE_DEMO, "-p", "x", "--top-p", "0"), 2, "top_p"),
        (("run", DENSE_DEMO, "-p", "x", "--ctx", "10"), 2, "ctx"),
        (("run", DENSE_DEMO, "-p", "x", "--ctx", "1000000"), 2, "1000000"),
        (("run", DENSE_DEMO, "-p", "x", "--max-tokens", "many"), 2, "many"),
        (("run", "--no-such-option"), 2, "no-such-option"),
        (("run", DENSE_DEMO), 2, "prompt"),
    ],
)
def test_bad_input_is_one_sentence_and_an_exit_code(
    arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    done = edgeapp(*arguments)
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_failure_with_json_is_a_json_object_too(tmp_path: Path, tiny_moe: Path) -> None:
    long_prompt = "word " * 3000
    done = edgeapp("run", tiny_moe, "--json", stdin=long_prompt)
    assert done.returncode == 1
    assert json.loads(done.stdout)["error"]["code"] == "context_overflow"


def test_a_folder_and_an_unreadable_file_are_refused_with_a_sentence(tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("this is not a model at all, only text that somebody renamed")
    for path in (tmp_path, text):
        done = edgeapp("run", path, "-p", "x")
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr


ENDLESS = ("--temp", "5", "--top-k", "0", "--top-p", "1", "--min-p", "0")
"""Random text over the whole vocabulary, which hardly ever hits the end-of-answer token."""


def _start(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
)
def test_a_signal_while_answering_leaves_no_process_behind(
    demo_model: Path, number: signal.Signals, code: int
) -> None:
    with _start("run", demo_model, "-p", "Hello", *ENDLESS) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        workers = workers_of(process.pid)
        assert workers
        os.kill(process.pid, number)
        rest, errors = process.communicate(timeout=30)
    assert_gone(workers)
    assert b"Traceback" not in errors
    assert process.returncode == code
    if number != signal.SIGKILL:
        assert rest.endswith(b"\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_while_loading_leaves_no_process_behind(demo_model: Path, number: signal.Signals) -> None:
    with _start("run", demo_model, "-p", "Hello", *ENDLESS) as process:
        wait_for(lambda: bool(workers_of(process.pid)), what="the worker starts")
        workers = workers_of(process.pid)
        os.kill(process.pid, number)
        _, errors = process.communicate(timeout=30)
    assert_gone(workers)
    assert b"Traceback" not in errors


def test_a_reader_that_goes_away_ends_the_command(demo_model: Path) -> None:
    with _start("run", demo_model, "-p", "Hello", *ENDLESS) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        workers = workers_of(process.pid)
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=30)
    assert_gone(workers)
    assert b"Traceback" not in errors


def _shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_closed_and_broken_standard_streams_give_no_traceback(tiny_moe: Path, redirection: str) -> None:
    command = " ".join([*COMMAND, "run", str(tiny_moe), "-p", "hi", "--max-tokens", "4"])
    done = _shell(f"{command} {redirection}")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert done.returncode == (1 if "full" in redirection else 0)


def test_an_ascii_locale_gets_question_marks_instead_of_a_traceback(tiny_moe: Path) -> None:
    command = " ".join(
        [*COMMAND, "run", str(tiny_moe), "-p", "hi", "--max-tokens", "60", *ENDLESS, "--seed", "3"]
    )
    done = _shell(f"PYTHONIOENCODING=ascii {command}")
    assert (done.returncode, done.stderr) == (0, "")
    assert "?" in done.stdout


def test_an_argument_that_is_not_utf8_is_read_with_replacement_characters(tiny_moe: Path) -> None:
    command: list[str | bytes] = [*COMMAND, "run", str(tiny_moe), "--max-tokens", "2", "-p", b"caf\xe9"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_second_control_c_ends_the_command_although_the_engine_hangs(demo_model: Path) -> None:
    with _start("run", demo_model, "-p", "Hello", *ENDLESS) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        workers = workers_of(process.pid)
        workers[0].suspend()
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert_gone(workers)
    assert process.returncode == 130
    assert b"Traceback" not in errors


def test_a_signal_that_nohup_ignores_stays_ignored(tiny_moe: Path) -> None:
    command = " ".join([*COMMAND, "run", str(tiny_moe), "-p", "hi", "--max-tokens", "3"])
    done = _shell(f"trap '' HUP; {command} & pid=$!; sleep 0.4; kill -HUP $pid; wait $pid")
    assert done.returncode == 0


# What the answer must match, and what comes with it -----------------------------------------------------


def test_an_answer_obeys_a_schema(demo_model: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Ann", "Bob"]}, "age": {"type": "integer", "maximum": 99}},
        "required": ["name", "age"],
        "additionalProperties": False,
    }
    done = edgeapp("run", demo_model, "-p", "A person:", "--temp", "0", "--json-schema", json.dumps(schema))
    person = json.loads(done.stdout)
    assert person["name"] in ("Ann", "Bob")
    assert set(person) == {"name", "age"}


def test_log_probabilities_spell_the_answer(demo_model: Path) -> None:
    arguments = ("-p", "Say yes or no.", "--temp", "0", "--regex", "yes|no", "--json", "--logprobs", "2")
    result = json.loads(edgeapp("run", demo_model, *arguments).stdout)
    assert result["text"] in ("yes", "no")
    assert bytes(byte for item in result["logprobs"] for byte in item["bytes"]).decode() == result["text"]
    assert all(len(item["top"]) == 2 and item["logprob"] <= 0 for item in result["logprobs"])


def test_fewer_experts_give_another_answer(tiny_moe: Path) -> None:
    arguments = ("run", tiny_moe, "-p", "Hello", "--temp", "0", "--max-tokens", "12")
    assert edgeapp(*arguments, "--experts", "1").stdout != edgeapp(*arguments).stdout
    refused = edgeapp(*arguments, "--experts", "9")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "9 experts per token" in refused.stderr


def test_a_system_prompt_is_read_only_once_between_starts(demo_model: Path) -> None:
    system = "You are a patient teacher. " * 10
    arguments = ("run", demo_model, "-p", "Hi", "--max-tokens", "1", "--json", "--system", system)
    first, second = (json.loads(edgeapp(*arguments).stdout)["usage"] for _ in range(2))
    assert first["cached_tokens"] == 0
    assert second["cached_tokens"] > 40


def test_an_adapter_changes_the_answer(tiny_moe: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "style.gguf"
    write_tiny_lora(adapter, tiny_moe)
    arguments = ("run", tiny_moe, "-p", "Hello", "--temp", "0", "--max-tokens", "12")
    plain, adapted, off = (
        edgeapp(*arguments, *more).stdout
        for more in ((), ("--lora", f"{adapter}=4"), ("--lora", f"{adapter}=0"))
    )
    assert adapted != plain == off


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (("--json-schema", '{"type": "foo"}'), 2, "must be one or more of"),
        (("--regex", "("), 2, "closing parenthesis"),
        (("--grammar", __file__), 2, "a rule's name"),
        (("--lora", __file__), 1, "not a GGUF"),
        (("--logprobs", "1"), 2, "--json"),
        (("--draft-model", DENSE_DEMO, "--draft", "off"), 2, "guessing is off"),
        (("--cache-ram", "900T"), 2, "--cache-ram"),
    ],
)
def test_a_choice_that_cannot_be_kept_is_one_sentence(
    tiny_moe: Path, flags: tuple[str, ...], code: int, sentence: str
) -> None:
    done = edgeapp("run", tiny_moe, "-p", "x", "--max-tokens", "2", *flags)
    assert (done.returncode, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
