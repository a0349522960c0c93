from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgeapp.engine.answer_stream import AnswerStream, Part, TextPart
from edgeapp.engine.dialects import GENERIC


def _feed(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[str, bool]:
    stream = AnswerStream(GENERIC, stop=stop)
    shown = "".join(_text(stream.push(piece)) for piece in pieces)
    return shown + _text(stream.finish()), stream.stopped


def _text(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextPart))


@given(st.text(), st.integers(min_value=1, max_value=7))
def test_text_split_at_any_byte_arrives_whole(text: str, step: int) -> None:
    data = text.encode("utf-8", "surrogatepass").decode("utf-8", "ignore").encode()
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    assert _feed(pieces) == (data.decode(), False)


@given(
    st.text(alphabet="abß\n", max_size=40),
    st.lists(st.text(alphabet="abß\n", min_size=1, max_size=4), max_size=3),
    st.integers(min_value=1, max_value=5),
)
def test_a_stop_string_ends_the_text_wherever_it_is_split(text: str, stop: list[str], step: int) -> None:
    data = text.encode()
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    shown, stopped = _feed(pieces, tuple(stop))
    assert stopped == any(s in text for s in stop)
    assert text.startswith(shown)
    assert not any(s in shown for s in stop)
    if not stopped:
        assert shown == text


def test_the_earliest_stop_string_wins() -> None:
    assert _feed([b"one STOP two END"], ("END", "STOP")) == ("one ", True)


def test_nothing_that_may_become_a_stop_string_is_shown_early() -> None:
    stream = AnswerStream(GENERIC, stop=("<|end|>",))
    assert _text(stream.push(b"hello <|en")) == "hello "
    assert _text(stream.push(b"joy")) == "<|enjoy"


def test_an_unfinished_character_becomes_a_replacement_character() -> None:
    assert _feed(["né".encode()[:-1]]) == ("n\ufffd", False)


def test_nothing_follows_a_stop_string() -> None:
    stream = AnswerStream(GENERIC, stop=("X",))
    assert _text(stream.push(b"aXb")) == "a"
    assert stream.push(b"more") == []
    assert stream.finish() == []
