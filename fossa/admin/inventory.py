"""What a node is made of, by name and origin."""

import asyncio
from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from fossa.contracts import Component
from fossa.plugins import GROUPS

if TYPE_CHECKING:
    from fossa.composition import Composition

_KINDS = ("sources", "executors", "sinks", "plugins")


async def inventory(composition: "Composition") -> list[dict[str, Any]]:
    """Every source, executor, sink and further plugin, as JSON values."""
    origins = await asyncio.to_thread(_origins)
    found = []
    for kind in _KINDS:
        for name, component in _named(kind, getattr(composition, kind)):
            place = _place(component)
            distribution, version = origins.get((kind, place), (None, None))
            found.append(
                {
                    "name": name,
                    "kind": kind.removesuffix("s"),
                    "class": place,
                    "distribution": distribution,
                    "version": version,
                    "not_ready": component.ready() if isinstance(component, Component) else None,
                }
            )
    return found


def _named(kind: str, members: Any) -> list[tuple[str, Any]]:
    return list(members) if kind == "plugins" else [(m.name, m) for m in members]


def _place(component: Any) -> str:
    if hasattr(component, "__spec__"):
        return str(component.__name__)
    return f"{type(component).__module__}.{type(component).__qualname__}"


@lru_cache(1)
def _origins() -> dict[tuple[str, str], tuple[str, str]]:
    """(kind, class) of each entry point to its distribution and version. Reads many files, once."""
    return {
        (kind.lower(), point.value.replace(":", ".")): (point.dist.name, point.dist.version)
        for kind, group in GROUPS.items()
        for point in entry_points(group=group)
        if point.dist is not None
    }
