"""Runs llama.cpp's convert_hf_to_gguf.py within bounds, in a Python that has torch but not edgeapp.

    python -I -B bridge_driver.py JOB        JOB is what `bridge.run_bridge` asks for, as JSON

The network is left before anything is imported, where the kernel permits it, and refused to Python in any
case, as are other programs and pickles. Python code of a checkpoint is never loaded.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import runpy
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # linux/sched.h
_FORBIDDEN = {
    *("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"),
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"),
    "pickle.find_class",
}
"""Events of the table in Python's documentation, "Audit events table"."""

_OPTIONS = {"outfile": "outfile", "outtype": "outtype", "model-name": "name"}


def main() -> None:
    job: dict[str, Any] = json.loads(sys.argv[1])
    die_with_parent(job["parent"])
    leave_network()
    limit(resource.RLIMIT_CORE, 0)
    limit(resource.RLIMIT_FSIZE, job["max_file_bytes"])
    limit(resource.RLIMIT_DATA, job["max_memory_bytes"])
    sys.addaudithook(refuse)
    sources = job["sources"]
    sys.path[:0] = [sources, f"{sources}/gguf-py"]
    refuse_remote_code()
    if job["pre"]:
        base = importlib.import_module("conversion.base")
        base.TextModel.get_vocab_base_pre = lambda *_: job["pre"]
    options = [f"--{name}={job[key]}" for name, key in _OPTIONS.items()]
    sys.argv = ["convert_hf_to_gguf.py", job["folder"], *options]
    runpy.run_path(f"{sources}/convert_hf_to_gguf.py", run_name="__main__")


def die_with_parent(parent: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit("edgeapp ended before its converter began.")


def leave_network() -> None:
    """Move into a network namespace without interfaces, as root or in a user namespace of one's own."""
    uid, gid = os.getuid(), os.getgid()
    if ctypes.CDLL(None).unshare(_CLONE_NEWNET) == 0:
        return
    if ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        sys.stderr.write("The kernel permits no network namespace; sockets are refused in Python only.\n")
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def limit(kind: int, most: int) -> None:
    _, hard = resource.getrlimit(kind)
    value = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (value, value))


def refuse(event: str, _arguments: tuple[object, ...]) -> None:
    if event in _FORBIDDEN:
        raise PermissionError(f"{event} is not for a converter.")


def refuse_remote_code() -> None:
    """The converter asks for `trust_remote_code` in ten of its modules; here it never gets it."""
    auto = importlib.import_module("transformers")
    for name in ("AutoConfig", "AutoTokenizer", "AutoProcessor", "AutoModel"):
        loader = getattr(auto, name)
        loader.from_pretrained = untrusting(loader.from_pretrained)
    dynamic = importlib.import_module("transformers.dynamic_module_utils")
    for name in ("get_cached_module_file", "get_class_in_module"):
        setattr(dynamic, name, refuse_code)


def untrusting(load: Callable[..., Any]) -> Callable[..., Any]:
    def from_pretrained(*arguments: Any, **options: Any) -> Any:
        return load(*arguments, **(options | {"trust_remote_code": False}))

    return from_pretrained


def refuse_code(*_arguments: object, **_options: object) -> NoReturn:
    raise PermissionError("the checkpoint brings Python code of its own, which is never run")


if __name__ == "__main__":
    main()
