from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.engine.answer_stream import AnswerStream, TextPart, ToolCallPart
from edgeapp.engine.dialects import GENERIC, Dialect
from edgeapp.engine.dialects.harmony import HARMONY
from edgeapp.engine.dialects.hermes import DESCRIBED, HERMES
from edgeapp.engine.dialects.kimi import KIMI
from edgeapp.engine.dialects.qwen_coder import QWEN_CODER
from edgeapp.engine.dialects.think import GEMMA, THINK
from tests.engine.dialects.recorded import ANSWERS, TOOLS, feed, template_of

THINKING = Dialect(reasoning=THINK, tools=HERMES)
CALL = b'<tool_call>{"name": "python", "arguments": {"code": "1"}}</tool_call>'

_BITS = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<function=f>", "<parameter=p>", "</parameter>"),
    *('{"name": "python", "arguments": ', '{"a": "', '"}', "}", "{", "[", "]", ",", "\\", '"', "</function>"),
    *("<|channel|>analysis", "<|message|>", "<|end|>", "<|start|>assistant", " to=functions.python"),
    *("<|tool_call_begin|>", "functions.python:0", "<|tool_call_argument_begin|>", "<|tool_call_end|>"),
    *("STOP", "a", "ß ", "\n", " ", "<", "<|channel>thought", "<channel|>"),
)


def _written(bits: tuple[str, ...]) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(bits), max_size=14).map("".join)


@pytest.mark.parametrize(
    "dialect",
    [
        GENERIC,
        THINKING,
        Dialect(reasoning=GEMMA, tools=DESCRIBED),
        Dialect(reasoning=THINK, tools=QWEN_CODER),
        Dialect(reasoning=THINK),
        Dialect(tools=KIMI),
        HARMONY,
    ],
    ids=lambda dialect: dialect.name,
)
@given(written=_written(_BITS), cuts=st.lists(st.integers(0, 200), max_size=6), stop=st.booleans())
def test_what_comes_out_does_not_depend_on_where_it_is_cut(
    dialect: Dialect, written: str, cuts: list[int], *, stop: bool
) -> None:
    def read(pieces: list[bytes]) -> tuple[list[str], bool]:
        stream = AnswerStream(dialect, stop=("STOP",) if stop else (), tools=TOOLS)
        joined: list[str] = []
        kinds: list[object] = []
        for part in [part for piece in pieces for part in stream.push(piece)] + stream.finish():
            kind = part.channel if isinstance(part, TextPart) else part.index
            name = "" if isinstance(part, TextPart) else part.name
            text = part.text if isinstance(part, TextPart) else part.arguments
            if kinds[-1:] != [kind] or name:
                kinds.append(kind)
                joined.append(f"{kind}:{name}:")
            joined[-1] += text
        return joined, stream.stopped

    data = written.encode()
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assert read([data[a:b] for a, b in itertools.pairwise(places)]) == read([data])
    assert read([data[at : at + 1] for at in range(len(data))]) == read([data])


@given(written=_written(tuple(bit for bit in _BITS if bit != ",")))
def test_what_is_no_call_is_not_lost(written: str) -> None:
    stream = AnswerStream(THINKING, tools=TOOLS)
    parts = stream.push(written.encode()) + stream.finish()
    shown = "".join(part.text if isinstance(part, TextPart) else part.arguments for part in parts)
    assert shown.count("ß") == written.count("ß")


def test_a_stop_string_counts_in_the_answer_only() -> None:
    stream = AnswerStream(THINKING, stop=("STOP",))
    assert feed(stream, [b"<think>not STOP here</think>but ST", b"OP there"]) == {
        "reasoning": "not STOP here",
        "answer": "but ",
        "calls": [],
    }
    assert stream.stopped


def test_nothing_follows_a_stop_string_not_even_a_call() -> None:
    stream = AnswerStream(THINKING, stop=("STOP",), tools=TOOLS)
    assert feed(stream, [b"aSTOP", CALL]) == {"reasoning": "", "answer": "a", "calls": []}


def test_what_may_begin_a_stop_string_is_shown_before_a_call() -> None:
    found = feed(AnswerStream(THINKING, stop=("STOP",), tools=TOOLS), [b"aST", CALL])
    assert found == {"reasoning": "", "answer": "aST", "calls": [["python", {"code": "1"}]]}


def test_a_grammar_rules_from_the_first_character_behind_the_thoughts() -> None:
    stream = AnswerStream(THINKING, prompt="<|im_start|>assistant\n<think>\n")
    assert not stream.in_answer
    stream.push(b"hm")
    assert not stream.in_answer
    stream.push(b"</think>")
    assert stream.in_answer


def test_arguments_come_as_they_are_written() -> None:
    stream = AnswerStream(THINKING, tools=TOOLS)
    assert not stream.push(b'<tool_call>\n{"name": "python", "arguments": ')
    first, begin = stream.push(b'{"code": "x')
    assert isinstance(first, ToolCallPart)
    assert (first.index, first.name, first.arguments) == (0, "python", "")
    assert len(first.call_id) == 9
    assert first.call_id.isalnum()
    assert begin == ToolCallPart(0, "", "", '{"code": "x')
    assert stream.push(b" = 1") == [ToolCallPart(0, "", "", " = 1")]
    assert stream.push(b'"}}\n</tool') == [ToolCallPart(0, "", "", '"}')]


def test_raw_text_is_left_as_the_model_wrote_it() -> None:
    written = b"<think>hm</think>\n\nyes " + CALL
    stream = AnswerStream(THINKING, raw=True, tools=TOOLS)
    assert stream.push(written[:9]) == [TextPart("answer", "<think>hm")]
    assert not stream.in_answer
    assert feed(stream, [written[9:]])["answer"] == written[9:].decode()
    assert stream.in_answer


def test_a_call_without_arguments_gets_an_empty_object() -> None:
    template = template_of("openai-gpt-oss-120b")
    found = feed(
        AnswerStream(template.dialect, tools=TOOLS),
        [b"<|channel|>commentary to=functions.empty_args<|message|>"],
    )
    assert found["calls"] == [["empty_args", {}]]


def test_an_unfinished_character_becomes_a_replacement_character() -> None:
    assert feed(AnswerStream(THINKING), ["né".encode()[:-1]])["answer"] == "n\ufffd"


def test_a_model_may_think_again_between_calls() -> None:
    found = feed(
        AnswerStream(THINKING, tools=TOOLS), [b"<think>a</think>", CALL, b"\n<think>b</think>", CALL]
    )
    assert (found["reasoning"], len(found["calls"])) == ("ab", 2)


def test_a_grammar_can_wait_for_a_thought_that_the_model_has_to_open() -> None:
    assert THINKING.reasoning_prefix("<|im_start|>assistant\n") == "<think>\n"
    assert not THINKING.reasoning_prefix("<|im_start|>assistant\n<think>\n")
    assert not THINKING.reasoning_prefix("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not GENERIC.reasoning_prefix("<|im_start|>assistant\n")


def test_every_marker_that_a_parser_looks_for_is_spelled_out() -> None:
    for case in ANSWERS:
        dialect = template_of(case["template"]).dialect
        if dialect.reasoning and not dialect.reasoning.is_plain:
            assert dialect.thought_tokens <= dialect.special_texts
        if dialect.tools:
            assert {*dialect.tools.openers} <= dialect.special_texts


def test_a_call_that_never_closes_gives_its_text_back() -> None:
    junk = ', "and": now something else ' + "x" * 2000
    found = feed(
        AnswerStream(THINKING, tools=TOOLS),
        [b'<tool_call>{"name": "python", "arguments": {"code": "1"}', junk.encode()],
    )
    assert found == {"reasoning": "", "answer": junk, "calls": [["python", {"code": "1"}]]}


def test_a_deep_or_long_call_is_no_crash() -> None:
    deep = b'<tool_call>{"name": "python", "arguments": ' + b'{"a":' * 60_000
    assert AnswerStream(THINKING, tools=TOOLS).push(deep)
    hostile = '<tool_call>\n{"arguments": ' + "[" * 60_000 + "]" * 60_000 + ', "name": "x"}\n</tool_call>'
    assert feed(AnswerStream(THINKING, tools=TOOLS), [hostile.encode()])["answer"] == hostile
    for name in ("google-gemma-4-31B-it", "LFM2-8B-A1B", "Qwen3-Coder", "GLM-4.6"):
        dialect = template_of(name).dialect
        assert dialect.tools is not None
        opener = next(iter(dialect.tools.openers))
        text = opener + ("call:f{a:" if "call>" in opener else "[f(a=") + "[" * 20_000
        assert json.dumps(feed(AnswerStream(dialect, tools=TOOLS), [text.encode()])["answer"])
