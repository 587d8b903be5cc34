"""The command line and the environment of a llama-server."""

from collections.abc import Mapping, Sequence

from rolemesh.config.node import Run
from rolemesh.core.keys import read_id

KEY_VARIABLE = "LLAMA_API_KEY"

_OURS = frozenset({"ROLEMESH_KEY", "ROLEMESH_ADMIN_KEY", "ROLEMESH_STORE"})
_LAYER_OPTIONS = ("-ngl", "--gpu-layers", "--n-gpu-layers")
_SECRET_NAMES = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def command_line(run: Run, host: str, port: int) -> list[str]:
    """Program and arguments; the file's own `args` stand last. The key is not among them."""
    command = [*run.llama_server, "--model", str(run.file), "--host", host, "--port", str(port)]
    command += ["--alias", run.model, "--parallel", str(run.slots), "--metrics", "--slots"]
    if run.context:
        command += ["-c", str(run.context * run.slots)]
    if run.gpu.wanted and not _sets_layers(run.args):
        command += ["-ngl", "99"]
    return [*command, *run.args]


def environment(base: Mapping[str, str], run: Run, key: str, gpus: Sequence[str]) -> dict[str, str]:
    """What the server inherits, with its key and the UUIDs of the GPUs that it may see.

    Keys and tokens of the mesh are not for it: who takes a server over has its own key alone.
    """
    inherited = {name: value for name, value in base.items() if not _is_ours(name, value)}
    env = {**inherited, **run.env, KEY_VARIABLE: key}
    if run.gpu.wanted or run.gpu.none:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    return env


def secrets_of(run: Run, key: str) -> list[str]:
    """What must not stand in a log line: the key, and what the file's `env` calls a secret."""
    named = (value for name, value in run.env.items() if _is_secret(name))
    return [key, *named]


def _sets_layers(args: Sequence[str]) -> bool:
    return any(arg.split("=")[0] in _LAYER_OPTIONS for arg in args)


def _is_ours(name: str, value: str) -> bool:
    return name in _OURS or read_id(value.strip()) is not None


def _is_secret(name: str) -> bool:
    return any(word in name.upper() for word in _SECRET_NAMES)
