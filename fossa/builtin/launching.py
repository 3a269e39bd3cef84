"""How a fresh process is started: which program, where, as whom, with which environment."""

import grp
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fossa.builtin.process import Launch
from fossa.builtin.subprocess_options import KEPT, Options
from fossa.errors import ConfigError
from fossa.worker.loading import WORKER_MARK


class Launcher:
    """Starts processes as the options say, once it has been prepared."""

    def __init__(self, options: Options, mark: str) -> None:
        self._options = options
        self._mark = mark
        self._arguments: dict[str, Any] = {}
        #: The interpreter as it is called.
        self.python = str(options.python or sys.executable)

    def prepare(self) -> None:
        """Look at what the options name. Blocks a little. Raises ConfigError."""
        mistakes: list[str] = []
        options = self._options
        account = self._account(mistakes)
        environment = self._environment(account)
        self._look_for_programs(environment.get("PATH"), mistakes)
        if options.cwd is not None and not Path(options.cwd).is_dir():
            mistakes.append(f"cwd is {str(options.cwd)!r}: there is no such directory; make it")
        if mistakes:
            raise ConfigError(options.place, mistakes)
        self._arguments["env"] = environment
        self._arguments["cwd"] = options.cwd

    def launch(self, *asked: str) -> Launch:
        """Starts one process, which is asked for these in its greeting."""
        place = ("place",) if self._options.prefix else ()
        command = [*self._options.prefix, self.python, "-m", "fossa.worker.fresh", *asked, *place]

        def launch(channel: int, output: int) -> "subprocess.Popen[bytes]":
            # start_new_session: its own process group, which a terminal's Ctrl-C does not reach.
            return subprocess.Popen(
                command,
                stdin=channel,
                stdout=channel,
                stderr=output,
                start_new_session=True,
                **self._arguments,
            )

        return launch

    def _look_for_programs(self, path: str | None, mistakes: list[str]) -> None:
        """Only for the first: what follows a prefix may be on another computer."""
        named = self._options.prefix[0] if self._options.prefix else self.python
        option = "prefix" if self._options.prefix else "python"
        found = shutil.which(named, path=path)
        if found is None:
            mistakes.append(
                f"{option} is {named!r}: there is no such program here, or it may not be run; "
                "correct the path, or install it (a virtual environment: python3 -m venv …)"
            )
        elif option == "python" and not Path(named).is_absolute():
            # With another working directory a relative path would be another program.
            self.python = os.path.abspath(found)

    def _environment(self, account: Mapping[str, str]) -> dict[str, str]:
        wanted = (*KEPT, *self._options.keep_env)
        kept = {
            name: value
            for name, value in os.environ.items()
            if any(fnmatchcase(name, pattern) for pattern in wanted)
        }
        return {
            **kept,
            **account,
            "PYTHONUNBUFFERED": "1",
            # The working directory is no place to import from, unless `path` says so.
            "PYTHONSAFEPATH": "1",
            **self._options.env,
            WORKER_MARK: self._mark,
        }

    def _account(self, mistakes: list[str]) -> dict[str, str]:
        """Have processes start as another user; returns what the environment says of it."""
        user, group = self._options.user, self._options.group
        if user is None and group is None:
            return {}
        if os.geteuid() != 0:
            given = "user" if user is not None else "group"
            mistakes.append(f"{given} is given, and only root may: start the node as root, or not")
            return {}
        try:
            if group is not None:
                found = grp.getgrgid(group) if isinstance(group, int) else grp.getgrnam(group)
                self._arguments.update(group=found.gr_gid, extra_groups=[found.gr_gid])
            if user is None:
                return {}
            entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
        except KeyError as error:
            mistakes.append(f"user is {user!r}, group is {group!r}: {error.args[0]}; add it")
            return {}
        gid = self._arguments.setdefault("group", entry.pw_gid)
        self._arguments.update(user=entry.pw_uid, extra_groups=os.getgrouplist(entry.pw_name, gid))
        name = entry.pw_name
        return {"HOME": entry.pw_dir, "USER": name, "LOGNAME": name, "SHELL": entry.pw_shell}
