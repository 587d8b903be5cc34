"""The Klein routes for operators, and those by which agents hear of what operators want."""

from typing import Any
from uuid import uuid4

import msgspec
from attrs import define
from klein import Klein
from msgspec import Struct
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from rolemesh.core.commands import (
    LONGEST_COMMAND,
    LONGEST_RESULT,
    MOST_LINES,
    Command,
    Kind,
    Reason,
    Result,
    Seconds,
    Taken,
    read_result,
)
from rolemesh.core.errors import Refusal
from rolemesh.core.report import Name
from rolemesh.gateway.commands import Orders
from rolemesh.gateway.edge_request import EdgeRequest
from rolemesh.gateway.errors import answers_errors
from rolemesh.gateway.event_stream import EventStream
from rolemesh.gateway.fleet import Fleet, Node
from rolemesh.gateway.following import PATIENCE, Following
from rolemesh.gateway.keys import Gatekeeper
from rolemesh.gateway.registry import Registry
from rolemesh.gateway.statics import STATIC_NODE

_PATHS = (
    "/v1/nodes/{node}/drain, /v1/nodes/{node}/resume,"
    " /v1/backends/{node}/{backend}/restart, …/drain, …/resume, …/logs"
)


class Wish(Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator sends with a verb; the same `id` asks for the same doing."""

    id: Name | None = None
    reason: Reason = ""
    for_s: Seconds | None = None


_wish = msgspec.json.Decoder(Wish)


@define(eq=False)
class OperatorApi:
    """Verbs come in from operators, go out to agents, and their results come back."""

    _clock: IReactorTime
    _keys: Gatekeeper
    _registry: Registry
    _fleet: Fleet
    _orders: Orders

    log = Logger()
    app = Klein()
    answers_errors(app, _PATHS)

    # What operators ask

    @app.route("/v1/nodes/<node>/drain", methods=["POST"])
    async def drain_node(self, request: EdgeRequest, node: str) -> bytes:
        return await self._order(request, Kind.DRAIN, node)

    @app.route("/v1/nodes/<node>/resume", methods=["POST"])
    async def resume_node(self, request: EdgeRequest, node: str) -> bytes:
        return await self._order(request, Kind.RESUME, node)

    @app.route("/v1/backends/<node>/<backend>/drain", methods=["POST"])
    async def drain(self, request: EdgeRequest, node: str, backend: str) -> bytes:
        return await self._order(request, Kind.DRAIN, node, backend)

    @app.route("/v1/backends/<node>/<backend>/resume", methods=["POST"])
    async def resume(self, request: EdgeRequest, node: str, backend: str) -> bytes:
        return await self._order(request, Kind.RESUME, node, backend)

    @app.route("/v1/backends/<node>/<backend>/restart", methods=["POST"])
    async def restart(self, request: EdgeRequest, node: str, backend: str) -> bytes:
        return await self._order(request, Kind.RESTART, node, backend)

    @app.route("/v1/backends/<node>/<backend>/logs", methods=["GET"])
    async def logs(self, request: EdgeRequest, node: str, backend: str) -> bytes | None:
        self._admit(request, node)
        follow = request.args.get(b"follow", [b""])[0] in (b"1", b"true")
        command = _command(
            id=uuid4().hex,
            kind="logs",
            backend=backend,
            lines=_lines(request),
            follow=follow,
            after=request.args.get(b"after", [b""])[0].decode("utf-8", "replace"),
        )
        self._note(request, command, node)
        following = Following(self._clock, request, lambda: self._keys.admin(request))
        order = self._orders.follow(node, command, following.hear)
        try:
            return await following.tell()
        finally:
            self._orders.leave(order)

    async def _order(
        self, request: EdgeRequest, kind: Kind, node: str, backend: str | None = None
    ) -> bytes:
        self._admit(request, node)
        wish = _read_wish(request)
        command = _command(
            id=wish.id or uuid4().hex,
            kind=kind.value,
            backend=backend,
            reason=wish.reason,
            for_s=wish.for_s,
        )
        self._note(request, command, node)
        answered = self._orders.ask(node, command)
        try:
            result = await answered.addTimeout(PATIENCE, self._clock)
        except TimeoutError:
            request.setResponseCode(202)
            result = Result(done=False, message=self._late(node))
        else:
            self._believe(node, command, result)
        told = {"id": command.id, "kind": kind, "node": node, "backend": backend}
        return request.as_json({**told, "done": result.done, "message": result.message})

    def _believe(self, node: str, command: Command, result: Result) -> None:
        """Take in what was done, which the node's next report would tell as well."""
        if not result.done:
            raise Refusal("bad_request", result.message)
        if command.kind in (Kind.DRAIN, Kind.RESUME):
            self._registry.drain(node, command.backend, command.kind is Kind.DRAIN)

    def _late(self, node: str) -> str:
        what = "has not answered yet" if self._orders.connected(node) else "is not connected"
        return f"'{node}' {what}; it is told for ten minutes more"

    def _admit(self, request: EdgeRequest, name: str) -> None:
        if request.getHeader("origin") is not None:
            raise Refusal("scope_missing", "Operators do not work from a browser's page.")
        self._keys.admin(request)
        if name == STATIC_NODE:
            message = "the configuration's own servers have no agent: take them out of the file"
            raise Refusal("bad_request", message)
        if self._node(name).plain:
            message = f"'{name}' was registered without an agent, which could do this"
            raise Refusal("bad_request", message)

    def _node(self, name: str) -> Node:
        node = self._fleet.get(name)
        if node is None:
            names = ", ".join(sorted(node.name for node in self._fleet)) or "none"
            raise Refusal("unknown_node", f"There is no node '{name}' here. There are: {names}.")
        return node

    def _note(self, request: EdgeRequest, command: Command, node: str) -> None:
        self.log.info(
            "an operator asks for {kind} of {target}",
            kind=command.kind.value,
            target=f"{node}/{command.backend}" if command.backend else node,
            **{
                "http.request.id": request.request_id,
                "rolemesh.node": node,
                "rolemesh.command": command.id,
            },
        )

    # What agents hear and answer

    @app.route("/v1/nodes/<node>/commands", methods=["GET"])
    async def commands(self, request: EdgeRequest, node: str) -> None:
        self._keys.node(request, node)
        self._must_be(node, request.args.get(b"instance", [b""])[0].decode("utf-8", "replace"))
        stream = EventStream(self._clock, request, lambda: self._keys.node(request, node))
        opened = Deferred.fromCoroutine(stream.run())
        self._orders.attach(node, stream)
        try:
            await opened
        finally:
            self._orders.detach(node, stream)

    @app.route("/v1/nodes/<node>/commands/<id>", methods=["POST"])
    def answer(self, request: EdgeRequest, node: str, id: str) -> bytes:
        self._keys.node(request, node)
        body = request.body_within(LONGEST_RESULT, "A result is")
        try:
            result = read_result(body)
        except msgspec.MsgspecError as error:
            raise Refusal("bad_request", f"This is no result of a command: {error}.") from None
        return request.as_json(Taken(self._orders.answer(node, id, result)))

    def _must_be(self, name: str, instance: str) -> None:
        """That whoever listens is the agent that registered."""
        node = self._fleet.get(name)
        if node is None:
            raise Refusal("unknown_node", f"The node '{name}' is not registered here.")
        if node.plain or node.instance != instance:
            raise Refusal("node_id_conflict", f"Another agent is registered as '{name}'.")


def _command(**fields: Any) -> Command:
    try:
        return msgspec.convert(fields, Command)
    except msgspec.ValidationError as error:
        raise Refusal("bad_request", f"This cannot be a command: {error}.") from None


def _read_wish(request: EdgeRequest) -> Wish:
    body = request.body_within(LONGEST_COMMAND, "A command is") or b"{}"
    try:
        return _wish.decode(body)
    except msgspec.ValidationError as error:
        raise Refusal("bad_request", f"This cannot be a command: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Refusal("invalid_json", "The body cannot be read as JSON.") from None


def _lines(request: EdgeRequest) -> int:
    wanted = request.args.get(b"lines", [b"%d" % MOST_LINES])[0]
    return min(int(wanted), MOST_LINES) if wanted.isdigit() and len(wanted) < 10 else MOST_LINES
