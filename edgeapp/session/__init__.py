"""The use case that every front end shares: one conversation with one engine."""

from edgeapp.session.chat import ChatSession, ChatSettings
from edgeapp.session.turns import Turn, TurnStatus

__all__ = ["ChatSession", "ChatSettings", "Turn", "TurnStatus"]
