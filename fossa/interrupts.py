"""What is raised inside a model to make it stop, so that it may clean up first.

They derive from `BaseException`, as `KeyboardInterrupt` does: a model's own `except Exception` does
not swallow them, its `finally` and `with` blocks run.
"""


class Interrupt(BaseException):
    """The node asks the running model to stop; after a grace period its process is ended."""


class SoftTimeout(Interrupt):
    """The task ran for longer than its timeout."""


class Cancelled(Interrupt):
    """Somebody cancelled the task."""
