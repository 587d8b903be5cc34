"""The front door: which of the gateway's Klein apps a path belongs to."""

import re
from typing import Any
from urllib.parse import unquote_to_bytes

from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET

from rolemesh.config.listeners import Serves
from rolemesh.core.errors import Refusal
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.joins import JOIN

_OPERATORS = re.compile(
    rb"/v1/backends(?:/.*)?|/v1/nodes/[^/]+/(?:drain|resume|commands(?:/.*)?)", re.DOTALL
)
_KINDS = re.compile(
    rb"(?P<admin>/v1/backends(?:/.*)?|/v1/nodes/[^/]+/(?:drain|resume)|/(?:ui|admin)(?:/.*)?)"
    rb"|(?P<nodes>/v1/nodes/.*)"
    rb"|(?P<metrics>/metrics)"
    rb"|(?P<any>/health|/ready)"
    rb"|(?P<public>.*)",
    re.DOTALL,
)
_NOT_HERE = Refusal(
    "unknown_url",
    "There is nothing at this path at this address; if it is anywhere, then at another listener of"
    " this gateway, which its operator knows.",
)


class Front(Resource):
    """Gives verbs and commands to one app, a box that joins to another, what else is of nodes to a
    third, and the rest to that of clients. What a listener does not serve is not there."""

    isLeaf = True

    def __init__(
        self, clients: IResource, nodes: IResource, operators: IResource, joins: IResource
    ) -> None:
        super().__init__()
        self._clients = clients
        self._nodes = nodes
        self._operators = operators
        self._joins = joins

    def render(self, request: EdgeRequest) -> Any:
        if not _is_served(request):
            request.answer_refusal(_NOT_HERE)
            return NOT_DONE_YET
        return self._app(request.method, request.path).render(request)

    def _app(self, method: bytes, path: bytes) -> IResource:
        if (method, path) == (b"POST", JOIN.encode()):  # a node may be called `join` as well
            return self._joins
        if _OPERATORS.fullmatch(path):
            return self._operators
        return self._nodes if (path + b"/").startswith(b"/v1/nodes/") else self._clients


def _is_served(request: EdgeRequest) -> bool:
    """Whether the listener that a request came by has routes of its kind; all have `/health`."""
    if request.path == b"/v1/usage":  # clients ask for theirs there, operators for everyone's
        return any(request.channel.listener.offers(each) for each in (Serves.PUBLIC, Serves.ADMIN))
    found = _KINDS.fullmatch(unquote_to_bytes(request.path))  # which is how Klein reads it
    kind = found.lastgroup if found is not None else None
    return kind in (None, "any") or request.channel.listener.offers(Serves(kind))
