"""`rolemesh check`: all problems of configuration files at once, or what they define."""

import argparse
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve

from rolemesh.cli.model_check import check_models
from rolemesh.cli.program_options import Helps, check_arguments
from rolemesh.config.exposure import exposed
from rolemesh.config.gateway import GatewaySettings, load_gateway
from rolemesh.config.node import NodeSettings, load_node
from rolemesh.config.problems import ConfigError, Gather, Problem, printable
from rolemesh.config.reading import open_document


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = subparsers.add_parser(
        "check",
        help="tell all problems of configuration files",
        description="Reads files of a gateway (models.yaml) or a node (node_agent.yaml) and tells"
        " every problem as FILE:line:col: text. Exit code 1 when there is any.",
    )
    parser.add_argument("files", nargs="+", metavar="FILE", type=Path)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Check every file; 0 when all of them can be used, else 1."""
    helps = Helps(os.environ)
    return max(check_file(path, os.environ, helps) for path in arguments.files)


def check_file(path: Path, environ: Mapping[str, str], helps: Helps) -> int:
    """Tell what is wrong with a file, or what it defines; 1 or 0."""
    try:
        settings = _load(path, environ)
        warnings = settings.warnings
        if isinstance(settings, NodeSettings):
            warnings += check_machine(path, settings, environ, helps)
    except ConfigError as error:
        print(error)
        return 1
    for warning in warnings:
        print(evolve(warning, text=f"warning: {warning.text}"))
    open_to_all = list(_exposed(settings, path))
    if open_to_all:
        print(*open_to_all, sep="\n")
        return 1
    print(printable(f"{path}: {_summary(settings)}"))
    return 0


def check_machine(
    path: Path, settings: NodeSettings, environ: Mapping[str, str], helps: Helps
) -> tuple[Problem, ...]:
    """Hold a node's file against the programs and the models that are here; warnings.

    :raises ConfigError: with all that cannot run.
    """
    gather = Gather()
    warnings: tuple[Problem, ...] = ()
    with gather:
        warnings = check_arguments(path, settings, environ, helps)
    with gather:
        check_models(path, settings, environ)
    gather.finish()
    return warnings


def _load(path: Path, environ: Mapping[str, str]) -> GatewaySettings | NodeSettings:
    data = open_document(path, environ).data
    return load_node(path, environ) if _is_nodes(path, data) else load_gateway(path, environ)


def _exposed(settings: GatewaySettings | NodeSettings, path: Path) -> Iterable[str]:
    if isinstance(settings, NodeSettings):
        return ()
    return exposed(settings, settings.listen, path)


def _is_nodes(path: Path, data: Any) -> bool:
    """Whether a file is a node's: by its top-level keys, or by its name when they do not tell."""
    keys = data if isinstance(data, dict) else {}
    if "run" in keys:
        return True
    if "roles" in keys or isinstance(keys.get("gateway"), dict):
        return False
    return "gateway" in keys or "node" in path.name


def _summary(settings: GatewaySettings | NodeSettings) -> str:
    if isinstance(settings, GatewaySettings):
        where = f"a gateway on {' and '.join(each.endpoint for each in settings.listen)}"
        return f"{where} with {_counted('role', list(settings.roles))}"
    servers = [f"{run.id} ({run.model})" for run in settings.run]
    where = f"node {settings.name} for {' and '.join(settings.gateways)}"
    return f"{where} with {_counted('llama-server', servers)}"


def _counted(what: str, names: list[str]) -> str:
    if not names:
        return f"no {what}s"
    return f"{len(names)} {what}{'s' if len(names) > 1 else ''}: {', '.join(names)}"
