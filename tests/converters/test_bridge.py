"""llama.cpp's converter behind our quantiser: what it may see and do, what is told when it fails.

Most tests put a stand-in in its place (`bridge_stand_in.py`). The real one is compared with our own
conversion where the variables of `record.py` name it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

from edgeapp import paths
from edgeapp.errors import ConversionFailed, EdgeappError, NotEnoughDisk, UnsupportedCheckpoint
from edgeapp.hardware import read_host
from edgeapp_converters import bridge, bridge_driver
from edgeapp_converters.bridge_environment import PYTHON_VARIABLE, SOURCES_VARIABLE, bridge_folder
from edgeapp_converters.checkpoint import open_folder
from edgeapp_converters.events import StageProgress, Warned
from edgeapp_converters.general_metadata import file_type_metadata
from edgeapp_converters.opening import open_model
from edgeapp_converters.recipe import choose_types, load_recipe
from edgeapp_converters.writer import write_gguf
from tests.converters.bridge_stand_in import CONVERT, write_sources
from tests.converters.checkpoints import write_checkpoint
from tests.converters.record import facts_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeapp_converters.events import ConversionEvent
    from edgeapp_converters.opening import OpenedModel

ORACLE = os.environ.get("EDGEAPP_BRIDGE_PYTHON")
LLAMA_CPP = os.environ.get("EDGEAPP_LLAMA_CPP")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("original") / "tiny-qwen", "qwen3", n_shards=2)


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """One that a test may change."""
    return shutil.copytree(original, tmp_path / "tiny-qwen")


@pytest.fixture
def stand_in(tmp_path: Path, tiny_moe: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a converter in place that runs a script; the default one makes the tiny MoE of everything."""

    def install(script: str = CONVERT) -> None:
        sources = write_sources(tmp_path / "sources", tiny_moe, script)
        monkeypatch.setenv(SOURCES_VARIABLE, str(sources))
        monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)

    return install


def _open(folder: Path, *, pre: str | None = None) -> OpenedModel:
    return bridge.open_bridged(folder, pre=pre, report=lambda _: None)


def _said_by(folder: Path, *, pre: str | None = None) -> str:
    """Run the converter and return what it printed."""
    _open(folder, pre=pre).source.close()
    return (paths.log_dir() / "bridge.log").read_text()


def _leftovers() -> list[str]:
    return [path.name for path in bridge_folder().glob("checkpoint-*")]


# The source that comes of it -----------------------------------------------------------------------------


def test_what_the_converter_wrote_is_read_under_the_checkpoint_s_name(
    checkpoint: Path, tiny_moe: Path, stand_in: Callable[..., None]
) -> None:
    stand_in()
    opened = _open(checkpoint)
    written = open_model(tiny_moe, report=lambda _: None)
    assert opened.name == "tiny-qwen"
    assert opened.tokenizer_folder == checkpoint
    assert [t.name for t in opened.plan.tensors] == [t.name for t in written.plan.tensors]
    assert opened.metadata == written.metadata
    assert _bytes(opened, "output_norm.weight") == _bytes(written, "output_norm.weight")
    opened.source.close()
    written.source.close()


def _bytes(opened: OpenedModel, name: str) -> bytes:
    tensor = opened.source.tensors[name]
    read = bytearray(tensor.n_bytes)
    opened.source.read(tensor, 0, memoryview(read))
    return bytes(read)


def test_its_hash_is_the_checkpoint_s_own(checkpoint: Path, stand_in: Callable[..., None]) -> None:
    stand_in()
    opened, original = _open(checkpoint), open_folder(checkpoint)
    assert opened.source.sha256() == original.source.sha256()
    opened.source.close()
    original.source.close()


def test_the_file_in_between_is_gone_when_the_source_is_closed(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    stand_in()
    opened = _open(checkpoint)
    assert len(_leftovers()) == 1
    opened.source.close()
    assert _leftovers() == []


def test_a_second_run_has_the_same_fingerprint_so_that_a_part_can_be_continued(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    stand_in()
    fingerprints = []
    for pre in (None, None, "smollm"):
        opened = _open(checkpoint, pre=pre)
        fingerprints.append(opened.source.fingerprint)
        opened.source.close()
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


def test_after_a_kill_the_finished_file_is_used_again(
    checkpoint: Path, stand_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in()
    killed = _open(checkpoint)
    os.close(killed.source._workplace._lock)  # type: ignore[attr-defined] # as the kernel does
    monkeypatch.setenv(SOURCES_VARIABLE, "/nonexistent")
    _open(checkpoint).source.close()
    assert _leftovers() == []


def test_two_processes_do_not_share_the_file_in_between(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    stand_in()
    first = _open(checkpoint)
    with pytest.raises(ConversionFailed, match="Another process"):
        _open(checkpoint)
    assert len(_leftovers()) == 1
    first.source.close()


def test_what_a_killed_process_left_is_removed_but_not_what_another_works_in(
    original: Path, tmp_path: Path, stand_in: Callable[..., None]
) -> None:
    stand_in()
    killed, working, last = (
        _open(shutil.copytree(original, tmp_path / name)) for name in ("killed", "working", "last")
    )
    assert len(_leftovers()) == 3
    os.close(killed.source._workplace._lock)  # type: ignore[attr-defined] # as the kernel does
    last.source.close()
    _open(tmp_path / "last").source.close()
    assert _leftovers() == [working.source._workplace.folder.name]  # type: ignore[attr-defined]
    working.source.close()


def test_progress_ends_with_all_of_it_done(checkpoint: Path, stand_in: Callable[..., None]) -> None:
    stand_in()
    events: list[ConversionEvent] = []
    bridge.open_bridged(checkpoint, report=events.append).source.close()
    steps = [event for event in events if isinstance(event, StageProgress)]
    assert (steps[0].done, steps[-1].done) == (0, steps[-1].total)


@pytest.mark.parametrize(("name", "out_type"), [("qwen3", "bf16"), ("mixtral", "f16"), ("gpt_oss", "bf16")])
def test_weights_keep_their_16_bit_type(
    name: str, out_type: str, tmp_path: Path, stand_in: Callable[..., None]
) -> None:
    stand_in("print(sys.argv)" + CONVERT)
    assert f"'--outtype={out_type}'" in _said_by(write_checkpoint(tmp_path / name, name))


# What the converter sees ---------------------------------------------------------------------------------

_LISTING = """
folder = sys.argv[1]
print("FILES", *sorted(os.listdir(folder)))
print("CONFIG", open(folder + "/config.json").read())
"""


def test_the_converter_sees_the_shards_and_small_files_and_nothing_else(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    (checkpoint / "modeling_evil.py").write_text("raise SystemExit")
    (checkpoint / "pytorch_model.bin").write_bytes(b"pickle")
    (checkpoint / "mask.pt").write_bytes(b"pickle")
    (checkpoint / "notes.txt").symlink_to("/etc/hostname")
    stand_in(_LISTING + CONVERT)
    listed = re.search(r"FILES (.*)", _said_by(checkpoint))
    assert listed is not None
    assert listed[1].split() == [
        *("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"),
        *("tokenizer.json", "tokenizer_config.json"),
    ]


def test_a_small_file_that_links_out_of_the_folder_is_refused(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    (checkpoint / "generation_config.json").symlink_to("/etc/hostname")
    stand_in()
    with pytest.raises(EdgeappError, match="leads out of the folder"):
        _open(checkpoint)


def test_python_code_that_the_configuration_names_is_left_out_with_a_warning(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    _change(checkpoint / "config.json", auto_map={"AutoModel": "modeling_evil.Evil"})
    stand_in(_LISTING + CONVERT)
    events: list[ConversionEvent] = []
    bridge.open_bridged(checkpoint, report=events.append).source.close()
    assert "evil" not in (paths.log_dir() / "bridge.log").read_text()
    warnings = [event.message for event in events if isinstance(event, Warned)]
    assert warnings == ["config.json names Python code of the checkpoint, which is not run."]


def test_a_tokenizer_that_is_code_is_refused(checkpoint: Path, stand_in: Callable[..., None]) -> None:
    _change(checkpoint / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
    (checkpoint / "tokenizer.json").unlink()
    stand_in()
    with pytest.raises(UnsupportedCheckpoint, match="tokenizer is Python code") as caught:
        _open(checkpoint)
    assert "tokenizer.json" in caught.value.hint
    assert _leftovers() == []


def _change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# What the converter may do -------------------------------------------------------------------------------

_PROBE = """
import pickle, socket, subprocess
port = {port}
attempt("CONNECT", lambda: socket.create_connection(("127.0.0.1", port), 2))
attempt("RAW", lambda: socket.socket().connect(("127.0.0.1", port)))
attempt("RESOLVE", lambda: socket.getaddrinfo("localhost", port))
attempt("BIND", lambda: socket.socket().bind(("127.0.0.1", 0)))
attempt("RUN", lambda: subprocess.run(["true"]))
attempt("SYSTEM", lambda: os.system("true"))
attempt("FORK", lambda: os.fork())
attempt("UNPICKLE", lambda: pickle.loads(pickle.dumps(os.getcwd)))
print("INTERFACES", *sorted(os.listdir("/sys/class/net")))
print("NETWORK", *[line.split(":")[0].strip() for line in open("/proc/self/net/dev") if ":" in line])
print("ENVIRONMENT", *sorted(os.environ))
import transformers
from transformers import dynamic_module_utils
attempt("TOKENIZER", lambda: transformers.AutoTokenizer.from_pretrained("x", trust_remote_code=True, a=1))
attempt("CODE", lambda: dynamic_module_utils.get_class_in_module("Evil", "evil.py"))
attempt("FILE", lambda: dynamic_module_utils.get_cached_module_file("org/evil", "evil.py"))
"""


@pytest.fixture
def probed(
    checkpoint: Path, stand_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> dict[str, str]:
    """What came of each thing that a converter should not do, with a server waiting for it."""
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("PYTHONPATH", "/tmp")  # noqa: S108 - a value that must not arrive
    with socket.create_server(("127.0.0.1", 0)) as server:
        stand_in(_PROBE.replace("{port}", str(server.getsockname()[1])) + CONVERT)
        said = _said_by(checkpoint)
    lines = (line.partition(" ") for line in said.splitlines())
    return {what: came for what, _, came in lines} | {"LOG": said}


def test_the_converter_reaches_no_network_and_starts_no_program(probed: dict[str, str]) -> None:
    for what in ("CONNECT", "RAW", "RESOLVE", "BIND", "RUN", "SYSTEM", "FORK", "UNPICKLE"):
        assert probed[what].startswith("refused PermissionError"), what


def test_the_kernel_takes_the_network_away_where_it_may(probed: dict[str, str]) -> None:
    if "no network namespace" in probed["LOG"]:
        pytest.skip("This kernel lets nobody have a network namespace of their own.")
    assert probed["NETWORK"] == "lo"


def test_the_converter_gets_no_token_and_no_setting_of_the_user(probed: dict[str, str]) -> None:
    names = set(probed["ENVIRONMENT"].split())
    assert {"HF_TOKEN", "PYTHONPATH", "EDGEAPP_HOME"}.isdisjoint(names)
    assert {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"} <= names


def test_code_of_a_checkpoint_is_never_trusted_however_the_converter_asks(probed: dict[str, str]) -> None:
    assert probed["TOKENIZER"] == "('AutoTokenizer', {'trust_remote_code': False, 'a': 1})"
    assert probed["CODE"].startswith("refused PermissionError")
    assert probed["FILE"].startswith("refused PermissionError")


def test_a_file_much_larger_than_the_checkpoint_cannot_be_written(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    stand_in(CONVERT + "file = open(outfile, 'r+b'); file.truncate(3 << 30)")
    with pytest.raises(ConversionFailed, match="File too large"):
        _open(checkpoint)


def test_memory_is_limited_to_what_the_machine_has(checkpoint: Path, stand_in: Callable[..., None]) -> None:
    stand_in("import resource; print('LIMITS', *resource.getrlimit(resource.RLIMIT_DATA))" + CONVERT)
    limits = re.search(r"LIMITS (\d+) (\d+)", _said_by(checkpoint))
    assert limits is not None
    assert 0 < int(limits[1]) == int(limits[2]) <= read_host().total_ram_bytes


def test_an_orphan_does_not_begin(tmp_path: Path) -> None:
    job = json.dumps({"parent": 1})
    done = subprocess.run(
        [sys.executable, "-I", "-B", bridge_driver.__file__, job], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.strip()) == (1, "edgeapp ended before its converter began.")


def test_an_interrupt_ends_the_converter_and_removes_its_file(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    stand_in("import time; print(os.getpid(), flush=True); open('begun', 'w'); time.sleep(1000)" + CONVERT)

    def interrupt(event: ConversionEvent) -> None:
        if list(bridge_folder().glob("checkpoint-*/begun")):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bridge.open_bridged(checkpoint, report=interrupt)
    pid = int((paths.log_dir() / "bridge.log").read_text().split()[-1])
    assert not Path(f"/proc/{pid}").exists()
    assert _leftovers() == []


# What is told when it fails ------------------------------------------------------------------------------


def test_a_failure_is_told_by_its_last_line_and_the_whole_log_is_named(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    stand_in("raise ValueError('Can not map tensor \\x1b]0;evil\\x07 model.odd')")
    with pytest.raises(ConversionFailed, match=r"converter failed: ValueError: Can not map tensor") as caught:
        _open(checkpoint)
    assert "\x1b" not in caught.value.message
    assert str(paths.log_dir() / "bridge.log") in caught.value.hint
    assert _leftovers() == []


def test_a_converter_that_is_killed_is_told_with_the_signal(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    stand_in("import signal; os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(ConversionFailed, match="was ended by SIGSEGV"):
        _open(checkpoint)


def test_a_converter_that_writes_nothing_has_failed(checkpoint: Path, stand_in: Callable[..., None]) -> None:
    stand_in("print('done')")
    with pytest.raises(ConversionFailed, match="failed: done"):
        _open(checkpoint)


def test_a_family_that_llama_cpp_does_not_know_either_is_told(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    stand_in("print('ERROR:hf-to-gguf:Model OddForCausalLM is not supported'); sys.exit(1)")
    with pytest.raises(UnsupportedCheckpoint, match="does not know this family either"):
        _open(checkpoint)


def test_an_unknown_pre_tokenizer_can_be_named(checkpoint: Path, stand_in: Callable[..., None]) -> None:
    ask = "from conversion.base import TextModel; print('PRE', TextModel().get_vocab_base_pre(None))"
    stand_in(ask + CONVERT)
    with pytest.raises(UnsupportedCheckpoint, match="pre-tokenizer") as caught:
        _open(checkpoint)
    assert "--pre" in caught.value.hint
    assert "PRE smollm" in _said_by(checkpoint, pre="smollm")


def test_a_full_disk_is_told_before_work_begins(
    checkpoint: Path, stand_in: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1 << 20))
    with pytest.raises(NotEnoughDisk, match=r"0\.0 GiB free.*converter writes needs 1\.0 GiB"):
        _open(checkpoint)


def test_a_damaged_checkpoint_never_reaches_the_converter(
    checkpoint: Path, stand_in: Callable[..., None]
) -> None:
    stand_in("open('/dev/null').nothing")
    next(checkpoint.glob("*.safetensors")).unlink()
    with pytest.raises(EdgeappError, match="shards are missing"):
        _open(checkpoint)


# The real one --------------------------------------------------------------------------------------------


@pytest.mark.skipif(not (ORACLE and LLAMA_CPP), reason="needs torch and llama.cpp's sources, see record.py")
@pytest.mark.timeout(300)
def test_the_bridge_and_our_own_conversion_give_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, str(ORACLE))
    monkeypatch.setenv(SOURCES_VARIABLE, str(LLAMA_CPP))
    folder = write_checkpoint(tmp_path / "tiny-qwen", "qwen3_moe", n_shards=2)
    bridged = _converted(_open(folder, pre="smollm"), tmp_path / "bridged.gguf")
    native = _converted(open_model(folder, pre="smollm", report=_never), tmp_path / "native.gguf")
    assert bridged["tensors"] == native["tensors"]
    assert bridged["keys"] == native["keys"]


def _converted(opened: OpenedModel, target: Path) -> dict[str, object]:
    recipe = load_recipe("q4_k_m")
    part = write_gguf(
        target,
        metadata=opened.metadata | file_type_metadata(recipe.file_type),
        tensors=choose_types(opened.plan, recipe, has_imatrix=False),
        source=opened.source,
        imatrix=None,
        n_threads=1,
        fingerprint=opened.source.fingerprint,
        report=lambda _: None,
    )
    assert part.commit() == hashlib.sha256(target.read_bytes()).hexdigest()
    part.close()
    opened.source.close()
    return facts_of(target)


def _never(event: ConversionEvent) -> NoReturn:
    raise AssertionError(event)
