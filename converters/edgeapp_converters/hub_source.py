"""A checkpoint on the Hugging Face hub, converted while it arrives: planned from headers, fetched by shards.

    cache/checkpoints/org--name--<commit>/    the small files, at once; each shard when its turn comes
        repository.json                       what the hub said, for runs without network

A shard is verified before it gets its name, and its header is then compared with the one that the plan was
made from, which came over the network unverified. The network itself is `edgeapp.hub`'s.
"""

from __future__ import annotations

import hashlib
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import msgspec

from edgeapp import durable, hub, paths
from edgeapp.cleantext import clean_line
from edgeapp.errors import DownloadError, InvalidCheckpoint, UsageError
from edgeapp.quants import RemoteFile
from edgeapp_converters.checkpoint import Checkpoint, read_shard_header
from edgeapp_converters.checkpoint_config import read_config, require_readable
from edgeapp_converters.checkpoint_index import INDEX, choose_shards, merge_tensors, parse_index
from edgeapp_converters.events import StageProgress
from edgeapp_converters.safetensors import read_header_with
from edgeapp_converters.shards import ShardFiles, content_sha256
from edgeapp_converters.small_files import (
    MAX_SMALL_FILE_BYTES,
    is_small_file,
    open_inside,
    read_small_file,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from edgeapp.partfile import DownloadProgress
    from edgeapp.references import HubRef
    from edgeapp_converters.events import Report
    from edgeapp_converters.source import SourceTensor

_RECORD = "repository.json"
_FIRST_BYTES = 1 << 17
"""Asked for first: most headers are shorter, and then one request is enough."""
_PARALLEL_REQUESTS = 8
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_MAX_FILES = 100_000


class _RecordedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    path: str
    size_bytes: int
    sha256: str


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A repository as it was when its small files were fetched."""

    repo: str
    commit: str
    licence: str
    files: tuple[_RecordedFile, ...]
    format: int = 1


def open_hub(ref: HubRef, *, offline: bool, keep_shards: bool, report: Report) -> Checkpoint:
    """Open the checkpoint in the repository `ref` without downloading its weights.

    Shards are downloaded by `fetch`, and deleted by `release` unless `keep_shards`; a later fetch of a
    deleted one downloads it again. Without network this works as far as an earlier run has brought things
    here. Raise `UsageError`, `ModelNotFound`, `DownloadError`, `VerificationFailed`, `NotEnoughDisk`,
    `InvalidCheckpoint` or `UnsupportedCheckpoint`.
    """
    if ref.quant or ref.file:
        raise UsageError(
            f"hf:{ref} names a quantised file, and a checkpoint is a whole repository.",
            hint=f"Write hf:{ref.repo}.",
        )
    remote = _Remote(_repository(ref, offline=offline), offline=offline, report=report)
    remote.fetch_small_files()
    index = parse_index(read_small_file(remote.folder, INDEX)) if INDEX in remote.files else {}
    shards = choose_shards(remote.names, index, shown=f"hf:{ref.repo}")
    config = read_config(remote.folder)
    require_readable(config)
    headers = remote.read_headers(shards)
    tensors = merge_tensors((tensor for header in headers.values() for tensor in header.values()), index)
    remote.write_record()
    source = HubSource(remote, shards, tensors=tensors, keep_shards=keep_shards)
    return Checkpoint(name=ref.repo.rpartition("/")[2], config=config, folder=remote.folder, source=source)


class HubSource:
    """The tensors of a repository's shards; a `TensorSource`. Shards have to be fetched before reading."""

    def __init__(
        self,
        remote: _Remote,
        shards: tuple[str, ...],
        *,
        tensors: Mapping[str, SourceTensor],
        keep_shards: bool,
    ) -> None:
        self.shards = shards
        self.tensors = tensors
        self.fingerprint = remote.fingerprint(shards)
        self._remote = remote
        self._keep_shards = keep_shards
        self._files = ShardFiles(partial(open_inside, remote.folder), {})
        self._fetched: set[str] = set()
        self._lock = threading.Lock()

    def fetch(self, shard: str) -> None:
        """Download `shard` if it is not here. Raise `InvalidCheckpoint` if its header is not the planned."""
        with self._lock:
            if shard in self._fetched:
                return
            self._remote.fetch(shard)
            header, stamp = read_shard_header(self._remote.folder, shard)
            self._require_planned(shard, header)
            self._files.expect(shard, stamp)
            self._files.descriptor(shard)
            self._fetched.add(shard)

    def release(self, shard: str) -> None:
        with self._lock:
            self._files.release(shard)
            self._fetched.discard(shard)
            if not self._keep_shards:
                self._remote.delete(shard)

    def read(self, tensor: SourceTensor, offset_bytes: int, into: memoryview) -> None:
        self._files.read(tensor, offset_bytes, into)

    def sha256(self) -> str:
        """Return what `LocalSource.sha256` returns for the same shards, from what the hub announced."""
        return content_sha256({shard: self._sha256_of(shard) for shard in self.shards})

    def close(self) -> None:
        self._files.close()

    def _sha256_of(self, shard: str) -> str:
        announced = self._remote.files[shard].sha256
        if announced:
            return announced
        self.fetch(shard)  # small enough to be in git itself
        return self._files.sha256_of(shard)

    def _require_planned(self, shard: str, header: Mapping[str, SourceTensor]) -> None:
        planned = {name: tensor for name, tensor in self.tensors.items() if tensor.shard == shard}
        if header != planned:
            raise InvalidCheckpoint(
                f"The header of {clean_line(shard)} is not the one that was read before its download.",
                hint="Run it again; if it happens again, do not trust this source.",
            )


class _Remote:
    """One commit of a repository, and the folder into which its files are brought."""

    def __init__(self, repo: hub.Repository, *, offline: bool, report: Report) -> None:
        if not _COMMIT.fullmatch(repo.commit) or len(repo.files) > _MAX_FILES:
            raise DownloadError(f"The hub describes {repo.name} in a way that cannot be right.")
        self._repo = repo
        self._offline = offline
        self._report = report
        self.folder = _folder(repo.name, repo.commit)
        self.files = {file.path: file for file in repo.files}
        self.names = {path for path in self.files if "/" not in path}

    def fetch_small_files(self) -> None:
        """Bring configuration, tokenizer and templates here."""
        wanted = [file for path, file in sorted(self.files.items()) if is_small_file(path)]
        for done, file in enumerate(wanted):
            self._tell("configuration and tokenizer", done, len(wanted))
            if file.size_bytes > MAX_SMALL_FILE_BYTES:
                raise InvalidCheckpoint(
                    f"{clean_line(file.path)} has {file.size_bytes} bytes, which such a file never needs."
                )
            self._bring(file, listener=lambda _: None)
        self._tell("configuration and tokenizer", len(wanted), len(wanted))

    def read_headers(self, shards: tuple[str, ...]) -> dict[str, dict[str, SourceTensor]]:
        """Return the header of every shard: from the file where it is here, else by requests for ranges."""
        headers: dict[str, dict[str, SourceTensor]] = {}
        with ThreadPoolExecutor(_PARALLEL_REQUESTS) as pool:
            for shard, header in zip(shards, pool.map(self._read_header, shards), strict=True):
                headers[shard] = header
                self._tell("headers of the shards", len(headers), len(shards))
        return headers

    def fetch(self, shard: str) -> None:
        """Download a shard, or the rest of it."""
        self._bring(self.files[shard], listener=self._listen)

    def delete(self, shard: str) -> None:
        (self.folder / shard).unlink(missing_ok=True)

    def fingerprint(self, shards: tuple[str, ...]) -> str:
        """Return what identifies the content: repository, commit, and the hashes of the shards."""
        lines = [self._repo.name, self._repo.commit, *(self.files[shard].sha256 for shard in shards)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def write_record(self) -> None:
        record = _Record(
            repo=self._repo.name,
            commit=self._repo.commit,
            licence=self._repo.licence,
            files=tuple(
                _RecordedFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)
                for file in self._repo.files
            ),
        )
        durable.write(self.folder / _RECORD, msgspec.json.encode(record))

    def _bring(self, file: RemoteFile, *, listener: hub.Listener) -> None:
        target = self.folder / file.path
        if self._is_here(file):
            return
        self._require_network(file.path)
        hub.download_file(self._repo, file, target, on_progress=listener)

    def _read_header(self, shard: str) -> dict[str, SourceTensor]:
        file = self.files[shard]
        if self._is_here(file):
            return read_shard_header(self.folder, shard)[0]
        self._require_network(shard)
        start = self._range(file, 0, min(_FIRST_BYTES, file.size_bytes))

        def read(first_byte: int, n_bytes: int) -> bytes:
            end = first_byte + n_bytes
            return start[first_byte:end] if end <= len(start) else self._range(file, first_byte, n_bytes)

        return read_header_with(read, file_bytes=file.size_bytes, shard=shard)

    def _range(self, file: RemoteFile, first_byte: int, n_bytes: int) -> bytes:
        if n_bytes == 0:
            return b""
        return hub.read_range(self._repo, file, first_byte=first_byte, n_bytes=n_bytes)

    def _is_here(self, file: RemoteFile) -> bool:
        """Whether it is complete: only verified files get their name."""
        target = self.folder / file.path
        return target.is_file() and target.stat().st_size == file.size_bytes

    def _require_network(self, path: str) -> None:
        if hub.is_offline(offline=self._offline):
            raise DownloadError(
                f"{clean_line(path)} of {self._repo.name} is not on this machine and downloads are "
                "switched off.",
                hint="Unset HF_HUB_OFFLINE and `offline`, or give a checkpoint folder.",
            )

    def _listen(self, progress: DownloadProgress) -> None:
        self._report(
            StageProgress(
                stage="downloading" if progress.phase == "downloading" else "checking",
                done=progress.done_bytes,
                total=progress.total_bytes,
                unit="bytes",
                label=progress.file,
            )
        )

    def _tell(self, label: str, done: int, total: int) -> None:
        self._report(StageProgress(stage="reading", done=done, total=total, unit="steps", label=label))


def _repository(ref: HubRef, *, offline: bool) -> hub.Repository:
    if not hub.is_offline(offline=offline):
        return hub.open_repository(ref)
    record = next(_records(ref), None)
    if record is None:
        raise DownloadError(
            f"hf:{ref.repo} is not on this machine and downloads are switched off.",
            hint="Unset HF_HUB_OFFLINE and `offline`, or give a checkpoint folder.",
        )
    files = tuple(
        RemoteFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256) for file in record.files
    )
    return hub.Repository(
        name=record.repo, commit=record.commit, licence=record.licence, files=files, blob_ids={}
    )


def _records(ref: HubRef) -> Iterator[_Record]:
    """The commits of a repository that are here, the one that was opened last first."""
    found = [path for path in _checkpoints().glob(f"*/{_RECORD}") if path.is_file()]
    for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            record = msgspec.json.decode(path.read_bytes(), type=_Record)
        except (OSError, msgspec.MsgspecError):
            continue
        if record.repo == ref.repo and ref.revision in {None, record.commit}:
            yield record


def _folder(repo: str, commit: str) -> Path:
    return paths.make_private(_checkpoints() / f"{repo.replace('/', '--')}--{commit[:12]}")


def _checkpoints() -> Path:
    return paths.cache_dir() / "checkpoints"
