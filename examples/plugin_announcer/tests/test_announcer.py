"""A real node tells the plugin of a real task."""

import io

import ayeaye
from fossa_announcer import Announcer

from fossa import BaseConfig, Fossa


class BrokenEtl(ayeaye.Model):
    """Fails."""

    def build(self):
        raise ValueError("no data today")


def test_it_rings_where_a_task_failed():
    written = io.StringIO()

    class Config(BaseConfig):
        ACCEPTED_MODEL_CLASSES = [BrokenEtl]
        PLUGINS = [Announcer(bell=True, to=written)]
        LEDGER = None

    with Fossa(Config).in_thread() as node:
        node.submit(BrokenEtl).outcome(timeout=30)
    assert written.getvalue().startswith("\aBrokenEtl is failed after ")
