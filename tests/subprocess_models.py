"""Models that say where they run, and that use up what they are given."""

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import ayeaye

#: How often this module was used in this process.
uses = []


class Where(ayeaye.Model):
    """Describes its own process."""

    def build(self):
        pass

    def about(self):
        uses.append(1)
        print(f"process {os.getpid()}")
        return {
            "pid": os.getpid(),
            "uses": len(uses),
            "environ": dict(os.environ),
            "cwd": str(Path.cwd()),
            "nice": os.getpriority(os.PRIO_PROCESS, 0),
            "gid": os.getgid(),
            "groups": os.getgroups(),
            "files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            "prefix": sys.prefix,
            "cgroup": Path("/proc/self/cgroup").read_text(),
        }


class Greedy(ayeaye.Model):
    """Takes more than it may have."""

    def build(self):
        pass

    def files(self):
        opened = []
        try:
            while len(opened) < 1000:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return [len(opened), error.strerror]

    def processor(self):
        while True:
            sum(range(1000))

    def memory(self):
        return len(bytearray(1 << 30))


class Ends(ayeaye.Model):
    """Ends its process, or will not."""

    def build(self):
        pass

    def exits(self):
        os._exit(3)

    def killed(self):
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    def cleans_up(self, journal):
        try:
            Path(journal).write_text("begun")
            time.sleep(60)
        finally:
            Path(journal).write_text("cleaned up")

    def family(self, journal, stay=True):
        """A child in this process's group, one in its own session, one that nobody waits for."""
        child = subprocess.Popen(["sleep", "60"])
        other = subprocess.Popen(["sleep", "60"], start_new_session=True)
        shell = subprocess.run(
            ["setsid", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"],
            stdout=subprocess.PIPE, check=True,
        )  # fmt: skip
        pids = [os.getpid(), child.pid, other.pid, int(shell.stdout)]
        Path(journal + ".new").write_text(" ".join(map(str, pids)))
        Path(journal + ".new").rename(journal)
        while stay:
            try:
                time.sleep(60)
            except BaseException:
                continue


class Parts(ayeaye.PartitionedModel):
    """Says which processes its subtasks ran in."""

    def build(self):
        self.pids = set()

    def partition_slice(self, _count):
        for number in range(3):
            yield "part", {"number": number}

    def part(self, number):
        return os.getpid()

    def partition_subtask_complete(self, task_message):
        self.pids.add(task_message.return_value)

    def partition_complete(self):
        self.log(f"processes: {len(self.pids | {os.getpid()})}")


ALL = [Where, Greedy, Ends, Parts]
