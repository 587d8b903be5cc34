"""The front door: which of the gateway's Klein apps a path belongs to."""

import re
from typing import Any

from twisted.web.http import Request
from twisted.web.resource import IResource, Resource

_OPERATORS = re.compile(
    rb"/v1/backends(?:/.*)?|/v1/nodes/[^/]+/(?:drain|resume|commands(?:/.*)?)", re.DOTALL
)


class Front(Resource):
    """Gives verbs and commands to one app, what else is of nodes to another, and the rest to that
    of clients."""

    isLeaf = True

    def __init__(self, clients: IResource, nodes: IResource, operators: IResource) -> None:
        super().__init__()
        self._clients = clients
        self._nodes = nodes
        self._operators = operators

    def render(self, request: Request) -> Any:
        return self._app(request.path).render(request)

    def _app(self, path: bytes) -> IResource:
        if _OPERATORS.fullmatch(path):
            return self._operators
        return self._nodes if (path + b"/").startswith(b"/v1/nodes/") else self._clients
