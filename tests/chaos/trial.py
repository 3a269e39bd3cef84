"""One run from its beginning to its books: a fleet, its submitters, its nemesis."""

import asyncio
import time
from contextlib import AsyncExitStack, suppress

from chaos.accounts import Wanted, account
from chaos.fleet import Fleet
from chaos.journal import Journal
from chaos.ledgers import Ledgers
from chaos.nemesis import Nemesis
from chaos.plan import plan
from chaos.submitters import AmqpSubmitter, HttpSubmitter, NoAnswer, Outcomes

#: The part of the time in which the whole tasks are submitted.
SUBMITTING = 0.8
PREFIX = "chaos"
#: How nodes see to it that a connection on which nobody answers is noticed within a run.
IMPATIENT = {
    "heartbeat": 4,
    "connect_timeout": 4.0,
    "publish_timeout": 8.0,
    "max_backoff": 1.0,
    # Every broken connection is a redelivery, and none of them is a message's own fault.
    "delivery_limit": 10_000,
}


class Trial:
    """Made of arguments as `run.py` has them, and a directory for everything."""

    def __init__(self, arguments, directory):
        self.arguments = arguments
        self.directory = directory
        self.over_rabbitmq = arguments.over == "rabbitmq"
        self.journal = Journal(directory / "journal")
        self.outcomes = Outcomes()
        self.wanted = wanted(arguments)
        self.steps = plan(
            arguments.seed,
            arguments.seconds,
            arguments.nodes,
            arguments.kinds,
            arguments.pace,
        )
        #: Seconds from the end of the nemesis to the last outcome.
        self.drained = None
        #: How many seconds each part of the set-up took.
        self.set_up = {}
        #: Rows of a ledger whose tasks another node has ended.
        self.abandoned = []
        self.nemesis = None
        self.submitter = None
        self._broker = None
        self._proxies = []

    async def run(self, progress=None):
        """Returns the books."""
        async with AsyncExitStack() as stack:
            await self._begin(stack)
            watching = asyncio.create_task(self._watch(progress))
            try:
                await self._break_and_drain()
                await self._look_again()
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)
            self._ledgers.look()
            unfinished = await self._unfinished()
            messages = await self._messages()
        left = await self.fleet.left()
        self._ledgers.look()
        return account(
            self.wanted,
            self.journal.look(),
            self.outcomes,
            self.nemesis.actions,
            broker=self.over_rabbitmq,
            failures=self.nemesis.failures,
            changes=self._ledgers.changes,
            unfinished=[*unfinished, *messages],
            left=left,
            resent=self.submitter.resent if self.over_rabbitmq else (),
        )

    # set-up

    async def _begin(self, stack):
        began = time.monotonic()
        if self.over_rabbitmq:
            await self._start_broker(stack)
            self.set_up["broker"] = time.monotonic() - began
        common = {"SLOTS": self.arguments.slots, "rabbitmq": None}
        settings = [{**common, **self._rabbitmq(i)} for i in range(self.arguments.nodes)]
        began = time.monotonic()
        self.fleet = await stack.enter_async_context(Fleet(self.directory, settings))
        self.set_up["nodes"] = time.monotonic() - began
        if self.over_rabbitmq:
            url = self._proxies[-1].url
            self.submitter = AmqpSubmitter(url, PREFIX, self.outcomes, self.arguments.resend)
            await stack.enter_async_context(self.submitter)
        self._http = HttpSubmitter(self.fleet.http, self.outcomes)
        self._ledgers = Ledgers(self.fleet.nodes)
        self.nemesis = Nemesis(self.fleet, self.journal, self._broker, self._proxies)

    async def _start_broker(self, stack):
        """A broker, and a bad network for each node and one for the submitter."""
        from fossa_rabbitmq.testing import PrivateBroker, Proxy

        self._broker = PrivateBroker(self.directory / "broker")
        stack.callback(self._broker.kill)
        await asyncio.to_thread(self._broker.start)
        for _ in range(self.arguments.nodes + 1):
            proxy = Proxy(self._broker.port)
            self._proxies.append(await stack.enter_async_context(proxy))

    def _rabbitmq(self, index):
        if not self.over_rabbitmq:
            return {}
        queue_type = self.arguments.queue_type
        url = self._proxies[index].url
        return {"rabbitmq": {"url": url, "prefix": PREFIX, "queue_type": queue_type, **IMPATIENT}}

    # what happens

    async def _break_and_drain(self):
        work = asyncio.create_task(self._work())
        try:
            await self.nemesis.run(self.steps)
            ended = time.monotonic()
            async with asyncio.timeout(self.arguments.drain):
                await work
            self.drained = time.monotonic() - ended
        except TimeoutError:
            # What is missing is lost: the books will say so.
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _work(self):
        """Returns once everything that was submitted has an outcome."""
        nodes = self.fleet.nodes
        self._ids = {}
        pause = self.arguments.seconds * SUBMITTING / max(1, len(self.wanted.wholes))
        async with asyncio.TaskGroup() as group:
            for i, number in enumerate(self.wanted.parents):
                group.create_task(self._over_http(number, nodes[i % len(nodes)]))
            for i, number in enumerate(self.wanted.wholes):
                if self.over_rabbitmq:
                    self.submitter.submit(number, self._document(number))
                else:
                    group.create_task(self._over_http(number, nodes[i % len(nodes)]))
                await asyncio.sleep(pause)
        wholes = self.wanted.wholes if self.over_rabbitmq else ()
        while self.outcomes.done(wholes) < len(wholes):
            await asyncio.sleep(0.05)

    async def _over_http(self, number, node):
        # Where there is no answer, that is in the books, and the number is lost.
        with suppress(NoAnswer):
            task_id = await self._http.run(number, node, self._document(number))
            self._ids[number] = (node, task_id)

    def _document(self, number):
        path, seed = str(self.journal.path), self.arguments.seed
        if number in self.wanted.parents:
            count = len(self.wanted.parents[number])
            given = {"number": number, "path": path, "seed": seed, "count": count}
            return {"model": "Parent", "model_construction_kwargs": given}
        kwargs = {"number": number, "path": path, "seed": seed}
        return {"model": "Whole", "method": "work", "method_kwargs": kwargs}

    async def _look_again(self):
        """Ask for every outcome once more."""
        with suppress(NoAnswer):
            for number, (node, task_id) in self._ids.items():
                if node.up:
                    await self._http.look_again(number, node, task_id)

    async def _watch(self, progress):
        """Look into the ledgers every second, and tell how it goes."""
        began = time.monotonic()
        while True:
            await asyncio.sleep(1)
            await asyncio.to_thread(self._ledgers.look)
            if progress is not None:
                self.journal.look()
                now = ", ".join(self.nemesis.now)
                print(f"{time.monotonic() - began:4.0f} s  {self._state()}  {now}", file=progress)

    def _state(self):
        ended = {run.number for run in self.journal.runs.values() if run.ended}
        of_all = f"{self.outcomes.done(self.wanted.wholes)}/{len(self.wanted.wholes)} tasks"
        subtasks = f"{len(ended & set(self.wanted.subtasks))}/{len(self.wanted.subtasks)} subtasks"
        return f"{of_all}  {subtasks}"

    # what is left

    async def _unfinished(self, patience=5.0):
        """Tasks that a ledger still has as under way some seconds after the last outcome."""
        end = time.monotonic() + patience
        while True:
            stuck, self.abandoned = self._ledgers.unfinished()
            if not stuck or time.monotonic() > end:
                return stuck
            await asyncio.sleep(0.2)

    async def _messages(self, patience=25.0):
        """Queues that are not empty some time after the last outcome.

        A broker counts a quorum queue's messages every five seconds, a busy one later.
        """
        if not self.over_rabbitmq:
            return []
        end = time.monotonic() + patience
        while True:
            text = await asyncio.to_thread(
                self._broker.ctl, "list_queues", "name", "messages", "messages_unacknowledged"
            )
            rows = [line.split("\t") for line in text.splitlines()[1:]]
            full = [
                f"{count} messages in {name}, {held} of them with a node"
                for name, count, held in rows
                if int(count) and not _of_a_boot(name)
            ]
            if not full or time.monotonic() > end:
                return full
            await asyncio.sleep(0.5)


def _of_a_boot(queue):
    """The replies to a node that was killed stay where they are until their queue expires."""
    return queue.startswith(f"{PREFIX}.replies.") and queue != f"{PREFIX}.replies.submitter"


def wanted(arguments):
    """Numbers: `t-17` is a whole task, `p0` a parent and `p0-17` one of its subtasks."""
    each, more = divmod(arguments.subtasks, max(1, arguments.parents))
    return Wanted(
        wholes=tuple(f"t-{i}" for i in range(arguments.tasks)),
        parents={
            f"p{i}": tuple(f"p{i}-{j}" for j in range(each + (i < more)))
            for i in range(arguments.parents)
        },
    )
