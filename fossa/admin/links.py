"""Where things are, wherever the application is mounted."""

from functools import cached_property
from urllib.parse import quote, urlencode

from aiohttp import web


class Links:
    """Paths within one application, with the prefix that its host mounted it at."""

    def __init__(self, app: web.Application) -> None:
        self._app = app

    @cached_property
    def base(self) -> str:
        """The prefix: empty, or like "/fossa". Known once the application serves."""
        return str(self._app.router["home"].url_for()).rstrip("/")

    def home(self) -> str:
        return f"{self.base}/"

    def task_page(self, task_id: str) -> str:
        return f"{self.base}/task/{quote(task_id, safe='')}"

    def api(self, path: str, **query: object) -> str:
        """A path of `/api/1`, with the query's values that are not None."""
        asked = {name: value for name, value in query.items() if value is not None}
        return f"{self.base}/api/1{path}" + (f"?{urlencode(asked)}" if asked else "")

    def inside(self, path: str) -> str:
        """A request's path without the prefix."""
        return path[len(self.base) :]
