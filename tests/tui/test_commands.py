from __future__ import annotations

import pytest

from edgeapp.tui.commands import Command, CommandName, SendMessage, UnknownCommand, parse


@pytest.mark.parametrize(
    ("text", "name"),
    [("/new", "new"), ("/help ", "help"), ("/quit\n", "quit"), ("/bye", "quit"), ("/NEW", "new")],
)
def test_a_known_word_is_a_command(text: str, name: CommandName) -> None:
    assert parse(text) == Command(name=name)


def test_an_unknown_word_is_not_a_message() -> None:
    assert parse("/frob") == UnknownCommand(word="/frob")


@pytest.mark.parametrize(
    "text", ["/etc/passwd is what?", "/etc/passwd", "/new please", "a /new", "/", "//", "/1"]
)
def test_anything_longer_than_one_word_is_a_message(text: str) -> None:
    assert parse(text) == SendMessage(text=text)


def test_a_space_in_front_sends_a_command_word() -> None:
    assert parse(" /new") == SendMessage(text="/new")


@pytest.mark.parametrize("text", ["", " ", "\n\n"])
def test_nothing_is_nothing(text: str) -> None:
    assert parse(text) is None
