"""From the boot message to the last attempt, in whichever process."""

import os
import sys
from collections.abc import Callable

from fossa.worker.capture import Capture
from fossa.worker.channel import Channel
from fossa.worker.loading import Loader
from fossa.worker.messages import Boot, Ready
from fossa.worker.redaction import Redaction
from fossa.worker.signals import Interrupts


def serve(channel: Channel, boot: Boot, settle: Callable[[], None], *, once: bool = False) -> None:
    """Run what the governor sends until it closes the channel.

    Args:
        channel: the governor's.
        boot: its first message.
        settle: called once everything has been imported.
        once: this process will not be used again, whatever the attempt leaves.
    """
    sys.path[:] = boot.path
    redact = Redaction(boot.secrets.values())
    capture = Capture(channel, boot, redact)
    loader = Loader(boot.main_file, boot.main_module)
    models = loader.load_all(boot.models)
    resolvers = loader.load_all(boot.resolvers)
    # Only now, with the config's own path: this imports ayeaye.
    from fossa.worker.desk import Desk
    from fossa.worker.run import NodeSide, Runner

    node_side = NodeSide(resolvers, boot.secrets)
    runner = Runner(channel, models, node_side, capture, boot.max_result_bytes)
    interrupts = Interrupts(channel)
    desk = Desk(channel, runner, capture, interrupts, redact, once=once)
    capture.install()
    interrupts.install()
    settle()
    channel.send(Ready(os.getpid(), loader.problems))
    desk.work()
