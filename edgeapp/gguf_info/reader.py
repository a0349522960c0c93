"""Little-endian reads from the start of a file, fetched as they are needed.

Knows how long the file is and where the header must end, not what a header means. The file is read, never
mapped: a file that is cut while it is mapped kills the process.
"""

from __future__ import annotations

import os
import struct

from edgeapp.errors import InvalidModel, ModelUnreadable

MAX_HEADER_BYTES = 256 << 20
_FIRST_READ_BYTES = 4 << 20  # the whole header of most models, in one read of about a millisecond

_u32 = struct.Struct("<I").unpack_from
_u64 = struct.Struct("<Q").unpack_from


class HeaderReader:
    """A cursor over the header. Every read past the file's end raises `InvalidModel` with what is missing."""

    def __init__(self, fd: int, *, file_bytes: int, shown: str) -> None:
        self._fd = fd
        self.file_bytes = file_bytes
        self.shown = shown
        self.data = bytearray()
        self.position = 0

    def u32(self) -> int:
        self._need(self.position + 4)
        value: int = _u32(self.data, self.position)[0]
        self.position += 4
        return value

    def u64(self) -> int:
        self._need(self.position + 8)
        value: int = _u64(self.data, self.position)[0]
        self.position += 8
        return value

    def skip(self, n_bytes: int) -> int:
        """Move on by `n_bytes` that must exist; return where they start."""
        start = self.position
        self._need(start + n_bytes)
        self.position = start + n_bytes
        return start

    def string(self, *, max_bytes: int, what: str) -> bytes:
        n_bytes = self.u64()
        if n_bytes > max_bytes:
            raise InvalidModel(
                f"{self.shown}: {what} claims {n_bytes} bytes; at most {max_bytes} are accepted.",
                hint=DAMAGED,
            )
        start = self.skip(n_bytes)
        return bytes(self.data[start : self.position])

    def skip_strings(self, count: int, *, max_bytes: int, what: str) -> None:
        """Move on over `count` strings, looking at their lengths alone."""
        left = count
        while left:
            left = self._walk(left, max_bytes=max_bytes, what=what)
            if left:
                self._need(self.position + 8)
        self._need(self.position)

    def _walk(self, left: int, *, max_bytes: int, what: str) -> int:
        """Skip strings until they or the fetched bytes end. The tight loop of the parser: 300,000 rounds."""
        data, position, unpack = self.data, self.position, _u64
        try:
            while left:
                (n_bytes,) = unpack(data, position)
                if n_bytes > max_bytes:
                    raise InvalidModel(
                        f"{self.shown}: a string in {what} claims {n_bytes} bytes; "
                        f"at most {max_bytes} are accepted.",
                        hint=DAMAGED,
                    )
                position += 8 + n_bytes
                left -= 1
        except struct.error:
            pass  # the next length has not been fetched yet
        self.position = position
        return left

    def _need(self, end: int) -> None:
        if end <= len(self.data):
            return
        if end > MAX_HEADER_BYTES:
            raise InvalidModel(
                f"{self.shown}: the header does not end within {MAX_HEADER_BYTES >> 20} MiB.", hint=DAMAGED
            )
        wanted = max(end, 2 * len(self.data), _FIRST_READ_BYTES)
        self._fetch(min(wanted, MAX_HEADER_BYTES, self.file_bytes))
        if end > len(self.data):
            raise truncated(self.shown, missing_bytes=end - len(self.data), file_bytes=len(self.data))

    def _fetch(self, end: int) -> None:
        while len(self.data) < end:
            try:
                chunk = os.pread(self._fd, end - len(self.data), len(self.data))
            except OSError as problem:
                raise ModelUnreadable(
                    f"{self.shown} cannot be read: {problem.strerror}.",
                    hint="Check the disk or network share that holds it.",
                ) from problem
            if not chunk:
                return
            self.data += chunk


DAMAGED = "The file is damaged or hostile; download it again from a source you trust."


def truncated(shown: str, *, missing_bytes: int, file_bytes: int) -> InvalidModel:
    return InvalidModel(
        f"{shown} is truncated: it has {file_bytes} bytes, and at least {missing_bytes} more are missing.",
        hint="The download or copy did not finish; fetch the file again.",
    )
