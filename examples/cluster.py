"""The flights on three nodes, one of which is killed half-way. The answer is the same.

    make demo-cluster

does what this script does by itself:

1. one node computes the delays of `flights.py`;
2. a RabbitMQ of our own is started, and three nodes that share the work over it;
3. they compute the same. Once the third node has ended a subtask and runs another, it is killed
   with SIGKILL. Nobody starts it again: what it held goes to the others;
4. the tables of both runs are compared, byte by byte.

It needs `pip install fossa-rabbitmq`, the data (see `flights.py`), and RabbitMQ on this computer
(on Debian: `apt-get install rabbitmq-server`), where it need not run as a service.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import flights

from fossa import BaseConfig, Client, FossaError, Outcome, env, use

if TYPE_CHECKING:
    from rich.console import Console

    from fossa.client import RemoteTask

#: Seconds that any one thing may take before something is wrong.
PATIENCE = 60.0
#: Seconds between two looks at a node.
EVERY = 0.05
#: Who is given the task and runs the parent, and who dies.
FIRST, VICTIM = "node-1", "node-3"
NODES = (FIRST, "node-2", VICTIM)
MODELS = ("ExtractFlights", "FlightDelays", "WorstRoutes")

_UP = re.compile(r"is up at (http://\S+), process")
_BEGUN_ON = "begun on "


class FlightDelays(flights.FlightDelays):
    """The same, and each subtask writes into its log which node runs it."""

    def delays_of_month(self, month: int) -> dict[str, int]:
        self.log(f"{_BEGUN_ON}{os.environ['FOSSA_NODE_NAME']}")
        return super().delays_of_month(month)


class Alone(BaseConfig):
    """A node for the three models."""

    ACCEPTED_MODEL_CLASSES = [flights.ExtractFlights, FlightDelays, flights.WorstRoutes]
    SOURCES = ["http"]


class Shared(Alone):
    """One of several: its subtasks go out to the others, and theirs come in."""

    SLOTS = 1
    SOURCES = ["http", use("rabbitmq", url=env("RABBITMQ_URL"))]
    EXECUTORS = ["local", use("rabbitmq", url=env("RABBITMQ_URL"))]


class Failed(Exception):
    """The demonstration came to no end. The argument says why, for people."""


def main() -> None:
    """Run both, compare, and leave with 0 where the answers are the same."""
    from fossa.terminal import console

    parser = argparse.ArgumentParser(description="Flights on three nodes; one of them is killed.")
    parser.add_argument("--data", type=Path, default=Path("demo-data"), help="directory to use")
    screen = console()
    try:
        same = Demonstration(parser.parse_args().data.absolute(), screen).run()
    except (Failed, FossaError, OSError) as error:
        screen.print(f"cluster: {error}", style="bold red", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0 if same else 1)


class Demonstration:
    """One answer from one node, one from three, and what became of the node that was killed."""

    def __init__(self, data: Path, screen: "Console") -> None:
        self.screen = screen
        self.extracted = data / "extracted"
        self.logs = data / "logs"
        self.one, self.three = data / "one-node", data / "three-nodes"
        for directory in (self.logs, self.one, self.three):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)

    def run(self) -> bool:
        """Whether both answers are the same."""
        with scratch_directory() as scratch, private_broker(scratch, self.screen) as url:
            alone = self.on_one_node(scratch)
            shared = self.on_three_nodes(scratch, url)
        self.screen.print(
            f"\nFlightDelays took {alone:.1f} s on one node with all slots of this computer, "
            f"{shared:.1f} s on three nodes with a slot each, of which one was killed"
        )
        return self.compare()

    def on_one_node(self, scratch: Path) -> float:
        """The answer to compare with; returns for how many seconds FlightDelays ran."""
        self.screen.rule("One node")
        node = Node("alone", Alone, scratch, self.logs)
        with running([node]):
            return [self.complete(node, model, self.one) for model in MODELS][1]

    def on_three_nodes(self, scratch: Path, url: str) -> float:
        """The same while one of the nodes is killed."""
        self.screen.rule("Three nodes")
        first, second, victim = nodes = [
            Node(name, Shared, scratch, self.logs, RABBITMQ_URL=url) for name in NODES
        ]
        with running(nodes):
            until("all three nodes know each other", lambda: len(first.client.nodes()) == 3)
            self.show_nodes(nodes)
            killing = Killing(victim, self.screen)
            took = self.complete(first, "FlightDelays", self.three, killing.look)
            if not killing.done:
                raise Failed(f"{VICTIM} had never both ended a subtask and begun another")
            self.show_subtasks(first.client, killing)
            self.complete(second, "WorstRoutes", self.three)
        return took

    def complete(
        self, node: "Node", model: str, tables: Path, meanwhile: Callable[[], None] = lambda: None
    ) -> float:
        """Run a model and show how it comes on; for how many seconds. Raises `Failed`."""
        from fossa.terminal import TaskBars

        context = {"data_dir": str(self.extracted), "output_dir": str(tables)}
        task = node.client.submit(model, resolver_context=context)
        with TaskBars(self.screen) as bars:
            for outcome, status, progress in task.watch(PATIENCE, every=EVERY):
                bars.show(f"{model} on {node.name}", status, progress, outcome)
                meanwhile()
        return self.duration(outcome, model)

    def duration(self, outcome: Outcome | None, model: str) -> float:
        if outcome is None:
            raise Failed(f"{model} did not end within {PATIENCE:g} s: see {self.logs}")
        if not outcome.complete:
            raise Failed(f"{model} is {outcome.status}: {outcome.message}; see {self.logs}")
        return outcome.finished - (outcome.started or outcome.finished)

    def show_nodes(self, nodes: "list[Node]") -> None:
        from fossa.terminal import table

        rows = [[node.name, node.client.url, node.process.pid] for node in nodes]
        self.screen.print(table("Nodes", ("node", "answers at", "process"), rows))

    def show_subtasks(self, client: Client, killing: "Killing") -> None:
        """Who ran what, as the node knows it that ran the parent."""
        from fossa.terminal import table

        (parent,) = client.tasks(model="FlightDelays", limit=1)
        rows = []
        for subtask in parent.subtasks(limit=200):
            ran_on = nodes_of(client.task(subtask["id"]))
            held = subtask["id"] in killing.held and ran_on[-1] != VICTIM
            note = f"had begun on {VICTIM}, which was killed" if held else ""
            result = subtask["outcome"]["result"]
            rows.append([result["month"], result["flights"], ran_on[-1], note])
        columns = ("month", "flights", "complete on", "")
        self.screen.print(table("Subtasks", columns, sorted(rows, key=itemgetter(0))))
        counts = ", ".join(f"{name}: {[r[2] for r in rows].count(name)}" for name in NODES)
        self.screen.print(f"{len(rows)} subtasks, each complete once ({counts})")

    def compare(self) -> bool:
        """Show whether every table is the same."""
        names = [f"{name}.csv" for name in ("delays_by_carrier", "delays_by_route")]
        names += ["delays_by_hour.csv", "worst_routes.csv"]
        differ = [n for n in names if (self.one / n).read_bytes() != (self.three / n).read_bytes()]
        if differ:
            places = f"{self.one} and {self.three}"
            self.screen.print(f"The answers differ: {', '.join(differ)} in {places}", style="red")
        else:
            flights.show_answer(self.screen, self.three)
            self.screen.print(
                f"The answer of three nodes, one of them killed, is that of one node: {len(names)} "
                "tables, the same byte by byte",
                style="bold green",
            )
        return not differ


class Killing:
    """Kills a node once it has ended a subtask and runs another."""

    def __init__(self, victim: "Node", screen: "Console") -> None:
        self._victim = victim
        self._screen = screen
        self.done = False
        #: Ids of the subtasks that it ran when it was killed.
        self.held: set[str] = set()

    def look(self) -> None:
        if self.done:
            return
        tasks = self._victim.client.call("GET", "/tasks")["tasks"]
        held = {task["id"] for task in tasks if task["status"] == "running"}
        ended = sum(task["status"] == "complete" for task in tasks)
        if held and ended:
            self._victim.process.kill()
            self.done, self.held = True, held
            self._screen.print(
                f"{self._victim.name} has ended {ended} of them and runs another: SIGKILL",
                style="bold yellow",
            )


def nodes_of(subtask: "RemoteTask") -> list[str]:
    """The nodes that began a subtask, in order: its log has come to its parent's node."""
    texts = (line.text for line in subtask.logs())
    return [text.removeprefix(_BEGUN_ON) for text in texts if text.startswith(_BEGUN_ON)]


class Node:
    """A node in a process of its own.

    Args:
        name: of the node.
        config: a class of this file.
        scratch: where its state goes.
        logs: where its log goes.
        extra: variables for its environment.
    """

    def __init__(
        self, name: str, config: type[BaseConfig], scratch: Path, logs: Path, **extra: str
    ) -> None:
        self.name = name
        self._log = logs / f"{name}.log"
        usual = {k: v for k, v in os.environ.items() if not k.startswith("FOSSA_")}
        own = {"NODE_NAME": name, "HTTP_PORT": "0", "STATE_DIR": str(scratch / name)}
        command = [sys.executable, "-m", "fossa", "run", f"{__file__}:{config.__name__}"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                env={**usual, **{f"FOSSA_{k}": v for k, v in own.items()}, **extra},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait_until_up(self) -> None:
        """Returns once it answers. Raises `Failed`, with what it wrote."""
        self.client = Client(until(f"{self.name} answers", self._address))

    def _address(self) -> str | None:
        said = self._log.read_text()
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended with status {self.process.returncode}:\n{said}")
        found = _UP.search(said)
        return found[1] if found else None


@contextmanager
def running(nodes: list[Node]) -> Iterator[None]:
    """The nodes are up meanwhile; afterwards they are stopped in good order."""
    try:
        for node in nodes:
            node.wait_until_up()
        yield
    finally:
        for node in nodes:
            if node.process.poll() is None:
                node.process.send_signal(signal.SIGTERM)
        for node in nodes:
            end(node.process)


def end(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a process that was asked to stop."""
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(PATIENCE)


@contextmanager
def scratch_directory() -> Iterator[Path]:
    """For what is of no interest afterwards."""
    with TemporaryDirectory(prefix="fossa-cluster-") as name:
        yield Path(name)


@contextmanager
def private_broker(scratch: Path, screen: "Console") -> Iterator[str]:
    """A RabbitMQ of our own meanwhile; its URL. Raises `Failed` where it cannot be had."""
    try:
        from fossa_rabbitmq.testing import PrivateBroker
    except ImportError:
        raise Failed("this needs the plugin: pip install fossa-rabbitmq") from None
    broker = PrivateBroker(scratch / "broker")
    with screen.status("Starting a RabbitMQ of our own…"):
        took = broker.start()
    screen.print(f"A RabbitMQ of our own was up on port {broker.port} after {took:.1f} s")
    try:
        yield broker.url
    finally:
        broker.kill()


def until(what: str, condition: Callable[[], Any]) -> Any:
    """Wait for a condition; returns what it returned. Raises `Failed`."""
    give_up = time.monotonic() + PATIENCE
    while not (value := condition()):
        if time.monotonic() > give_up:
            raise Failed(f"after {PATIENCE:g} s it is not yet so that {what}")
        time.sleep(EVERY)
    return value


if __name__ == "__main__":
    main()
