"""The work that every figure is about: the same functions for Fossa and for what it is held to."""

import hashlib
import time

import ayeaye

#: About 100 ms of one core.
MD5_ROUNDS = 240_000


class Noop(ayeaye.Model):
    def build(self):
        pass


def noop(i):
    """Run a model that does nothing."""
    model = Noop()
    model.log_to_stdout = False
    return {"i": i, "ok": model.go()}


def cpu(i):
    """Burn a fixed amount of one core; tells how much it was, in seconds."""
    began = time.process_time()
    digest = b"x"
    for _ in range(MD5_ROUNDS):
        digest = hashlib.md5(digest).digest()
    return {"i": i, "cpu": time.process_time() - began}


class Work(ayeaye.Model):
    """The same, as methods of a model."""

    def build(self):
        pass

    def noop(self, i):
        return noop(i)

    def cpu(self, i):
        return cpu(i)


class Fan(ayeaye.PartitionedModel):
    """The no-ops as subtasks of one parent."""

    count = 5000

    def build(self):
        pass

    def partition_slice(self, _count):
        return [("noop", {"i": i}) for i in range(self.count)]

    def noop(self, i):
        return noop(i)
