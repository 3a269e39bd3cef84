"""The source holds what every source must hold, as far as nobody sends it anything."""

from zoneinfo import ZoneInfo

import attrs

from fossa import TaskRefused
from fossa.testing import SourceContract
from fossa_schedule import every
from fossa_schedule.progress import Mark, Progress
from fossa_schedule.reading import Schedule
from fossa_schedule.runner import Runner
from fossa_schedule.source import ScheduleSource, SystemClock
from fossa_schedule.timing import Every


class TestScheduleSource(SourceContract):
    """What is sent is a firing of one more schedule."""

    takes = False
    number = 0

    def make(self):
        return ScheduleSource(entries=[every("366d", "Answers")], timezone="Europe/London")

    def broken(self):
        return ScheduleSource(entries=[every("366d", "Answers")], timezone="Europe/Lodnon")

    async def send(self, source, request):
        self.number += 1
        name = f"sent-{self.number}"
        timing = Every(seconds=60, text="every 1m", zone=ZoneInfo("UTC"))
        schedule = Schedule(
            name=name,
            timing=timing,
            request=attrs.evolve(request, idempotency_key=None),
            jitter=0,
            missed="once",
            max_missed=1,
            overlap=True,
        )
        progress = Progress(None)
        progress.put(name, Mark(text=timing.text, last=0))
        runner = Runner(schedule, self.watched.node, source.name, progress, SystemClock())
        try:
            await runner.admit(60)
        except TaskRefused as error:
            return str(error)
        return None

    def running(self, **settings):
        outer, inner = self, super().running(**settings)

        class Kept:
            async def __aenter__(self):
                outer.watched = await inner.__aenter__()
                return outer.watched

            async def __aexit__(self, *error):
                return await inner.__aexit__(*error)

        return Kept()
