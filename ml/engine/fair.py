"""A fair queue: nobody waits because somebody else asks a lot. No torch: tested by itself.

Start-time fair queuing in two levels: teams first, then the tasks (adapters) of a team. Each flow has an account of the
tokens that it was served; the flow with the smallest account is next. A flow that was idle starts at the present level,
so idling earns no credit; a waiting flow's account stands still while the others' grow, so none starves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class _Accounts:
    def __init__(self) -> None:
        self.served: dict[Hashable, float] = {}
        self.level = 0.0

    def enter(self, key: Hashable) -> None:
        self.served[key] = max(self.served.get(key, 0.0), self.level)

    def charge(self, key: Hashable, cost: float) -> None:
        self.level = max(self.level, self.served[key])
        self.served[key] += cost

    def forget_below_level(self, waiting: set[Hashable]) -> None:
        self.served = {key: used for key, used in self.served.items() if key in waiting or used > self.level}


class FairQueue(Generic[Item]):
    def __init__(self) -> None:
        self._flows: dict[Hashable, dict[Hashable, deque[tuple[float, Item]]]] = {}
        self._teams = _Accounts()
        self._tasks: dict[Hashable, _Accounts] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Item]:
        return (item for tasks in self._flows.values() for items in tasks.values() for _, item in items)

    def push(self, team: Hashable, task: Hashable, cost: float, item: Item) -> None:
        if team not in self._flows:
            self._flows[team] = {}
            self._teams.enter(team)
            self._tasks[team] = _Accounts()
        tasks = self._flows[team]
        if task not in tasks:
            tasks[task] = deque()
            self._tasks[team].enter(task)
        tasks[task].append((cost, item))
        self._size += 1

    def pop(self) -> Item:
        """The next item. Raises IndexError when empty."""
        if not self._size:
            raise IndexError("pop from an empty queue")
        team = min(self._flows, key=lambda key: self._teams.served[key])
        tasks, accounts = self._flows[team], self._tasks[team]
        task = min(tasks, key=lambda key: accounts.served[key])
        cost, item = tasks[task].popleft()
        self._teams.charge(team, cost)
        accounts.charge(task, cost)
        self._drop_empty(team, task)
        return item

    def remove(self, item: Item) -> bool:
        """Takes a waiting item out, free of charge."""
        for team, tasks in self._flows.items():
            for task, items in tasks.items():
                for entry in items:
                    if entry[1] is item:
                        items.remove(entry)
                        self._drop_empty(team, task)
                        return True
        return False

    def _drop_empty(self, team: Hashable, task: Hashable) -> None:
        self._size -= 1
        if not self._flows[team][task]:
            del self._flows[team][task]
            self._tasks[team].forget_below_level(set(self._flows[team]))
        if not self._flows[team]:
            del self._flows[team], self._tasks[team]
            self._teams.forget_below_level(set(self._flows))
        if not self._flows:
            self._teams = _Accounts()
