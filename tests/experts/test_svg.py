"""The SVG is well-formed, self-contained and has a cell for every expert of every layer."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from edgeapp.experts import TextUsage, UsageProfile
from edgeapp.experts.svg import svg
from edgeapp.protocol import LayerUsage

NAMESPACE = "{http://www.w3.org/2000/svg}"


def profile(n_expert: int, *names: str) -> UsageProfile:
    layers = tuple(LayerUsage(layer=layer, counts=tuple(range(n_expert))) for layer in (1, 2, 3))
    texts = tuple(TextUsage(name=name, n_tokens=1234, layers=layers) for name in names)
    return UsageProfile(model="tiny & <small>.gguf", n_expert=n_expert, n_expert_used=2, texts=texts)


def parsed(picture: str) -> ET.Element:
    return ET.fromstring(picture)  # noqa: S314 - written by ourselves a moment ago


@pytest.mark.parametrize("n_expert", [2, 8, 128, 512])
def test_every_expert_of_every_layer_and_text_has_a_cell(n_expert: int) -> None:
    root = parsed(svg(profile(n_expert, "code", "prose")))
    cells = [rect for rect in root.iter(f"{NAMESPACE}rect") if rect.find(f"{NAMESPACE}title") is not None]
    assert len(cells) == 2 * 3 * n_expert
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for cell in cells:
        assert float(cell.attrib["x"]) + float(cell.attrib["width"]) <= width
        assert float(cell.attrib["y"]) + float(cell.attrib["height"]) <= height


def test_it_is_named_and_described_for_those_who_do_not_see_it() -> None:
    root = parsed(svg(profile(4, "code", "prose")))
    title, description = root.find(f"{NAMESPACE}title"), root.find(f"{NAMESPACE}desc")
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-labelledby"] == "title desc"
    assert title is not None
    assert title.text == "Expert usage of tiny & <small>.gguf"
    assert description is not None
    assert "2 of 4 experts" in (description.text or "")
    assert "code, prose" in (description.text or "")


def test_names_cannot_bring_markup_and_nothing_is_fetched() -> None:
    picture = svg(profile(4, '<script>alert("x")</script>\x1b[2J'))
    assert "<script" not in picture
    assert "\x1b" not in picture
    assert picture.count("http") == 1  # the namespace
    parsed(picture)
