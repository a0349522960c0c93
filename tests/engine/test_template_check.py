from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from edgeapp.engine import bindings
from edgeapp.engine.bindings import ModelOptions
from edgeapp.engine.model import Vocab
from edgeapp.engine.template_check import check
from edgeapp.engine.templates import CHATML, ChatTemplate
from tests.engine.dialects.recorded import template_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def vocab(demo_model: Path) -> Iterator[Vocab]:
    """The demo model's, in which `<|im_end|>` ends an answer."""
    bindings.start()
    options = ModelOptions()
    model = bindings.load_model(str(demo_model), options, lambda _fraction: True)
    yield Vocab(bindings.get_vocab(model))
    bindings.free_model(model)


def _codes(source: str, vocab: Vocab) -> list[str]:
    bos = vocab.text_of(vocab.facts.bos)
    return [remark.code for remark in check(ChatTemplate(source, bos_text=bos, eos_text=""), vocab)]


def test_a_template_that_fits_its_model_is_not_remarked_on(vocab: Vocab) -> None:
    assert _codes(CHATML, vocab) == []


def test_an_answer_without_an_end_is_noticed(vocab: Vocab) -> None:
    assert _codes(CHATML.replace("<|im_end|>", "</end>"), vocab) == ["template_no_end"]


def test_a_text_that_begins_twice_is_noticed(vocab: Vocab) -> None:
    assert _codes("{{ bos_token }}{{ bos_token }}" + CHATML, vocab) == ["template_two_bos"]


def test_a_template_that_drops_the_user_is_noticed(vocab: Vocab) -> None:
    source = "{% for m in messages if m.role != 'user' %}" + CHATML.partition("%}")[2]
    assert _codes(source, vocab) == ["template_drops_user"]


def test_a_template_that_refuses_everything_is_noticed(vocab: Vocab) -> None:
    assert _codes("{{ raise_exception('no') }}", vocab) == ["template_refuses"]


def test_a_template_without_system_messages_is_noticed(vocab: Vocab) -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + CHATML
    assert _codes(source, vocab) == ["template_no_system"]


def test_marks_of_thoughts_that_are_no_tokens_are_noticed(vocab: Vocab) -> None:
    remarks = check(template_of("Qwen-Qwen3-0.6B"), vocab)
    assert [remark.code for remark in remarks] == ["template_thoughts"]
    assert "</think> and <think>" in remarks[0].message
