"""What the node tells on its own machine."""

from collections.abc import Callable

import rolemesh
from rolemesh.core.local import NodeStatus, ServerStatus
from rolemesh.node.command import command_line
from rolemesh.node.commands import Running
from rolemesh.node.drains import Drains
from rolemesh.node.gpu import Gpus
from rolemesh.node.past import Past
from rolemesh.node.reporter import Reporter
from rolemesh.node.supervisor import Server
from rolemesh.tls.ending import Endings

NO_DOOR = ("ADDRESS", 0)  # of a server that was never started


def node_status(
    node: str,
    servers: Running,
    past: Past,
    gpus: Gpus,
    reporter: Reporter,
    drains: Drains,
    endings: Endings,
) -> Callable[[], NodeStatus]:
    """A teller of how the node is."""

    def status() -> NodeStatus:
        return NodeStatus(
            node=node,
            version=rolemesh.__version__,
            gateways=tuple(reporter.standings()),
            servers=tuple(_server(each, drains.of(each.run.id)) for each in servers.running),
            gpus=tuple(gpus.sample),
            degraded=past.degraded,
            warnings=tuple(endings.soon()),
        )

    return status


def _server(server: Server, draining: str | None) -> ServerStatus:
    run, ending = server.run, server.last_ending
    host, port = (server.door.host, server.door.port) if server.door else NO_DOOR
    return ServerStatus(
        id=run.id,
        model=run.model,
        state=server.state,
        pid=server.pid,
        age=server.age,
        slots=server.talk.facts.slots or run.slots,
        busy=server.judge.pulse.busy,
        context=server.talk.facts.context or run.context,
        restarts=server.restarts,
        draining=draining,
        last_exit=str(ending) if ending is not None else "",
        lines=ending.lines[-20:] if ending is not None else (),
        retry_in=server.retry_in,
        argv=tuple(command_line(run, host, port)),
    )
