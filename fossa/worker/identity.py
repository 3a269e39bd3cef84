"""Who a process is: the place that its process ids belong to, and what is installed for it."""

import sys
from pathlib import Path

#: Distributions that an attempt depends on, whatever its model.
DISTRIBUTIONS = ("ayeaye", "ayeaye-fossa")


def this_place() -> str:
    """The computer and the namespace of this process's id; empty where they cannot be told."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def versions() -> dict[str, str | None]:
    """Of what an attempt depends on, by name; None: it is not installed as a distribution."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"Python": ".".join(map(str, sys.version_info[:3]))}
    for name in DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found
