"""A small imitation of the Hugging Face hub on loopback: model info, gated and missing repositories, ranges.

It answers what huggingface_hub 2.4 asks for: `/api/models/<repo>[/revision/<rev>]?blobs=True` and
`/<repo>/resolve/<commit>/<path>`. Faults are set on the `Hub` before or between requests.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import struct
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?")
_CDN = re.compile(r"/cdn/([^/]+/[^/]+)/(.+)")
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


def gguf_like(*, size_bytes: int, seed: int = 0) -> bytes:
    """Return content that starts as a GGUF v3 file does."""
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 0)
    return header + random.Random(seed).randbytes(size_bytes - len(header))


@dataclass
class Repo:
    """What one repository holds."""

    files: dict[str, bytes]
    gated: bool = False
    licence: str = "apache-2.0"
    announced_bytes: dict[str, int] = field(default_factory=dict)
    in_git: set[str] = field(default_factory=set)
    """Small files that are in git itself: the hub knows git's name of them and no sha256."""
    without_checksum: set[str] = field(default_factory=set)
    header_of: dict[str, bytes] = field(default_factory=dict)
    """What is sent instead of a file's content to whoever asks for a range with an end."""


@dataclass
class Hub:
    """The state of the imitation, and what it was asked."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    commit: str = COMMIT
    drop_after_bytes: list[int] = field(default_factory=list)
    """One entry per coming download: how much of the body is sent before the connection ends."""
    stall_after_bytes: int | None = None
    """Send this much of a body, then wait until `resume` is set."""
    resume: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    corrupt: bool = False
    """Flip one byte of every body, keeping its length."""
    faulty_file: str = ""
    """The only file that the three faults above happen to; empty for all."""
    ignore_ranges: bool = False
    redirect: bool = False
    """Send downloads to another host name, as the hub does with its CDN."""
    authorized_hosts: list[str] = field(default_factory=list)
    """The host of every request that carried a token."""
    status: int | None = None
    """Answer everything with this status."""
    ranges: list[tuple[str, int]] = field(default_factory=list)
    """(path, first byte) of every download request."""
    sent_bytes: dict[str, int] = field(default_factory=dict)
    """How much of each file's content was offered in answers."""
    agents: set[str] = field(default_factory=set)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Serve a `Hub` on a free port of loopback until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield hub
    finally:
        hub.resume.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class names it
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        self.state.agents.add(self.headers.get("User-Agent", ""))
        if "Authorization" in self.headers:
            self.state.authorized_hosts.append(self.headers["Host"].partition(":")[0])
        path = unquote(urlsplit(self.path).path)
        if self.state.status is not None:
            self._refuse(self.state.status, "")
        elif found := _API.fullmatch(path):
            self._answer_info(found[1], found[2])
        elif found := _CDN.fullmatch(path):
            self._send_file(found[2], self.state.repos[found[1]].files[found[2]], body=body)
        elif found := _RESOLVE.fullmatch(path):
            self._answer_file(found[1], found[3], body=body)
        else:
            self._refuse(404, "EntryNotFound")

    def _answer_info(self, name: str, revision: str | None) -> None:
        repo = self.state.repos.get(name)
        if repo is None:
            self._refuse(401, "RepoNotFound")
        elif revision not in {None, "main", self.state.commit}:
            self._refuse(404, "RevisionNotFound")
        else:
            info = {
                "id": name,
                "sha": self.state.commit,
                "cardData": {"license": repo.licence},
                "siblings": [self._sibling(repo, path) for path in [*repo.files, "README.md"]],
            }
            self._send(200, json.dumps(info).encode(), {"Content-Type": "application/json"})

    def _sibling(self, repo: Repo, path: str) -> dict[str, Any]:
        content = repo.files.get(path, b"")
        n_bytes = repo.announced_bytes.get(path, len(content))
        blob_id = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        sibling: dict[str, Any] = {"rfilename": path, "size": n_bytes}
        if path not in repo.without_checksum:
            sibling["blobId"] = blob_id
        if path in repo.files and path not in repo.without_checksum | repo.in_git:
            sha256 = hashlib.sha256(content).hexdigest()
            sibling["lfs"] = {"size": n_bytes, "sha256": sha256, "pointerSize": 134}
        return sibling

    def _answer_file(self, name: str, path: str, *, body: bool) -> None:
        repo = self.state.repos.get(name)
        if repo is None or path not in repo.files:
            self._refuse(404, "EntryNotFound")
        elif repo.gated and "Authorization" not in self.headers:
            self._refuse(403, "GatedRepo")
        elif self.state.redirect:
            port = self.state.url.rpartition(":")[2]
            self._send(302, b"", {"Location": f"http://localhost:{port}/cdn/{name}/{path}"})
        else:
            ends = re.fullmatch(r"bytes=\d+-\d+", self.headers.get("Range", ""))
            content = repo.header_of.get(path) if ends else None
            self._send_file(path, content or repo.files[path], body=body)

    def _send_file(self, path: str, content: bytes, *, body: bool) -> None:
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Linked-Size": str(len(content)),
            "X-Repo-Commit": self.state.commit,
            "Accept-Ranges": "bytes",
        }
        is_faulty = self.state.faulty_file in {"", path}
        if self.state.corrupt and is_faulty:
            content = content[:-1] + bytes([content[-1] ^ 1])
        if not body:
            self._send(200, b"", headers)
            return
        first, end = self._wanted(len(content))
        self.state.ranges.append((path, first))
        self.state.sent_bytes[path] = self.state.sent_bytes.get(path, 0) + end - first
        is_part = (first, end) != (0, len(content))
        if is_part:
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
        self._send(206 if is_part else 200, content[first:end], headers, is_faulty=is_faulty)

    def _wanted(self, n_bytes: int) -> tuple[int, int]:
        """Return the first byte that is asked for and the one behind the last."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or self.state.ignore_ranges:
            return 0, n_bytes
        return int(wanted[1]), min(int(wanted[2]) + 1, n_bytes) if wanted[2] else n_bytes

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b'{"error": "no"}', {"X-Error-Code": code, "X-Error-Message": "no"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, is_faulty: bool = False) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self._send_body(body, is_faulty=is_faulty)
        except ConnectionError:
            self.close_connection = True  # the client was interrupted, which is what some tests do

    def _send_body(self, body: bytes, *, is_faulty: bool) -> None:
        if is_faulty and self.state.drop_after_bytes:
            self.wfile.write(body[: self.state.drop_after_bytes.pop(0)])
            self.close_connection = True
        elif is_faulty and self.state.stall_after_bytes is not None:
            self.wfile.write(body[: self.state.stall_after_bytes])
            self.wfile.flush()
            self.state.stalled.set()
            self.state.resume.wait()
            self.close_connection = True
        else:
            self.wfile.write(body)
