"""The two configurations that `rolemesh init` writes: whole, with what else could be said."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

from rolemesh.core.plan import Choice, Found, Plan

USUAL_GATEWAY = "http://127.0.0.1:8000"

_PLAIN = re.compile(r"[A-Za-z/~][A-Za-z0-9/._-]*")
_WORDS = ("true", "false", "null", "all", "none")


@frozen
class Mesh:
    """Where a node belongs: its gateways and its name there, the file with its token, the pin of
    the gateway's certificate, and the roles that its servers announce (none: each its own)."""

    gateways: Sequence[str] = (USUAL_GATEWAY,)
    name: str = ""
    token: str = ""
    pin: str = ""
    roles: Sequence[str] = ()


@frozen
class NodeText:
    """What a node's file is made of."""

    plan: Plan
    files: Mapping[str, Path]
    llama_server: Sequence[str]
    mesh: Mesh = field(factory=Mesh)
    ports: str = ""
    gpu_names: Mapping[int, str] = field(factory=dict)

    def text(self) -> str:
        """The file."""
        return "\n".join([*self._head(), "", *self._runs(), *self._left(), *_NODE_TAIL]) + "\n"

    def _head(self) -> Iterator[str]:
        yield from _NODE_HEAD
        yield from mesh_lines(self.mesh)
        yield f"llama_server: {_listed(self.llama_server)}"
        if self.ports:
            yield f"ports: {self.ports}          # another program has some of the usual ones"

    def _runs(self) -> Iterator[str]:
        yield "run:                        # one llama-server each"
        for choice in self.plan.chosen:
            yield from self._entry(choice)

    def _entry(self, choice: Choice) -> Iterator[str]:
        name = choice.model.name
        yield f"  # {choice.why}"
        yield f"  - model: {value(name)}"
        yield f"    file: {value(str(self.files[name]))}"
        yield from self._gpu(choice.gpu)
        yield f"    slots: {choice.slots}                # requests at a time"
        if choice.context:
            yield f"    context: {_size(choice.context)}            # tokens for ONE request"
        roles = self.mesh.roles or (name,)
        yield f"    roles: {_listed(roles)}    # announced to the gateway"

    def _gpu(self, gpu: int | str | None) -> Iterator[str]:
        if isinstance(gpu, int):
            yield f"    gpu: {gpu}                  # {self.gpu_names[gpu]}"
        elif gpu is not None:
            yield f"    gpu: {gpu}"
        elif self.gpu_names:
            yield "    gpu: none               # none of them has room for it"

    def _left(self) -> Iterator[str]:
        if self.plan.left:
            yield ""
            yield "# Found as well, and not run. To run one, take the # away and say where and how."
        for found, why in self.plan.left:
            file = value(str(self.files[found.name]))
            yield f"  # {why}"
            yield f"  # - {{model: {value(found.name)}, file: {file}}}"


def mesh_lines(mesh: Mesh) -> Iterator[str]:
    """The lines that say where a node belongs."""
    gateways = mesh.gateways
    yield f"gateway: {gateways[0] if len(gateways) == 1 else _listed(gateways)}"
    if mesh.name:
        yield f"name: {value(mesh.name)}"
    if mesh.token:
        yield f"token: {{file: {value(mesh.token)}}}"
    if mesh.pin:
        yield f"tls: {{pin: {json.dumps(mesh.pin)}}}"


def gateway_text(models: Sequence[Found]) -> str:
    """The gateway's file: a role for each of the models."""
    names = [value(model.name) for model in models]
    roles = [f"  {name}: {name}" for name in names]
    purposes = [
        f"  # {role}: {name}"
        for role, name in zip(("planner", "coder"), (names * 2)[:2], strict=True)
    ]
    return "\n".join(_fill(_GATEWAY, {"ROLES": [*roles, *_MORE_ROLES, *purposes]}, names[0])) + "\n"


def _fill(lines: Iterable[str], blocks: Mapping[str, list[str]], first: str) -> Iterator[str]:
    for line in lines:
        yield from blocks.get(line, [line.replace("FIRST", first)])


def value(text: str) -> str:
    """A text as YAML reads it back."""
    if _PLAIN.fullmatch(text) and text.lower() not in _WORDS:
        return text
    return json.dumps(text, ensure_ascii=False).replace("${", "$${")


def _listed(texts: Sequence[str]) -> str:
    return f"[{', '.join(map(value, texts))}]"


def _size(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens % 1024 == 0 else str(tokens)


_NODE_HEAD = """\
# The node agent's file, written by `rolemesh init`. Change it as you like, and let
# `rolemesh check FILE` look at it afterwards. Every key is in docs/CONFIG.md.
""".splitlines()

_NODE_TAIL = """
# What else can be said of an entry of `run`:
#   gpu: 0                  index, UUID or part of a name; [0, 1]; all; none
#   args: [--flash-attn, "on"]      more arguments for llama-server, as they are
# And of the whole node:
#   name: box1              default: the host's name
#   labels: {site: basement}
#   advertise: 10.0.0.12    where gateways elsewhere reach this machine; by default the address
#                           by which it reaches the first of them
#   ports: 18100-18199      one for each server""".splitlines()

_MORE_ROLES = [
    "  # Names by what they are for are handier; as many as you like may share a model:",
]

_GATEWAY = """\
# The gateway's file, written by `rolemesh init`. Change it as you like, and let
# `rolemesh check FILE` look at it afterwards. Every key is in docs/CONFIG.md.

roles:          # what clients put into `model`, and which model answers
ROLES

gateway:
  listen: tcp:8000:interface=127.0.0.1    # this machine only, so nobody needs a key
  default_role: FIRST     # for requests that name no model

  # For other machines: make a key for clients with `rolemesh keys add --file keys.yaml --name me`,
  # put these lines in the place of the `listen` above, and let `rolemesh invite NODE` bring in
  # machines with models.
  # listen: tcp:8000
  # keys: {file: keys.yaml}
  # nodes: {tokens: {file: nodes.yaml}}""".splitlines()
