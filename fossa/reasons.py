"""Why a task ended. Apart from the other values, for worker processes need nothing else of them."""

from enum import StrEnum


class Reason(StrEnum):
    """Why a task ended as it did."""

    #: The method returned.
    RETURNED = "returned"
    #: The method raised an exception.
    EXCEPTION = "exception"
    #: `go()` returned False: a pre- or post-build check failed.
    CHECK_FAILED = "check_failed"
    #: A subtask failed and the model did not handle it.
    SUBTASK_FAILED = "subtask_failed"
    #: It ran for longer than its timeout, and stopped when asked to.
    SOFT_TIMEOUT = "soft_timeout"
    #: It ran for longer than its timeout, did not stop when asked, and its process was ended.
    HARD_TIMEOUT = "hard_timeout"
    #: Somebody cancelled it, or its parent ended first.
    CANCELLED = "cancelled"
    #: The model ended its own process (`sys.exit`, `os._exit`), whatever the exit status.
    EXIT = "exit"
    #: A signal ended the process: a segmentation fault, a `kill`.
    SIGNAL = "signal"
    #: The process reached its memory limit, or the machine had none left.
    OUT_OF_MEMORY = "out_of_memory"
    #: The process said something that no worker says: its channel cannot be trusted.
    PROTOCOL = "protocol"
    #: The return value is larger than `MAX_RESULT_BYTES`.
    RESULT_TOO_LARGE = "result_too_large"
    #: The node died while it ran, and its crash attempts are used up.
    LOST_NODE = "lost_node"
    #: No executor could run it.
    EXECUTOR = "executor"
    #: Its source could keep its delivery no longer.
    LEASE_OVER = "lease_over"
    #: This node does not accept it, and a model made it as a subtask; or accepts its model no more.
    REFUSED = "refused"

    @property
    def crash(self) -> bool:
        """Whether the process or the node died, rather than the model failed."""
        return self in _CRASHES


_CRASHES = {
    Reason.SIGNAL,
    Reason.OUT_OF_MEMORY,
    Reason.PROTOCOL,
    Reason.LOST_NODE,
    Reason.EXECUTOR,
}
#: Ends that another attempt would not change.
POINTLESS_TO_RETRY = {
    Reason.CANCELLED,
    Reason.RESULT_TOO_LARGE,
    Reason.LEASE_OVER,
    Reason.REFUSED,
}
