"""GPUs behind llama.cpp's `rpc-server`, on this machine or in the local network, as devices of this process.

`EDGEAPP_RPC_SERVERS` names them: "host:port", several with commas between. A server that does not answer is
left out and becomes a sentence in `problems`: llama.cpp itself would abort the process. It also aborts when
a server is lost later, while it holds a part of the model. The protocol is neither encrypted nor
authenticated: for loopback and trusted networks only.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

from edgeapp.engine.bindings.library import ggml_function

ENVIRONMENT_NAME = "EDGEAPP_RPC_SERVERS"
ANSWER_TIMEOUT_S = 2.0
_HELLO = 14  # ggml-rpc.cpp, enum rpc_cmd
_CAPABILITIES_BYTES = 24  # ggml-rpc/transport.h, RPC_CONN_CAPS_SIZE
_MAJOR_VERSION = 7  # ggml-rpc.h, RPC_PROTO_MAJOR_VERSION; another one makes llama.cpp abort
_handle = ctypes.c_void_p

problems: list[str] = []
"""One sentence for each server that cannot be used."""


def register_rpc_servers() -> None:
    """Make the devices of each server that answers known to ggml."""
    problems.clear()
    wanted = (endpoint.strip() for endpoint in os.environ.get(ENVIRONMENT_NAME, "").split(","))
    for endpoint in filter(None, wanted):
        problem = _refusal(endpoint) or _register(endpoint)
        if problem:
            problems.append(problem)
            sys.stderr.write(problem + "\n")


def _register(endpoint: str) -> str:
    registry = ggml_function("ggml_backend_reg_by_name", _handle, ctypes.c_char_p)(b"RPC")
    if not registry:
        return "This build of the engine cannot use GPUs of other machines (GGML_RPC=ON is missing)."
    find = ggml_function("ggml_backend_reg_get_proc_address", _handle, _handle, ctypes.c_char_p)
    add = ctypes.CFUNCTYPE(_handle, ctypes.c_char_p)(find(registry, b"ggml_backend_rpc_add_server"))
    server = add(endpoint.encode())
    if not server:
        return f"The RPC server {endpoint} has no device."
    ggml_function("ggml_backend_register", None, _handle)(server)
    return ""


def _refusal(endpoint: str) -> str:
    """Return why the server cannot be used, after a handshake of our own; empty when it can."""
    host, _, port = endpoint.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        return f"{endpoint!r} in {ENVIRONMENT_NAME} is not host:port."
    try:
        version = _version(host, int(port))
    except TimeoutError:
        return (
            f"The RPC server {endpoint} does not answer within {ANSWER_TIMEOUT_S:.0f} s: "
            "it hangs, or works for another program."
        )
    except (OSError, struct.error) as problem:
        return f"The RPC server {endpoint} cannot be reached: {problem}."
    if version != _MAJOR_VERSION:
        return f"The RPC server {endpoint} speaks version {version} of the protocol, not {_MAJOR_VERSION}."
    return ""


def _version(host: str, port: int) -> int:
    """Say hello as ggml-rpc.cpp does (`negotiate_hello`) and return the server's major version."""
    import socket  # milliseconds that only this needs

    with socket.socket() as server:
        server.settimeout(ANSWER_TIMEOUT_S)
        server.connect((host, port))
        server.sendall(struct.pack(f"<BQ{_CAPABILITIES_BYTES}x", _HELLO, _CAPABILITIES_BYTES))
        with server.makefile("rb") as answers:
            _n_bytes, major = struct.unpack("<QB", answers.read(9))
        return int(major)
