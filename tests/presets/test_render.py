"""From values to messages: what is put in, what is left out, what is refused."""

from __future__ import annotations

import pytest

from edgeapp.errors import UsageError
from edgeapp.presets import Example, Preset, Variable, render

PRESET = Preset(
    name="p",
    description="d",
    system="Be brief.",
    template="Say {{ text }} as {{kind}}.\n\nHint: {{ hint }}\n\nEnd \\{{ literally }}.",
    variables=(
        Variable(name="text"),
        Variable(name="kind", type="choice", choices=("poem", "prose"), default="prose"),
        Variable(name="hint", required=False),
    ),
    examples=(Example(input={"text": "x"}, output="y"), Example(input="as it is", output="z")),
)


def last(**values: str | float) -> str:
    return render(PRESET, values).messages[-1].content


def test_system_examples_and_question_come_in_turn() -> None:
    rendered = render(PRESET, {"text": "hi"})
    assert [message.role for message in rendered.messages] == ["system", *["user", "assistant"] * 2, "user"]
    assert rendered.messages[1].content == "Say x as prose.\n\nEnd {{ literally }}."
    assert rendered.messages[3].content == "as it is"


def test_a_paragraph_whose_variables_are_empty_is_left_out() -> None:
    assert "Hint" not in last(text="hi")
    assert "Hint: short\n" in last(text="hi", hint="short")


def test_a_value_is_not_searched_for_variables() -> None:
    assert last(text="{{ hint }}", hint="secret").startswith("Say {{ hint }} as")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({}, "needs a value for 'text'"),
        ({"text": ""}, "needs a value for 'text'"),
        ({"text": "a", "kind": "song"}, "none of its choices"),
        ({"text": "a", "colour": "red"}, "no variable 'colour'"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        render(PRESET, values)


@pytest.mark.parametrize("value", ["x", "nan", "inf", "1e999"])
def test_a_number_is_finite(value: str) -> None:
    preset = Preset(
        name="p", description="d", template="{{ n }}", variables=(Variable(name="n", type="number"),)
    )
    assert render(preset, {"n": "2.5"}).messages[-1].content == "2.5"
    with pytest.raises(UsageError, match="no number"):
        render(preset, {"n": value})


def test_the_answer_form_is_a_grammar() -> None:
    grammar = render(Preset(name="p", description="d", regex="a|b"), {"text": "x"}).grammar
    assert grammar is not None
    assert (grammar.kind, grammar.source) == ("regex", "a|b")


def test_images_are_named() -> None:
    preset = Preset(
        name="p", description="d", template="{{ photo }}", variables=(Variable(name="photo", type="image"),)
    )
    assert render(preset, {"photo": "part.png"}).images == ("part.png",)
