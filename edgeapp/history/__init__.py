"""Conversations that outlive the program: a tree of messages each, in one SQLite file.

Knows no screen and no engine. `opening.open_history` finds, checks, backs up and migrates the file;
`conversations`, `tree`, `deletions`, `search` and `transfer` are what can be done with it; `answer_writer`
keeps an answer while it is written. Their functions take the open `Database` and raise `HistoryError`.
"""

from edgeapp.history.answer_writer import AnswerWriter
from edgeapp.history.database import Database
from edgeapp.history.opening import Opened, open_history
from edgeapp.history.records import Conversation, Fragment, Hit, MessageState, Stats, StoredMessage

__all__ = [
    "AnswerWriter",
    "Conversation",
    "Database",
    "Fragment",
    "Hit",
    "MessageState",
    "Opened",
    "Stats",
    "StoredMessage",
    "open_history",
]
