"""The application that a node serves, or that a host mounts in its own."""

from typing import TYPE_CHECKING

from aiohttp import web

from fossa.admin.answers import Shapes
from fossa.admin.api_0_01 import FirstApi
from fossa.admin.api_1 import Api
from fossa.admin.guard import Guard
from fossa.admin.links import Links
from fossa.admin.pages import STATIC, Pages
from fossa.admin.waiting import Waiting

if TYPE_CHECKING:
    from fossa.contracts import Node


def admin_app(node: "Node") -> web.Application:
    """The API, the pages and the metrics of a node.

    To mount it in an application of yours: `app.add_subapp("/fossa", admin_app(node))`. Every link
    in it is relative to where it is mounted.
    """
    app = web.Application(client_max_size=node.composition.HTTP_MAX_BODY_BYTES)
    links = Links(app)
    waiting = Waiting(node)
    pages = Pages(node, links)
    guard = Guard(node.composition, pages)
    app.middlewares.extend([Shapes(node, links).middleware, guard.middleware])
    app.on_shutdown.append(waiting.shut_down)
    app.router.add_static("/static", STATIC, name="static")
    pages.add_routes(app.router)
    guard.add_routes(app.router)
    FirstApi(node, links).add_routes(app.router)
    Api(node, links, waiting).add_routes(app.router)
    return app
