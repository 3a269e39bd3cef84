"""What a node tells Prometheus."""

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from fossa import Fossa, hookimpl
from fossa.admin.exposition import Exposition
from fossa.builtin.metrics import BUCKETS, UNKNOWN, Metrics
from http_support import HttpConfig, ended, serving, submitted
from support import outcome, until

RETURNED = 'reason="returned",status="complete"'


class Counted(HttpConfig):
    PLUGINS = (Metrics,)


def samples(text):
    """Value by name and labels, as in `fossa_queued{kind="task"}`."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f'{k}="{v}"' for k, v in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


async def scraped(session):
    async with session.get("/api/1/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        return samples(await response.text())


async def test_tasks_are_counted_by_how_they_ended_and_subtasks_apart():
    async with serving(Counted) as (_, session):
        for model in ("Nothing", "Nothing", "Fails"):
            await ended(session, (await submitted(session, model))["id"])
        squares = await submitted(session, "Squares", model_construction_kwargs={"count": 5})
        await ended(session, squares["id"])
        found = await scraped(session)
    expected = {}
    for kind, model, end, count in (
        ("task", "Nothing", RETURNED, 2),
        ("task", "Fails", 'reason="exception",status="failed"', 1),
        ("task", "Squares", RETURNED, 1),
        ("subtask", "Squares", RETURNED, 5),
    ):
        labels = f'kind="{kind}",model="{model}"'
        expected[f"fossa_tasks_accepted_total{{{labels}}}"] = count
        expected[f"fossa_tasks_ended_total{{{labels},{end}}}"] = count
    counted = {k: v for k, v in found.items() if k.startswith("fossa_tasks")}
    assert counted == expected


async def test_every_attempt_is_in_the_histogram_and_buckets_add_up():
    async with serving(Counted) as (node, session):
        assert not (await outcome(node, "Fails", retries=2)).complete
        nap = {"seconds": 0.15}
        assert (await outcome(node, "Echo", "sleep", method_kwargs=nap)).complete
        found = await scraped(session)
    assert found['fossa_attempt_seconds_count{kind="task",model="Fails"}'] == 3
    name = 'fossa_attempt_seconds_bucket{kind="task",le="%s",model="Echo"}'
    assert [found[name % bound] for bound in BUCKETS] == [b > 0.15 for b in BUCKETS]
    assert found[name % "+Inf"] == 1
    assert 0.15 <= found['fossa_attempt_seconds_sum{kind="task",model="Echo"}'] < 5


async def test_what_is_under_way_is_asked_when_scraped():
    async with serving(Counted, SLOTS=2, NODE_NAME="n1") as (node, session):
        for _ in range(5):
            await submitted(session, "Echo", "sleep", method_kwargs={"seconds": 30})
        await until(lambda: node.governor.status()["running"] == 2)
        found = await scraped(session)
        assert found["fossa_slots"] == 2
        assert found["fossa_slots_free"] == 0
        assert found["fossa_attempts_running"] == 2
        assert found['fossa_queued{kind="task"}'] == 3
        assert found['fossa_queued{kind="subtask"}'] == 0
        assert found["fossa_ready"] == 1
        (info,) = [k for k in found if k.startswith("fossa_node_info")]
        assert 'name="n1"' in info


async def test_two_nodes_in_a_process_do_not_mix():
    async with Fossa(Counted) as one, Fossa(Counted) as other:
        await outcome(one, "Nothing")
        texts = [Exposition(node.governor).text()[0].decode() for node in (one, other)]
    key = 'fossa_tasks_accepted_total{kind="task",model="Nothing"}'
    assert [samples(text).get(key) for text in texts] == [1, None]


async def test_names_that_models_make_up_do_not_become_labels():
    async with Fossa(Counted) as node:
        assert not (await outcome(node, "MakesUnaccepted")).complete
        found = samples(Exposition(node.governor).text()[0].decode())
    labels = f'kind="subtask",model="{UNKNOWN}",reason="refused",status="failed"'
    assert found[f"fossa_tasks_ended_total{{{labels}}}"] == 1
    assert not any("Unaccepted" in k and "MakesUnaccepted" not in k for k in found)


class Weather:
    """A plugin of somebody else's, with metrics of its own."""

    @hookimpl
    def fossa_node_started(self, node):
        self.degrees = 21

    def collect(self):
        from prometheus_client.metrics_core import GaugeMetricFamily

        yield GaugeMetricFamily("weather_degrees", "Outside.", value=self.degrees)


async def test_other_plugins_metrics_are_shown_too():
    async with serving(Counted, PLUGINS=[Weather]) as (_, session):
        found = await scraped(session)
        again = await asyncio.gather(*(scraped(session) for _ in range(3)))
    assert found["weather_degrees"] == 21
    assert "fossa_slots" in found
    assert all(a["weather_degrees"] == 21 for a in again)
