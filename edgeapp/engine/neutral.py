"""Keep text of a conversation from becoming control tokens. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MARK = "\ue0ff"
"""A private-use character that splits control strings inside a message; the tokeniser never sees it."""


def neutralise(content: str, control_texts: Sequence[str]) -> str:
    """Split every control string in a message with `MARK`, so that it tokenises as plain text."""
    content = content.replace(MARK, "")
    for text in control_texts:
        if text in content:
            content = content.replace(text, text[0] + MARK + text[1:])
    return content


def neutralise_json(value: Any, control_texts: Sequence[str]) -> Any:
    """Neutralise every text in a JSON value, keys included."""
    if isinstance(value, str):
        return neutralise(value, control_texts)
    if isinstance(value, list):
        return [neutralise_json(item, control_texts) for item in value]
    if isinstance(value, dict):
        return {
            neutralise(str(key), control_texts): neutralise_json(item, control_texts)
            for key, item in value.items()
        }
    return value
