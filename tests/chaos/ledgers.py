"""Looks into the nodes' ledgers while they run: an outcome, once it is there, never changes."""

import sqlite3
from contextlib import closing

_FINAL = (
    "SELECT id, status, attempts, finished, outcome, result FROM tasks WHERE finished IS NOT NULL"
)
_UNFINISHED = (
    "SELECT id, idempotency_key, status, redelivered, model, method, arguments FROM tasks "
    "WHERE status IN ('queued', 'running')"
)
_ENDED = "SELECT id, idempotency_key FROM tasks WHERE finished IS NOT NULL"


class Ledgers:
    """Remembers every final state that it has seen in any of the ledgers."""

    def __init__(self, nodes):
        self._nodes = nodes
        self._seen = {node.name: {} for node in nodes}
        self.changes = []

    def look(self):
        """Compare what there is with what there was before."""
        for node in self._nodes:
            now = {row[0]: row[1:] for row in self._rows(node, _FINAL)}
            before = self._seen[node.name]
            for task_id, was in before.items():
                if now.get(task_id, was) != was:
                    self.changes.append(f"{node.name}: {task_id} was {was}, is {now[task_id]}")
                elif task_id not in now:
                    self.changes.append(f"{node.name}: {task_id} was {was}, is gone")
            before.update(now)

    def unfinished(self):
        """Tasks that no ledger should have after the drain, and those that ended elsewhere.

        Where a broker has given the task of a node that died to another one, the former has a row
        for it that says "running" for as long as it does not hear of it again.
        """
        elsewhere = {
            key for node in self._nodes for row in self._rows(node, _ENDED) for key in row if key
        }
        stuck, abandoned = [], []
        for node in self._nodes:
            for row in self._rows(node, _UNFINISHED):
                redelivered, ended = row[3], elsewhere.intersection(row[:2])
                said = f"{node.name}: {' '.join(str(value) for value in row)}"
                (abandoned if redelivered and ended else stuck).append(said)
        return stuck, abandoned

    def _rows(self, node, query):
        if not node.ledger.exists():
            return []
        with closing(sqlite3.connect(node.ledger, timeout=10)) as connection:
            try:
                return connection.execute(query).fetchall()
            except sqlite3.OperationalError:
                # The node has not made its tables yet.
                return []
