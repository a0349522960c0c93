"""Answers as real models write them, read by the dialect that their chat template is given."""

from __future__ import annotations

from typing import Any

import pytest

from edgeapp.engine.answer_stream import AnswerStream
from edgeapp.protocol import Message
from tests.engine.dialects.recorded import ANSWERS, TEMPLATES, TOOLS, feed, template_of


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: f"{case['template']}:{case['written'][:40]!r}")
def test_an_answer_is_read_as_meant_wherever_it_is_cut(case: dict[str, Any]) -> None:
    template, tools = template_of(case["template"]), TOOLS if case["tools"] else ()
    prompt = template.render((Message(role="user", content="q"),), tools=tools, options=case["options"])
    expected = {key: case[key] for key in ("reasoning", "answer", "calls")}
    data = case["written"].encode()

    def read(pieces: list[bytes]) -> dict[str, Any]:
        return feed(AnswerStream(template.dialect, prompt=prompt, tools=tools), pieces)

    assert read([data]) == expected
    assert read([data[at : at + 1] for at in range(len(data))]) == expected
    for at in range(1, len(data)):
        assert read([data[:at], data[at:]]) == expected


def test_every_template_has_an_answer() -> None:
    assert {case["template"] for case in ANSWERS} == set(TEMPLATES)
