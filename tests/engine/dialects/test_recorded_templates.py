"""Conversations with tools, rendered by the chat templates of real models."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from edgeapp.engine.answer_stream import AnswerStream
from edgeapp.engine.neutral import MARK
from edgeapp.errors import UsageError
from edgeapp.protocol import Message, Tool, ToolCall
from tests.engine.dialects.recorded import TEMPLATES, TOOLS, feed, template_of

CONVERSATION = (
    Message(role="system", content="word-system"),
    Message(role="user", content="word-question"),
    Message(
        role="assistant",
        content="",
        reasoning="word-thought",
        tool_calls=(
            ToolCall(id="call_1", name="get_time", arguments='{"city": "word-rome"}'),
            ToolCall(id="call_2", name="get_time", arguments='{"city": "word-oslo"}'),
        ),
    ),
    Message(role="tool", content="word-noon", tool_call_id="call_1", name="get_time"),
    Message(role="tool", content="word-night", tool_call_id="call_2", name="get_time"),
    Message(role="assistant", content="word-answer"),
    Message(role="user", content="word-next"),
)
WORDS = ("system", "question", "rome", "oslo", "noon", "night", "answer", "next")


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_word_of_a_conversation_with_tools_is_written_in_order(name: str) -> None:
    prompt = template_of(name).render(CONVERSATION, tools=TOOLS)
    places = [prompt.rfind(f"word-{word}") for word in WORDS]
    assert min(places) >= 0
    assert all(f"word-{word}" in prompt for word in WORDS)
    # Mistral writes the system message before the last question, Llama and gpt-oss a call before its result.
    pairs = [
        ("question", "rome"),
        ("rome", "noon"),
        ("oslo", "night"),
        ("night", "answer"),
        ("answer", "next"),
    ]
    assert all(prompt.rfind(f"word-{a}") < prompt.rfind(f"word-{b}") for a, b in pairs)
    assert "special_function" in prompt


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_conversation_with_calls_goes_on_without_tools(name: str) -> None:
    prompt = template_of(name).render(CONVERSATION)
    assert all(f"word-{word}" in prompt for word in WORDS)


@pytest.mark.parametrize("name", TEMPLATES)
def test_arguments_are_written_as_json_or_in_tags_and_never_twice_encoded(name: str) -> None:
    prompt = template_of(name).render(CONVERSATION, tools=TOOLS)
    before = prompt[: prompt.index("word-rome")]
    assert not before.endswith(("'city': '", '\\"city\\": \\"'))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("marker", ["<|im_end|>", "</s>", "[INST]", "<tool_call>"])
def test_nothing_from_outside_becomes_a_control_token(name: str, marker: str) -> None:
    def prompt_for(text: str) -> str:
        turns = (
            Message(role="system", content=text),
            Message(role="user", content=text),
            Message(
                role="assistant",
                content="a",
                tool_calls=(ToolCall(id="123456789", name="get_time", arguments=json.dumps({"city": text})),),
            ),
            Message(role="tool", content=text, tool_call_id="123456789", name="get_time"),
            Message(role="assistant", content="b"),
            Message(role="user", content=text),
        )
        schema = json.dumps(
            {"type": "object", "properties": {"city": {"type": "string", "description": text}}}
        )
        tool = Tool(name="get_time", description=text, parameters=msgspec.Raw(schema.encode()))
        return template_of(name).render(
            turns, tools=(tool,), options={"note": text}, control_texts=(marker, "</s>")
        )

    assert prompt_for(f"x{marker}y").count(marker) == prompt_for("x-y").count(marker)
    assert marker in prompt_for(f"x{marker}y").replace(MARK, "")


def _arguments(grammar_schema: dict[str, Any]) -> str:
    """Write what a grammar for this schema allows."""
    if "anyOf" in grammar_schema:
        call = grammar_schema["anyOf"][0]["properties"]
        key = next(key for key in call if key != "name")
        return json.dumps({"name": call["name"]["const"], key: {"arg1": 7}})
    return json.dumps({"arg1": 7})


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("choice", ["special_function", "required"])
def test_a_forced_call_is_read_as_a_call(name: str, choice: str) -> None:
    template = template_of(name)
    prompt = template.render((Message(role="user", content="q"),), tools=TOOLS)
    forced = template.dialect.forced_call(TOOLS, choice, prompt=prompt)
    assert forced is not None
    if forced.grammar is None or forced.grammar.kind != "json_schema":
        assert choice == "required" or choice in forced.prefix  # what follows the name is the model's
        return
    stream = AnswerStream(template.dialect, prompt=prompt + forced.prefix, tools=TOOLS, forced=forced.prefix)
    assert stream.in_answer
    found = feed(stream, [_arguments(json.loads(forced.grammar.source)).encode()])
    assert found["calls"] == [["special_function", {"arg1": 7}]]
    assert not found["answer"].strip()


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_call_of_a_tool_that_was_not_given_cannot_be_forced(name: str) -> None:
    with pytest.raises(UsageError, match="nobody"):
        template_of(name).dialect.forced_call(TOOLS, "nobody")


def test_thoughts_of_the_current_turn_are_kept_where_the_template_keeps_them() -> None:
    for name in ("Qwen-Qwen3-0.6B", "GLM-4.6", "openai-gpt-oss-120b", "google-gemma-4-31B-it"):
        assert "word-thought" in template_of(name).render(CONVERSATION[:5], tools=TOOLS), name


def test_a_template_that_takes_one_call_at_a_time_gets_each_with_its_result() -> None:
    prompt = template_of("meta-llama-Llama-3.2-3B-Instruct").render(CONVERSATION, tools=TOOLS)
    places = [prompt.index(f"word-{word}") for word in ("rome", "noon", "oslo", "night")]
    assert places == sorted(places)


def test_options_switch_thinking_off() -> None:
    question = CONVERSATION[1:2]
    thinking = template_of("Qwen-Qwen3-0.6B").render(question)
    plain = template_of("Qwen-Qwen3-0.6B").render(question, options={"enable_thinking": False})
    assert plain == thinking + "<think>\n\n</think>\n\n"
    assert (
        template_of("deepseek-ai-DeepSeek-V3.1")
        .render(question, options={"enable_thinking": True})
        .endswith("<think>")
    )


def test_gemmas_next_turn_is_opened_after_an_answer_with_text_and_call() -> None:
    turns = (
        CONVERSATION[1],
        msgspec.structs.replace(CONVERSATION[2], content="Let me look."),
        *CONVERSATION[3:5],
    )
    assert template_of("google-gemma-4-31B-it").render(turns, tools=TOOLS).endswith("<|turn>model\n")
