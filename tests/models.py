"""Models that the tests run. Importable, so that worker processes find them."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import ayeaye
from ayeaye.common_pattern.parallel_model_runner import (
    AbstractDependencyDrivenModelRunner,
    AbstractModelRunner,
)
from ayeaye.runtime.task_message import TaskPartition


class Nothing(ayeaye.Model):
    def build(self):
        pass


class Echo(ayeaye.Model):
    """Answers with what it was asked."""

    def __init__(self, greeting="hello"):
        super().__init__()
        self.greeting = greeting

    def build(self):
        pass

    def say(self, what=None):
        return {"greeting": self.greeting, "what": what}

    def resolve(self, text):
        return ayeaye.connector_resolver.resolve(text)

    def pid(self):
        return os.getpid()

    def sleep(self, seconds):
        time.sleep(seconds)
        return seconds

    def _secret(self):
        return "not for you"


class Writes(ayeaye.Model):
    """Everything that can be written, everywhere."""

    def build(self):
        self.log("by the model")
        self.log("a warning of the model", "WARNING")
        print("by print")
        print("to stderr", file=sys.stderr)
        logging.getLogger("library").error("by logging")
        warnings.warn("by warnings", UserWarning, stacklevel=1)
        os.write(1, b"raw to descriptor 1\n")
        subprocess.run(["echo", "by a child process"], check=True)
        print("no line end", end="")

    def many(self, count):
        for i in range(count):
            print(f"line {i}")

    def odd(self):
        print("nul \x00 surrogate \udc80 tab \t end")
        os.write(1, b"\xff\xfe not utf-8\n")
        self.log_progress(0.5, "half \udc80")


class Fails(ayeaye.Model):
    def build(self):
        raise ValueError("no such luck")

    def oddly(self):
        """An error that UTF-8 cannot carry."""
        raise ValueError("no such \udc80")

    def unspeakable(self):
        class Unspeakable(Exception):
            def __str__(self):
                raise RuntimeError("not even that")

        raise Unspeakable

    def until(self, journal, times):
        """Fails so many times, then returns."""
        with Path(journal).open("a") as file:
            file.write("x")
        if len(Path(journal).read_text()) <= times:
            raise ValueError("not yet")
        return "at last"


class Checks(ayeaye.Model):
    def pre_build_check(self):
        return False

    def build(self):
        pass


class Dies(ayeaye.Model):
    """Every way for a process to end."""

    def build(self):
        pass

    def os_exit(self, status=0):
        os._exit(status)

    def sys_exit(self, status=0):
        sys.exit(status)

    def by_signal(self, number):
        os.kill(os.getpid(), number)
        time.sleep(10)

    def segfault(self):
        ctypes.string_at(0)

    def close_channel(self):
        os.closerange(3, 256)
        time.sleep(10)

    def garbage_on_channel(self):
        for descriptor in range(3, 64):
            with contextlib.suppress(OSError):
                os.write(descriptor, b"\x00\x00\x00\x05hello")
        time.sleep(10)

    def garbage_on_stdout(self):
        os.write(1, os.urandom(4096))
        return "still here"

    def eat_memory(self):
        block = bytearray(1 << 30)
        return len(block)

    def grow(self, megabytes):
        Dies.kept = b"x" * (megabytes << 20)
        time.sleep(0.02)

    def leave_a_child(self, pid_file):
        child = subprocess.Popen(["sleep", "60"])
        Path(pid_file).write_text(str(child.pid))

    def die_if(self, die):
        if die:
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"

    def die_once(self, journal):
        path = Path(journal)
        if not path.exists():
            path.write_text("died")
            os.kill(os.getpid(), signal.SIGKILL)
        return "survived"


class Stubborn(ayeaye.Model):
    """Does not stop when asked to."""

    def build(self):
        pass

    def clean_up(self, journal):
        self.log("begun")
        try:
            time.sleep(30)
        finally:
            Path(journal).write_text("cleaned up")

    def ignore(self, pid_file):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "60"])
        Path(pid_file).write_text(f"{os.getpid()} {child.pid}")
        while True:
            with contextlib.suppress(BaseException):
                time.sleep(30)


class Returns(ayeaye.Model):
    def build(self):
        pass

    def numbers(self):
        return [float("nan"), float("inf"), 1, True, None, "é"]

    def an_object(self):
        return object()

    def a_set(self):
        return {"a": {1, 2}}

    def huge(self, size):
        return "x" * size


class Progresses(ayeaye.Model):
    def build(self):
        for step in range(1, 5):
            self.log_progress(step / 4, f"step {step}")
            time.sleep(0.11)


class Squares(ayeaye.PartitionedModel):
    """Subtasks in number; what comes back is added up in `stats`."""

    def __init__(self, count=10, kind="tuples"):
        super().__init__()
        self.count = count
        self.kind = kind

    def build(self):
        pass

    def partition_slice(self, _count):
        if self.kind == "list":
            return [("square", {"i": i}) for i in range(self.count)]
        return self._generate()

    def _generate(self):
        for i in range(self.count):
            if self.kind == "partitions":
                yield TaskPartition(Squares, "square", {"i": i})
            elif self.kind == "breaks" and i == self.count // 2:
                raise ValueError("the slice broke half-way")
            else:
                yield "square", {"i": i}

    def square(self, i):
        return i * i

    def partition_subtask_complete(self, task_message):
        self.stats["sum"] += task_message.return_value

    def partition_complete(self):
        self.log(f"sum is {self.stats['sum']}")


class Journal(ayeaye.PartitionedModel):
    """Each subtask writes to a journal that it ran; some die or fail the first time."""

    def __init__(self, journal, count=6, die_at=None, fail_at=None, handle=False, wait_at=None):
        super().__init__()
        self.journal = Path(journal)
        self.count = count
        self.die_at = die_at
        self.fail_at = fail_at
        self.handle = handle
        self.wait_at = wait_at
        self.failures = []

    def build(self):
        pass

    def partition_slice(self, _count):
        keep = {"journal": str(self.journal)}
        for i in range(self.count):
            yield TaskPartition(
                Journal,
                "note",
                {"i": i, "die": i == self.die_at, "fail": i == self.fail_at,
                 "wait": i == self.wait_at},
                model_construction_kwargs=keep,
            )  # fmt: skip

    def note(self, i, die, fail, wait):
        with self.journal.open("a") as file:
            file.write(f"{i}\n")
        marker = self.journal.with_suffix(f".{i}")
        if die and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if fail:
            raise ValueError(f"{i} is not to be")
        while wait and not self.journal.with_suffix(".go").exists():
            time.sleep(0.01)
        return i

    def partition_subtask_failed(self, task_message):
        if not self.handle:
            return super().partition_subtask_failed(task_message)
        self.failures.append(task_message)
        return None

    def partition_complete(self):
        self.log(f"failures: {len(self.failures)}")


class OneWorker(Journal):
    """Asks for one worker, and handles the failures of its subtasks."""

    def partition_plea(self):
        return self.PartitionOption(minimum=1, maximum=1, optimal=1)


class Peak(ayeaye.PartitionedModel):
    """Measures how many of its subtasks run at once."""

    def __init__(self, directory="", at_most=2):
        super().__init__()
        self.directory = directory
        self.at_most = at_most

    def build(self):
        pass

    def partition_plea(self):
        return self.PartitionOption(minimum=1, maximum=self.at_most, optimal=self.at_most)

    def partition_slice(self, count):
        self.log(f"count {count}")
        return [("at_once", {"i": i, "directory": self.directory}) for i in range(12)]

    def at_once(self, i, directory):
        mine = Path(directory) / f"{os.getpid()}-{i}"
        mine.touch()
        time.sleep(0.03)
        running = len(list(Path(directory).iterdir()))
        mine.unlink()
        return [running, self.runtime.worker_id, self.runtime.total_workers]

    def partition_subtask_complete(self, task_message):
        running, lane, lanes = task_message.return_value
        assert 0 <= lane < lanes <= self.at_most, (lane, lanes)
        self.stats["peak"] = max(self.stats["peak"], running)


class Nested(ayeaye.PartitionedModel):
    """A PartitionedModel whose subtasks are PartitionedModels, to a depth."""

    def __init__(self, depth=2):
        super().__init__()
        self.depth = depth

    def build(self):
        pass

    def partition_slice(self, _count):
        for i in range(2):
            if self.depth > 1:
                yield TaskPartition(
                    Nested, "go", model_construction_kwargs={"depth": self.depth - 1}
                )
            else:
                yield "leaf", {"i": i}

    def leaf(self, i):
        return i


class Contexts(ayeaye.PartitionedModel):
    """What of the resolver's context its subtasks see."""

    def build(self):
        pass

    def partition_slice(self, _count):
        for month in ("01", "02"):
            yield TaskPartition(
                Contexts,
                "see",
                {"text": "{place}/{month}"},
                additional_context={"month": month},
                partition_initialise_kwargs={"shade": f"grey{month}"},
            )

    def partition_initialise(self, shade="none"):
        super().partition_initialise()
        self.shade = shade

    def see(self, text):
        return ayeaye.connector_resolver.resolve(text) + "/" + self.shade

    def partition_subtask_complete(self, task_message):
        self.log(task_message.return_value)


class Foreign(ayeaye.PartitionedModel):
    """Has a callable in its context that no other process can be given."""

    def build(self):
        ayeaye.connector_resolver.add(lambda text: text.replace("{x}", "y"))

    def partition_slice(self, _count):
        yield "part", {}

    def part(self):
        return None


class Unaccepted(ayeaye.Model):
    def build(self):
        pass


class MakesUnaccepted(ayeaye.PartitionedModel):
    def build(self):
        pass

    def partition_slice(self, _count):
        yield TaskPartition(Unaccepted, "go")


class First(ayeaye.Model):
    out = ayeaye.Connect(engine_url="csv://{place}/first.csv", access=ayeaye.AccessMode.WRITE)

    def build(self):
        self.out.add({"n": 1})


class Second(ayeaye.Model):
    source = ayeaye.Connect(engine_url="csv://{place}/first.csv")
    out = ayeaye.Connect(engine_url="csv://{place}/second.csv", access=ayeaye.AccessMode.WRITE)

    def build(self):
        for row in self.source:
            self.out.add({"n": int(row["n"]) + 1})


class InOrder(AbstractDependencyDrivenModelRunner):
    models = {First, Second}


class SideBySide(AbstractModelRunner):
    models = [(Nothing, {}), (Echo, {"greeting": "hi"})]


class Heavy(ayeaye.PartitionedModel):
    """Subtasks with large arguments, from a generator, that wait for a file to appear."""

    def __init__(self, count=0, go=""):
        super().__init__()
        self.count = count
        self.go_file = go

    def build(self):
        pass

    def partition_slice(self, _count):
        for _ in range(self.count):
            yield "hold", {"text": "x" * 900_000, "go": self.go_file}

    def hold(self, text, go):
        while not Path(go).exists():
            time.sleep(0.01)
        return len(text)


ALL = [
    Nothing, Echo, Writes, Fails, Checks, Dies, Stubborn, Returns, Progresses, Squares, Journal,
    OneWorker, Peak, Nested, Contexts, Foreign, MakesUnaccepted, First, Second, InOrder,
    SideBySide, Heavy,
]  # fmt: skip
