"""The front door: which of the gateway's Klein apps a path belongs to."""

from typing import Any

from twisted.web.http import Request
from twisted.web.resource import IResource, Resource


class Front(Resource):
    """Gives `/v1/nodes` and what is below it to one app, and all else to the other."""

    isLeaf = True

    def __init__(self, clients: IResource, nodes: IResource) -> None:
        super().__init__()
        self._clients = clients
        self._nodes = nodes

    def render(self, request: Request) -> Any:
        of_nodes = (request.path + b"/").startswith(b"/v1/nodes/")
        return (self._nodes if of_nodes else self._clients).render(request)
