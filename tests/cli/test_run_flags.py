"""The flags of `edgeapp run` before anything is loaded: every wrong one is a sentence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edgeapp.catalog import NO_ADVICE, SamplingAdvice
from edgeapp.cli.adapters import parse_adapters
from edgeapp.cli.chat_settings import chat_settings
from edgeapp.cli.grammar_source import MAX_FILE_BYTES, read_grammar
from edgeapp.cli.logprobs import content_item
from edgeapp.cli.run import command
from edgeapp.cli.run_flags import RunChoices
from edgeapp.config import KEYS, load_settings
from edgeapp.errors import EdgeappError, GrammarError, ModelNotFound, UsageError
from edgeapp.protocol import AdapterUse, Grammar, Sampling, TokenLogprob

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA = '{"type": "object"}'


def _choices(**given: Any) -> RunChoices:
    none: dict[str, Any] = dict.fromkeys(RunChoices.__dataclass_fields__)
    return RunChoices(**{**none, "lora": (), **given})


def test_every_setting_but_the_log_level_has_a_flag() -> None:
    flags = {parameter.name for parameter in command.params}
    assert set(KEYS) - flags == {"log_level"}


def test_without_settings_sampling_is_llama_cpps_with_the_models_advice() -> None:
    assert chat_settings(load_settings({}), NO_ADVICE).sampling == Sampling()
    assert chat_settings(load_settings({}), SamplingAdvice(temp=0.3)).sampling == Sampling(temp=0.3)


def test_every_sampling_setting_reaches_the_engine() -> None:
    wanted: dict[str, Any] = {
        "temp": 0.1,
        "top_k": 7,
        "top_p": 0.2,
        "min_p": 0.3,
        "typical_p": 0.4,
        "xtc_probability": 0.5,
        "xtc_threshold": 0.45,
        "dynatemp_range": 0.6,
        "mirostat": 2,
        "repeat_penalty": 1.1,
        "frequency_penalty": 0.7,
        "presence_penalty": 0.8,
        "dry_multiplier": 0.9,
        "seed": 5,
    }
    settings = load_settings(wanted)
    assert chat_settings(settings, SamplingAdvice(temp=0.9)).sampling == Sampling(**wanted)


@pytest.mark.parametrize(
    ("think", "options"),
    [("auto", {}), ("on", {"enable_thinking": True}), ("off", {"enable_thinking": False})],
)
def test_thinking_is_left_to_the_template_unless_asked_for(think: str, options: dict[str, bool]) -> None:
    assert chat_settings(load_settings({"think": think}), NO_ADVICE).template_options == options


def test_drafts_and_log_probabilities_are_asked_for() -> None:
    made = chat_settings(load_settings({"draft": "off"}), NO_ADVICE, logprobs=3)
    assert (made.drafting.mode, made.logprobs) == ("off", 3)
    assert chat_settings(load_settings({}), NO_ADVICE).logprobs == -1


# What the answer must match -----------------------------------------------------------------------------


def test_a_schema_is_read_from_a_file_or_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text(SCHEMA)
    assert read_grammar(_choices(json_schema=str(file))) == Grammar(kind="json_schema", source=SCHEMA)
    assert read_grammar(_choices(json_schema=SCHEMA)) == Grammar(kind="json_schema", source=SCHEMA)
    long = '{"enum": ["' + "x" * 5000 + '"]}'
    assert read_grammar(_choices(json_schema=long)) == Grammar(kind="json_schema", source=long)


def test_a_grammar_file_and_a_pattern_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "yes.gbnf"
    file.write_text('root ::= "yes"')
    assert read_grammar(_choices(grammar=file)) == Grammar(kind="gbnf", source='root ::= "yes"')
    assert read_grammar(_choices(regex="a+")) == Grammar(kind="regex", source="a+")
    assert read_grammar(_choices()) is None


def test_two_grammars_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="--json-schema and --regex exclude each other"):
        read_grammar(_choices(json_schema=SCHEMA, regex="a"))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("missing.json", "missing.json is neither a file nor a JSON object"),
        ("[]", "neither a file nor a JSON object"),
        ('{"type', "the text is not JSON"),
        ("{" * 100_000, "the text is not JSON"),
    ],
)
def test_a_schema_that_is_none_is_said_so(given: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        read_grammar(_choices(json_schema=given))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\xff", "is not UTF-8"),
        (b" " * (MAX_FILE_BYTES + 1), "is larger than 256 KiB"),
        (b"[]", "no JSON obj"),
    ],
)
def test_a_schema_file_that_is_none_is_said_so(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = tmp_path / "schema.json"
    file.write_bytes(content)
    with pytest.raises(GrammarError, match=sentence):
        read_grammar(_choices(json_schema=str(file)))


def test_a_grammar_file_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.gbnf"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_grammar(_choices(grammar=path))


# Adapters -----------------------------------------------------------------------------------------------


def test_adapters_are_named_after_their_files_and_scaled(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("style.gguf", "a=b.gguf", "other/style.gguf")]
    (tmp_path / "other").mkdir()
    for path in paths:
        path.write_bytes(b"GGUF")
    given = [f"{paths[0]}=0.5", str(paths[1]), f"{paths[2]}=-1"]
    adapters = parse_adapters(given)
    assert [adapter.path for adapter in adapters] == paths
    assert [adapter.use for adapter in adapters] == [
        AdapterUse(name="style", scale=0.5),
        AdapterUse(name="a=b"),
        AdapterUse(name="style-2", scale=-1.0),
    ]


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        (["missing.gguf"], ModelNotFound, "there is no file missing.gguf"),
        (["missing.gguf=2"], ModelNotFound, "there is no file missing.gguf"),
        (["here.gguf=strong"], UsageError, "'strong' is no scale"),
        (["here.gguf="], UsageError, "is no scale"),
        (["here.gguf=inf"], UsageError, "is no scale"),
        (["here.gguf", "./here.gguf=2"], UsageError, "given twice"),
    ],
)
def test_a_wrong_adapter_is_said_so(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: list[str],
    error: type[EdgeappError],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.gguf").write_bytes(b"GGUF")
    with pytest.raises(error, match=sentence):
        parse_adapters(given)


# Log probabilities --------------------------------------------------------------------------------------


def test_a_token_that_is_a_part_of_a_character_keeps_its_bytes() -> None:
    part = TokenLogprob(token=1, data=b"\xc3", logprob=-0.5)
    item = content_item(TokenLogprob(token=2, data=b"a\x1b", logprob=-0.1, top=(part,)))
    assert item == {
        "token": "a",
        "bytes": [97, 27],
        "logprob": -0.1,
        "top": [{"token": "�", "bytes": [0xC3], "logprob": -0.5}],
    }
