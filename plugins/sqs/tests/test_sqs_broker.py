"""Tasks and dead letters, as a client without a node sees them."""

import asyncio

import pytest
from sqs_support import REGION, Word, emptied, running, source

from fossa import Request
from fossa.brokers import BrokerError, UnknownDeadLetter, connect


def client(queues, url, **options):
    name = url.rpartition("/")[2]
    return connect(f"sqs://{REGION}/{name}", endpoint=queues.endpoint, **options)


@pytest.mark.parametrize("fifo", [False, True])
async def test_a_task_and_its_reply(queues, fifo):
    url, replies = queues.make(fifo=fifo), queues.make(dead=False)
    request = Request(model="Word", method="say", method_kwargs={"word": "hi"})
    async with (
        running(source(queues, url, reply_queues=[replies])),
        client(queues, url, replies=replies) as broker,
    ):
        sent = await broker.submit(request)
        reply = await broker.outcome(sent, 20)
    assert (reply.outcome.complete, reply.outcome.result) == (True, "hi")


async def test_no_reply_without_a_queue_for_it(queues):
    async with client(queues, queues.make()) as broker:
        with pytest.raises(BrokerError, match="replies=NAME"):
            await broker.submit(Request(model="Word"))


@pytest.mark.parametrize("fifo", [False, True])
async def test_dead_letters_are_listed_shown_sent_back_and_dropped(queues, fifo):
    url = queues.make(fifo=fifo)
    lost = queues.send(url, {"model": "Later", "method": "say", "method_kwargs": {"word": 1}}, "a")
    bad = queues.send(url, "{", "b")
    # The server goes on with a receive that a stopped node hung up on: what it takes comes back.
    options = {"not_accepted": "dead_letter", "poll": 1, "visibility_timeout": 3}
    async with running(source(queues, url, **options)):
        await emptied(queues, url)

    class Later(Word):
        pass

    async with client(queues, url) as broker:
        letters = {letter.id: letter for letter in await broker.dead_letters()}
        assert {i: letter.reason for i, letter in letters.items()} == {
            lost: "not_accepted",
            bad: "bad_json",
        }
        assert (await broker.dead_letter(bad)).body == b"{"
        assert await broker.retry([lost]) == 1
        with pytest.raises(UnknownDeadLetter):
            await broker.dead_letter(lost)
        assert await broker.drop(None) == 1
        with pytest.raises(UnknownDeadLetter):
            await broker.drop([bad])
    async with running(source(queues, url, **options), ACCEPTED_MODEL_CLASSES=(Later,)) as node:
        await emptied(queues, url)
        [record] = await node.governor.page()
        assert record.outcome.result == 1
    assert await asyncio.to_thread(queues.counts, queues.dead(url)) == (0, 0)


@pytest.mark.parametrize("url", ["sqs://mars/q", "sqs://eu-west-1/", "sqs://eu-west-1/a.b"])
def test_a_url_that_is_wrong(url):
    with pytest.raises(BrokerError, match="sqs://REGION/QUEUE-NAME"):
        connect(url)
