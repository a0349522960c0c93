"""Random operations on a real history and on a few dictionaries must show the same conversation."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edgeapp.history import Database, conversations, deletions, schema, search, transfer, tree
from edgeapp.protocol import Message

pick = st.integers(min_value=0, max_value=1000)


def said(number: int) -> Message:
    return Message(role="user", content=f"word{number}")


class HistoryTree(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.execute("PRAGMA foreign_keys=ON")
        schema.migrate(connection)
        self.database = Database(connection, Path("memory"), clock_s=lambda: 1.0)
        self.id = conversations.new(self.database, title="title").id
        self.parent: dict[int, int] = {}
        """Living messages with their parent; 0 is the beginning."""
        self.texts: dict[int, str] = {}
        self.next: dict[int, int] = {}
        self.deleted: list[tuple[dict[int, int], int, bool]] = []
        self.n_said = 0

    def teardown(self) -> None:
        self.database.close()

    def say(self) -> Message:
        self.n_said += 1
        return said(self.n_said)

    def some(self, number: int) -> int:
        living = sorted(self.parent)
        return living[number % len(living)]

    def path(self) -> list[int]:
        found, here = [], 0
        while here := self.next.get(here, 0):
            found.append(here)
        return found

    def activate(self, message_id: int) -> None:
        while message_id:
            self.next[self.parent[message_id]] = message_id
            message_id = self.parent[message_id]

    def added(self, message_id: int, parent_id: int, message: Message) -> None:
        self.parent[message_id] = parent_id
        self.texts[message_id] = message.content
        self.next[parent_id] = message_id

    @rule()
    def append(self) -> None:
        leaf, message = ([0, *self.path()])[-1], self.say()
        self.added(tree.append(self.database, self.id, message).id, leaf, message)

    @precondition(lambda self: self.parent)
    @rule(number=pick)
    def edit(self, number: int) -> None:
        old, message = self.some(number), self.say()
        new = tree.edit(self.database, old, message.content)
        self.activate(old)
        self.added(new.id, self.parent[old], message)

    @precondition(lambda self: self.parent)
    @rule(number=pick)
    def switch(self, number: int) -> None:
        chosen = self.some(number)
        tree.switch(self.database, chosen)
        self.activate(chosen)

    @precondition(lambda self: self.parent)
    @rule(number=pick)
    def delete(self, number: int) -> None:
        gone = self.some(number)
        deletions.delete_message(self.database, gone)
        parent, was_next = self.parent[gone], self.next.get(self.parent[gone]) == gone
        subtree = {gone}
        for each in sorted(self.parent):
            if self.parent[each] in subtree:
                subtree.add(each)
        self.deleted.append(({each: self.parent.pop(each) for each in sorted(subtree)}, gone, was_next))
        if was_next:
            siblings = [each for each, above in self.parent.items() if above == parent]
            self.next[parent] = max(siblings, default=0)

    @rule()
    def undo(self) -> None:
        undone = deletions.undo(self.database, conversation_id=self.id)
        if not self.deleted:
            assert undone is None
            return
        messages, top, was_next = self.deleted.pop()
        assert undone is not None
        assert undone.message_id == top
        self.parent.update(messages)
        if was_next:
            self.next[self.parent[top]] = top

    @rule()
    def purge(self) -> None:
        assert deletions.purge(self.database) == len(self.deleted)
        self.deleted.clear()

    @rule()
    def delete_all_and_undo(self) -> None:
        deletions.delete_conversation(self.database, self.id)
        assert conversations.page(self.database) == ()
        deletions.undo(self.database)

    @rule()
    def move_to_a_copy(self) -> None:
        data = transfer.export_json(self.database, [self.id])
        (copy,) = transfer.import_json(self.database, data)
        shown = [each.message for each in tree.path(self.database, copy)]
        assert shown == [each.message for each in tree.path(self.database, self.id)]
        again = transfer.export_json(self.database, [copy])
        assert again == data
        deletions.delete_conversation(self.database, copy)
        deletions.undo(self.database)
        self.database.execute("DELETE FROM conversations WHERE id = ?", (copy,))

    @invariant()
    def the_path_is_the_same(self) -> None:
        assert [each.id for each in tree.path(self.database, self.id)] == self.path()

    @invariant()
    def every_message_and_its_place_is_the_same(self) -> None:
        for each in self.parent:
            siblings = sorted(other for other in self.parent if self.parent[other] == self.parent[each])
            stored = tree.message(self.database, each)
            assert stored.message.content == self.texts[each]
            assert (stored.parent_id or 0) == self.parent[each]
            assert (stored.alternative, stored.n_alternatives) == (siblings.index(each) + 1, len(siblings))

    @invariant()
    def the_search_finds_exactly_what_lives(self) -> None:
        found = {hit.message_id for hit in search.search(self.database, "word", n_max=1000)}
        assert found == set(self.parent)
        for table in ("message_search", "title_search"):
            check = f"INSERT INTO {table} ({table}, rank) VALUES ('integrity-check', 1)"  # noqa: S608
            self.database.execute(check)


TestHistoryTree = HistoryTree.TestCase
TestHistoryTree.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
