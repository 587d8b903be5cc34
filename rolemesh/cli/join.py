"""`rolemesh join`: with one line from the gateway, this box becomes a node that serves."""

import argparse
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from attrs import field, frozen

from rolemesh.cli.adapting import Unlike
from rolemesh.cli.client import Failed
from rolemesh.cli.drafting import TOKEN, Broken, draft
from rolemesh.cli.first_files import Mesh
from rolemesh.cli.init import add_look_arguments, folder_of, looked_of, say
from rolemesh.cli.joining import Desk, NotTaken, kept_token, new_token
from rolemesh.cli.survey import Impossible
from rolemesh.config.locate import NODE_FILE, NoConfiguration, find_config
from rolemesh.core.invites import BadCode, Invite, read_code

_AGAIN = "the same line may be run again"


def register(commands: Any) -> None:
    """Add the command to the command line."""
    command = commands.add_parser(
        "join",
        help="become a node, with the line that `rolemesh invite` printed",
        description="Looks at this machine as `rolemesh init` does where there is no"
        " node_agent.yaml, gets this box its token, checks, and runs the node agent until Ctrl-C.",
    )
    command.set_defaults(run=run)
    command.add_argument("code", nargs="+", metavar="rmj_…", help="what `rolemesh invite` printed")
    add_look_arguments(command)
    command.add_argument("--state", metavar="DIR", help="for what must survive a restart")
    how = command.add_mutually_exclusive_group()
    how.add_argument("--no-start", action="store_true", help="write all, start nothing")
    how.add_argument("--once", action="store_true", help="stop again once all is ready")


def run(arguments: argparse.Namespace) -> int:
    """Join and run; 0, or 1 or 78 with the reason and what became of the invite."""
    try:
        joined = _join(arguments, read_code("".join(arguments.code)))
    except (BadCode, NotTaken, Unlike) as reason:
        return _refuse(str(reason), 1)
    except (Impossible, Failed) as reason:
        return _refuse(f"{reason}\n{_AGAIN}", 1)
    except Broken as problems:
        print(problems, file=sys.stderr)
        return _refuse(_AGAIN, 78)
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}; {_AGAIN}", 1)
    if arguments.no_start:
        say(f"To start it: {joined.command}")
        return 0
    from rolemesh.cli.arrival import watch_arrival  # which takes a reactor

    say(f"Starting the node agent; for good, as a service, it is: {joined.command}")
    return watch_arrival(joined.desk, joined.token, joined.config, arguments.state, arguments.once)


@frozen
class _Joined:
    """A box that has all it takes."""

    desk: Desk
    token: str = field(repr=False)
    config: Path
    state: str | None

    @property
    def command(self) -> str:
        """How its agent is started."""
        words = ["twistd", "-n", "rolemesh-node", "--config", str(self.config)]
        if self.state:
            words += ["--state", str(Path(self.state).absolute())]
        return shlex.join(words)


def _join(arguments: argparse.Namespace, invite: Invite) -> _Joined:
    """Everything but the start; the configuration that was made or found."""
    desk = Desk.at_first_that_answers(invite)
    say(f"The gateway at {desk.url} answers")
    path = _config_path(arguments)
    mesh = Mesh((desk.url,), invite.node, TOKEN, invite.pin, invite.roles)
    file = draft(path, mesh, looked_of(arguments), say)
    kept = kept_token(file.token)
    token = kept or new_token(file.token)
    with file.tried_out():
        if not kept or not desk.knows(kept):
            desk.exchange(token, time.time())
        if file.settle():
            say(f"Wrote {path}")
    desk.until_known(token)
    say(f"The gateway knows this box as '{invite.node}'")
    return _Joined(desk, token, path.absolute(), arguments.state)


def _config_path(arguments: argparse.Namespace) -> Path:
    if arguments.dir is None:
        try:
            return find_config(NODE_FILE, None, os.environ, Path.cwd(), Path.home())
        except NoConfiguration:
            pass
    return folder_of(arguments.dir) / NODE_FILE.file


def _refuse(text: str, code: int) -> int:
    print(f"rolemesh join: {text}", file=sys.stderr)
    return code
