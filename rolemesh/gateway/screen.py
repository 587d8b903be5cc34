"""What is asked of a request's head before its body is read."""

from attrs import frozen

from rolemesh.core.openai import Api
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.hosts import Hosts
from rolemesh.gateway.keys import Gatekeeper
from rolemesh.gateway.pressure import Pressure
from rolemesh.gateway.registrations import LONGEST_REPORT

LONGEST_OF_ANYBODY = 4096
_CLIENT_PATHS = frozenset(api.value.encode() for api in Api)


@frozen
class Screen:
    """Refuses a client without a good key and what there is no memory for, and bounds what others
    may send."""

    _keys: Gatekeeper
    _pressure: Pressure
    _hosts: Hosts

    def __call__(self, request: EdgeRequest) -> None:
        self._hosts.check(request)
        if request.path in _CLIENT_PATHS:
            self._pressure.check()
        if request.path in _CLIENT_PATHS or request.path.startswith(b"/v1/roles/"):
            request.key = self._keys.client(request)
        elif request.path.startswith(b"/v1/nodes/"):
            request.longest_body = LONGEST_REPORT
        else:
            request.longest_body = LONGEST_OF_ANYBODY
