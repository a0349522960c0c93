"""Is the engine there, and what was it built for? Asked the way the application asks: a child says hello."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass

import msgspec

from edgeapp import protocol
from edgeapp.cleantext import clean_line
from edgeapp.doctor.finding import Finding
from edgeapp.runtime.supervisor import worker_command

_WORKER_TIMEOUT_S = 30


@dataclass(frozen=True, kw_only=True)
class EngineAnswer:
    """The worker's greeting, or why there is none."""

    hello: protocol.Hello | None
    problem: str = ""


def ask_engine() -> EngineAnswer:
    """Start a worker without a model, read its greeting and let it go."""
    # communicate() closes the worker's input at once, which is its sign to end after the greeting.
    try:
        done = subprocess.run(
            worker_command(), input=b"", capture_output=True, timeout=_WORKER_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return EngineAnswer(hello=None, problem=f"no answer within {_WORKER_TIMEOUT_S} s")
    first, _, _ = done.stdout.partition(b"\n")
    return read_greeting(first, stderr=done.stderr.decode(errors="replace"), status=done.returncode)


def read_greeting(line: bytes, *, stderr: str, status: int) -> EngineAnswer:
    try:
        event = protocol.decode_event(line) if line else None
    except msgspec.MsgspecError:
        return EngineAnswer(
            hello=None, problem=f"not understood: {clean_line(line.decode(errors='replace'))}"
        )
    match event:
        case protocol.Hello():
            return EngineAnswer(hello=event)
        case protocol.Failed(message=message):
            return EngineAnswer(hello=None, problem=clean_line(message))
        case _:
            last_words = stderr.strip().splitlines()[-1:] or [f"exit status {status}"]
            return EngineAnswer(hello=None, problem=clean_line(last_words[0]))


def check_engine(answer: EngineAnswer) -> Finding:
    if answer.hello is None:
        fix = "run `make run` to build the engine; elsewhere reinstall the llama-cpp-python that edgeapp pins"
        return Finding(
            check="engine", level="fail", found=f"the engine does not start: {answer.problem}", fix=fix
        )
    hello = answer.hello
    if hello.protocol_version != protocol.PROTOCOL_VERSION:
        found = f"the engine speaks protocol {hello.protocol_version}, not {protocol.PROTOCOL_VERSION}"
        return Finding(check="engine", level="fail", found=found, fix="reinstall edgeapp")
    backends = sorted({device.name.rstrip("0123456789") for device in hello.devices})
    features = " ".join(enabled_features(hello.system_info))
    found = f"llama-cpp-python {hello.binding_version}, {', '.join(backends) or 'no devices'}"
    return Finding(check="engine", level="ok", found=f"{found} ({features})" if features else found)


def enabled_features(system_info: str) -> tuple[str, ...]:
    """Return the CPU and GPU features in llama.cpp's system info: `CPU : SSE3 = 1 | AVX2 = 1 | …`."""
    return tuple(re.findall(r"(\w+) = 1\b", system_info))


def gpu_devices(answer: EngineAnswer) -> tuple[str, ...]:
    devices = answer.hello.devices if answer.hello else ()
    return tuple(device.description for device in devices if device.kind in ("gpu", "igpu"))
