"""The words of `rolemesh keys`, and what each of them takes."""

import argparse

from rolemesh.cli import key_arguments
from rolemesh.cli.gateway_arguments import add_gateway_arguments
from rolemesh.cli.key_places import add_place_arguments
from rolemesh.core.keys import SCOPES, KeyKind


def add_actions(parser: argparse.ArgumentParser) -> None:
    """Which of them it is will be in the `action` of the arguments that the parser returns."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = _action(actions, "add", "make a client key, or with --node a node token")
    _add_rights(add)
    add.add_argument("--admin", action="store_true", help="an operator's key, which opens no role")
    _action(actions, "list", "show who may do what; never a key")
    shown = _action_on(actions, "show", "tell all about one key but its text, and what it used")
    add_gateway_arguments(shown, admin=True)
    limited = _action_on(actions, "limit", "set what a client key may use, from the next second on")
    key_arguments.add_limits(limited)
    turned = _action(actions, "rotate", "give a key a new text; the old one works on for a while")
    turned.add_argument(
        "--overlap", type=key_arguments.span, default=86400.0, metavar="1d", help="for how long"
    )
    turned.add_argument(
        "--expires", type=key_arguments.span, metavar="90d", help="let the key end after this"
    )
    _action(actions, "revoke", "end a key now")


def _action(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: str
) -> argparse.ArgumentParser:
    parser = _parser(actions, name, does)
    parser.add_argument("--name", type=key_arguments.line, help="what the key is called, or its id")
    parser.add_argument(
        "--node", type=key_arguments.node, help="a node's token, not a client's key"
    )
    return parser


def _action_on(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: str
) -> argparse.ArgumentParser:
    parser = _parser(actions, name, does)
    parser.add_argument("name", metavar="ID|NAME", type=key_arguments.line, help="which key")
    parser.set_defaults(node=None)
    return parser


def _parser(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, does: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=does, description=does)
    add_place_arguments(parser)
    return parser


def _add_rights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--roles", type=key_arguments.roles, default="*", metavar="a,b|*", help="default: *"
    )
    scopes = ",".join(SCOPES[KeyKind.CLIENT])
    parser.add_argument(
        "--scopes", type=key_arguments.scopes, metavar=scopes, help="default: all of these"
    )
    parser.add_argument("--expires", type=key_arguments.span, metavar="90d", help="default: never")
    parser.add_argument(
        "--network", type=key_arguments.network, action="append", default=[], metavar="CIDR",
        help="only from there; may be given again; default: from anywhere",
    )  # fmt: skip
    parser.add_argument("--note", type=key_arguments.line, help="anything, for yourself")
    key_arguments.add_limits(parser)
