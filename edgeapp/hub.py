"""Download from the Hugging Face hub: a GGUF into the store, or the files of a checkpoint one by one.

The only importer of huggingface_hub.

huggingface_hub 2.4 deletes its temporary file when a download is interrupted and compares sizes only, so
the part file, its continuation and the sha256 comparison are ours; requests, authentication and retries
are the library's. Where the hub is, and with which token, follows its own HF_* variables.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx2

from edgeapp import durable, paths, store
from edgeapp.cleantext import clean_line
from edgeapp.errors import DownloadError, EdgeappError, ModelNotFound, NotEnoughDisk, VerificationFailed
from edgeapp.partfile import DownloadProgress, PartFile, ProgressMeter
from edgeapp.quants import RemoteFile, RemoteModel, choose, models_in
from edgeapp.references import HubRef

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from huggingface_hub import ModelInfo

    Listener = Callable[[DownloadProgress], None]

_FLOOR_BYTES = 1 << 30  # what a download leaves free on the disk
_CHUNK_BYTES = 1 << 20  # how often progress is told, and the most that an interrupt loses
_RANGE_CHUNK_BYTES = 1 << 16
_MAX_IN_GIT_BYTES = 10 << 20  # the hub takes larger files only with their sha256
_METADATA_TIMEOUT_S = 30.0
_MAX_FRUITLESS_TRIES = 5  # as http_get itself does for time-outs
_RETRY_WAIT_S = 1.0
_TRUE = {"1", "ON", "YES", "TRUE"}  # huggingface_hub/constants.py, ENV_VARS_TRUE_VALUES
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_HEX64 = frozenset("0123456789abcdef")


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository at one commit."""

    name: str
    commit: str
    licence: str
    files: tuple[RemoteFile, ...]
    blob_ids: Mapping[str, str]
    """Git's name of each file's content, by path: what a file without sha256 is verified with."""


def is_offline(*, offline: bool) -> bool:
    """Whether the network is off limits, by our own setting or by huggingface_hub's variables."""
    variables = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return offline or any(os.environ.get(name, "").upper() in _TRUE for name in variables)


def download(ref: HubRef, *, offline: bool, on_progress: Listener) -> store.StoredModel:
    """Bring `ref` into the store, continuing an interrupted download, and return it.

    Raise `ModelNotFound` for what the hub does not have, `VerificationFailed` when the content is not what
    the hub announced, and `DownloadError` for everything else: offline, no network, access, disk space.
    """
    if is_offline(offline=offline):
        raise DownloadError(
            f"{ref} is not on this machine and downloads are switched off.",
            hint="Unset HF_HUB_OFFLINE and `offline`, or give the path of a .gguf file.",
        )
    _prepare_library()
    with _translated(ref, paths.models_dir()):
        repo = _repo_at_commit(ref)
        model = choose(models_in(repo.files), repo=ref.repo, quant=ref.quant, file=ref.file)
        return _fetch(repo, model, on_progress=on_progress)


def open_repository(ref: HubRef) -> Repository:
    """Ask the hub what `ref` holds now. Raise `ModelNotFound` or `DownloadError`."""
    _prepare_library()
    with _translated(ref, paths.cache_dir()):
        return _repo_at_commit(ref)


def download_file(repo: Repository, file: RemoteFile, target: Path, *, on_progress: Listener) -> None:
    """Bring `file` of `repo` to `target`, continuing what an earlier try left in `target.part`.

    The content is compared with the sha256 that the hub announces, or for a small file with git's name of
    it, before it gets its own name. Raise `VerificationFailed`, `NotEnoughDisk` or `DownloadError`.
    """
    _prepare_library()
    part = target.with_name(f"{target.name}.part")
    with _translated(HubRef(repo=repo.name, revision=repo.commit), target.parent):
        paths.make_private(target.parent)
        if file.sha256 or file.size_bytes > _MAX_IN_GIT_BYTES or not repo.blob_ids.get(file.path):
            _require_checksum(file)
        _require_room(file, part)
        _fetch_file(repo, file, part, meter=ProgressMeter(total_bytes=file.size_bytes, listener=on_progress))
        durable.move(part, target)


def read_range(repo: Repository, file: RemoteFile, *, first_byte: int, n_bytes: int) -> bytes:
    """Return `n_bytes` of `file` from `first_byte` on, without downloading the rest.

    What comes is not verified, as its sha256 is that of the whole file. Raise `DownloadError`.
    """
    _prepare_library()
    with _translated(HubRef(repo=repo.name, revision=repo.commit), paths.cache_dir()):
        failures = 0
        while True:
            try:
                return _range(repo, file, first_byte, n_bytes)
            except httpx2.TransportError:
                failures += 1
                if failures == _MAX_FRUITLESS_TRIES:
                    raise
                time.sleep(_RETRY_WAIT_S)


def _range(repo: Repository, file: RemoteFile, first_byte: int, n_bytes: int) -> bytes:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status  # type: ignore[attr-defined] # public, not in __all__

    wanted = {"Range": f"bytes={first_byte}-{first_byte + n_bytes - 1}", "Accept-Encoding": "identity"}
    url = hf_hub_url(repo.name, file.path, revision=repo.commit)
    headers = build_hf_headers(library_name="edgeapp") | wanted
    with get_session().stream("GET", url, headers=headers, timeout=_METADATA_TIMEOUT_S) as response:
        hf_raise_for_status(response)
        is_part = response.status_code == HTTPStatus.PARTIAL_CONTENT
        if is_part != response.headers.get("Content-Range", "").startswith(f"bytes {first_byte}-"):
            raise DownloadError(f"{_endpoint()} answered with another part of {file.name} than asked for.")
        if first_byte and not is_part:
            raise DownloadError(
                f"{_endpoint()} does not serve parts of files, so {file.name} cannot be looked into.",
                hint="Download the repository as a whole and give its folder.",
            )
        data = bytearray()
        for chunk in response.iter_bytes(_RANGE_CHUNK_BYTES):
            data += chunk
            if len(data) >= n_bytes:  # a server that ignores the range would send the whole file
                break
    if len(data) < n_bytes:
        raise DownloadError(f"{_endpoint()} sent {len(data)} of {n_bytes} bytes of {file.name}.")
    return bytes(data[:n_bytes])


def _require_room(file: RemoteFile, part: Path) -> None:
    have_bytes = part.stat().st_size if part.exists() else 0
    needed_bytes = max(file.size_bytes - have_bytes, 0) + _FLOOR_BYTES
    free_bytes = shutil.disk_usage(part.parent).free
    if free_bytes < needed_bytes:
        raise NotEnoughDisk(
            f"{part.parent} has {free_bytes / 2**30:.1f} GiB free; {file.name} needs "
            f"{needed_bytes / 2**30:.1f} GiB, of which 1 GiB stays free.",
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
            hint="Free space, move everything with EDGEAPP_HOME, or delete each shard after its conversion.",
        )


def _repo_at_commit(ref: HubRef) -> Repository:
    from huggingface_hub import HfApi

    info = HfApi().model_info(
        ref.repo, revision=ref.revision, files_metadata=True, timeout=_METADATA_TIMEOUT_S
    )
    if not info.sha:
        raise DownloadError(f"The hub names no commit for {ref.repo}, so its content cannot be pinned.")
    files = tuple(
        RemoteFile(
            path=entry.rfilename,
            size_bytes=entry.lfs.size if entry.lfs else entry.size or 0,
            sha256=entry.lfs.sha256 if entry.lfs else "",
        )
        for entry in info.siblings or []
    )
    return Repository(
        name=ref.repo,
        commit=info.sha,
        licence=_licence_of(info),
        files=files,
        blob_ids={entry.rfilename: entry.blob_id or "" for entry in info.siblings or []},
    )


def _licence_of(info: ModelInfo) -> str:
    card = info.card_data
    named = card and (card.get("license_name") if card.get("license") == "other" else card.get("license"))
    return clean_line(str(named or ""), max_chars=80)


def _fetch(repo: Repository, model: RemoteModel, *, on_progress: Listener) -> store.StoredModel:
    for file in model.files:
        _require_checksum(file)
    folder = store.folder_for(
        repo=repo.name, quant=model.quant, sha256s=[file.sha256 for file in model.files]
    )
    present = next(
        (found for found in store.find(repo.name) if found.folder == folder and found.has_all_files()), None
    )
    if present:
        return present
    _require_disk_space(model)
    meter = ProgressMeter(total_bytes=model.size_bytes, listener=on_progress)
    for file in model.files:
        _fetch_file(repo, file, store.partial_path(file.sha256), meter=meter)
    for file in model.files:
        store.place(store.partial_path(file.sha256), folder=folder, name=file.name)
    return store.finish(folder, _manifest(repo, model))


def _manifest(repo: Repository, model: RemoteModel) -> store.Manifest:
    return store.Manifest(
        repo=repo.name,
        quant=model.quant,
        commit=repo.commit,
        licence=repo.licence,
        files=tuple(
            store.StoredFile(name=file.name, size_bytes=file.size_bytes, sha256=file.sha256)
            for file in model.files
        ),
        added=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _require_checksum(file: RemoteFile) -> None:
    from huggingface_hub import constants

    if len(file.sha256) != 64 or not _HEX64.issuperset(file.sha256):  # noqa: PLR2004 - hex digits of SHA-256
        raise DownloadError(f"The hub gives no sha256 for {file.path}, so it could not be verified.")
    if file.size_bytes > constants.MAX_HTTP_DOWNLOAD_SIZE:
        raise DownloadError(
            f"{file.path} has {file.size_bytes / 1e9:.0f} GB; the hub serves at most 50 GB per file.",
            hint="Choose a smaller quant, or a repository that splits the model.",
        )


def _require_disk_space(model: RemoteModel) -> None:
    have_bytes = sum(_size_of(file) for file in model.files)
    needed_bytes = model.size_bytes - have_bytes + _FLOOR_BYTES
    free_bytes = shutil.disk_usage(paths.make_private(paths.models_dir())).free
    if free_bytes < needed_bytes:
        raise DownloadError(
            f"{paths.models_dir()} has {free_bytes / 2**30:.1f} GiB free; the download needs "
            f"{needed_bytes / 2**30:.1f} GiB, of which 1 GiB stays free.",
            hint="`edgeapp models rm` frees space, EDGEAPP_HOME moves the store, a smaller quant needs less.",
        )


def _size_of(file: RemoteFile) -> int:
    part = store.partial_path(file.sha256)
    return part.stat().st_size if part.exists() else 0


def _fetch_file(repo: Repository, file: RemoteFile, part: Path, *, meter: ProgressMeter) -> None:
    with PartFile(part, name=file.name, meter=meter) as target:
        if target.tell() > file.size_bytes:
            target.truncate(0)
            target.seek(0)
        _transfer(repo, file, target)
        os.fsync(target.fileno())
        hashed_bytes = 0

        def count(n_bytes: int) -> None:
            nonlocal hashed_bytes
            hashed_bytes += n_bytes
            meter.verified(hashed_bytes, file=file.name, file_bytes=file.size_bytes)

        expected, actual = _checksums(repo, file, part, on_bytes=count)
        if actual != expected:
            part.unlink()
            raise VerificationFailed(
                f"{file.name} arrived damaged: its checksum is {actual}, the hub announced {expected}.",
                hint="The file was removed. Try again; if it happens again, do not trust this source.",
            )
    meter.finished(file.size_bytes)


def _checksums(
    repo: Repository, file: RemoteFile, part: Path, *, on_bytes: Callable[[int], None]
) -> tuple[str, str]:
    """Return the checksum that the hub announced and the content's: a sha256, or git's for a small file."""
    if file.sha256:
        return file.sha256, store.sha256_of(part, on_bytes=on_bytes)
    content = part.read_bytes()
    on_bytes(len(content))
    return repo.blob_ids[file.path], _blob_id(content)


def _blob_id(content: bytes) -> str:
    """Return git's name of a file's content (git-scm.com/book, Git Internals, Object Storage)."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _transfer(repo: Repository, file: RemoteFile, target: PartFile) -> None:
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # public, not in __all__

    url = hf_hub_url(repo.name, file.path, revision=repo.commit)
    failures = 0
    while True:
        start_bytes = target.seek(0, io.SEEK_END)
        try:
            http_get(
                url,
                target,
                resume_size=start_bytes,
                headers=build_hf_headers(library_name="edgeapp"),
                expected_size=file.size_bytes,
                displayed_filename=file.name,
            )
        except httpx2.NetworkError:
            # http_get continues after a time-out or an early end, but not after a connection reset.
            failures = 1 if target.seek(0, io.SEEK_END) > start_bytes else failures + 1
            if failures == _MAX_FRUITLESS_TRIES:
                raise
            time.sleep(_RETRY_WAIT_S)
        else:
            return


def _prepare_library() -> None:
    """Make huggingface_hub quiet and fine-grained; some of it is read when it is first imported."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import constants, logging

    constants.DOWNLOAD_CHUNK_SIZE = _CHUNK_BYTES
    logging.set_verbosity_error()  # type: ignore[no-untyped-call] # its warnings are our errors


@contextmanager
def _translated(ref: HubRef, folder: Path) -> Iterator[None]:
    """Turn what the library and the operating system raise into our errors; `folder` is written to."""
    from huggingface_hub import errors as hub_errors

    try:
        yield
    except EdgeappError:
        raise
    except hub_errors.GatedRepoError as problem:
        raise DownloadError(
            f"{ref.repo} is gated: its owner asks for agreement first.",
            hint=f"Accept the terms at {_endpoint()}/{ref.repo}, then set HF_TOKEN or run `hf auth login`.",
        ) from problem
    except hub_errors.RepositoryNotFoundError as problem:
        raise ModelNotFound(
            f"{_endpoint()} has no repository {ref.repo}, or it is private.",
            hint="Check the spelling; for a private repository set HF_TOKEN or run `hf auth login`.",
        ) from problem
    except (hub_errors.RevisionNotFoundError, hub_errors.RemoteEntryNotFoundError) as problem:
        missing = f"revision {ref.revision}" if ref.revision else "such file any more"
        raise ModelNotFound(f"{ref.repo} has no {missing}.") from problem
    except hub_errors.OfflineModeIsEnabled as problem:
        raise DownloadError("Downloads are switched off.", hint="Unset HF_HUB_OFFLINE.") from problem
    except hub_errors.HfHubHTTPError as problem:
        raise _refusal(ref, problem.response.status_code) from problem
    except httpx2.TransportError as problem:
        raise DownloadError(
            f"{_endpoint()} could not be reached: {_reason(problem)}.",
            hint="Check the network and HF_ENDPOINT. A download that had begun continues where it stopped.",
        ) from problem
    except OSError as problem:
        raise _local_failure(problem, folder) from problem


def _reason(problem: Exception) -> str:
    return clean_line(str(problem)).rstrip(".") or type(problem).__name__


def _refusal(ref: HubRef, status: int) -> DownloadError:
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return DownloadError(
            f"The hub refuses access to {ref.repo} (HTTP {status}).",
            hint=f"Accept its terms at {_endpoint()}/{ref.repo}, then set HF_TOKEN or run `hf auth login`.",
        )
    return DownloadError(
        f"{_endpoint()} answered HTTP {status} for {ref.repo}.",
        hint="Try again later: the download continues where it stopped.",
    )


def _local_failure(problem: OSError, folder: Path) -> DownloadError:
    if problem.errno in _DISK_FULL:
        return DownloadError(
            f"The disk is full or a size limit was reached at {folder}: {problem.strerror}.",
            hint="Free space and run the same command again: it continues where it stopped.",
        )
    if problem.errno is None:
        # http_get raises a bare OSError when the server sent another number of bytes than it announced.
        return DownloadError(
            "The server ended the transfer early.", hint="Run it again: it continues where it stopped."
        )
    return DownloadError(f"{folder} cannot be written: {problem.strerror}.")


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT
