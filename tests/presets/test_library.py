"""The user's own presets beside those that ship."""

from __future__ import annotations

import msgspec
import pytest

from edgeapp.errors import ConfigError, UsageError
from edgeapp.presets import Example, Preset, Variable, all_presets, load_preset, own_dir, write_preset
from edgeapp.presets.format import parse_preset
from edgeapp.presets.library import to_toml

RICH = Preset(
    name="mine",
    description='"quoted" \\ and ünïcode',
    system="two\nlines with ''' and \"\"\" quotes\n",
    template="{{ a }} and {{ b }}",
    variables=(Variable(name="a", type="number", default=0), Variable(name="b", required=False)),
    sampling={"temp": 0.5, "max_tokens": 7},
    think="off",
    schema='{"type": "object"}',
    examples=(Example(input={"a": 1.5, "b": "x"}, output="1\n2"), Example(input="q", output="r")),
    stop=("END",),
    ctx=4096,
    workload="kiosk",
)


def test_a_preset_survives_writing_and_reading() -> None:
    path = write_preset(RICH)
    assert path.parent == own_dir()
    assert load_preset("mine") == RICH


def test_every_shipped_preset_survives_writing() -> None:
    for shelved in all_presets():
        assert shelved.preset is not None
        assert parse_preset(to_toml(shelved.preset), where="f") == shelved.preset


def test_ones_own_preset_takes_the_place_of_a_shipped_one() -> None:
    write_preset(msgspec.structs.replace(RICH, name="extract"))
    assert load_preset("extract").description == RICH.description
    assert [shelved.is_own for shelved in all_presets() if shelved.name == "extract"] == [True]


def test_nothing_is_overwritten_unasked() -> None:
    write_preset(RICH)
    changed = msgspec.structs.replace(RICH, description="other")
    with pytest.raises(UsageError, match="already"):
        write_preset(changed)
    assert load_preset("mine") == RICH
    write_preset(changed, replace=True)
    assert load_preset("mine") == changed


def test_a_preset_that_could_not_be_read_is_not_written() -> None:
    with pytest.raises(ConfigError):
        write_preset(msgspec.structs.replace(RICH, name="../evil"))
    assert not own_dir().exists()


def test_a_broken_file_does_not_hide_the_others() -> None:
    own_dir().mkdir(parents=True)
    (own_dir() / "broken.toml").write_text("name = ")
    by_name = {shelved.name: shelved for shelved in all_presets()}
    assert by_name["broken"].problem is not None
    assert by_name["extract"].preset is not None


def test_the_name_is_that_of_the_file() -> None:
    own_dir().mkdir(parents=True)
    (own_dir() / "b.toml").write_text('name = "a"\ndescription = "d"')
    with pytest.raises(ConfigError, match="the name is 'a'"):
        load_preset("b")


@pytest.mark.parametrize(
    "name",
    ["extrakt", "../extract", "/etc/passwd", "", "a\x1b[2Jb", pytest.param("x" * 5000, id="long"), "a\0b"],
)
def test_an_unknown_name_is_an_error_with_a_way_on(name: str) -> None:
    with pytest.raises(UsageError, match="no preset named") as refusal:
        load_preset(name)
    assert refusal.value.hint
    assert "\x1b" not in refusal.value.message
