"""Time from process start to the first token, of `edgeapp --help`, and the CPU an idle chat uses.

The peer is llama-completion with the same prompt, already rendered with the model's chat template.
Both run with the model in the page cache, in turn. Target: no more than the peer's time + 0.3 s.
"""

from __future__ import annotations

import subprocess
import sys
import time

import pexpect
import psutil

from benchmarks._engines import demo_model, machine, n_threads, peer, ratio, row

N_RUNS = 9
IDLE_S = 10.0
PROMPT = "Tell me a long story about the sea."
RENDERED = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
)
EDGEAPP = [sys.executable, "-m", "edgeapp"]


def first_byte_s(command: list[str]) -> float:
    """Return the seconds until the command has written its first byte to stdout."""
    started_s = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        elapsed_s = time.perf_counter() - started_s
        process.kill()
    assert first, command
    return elapsed_s


def idle_cpu_percent() -> float:
    """Return the CPU of the chat's two processes over `IDLE_S` seconds, in percent of one core."""
    chat = pexpect.spawn(EDGEAPP[0], [*EDGEAPP[1:], "run"], dimensions=(30, 100), timeout=60)
    chat.expect("ready")
    time.sleep(1)
    everyone = [psutil.Process(chat.pid), *psutil.Process(chat.pid).children(recursive=True)]
    before_s = sum(sum(process.cpu_times()[:2]) for process in everyone)
    time.sleep(IDLE_S)
    used_s = sum(sum(process.cpu_times()[:2]) for process in everyone) - before_s
    chat.sendcontrol("q")
    chat.expect(pexpect.EOF)
    return 100 * used_s / IDLE_S


def main() -> None:
    model, threads = demo_model(), str(n_threads())
    machine()
    ours_command = [*EDGEAPP, "run", str(model), "-p", PROMPT, "--temp", "0", "--threads", threads]
    theirs_command = [
        str(peer("llama-completion")), "-m", str(model), "-p", RENDERED, "-t", threads, "-c", "8192",
        "--temp", "0", "-n", "16", "-no-cnv", "--no-display-prompt",
    ]  # fmt: skip
    first_byte_s(ours_command)
    first_byte_s(theirs_command)
    ours, theirs, help_s = [], [], []
    for _ in range(N_RUNS):
        ours.append(first_byte_s(ours_command))
        theirs.append(first_byte_s(theirs_command))
        help_s.append(first_byte_s([*EDGEAPP, "--help"]))
    row("edgeapp run, first token", ours, "s")
    row("llama-completion, first token", theirs, "s")
    ratio("edgeapp / llama-completion", ours, theirs)
    row("difference", [a - b for a, b in zip(ours, theirs, strict=True)], "s")
    row("edgeapp --help", help_s, "s")
    print(f"{'idle chat, both processes':<38} {idle_cpu_percent():9.2f} % of one core")


if __name__ == "__main__":
    main()
