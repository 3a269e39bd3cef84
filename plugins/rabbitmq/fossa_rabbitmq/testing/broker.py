"""A RabbitMQ server of one's own: any user, free ports, one directory, gone with the test."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from attrs import frozen

from fossa import FossaError
from fossa.testing import free_port

#: Where the scripts of the packages for Debian, Fedora and others are. Not those in /usr/sbin:
#: they change to the user `rabbitmq`.
SCRIPTS = Path("/usr/lib/rabbitmq/bin")
#: Seconds within which it has to accept connections. It takes about five.
START_DEADLINE = 60.0
#: Seconds that it gets for stopping in good order.
STOP_DEADLINE = 20.0
#: Seconds within which quorum queues have to be on the disk. It takes about three.
DISK_DEADLINE = 20.0
#: Seconds that rabbitmqctl may take.
CTL_DEADLINE = 30.0
_PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
#: A file of each quorum queue. Its directory is named for the id that two tables have to know.
_QUORUM_QUEUES = "data/*/quorum/*/*/config"
_KEEPER = Path(__file__).with_name("keeper.py")

#: What it should not do: announce itself, fill a small disk's warning level, keep 512 MB of log
#: in memory. What the caller adds comes later and wins.
_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
log.console = false
log.file = {log}
log.file.level = {level}
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 33554432
"""
_TLS = """\
listeners.ssl.1 = 127.0.0.1:{port}
ssl_options.cacertfile = {tls.ca}
ssl_options.certfile = {tls.certificate}
ssl_options.keyfile = {tls.key}
ssl_options.verify = {verify}
ssl_options.fail_if_no_peer_cert = {demand}
"""


class BrokerNotInstalled(FossaError):
    """RabbitMQ is not installed on this computer."""


class BrokerNotUp(FossaError):
    """A private RabbitMQ did not come up, or is not up now."""


@frozen(kw_only=True)
class Tls:
    """The files with which a broker speaks TLS, all PEM."""

    ca: Path
    certificate: Path
    key: Path
    #: Whether clients have to show a certificate that the CA signed.
    demand: bool = False


class PrivateBroker:
    """A RabbitMQ server, listening on the loopback interface only, without plugins.

    The methods block: in asyncio, call those that take long through `asyncio.to_thread`. The
    broker, its helpers and its port mapper end with the process that started it, however that ends.

    Args:
        directory: for all of its files; made where it does not exist. A broker in a directory that
            another one has left goes on where that was.
        config: lines of rabbitmq.conf that win over its own.
        tls: listen for amqps too.
        schedulers: threads of the Erlang machine that run code.
    """

    def __init__(
        self, directory: Path, *, config: str = "", tls: Tls | None = None, schedulers: int = 2
    ) -> None:
        self.directory = Path(directory).absolute()
        self.port, self._distribution, self._mapper, self.tls_port = (free_port() for _ in range(4))
        self.name = f"fossa-{self.port}@localhost"
        self._config = config
        self._tls = tls
        self._schedulers = schedulers
        self._keeper: subprocess.Popen[bytes] | None = None
        self._pid: int | None = None

    def __repr__(self) -> str:
        return f"<PrivateBroker {self.name} in {self.directory}>"

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/%2F"

    @property
    def tls_url(self) -> str:
        """Where it speaks TLS; its certificate has to be for `localhost`."""
        return f"amqps://guest:guest@localhost:{self.tls_port}/%2F"

    @property
    def pid(self) -> int:
        """Of the Erlang machine, and of its process group. Raises `BrokerNotUp`."""
        if self._pid is None:
            raise BrokerNotUp(f"{self!r} is not up: call start()")
        return self._pid

    @property
    def keeper_pid(self) -> int:
        """Of the process that starts and ends all the others. Raises `BrokerNotUp`."""
        if self._keeper is None:
            raise BrokerNotUp(f"{self!r} is not up: call start()")
        return self._keeper.pid

    @property
    def up(self) -> bool:
        """Whether its process runs. One that is paused is up."""
        return self._keeper is not None and self._keeper.poll() is None

    @property
    def log(self) -> Path:
        return self.directory / "log" / "broker.log"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> float:
        """Returns once it accepts connections; how many seconds that took.

        Raises:
            BrokerNotInstalled: there is no RabbitMQ on this computer.
            BrokerNotUp: it did not accept any within 60 s; with the end of its log.
        """
        if self._keeper is not None:
            self._forget()
        server = _script("rabbitmq-server")
        began = time.monotonic()
        self._write_files()
        self._launch(server)
        while not self._accepts():
            if not self.up or time.monotonic() - began > START_DEADLINE:
                self.kill()
                raise BrokerNotUp(f"{self!r} did not come up. Its log ends with:\n{self._end()}")
            time.sleep(0.05)
        return time.monotonic() - began

    def stop(self) -> None:
        """Stop it in good order; killed if that takes more than 20 s."""
        if self.up:
            self.resume()
            self._signal(signal.SIGTERM)
            self._wait(STOP_DEADLINE)
        self.kill()

    def kill(self) -> None:
        """SIGKILL; returns once nothing of it is left. Harmless where it is down.

        A quorum queue is on the disk only three seconds after it was declared, for which
        `wait_for_disk` waits. If RabbitMQ 3.10 is killed before, the queue is there when it is
        started again, but its messages are lost and it never takes new ones.
        """
        if self.up:
            self._signal(signal.SIGKILL)
        self._forget()

    def wait_for_disk(self) -> None:
        """Returns once every quorum queue is on the disk. Raises `BrokerNotUp` after 20 s."""
        end = time.monotonic() + DISK_DEADLINE
        while not all(_is_written(c.parent) for c in self.directory.glob(_QUORUM_QUEUES)):
            if time.monotonic() > end:
                raise BrokerNotUp(f"{self!r} did not write down its quorum queues within 20 s")
            time.sleep(0.05)

    def restart(self) -> float:
        """Stop it in good order and start it; how many seconds the start took."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def ctl(self, *arguments: str) -> str:
        """What `rabbitmqctl` says; takes more than a second.

        Raises:
            BrokerNotUp: with what it wrote, where it did not succeed.
        """
        done = subprocess.run(
            [_script("rabbitmqctl"), "--quiet", "--node", self.name, *arguments],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CTL_DEADLINE,
            check=False,
        )
        if done.returncode:
            what = f"rabbitmqctl {' '.join(arguments)} on {self!r}"
            raise BrokerNotUp(f"{what} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def _write_files(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        lines = _CONFIG.format(port=self.port, log=self.log.name, level="info")
        if self._tls is not None:
            demand = self._tls.demand
            verify = "verify_peer" if demand else "verify_none"
            lines += _TLS.format(
                port=self.tls_port, tls=self._tls, verify=verify, demand=str(demand).lower()
            )
        (self.directory / "rabbitmq.conf").write_text(lines + self._config + "\n")
        (self.directory / "enabled_plugins").write_text("[].\n")

    def _environment(self) -> Mapping[str, str]:
        """Nothing of the user's own but the path, so that no setting of another broker counts."""
        at = self.directory
        arguments = f"-noinput +S {self._schedulers}:{self._schedulers}"
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(at),
            "ERL_CRASH_DUMP_SECONDS": "0",
            "ERL_EPMD_PORT": str(self._mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            # Else the script stays between, to handle signals that it need not.
            "RABBITMQ_ALLOW_INPUT": "1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_MNESIA_BASE": str(at / "data"),
            "RABBITMQ_LOG_BASE": str(at / "log"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(at / "enabled_plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            "RABBITMQ_CONFIG_FILE": str(at / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(at / "advanced.config"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"{arguments} -kernel inet_dist_use_interface {{127,0,0,1}}"
            ),
        }

    def _launch(self, server: str) -> None:
        mapper = [_mapper(), "-port", str(self._mapper), "-address", "127.0.0.1"]
        with (self.directory / "output.log").open("ab") as output:
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_KEEPER), *mapper, "--", server],
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        assert self._keeper.stdout is not None
        said = self._keeper.stdout.readline()
        self._pid = int(said) if said else None

    def _accepts(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as connection:
                connection.settimeout(2.0)
                connection.sendall(_PROTOCOL_HEADER)
                if connection.recv(1) != b"\x01":
                    return False
            if self._tls is not None:  # it listens there a moment later
                socket.create_connection(("127.0.0.1", self.tls_port), 1.0).close()
        except OSError:
            return False
        return True

    def _signal(self, number: int) -> None:
        if not self.up:
            raise BrokerNotUp(f"{self!r} is not up: call start()")
        try:
            os.killpg(self.pid, number)
        except ProcessLookupError:
            return

    def _wait(self, timeout: float) -> None:
        assert self._keeper is not None
        try:
            self._keeper.wait(timeout)
        except subprocess.TimeoutExpired:
            return

    def _forget(self) -> None:
        """Closing the pipe is what ends the keeper, where the broker's end has not."""
        keeper, self._keeper, self._pid = self._keeper, None, None
        if keeper is None:
            return
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        keeper.stdin.close()
        keeper.stdout.close()
        keeper.wait(STOP_DEADLINE)

    def _end(self, lines: int = 80) -> str:
        """What it wrote last."""
        found = [self.directory / "output.log", self.log]
        texts = (p.read_text(errors="replace").splitlines() for p in found if p.exists())
        return "\n".join(line for text in texts for line in text[-lines:])


def installed() -> bool:
    """Whether a `PrivateBroker` can be had on this computer."""
    return (SCRIPTS / "rabbitmq-server").exists() and shutil.which("epmd") is not None


def _is_written(queue: Path) -> bool:
    tables = (queue.parent / "names.dets", queue.parent / "meta.dets")
    return all(t.exists() and queue.name.encode() in t.read_bytes() for t in tables)


def _script(name: str) -> str:
    if not (SCRIPTS / name).exists():
        raise BrokerNotInstalled(
            f"there is no {SCRIPTS / name}: install RabbitMQ (on Debian: apt-get install "
            "rabbitmq-server), or set RABBITMQ_URL to a broker that tests may use"
        )
    return str(SCRIPTS / name)


def _mapper() -> str:
    found = shutil.which("epmd")
    if found is None:
        raise BrokerNotInstalled("there is no epmd on the PATH: it is a part of Erlang, install it")
    return found
