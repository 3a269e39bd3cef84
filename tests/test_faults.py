"""What has gone wrong for others, R1 to R11: each is named after what Fossa is immune to."""

import asyncio
import importlib.metadata
from pathlib import Path

import pytest

from fossa import Reason, Status
from fossa.worker.pool import MAX_BYTES
from support import TestConfig, outcome, running, texts, until


def replace_braces(text):
    return text.replace("{shade}", "green")


async def test_r1_a_successful_model_is_complete_under_the_installed_ayeaye():
    async with running() as node:
        assert (await outcome(node, "Nothing")).complete
        assert node.governor.status()["versions"]["ayeaye"] == importlib.metadata.version("ayeaye")


async def test_r2_a_killed_process_does_not_stay_running_and_its_slot_is_free():
    async with running(CRASH_ATTEMPTS=1, SLOTS=1) as node:
        ended = await outcome(node, "Dies", "by_signal", method_kwargs={"number": 9})
        assert ended.reason is Reason.SIGNAL
        assert node.governor.running() == []
        assert node.governor.status()["slots_free"] == 1


async def test_r3_a_callback_that_raises_kills_nothing():
    async def ack(_outcome):
        raise RuntimeError("in a callback")

    from fossa import Delivery, Request

    async with running() as node:
        delivery = Delivery(request=Request(model="Nothing"), source="test", ack=ack)
        task, _ = await node.governor.admit(delivery)
        assert (await node.governor.outcome(task.id)).complete
        assert (await outcome(node, "Nothing")).complete
        assert node.governor.not_ready() == []


@pytest.mark.parametrize("slots", [1, 2])
async def test_r4_a_slice_that_breaks_fails_the_parent_with_its_error(slots):
    async with running(SLOTS=slots) as node:
        handle = await node.submit("Squares", model_construction_kwargs={"kind": "breaks"})
        ended = await handle.outcome(30)
        assert (ended.reason, ended.message) == (Reason.EXCEPTION, "the slice broke half-way")
        assert not any("sum is" in text for text in texts(await handle.logs()))


async def test_r5_a_killed_subtask_ends_and_the_parent_goes_on(tmp_path):
    kwargs = {"journal": str(tmp_path / "journal"), "die_at": 2}
    async with running() as node:
        handle = await node.submit("Journal", model_construction_kwargs=kwargs)
        assert (await handle.outcome(30)).complete
        subtasks = await handle.subtasks()
        assert {s.status for s in subtasks} == {Status.COMPLETE}
        assert (tmp_path / "journal").read_text().split().count("2") == 2


@pytest.mark.parametrize("kind", ["tuples", "list", "partitions"])
@pytest.mark.parametrize("slots", [1, 2])
async def test_r6_every_form_of_subtask_with_one_worker_and_with_more(kind, slots):
    async with running(SLOTS=slots) as node:
        handle = await node.submit("Squares", model_construction_kwargs={"kind": kind})
        assert (await handle.outcome(30)).complete
        assert "sum is 285" in texts(await handle.logs())
        assert len(await handle.subtasks()) == 10


async def test_r7_with_one_worker_failures_are_told_to_the_model(tmp_path):
    kwargs = {"journal": str(tmp_path / "journal"), "fail_at": 1, "handle": True}
    async with running() as node:
        handle = await node.submit("OneWorker", model_construction_kwargs=kwargs)
        assert (await handle.outcome(30)).complete
        assert "failures: 1" in texts(await handle.logs())


async def test_r8_callable_resolvers_of_the_node_work_in_subtasks():
    async with running(RESOLVERS=[replace_braces]) as node:
        handle = await node.submit("Contexts", resolver_context={"place": "here"})
        assert (await handle.outcome(30)).complete
        ended = await outcome(node, "Echo", "resolve", method_kwargs={"text": "a {shade} hill"})
        assert ended.result == "a green hill"


async def test_r8_a_callable_that_cannot_travel_is_a_clear_error():
    async with running() as node:
        ended = await outcome(node, "Foreign")
        assert ended.reason is Reason.EXCEPTION
        assert "RESOLVERS" in ended.message


async def test_r9_two_contexts_at_once_do_not_collide():
    async with running(SLOTS=2) as node:
        handles = [
            await node.submit(
                "Echo",
                "resolve",
                method_kwargs={"text": "{n}"},
                resolver_context={"n": str(n)},
            )
            for n in range(40)
        ]
        assert [(await h.outcome(30)).result for h in handles] == [str(n) for n in range(40)]
        ended = await outcome(node, "Echo", "resolve", method_kwargs={"text": "{n}"})
        assert "Missing template variables" in ended.message


async def test_r10_secrets_come_from_the_node_and_travel_nowhere(tmp_path):
    async with running(
        SECRETS={"password": "hunter2hunter2"}, LEDGER="sqlite", STATE_DIR=tmp_path
    ) as node:
        handle = await node.submit("Contexts", resolver_context={"place": "{password}"})
        ended = await handle.outcome(30)
        assert ended.complete, ended
        assert "hunter2hunter2" not in repr(await handle.subtasks())
        assert "hunter2hunter2" not in repr(node.composition) + repr(node.governor.status())
        assert "hunter2hunter2" not in repr(await handle.logs())
        text = {"text": "{password}"}
        assert (await outcome(node, "Echo", "resolve", method_kwargs=text)).result == "•••"
    assert b"hunter2hunter2" not in b"".join(p.read_bytes() for p in tmp_path.iterdir())


async def test_r11_additional_context_arrives_and_ids_are_uuid7():
    async with running() as node:
        handle = await node.submit("Contexts", resolver_context={"place": "here"})
        assert (await handle.outcome(30)).complete
        assert {"here/01/grey01", "here/02/grey02"} <= set(texts(await handle.logs()))
        assert handle.id[14] == "7"
        assert len(handle.id) == 36


async def test_nested_partitioned_models_run_with_one_slot():
    async with running(SLOTS=1) as node:
        assert (await outcome(node, "Nested", model_construction_kwargs={"depth": 3})).complete
        status = node.governor.status()
        assert (status["slots_free"], status["waiting_parents"]) == (1, 0)


async def test_many_parents_at_once_with_one_slot():
    async with running(SLOTS=1) as node:
        handles = [await node.submit("Squares") for _ in range(5)]
        assert all([(await h.outcome(60)).complete for h in handles])


async def test_large_arguments_are_not_all_made_beforehand(tmp_path):
    kwargs = {"count": 150, "go": str(tmp_path / "go")}
    async with running() as node:
        handle = await node.submit("Heavy", model_construction_kwargs=kwargs)
        enough = MAX_BYTES // 900_000

        async def made():
            return (await handle.record()).progress.subtasks

        async with asyncio.timeout(20):
            while await made() < enough:
                await asyncio.sleep(0.1)
        await asyncio.sleep(0.5)
        assert await made() < enough + 5
        (tmp_path / "go").touch()
        assert (await handle.outcome(30)).complete


async def test_partition_plea_limits_how_many_run_at_once(tmp_path):
    kwargs = {"directory": str(tmp_path), "at_most": 2}
    async with running(SLOTS=4) as node:
        handle = await node.submit("Peak", model_construction_kwargs=kwargs)
        assert (await handle.outcome(30)).complete, await handle.outcome()
        assert "Statistic: peak = 2" in texts(await handle.logs())


async def test_a_failed_subtask_fails_the_parent_that_does_not_handle_it(tmp_path):
    kwargs = {"journal": str(tmp_path / "journal"), "fail_at": 3, "count": 50}
    async with running() as node:
        handle = await node.submit("Journal", model_construction_kwargs=kwargs)
        ended = await handle.outcome(30)
        assert ended.reason is Reason.SUBTASK_FAILED
        assert "3 is not to be" in ended.message
        failed = await node.task(ended.failed_subtask)
        assert (await failed.outcome()).message == "3 is not to be"
        await until(lambda: node.governor.status()["slots_free"] == 2)
        statuses = {s.status for s in await handle.subtasks(limit=200)}
        assert statuses <= {Status.COMPLETE, Status.FAILED, Status.CANCELLED}


async def test_a_subtask_of_a_model_that_is_not_accepted_says_so():
    async with running() as node:
        ended = await outcome(node, "MakesUnaccepted")
        assert ended.reason is Reason.SUBTASK_FAILED
        assert "'Unaccepted' is not in ACCEPTED_MODEL_CLASSES" in ended.message


async def test_models_run_in_the_order_of_their_data(tmp_path):
    async with running() as node:
        ended = await outcome(node, "InOrder", resolver_context={"place": str(tmp_path)})
        assert ended.complete, ended
        assert "2" in Path(tmp_path / "second.csv").read_text()


async def test_a_model_runner_runs_its_models():
    async with running() as node:
        assert (await outcome(node, "SideBySide")).complete


async def test_cancelling_a_parent_cancels_its_subtasks(tmp_path):
    kwargs = {"journal": str(tmp_path / "journal"), "wait_at": 0, "count": 40}
    async with running() as node:
        handle = await node.submit("Journal", model_construction_kwargs=kwargs)
        await until((tmp_path / "journal").exists)
        await handle.cancel()
        assert (await handle.outcome(30)).status is Status.CANCELLED
        await until(lambda: node.governor.status()["slots_free"] == 2)
        assert node.governor.running() == []
        assert all(s.status.final for s in await handle.subtasks(limit=200))


async def test_subtask_retries(tmp_path):
    from fossa import Limits

    kwargs = {"journal": str(tmp_path / "journal"), "fail_at": 1, "handle": True}
    async with running(LIMITS={"Journal": Limits(retries=1)}) as node:
        handle = await node.submit("Journal", model_construction_kwargs=kwargs)
        assert (await handle.outcome(30)).complete
        assert (tmp_path / "journal").read_text().split().count("1") == 2


class Debugging(TestConfig):
    DEBUG = True


async def test_debugging_runs_models_in_the_nodes_own_process():
    import os

    async with running(Debugging) as node:
        assert (await outcome(node, "Echo", "pid")).result == os.getpid()
        handle = await node.submit("Squares")
        assert (await handle.outcome(30)).complete
        assert "sum is 285" in texts(await handle.logs())
