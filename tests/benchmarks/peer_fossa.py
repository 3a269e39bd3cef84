"""Fossa's own client, as a program uses it that submits tasks over RabbitMQ.

python talking.py peer_fossa URL PREFIX
"""

import asyncio
import threading

from fossa import Request
from fossa.brokers import connect


class Peer:
    def __init__(self, url, prefix):
        # Its loop runs on between two commands: there are heartbeats to answer.
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.broker = self._run(connect(url, prefix=prefix).__aenter__())

    def _run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def many(self, work, calls):
        return self._run(self._all(work, calls))

    async def _all(self, work, calls):
        return await asyncio.gather(*(self._one(work, kwargs) for kwargs in calls))

    async def _one(self, work, kwargs):
        request = Request(model="Work", method=work, method_kwargs=kwargs)
        reply = await self.broker.outcome(await self.broker.submit(request), timeout=300)
        assert reply.outcome.complete, reply.outcome
        return reply.outcome.result
