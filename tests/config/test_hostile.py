"""Whatever bytes a file holds, loading it ends in settings or in `ConfigError`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from rolemesh.config import gateway, node
from rolemesh.config.gateway import GatewaySettings, load_gateway
from rolemesh.config.node import NodeSettings, load_node
from rolemesh.config.problems import ConfigError
from rolemesh.config.roles import ROLE_KEYS, TARGET_KEYS
from rolemesh.config.runs import RUN_KEYS
from tests.config.written import WrittenTests

ENVIRON = {"A": "x\udcff", "B": "1", "HOME": "/nowhere"}
WORDS = sorted(
    {"roles", "gateway", "a", "b", "context", "tools", "labels", "default", "set", "drop"}
    | {"connect", "idle", "max", "wait", "tokens", "allowed_networks", "announce", "first"}
    | {*gateway.GATEWAY_KEYS, *node.KEYS, *ROLE_KEYS, *TARGET_KEYS, *RUN_KEYS}
)
MARKS = [
    *"-?:,[]{}#&*!|>'\"%@`\n ~$\\\t",
    "\n  ",
    ": ",
    "- ",
    "---\n",
    "${A}",
    "${",
    "!!int ",
    "<<",
]

fragments = some.lists(some.sampled_from([*WORDS, *MARKS, "0", "1e999"]), max_size=60).map("".join)
scalars = some.one_of(
    some.none(),
    some.booleans(),
    some.integers(),
    some.floats(),
    some.text(max_size=20),
    some.sampled_from([*WORDS, "${A}", "${B}", "http://b", "8k", "5s", "tcp:1", "auto", "~/x"]),
)
data = some.recursive(
    scalars,
    lambda inner: some.one_of(
        some.lists(inner, max_size=4),
        some.dictionaries(some.sampled_from(WORDS), inner, max_size=6),
    ),
    max_leaves=30,
)
documents = some.one_of(
    some.binary(max_size=200),
    fragments.map(str.encode),
    data.map(lambda value: yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "replace")),
)


class HostileTests(WrittenTests):
    """Files written by nobody in particular."""

    def test_L10_any_bytes(self) -> None:
        """Nothing but `ConfigError` escapes, and each of its problems is one line with a place."""
        path = self.write("any.yaml")

        @settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
        @given(documents)
        def loads_or_tells(content: bytes) -> None:
            path.write_bytes(content)
            self.check(load_gateway, path)
            self.check(load_node, path)

        loads_or_tells()

    def check(
        self, load: Callable[[Path, Any], GatewaySettings | NodeSettings], path: Path
    ) -> None:
        try:
            load(path, ENVIRON)
        except ConfigError as error:
            lines = str(error).splitlines()
            self.assertEqual(len(lines), len(error.problems))
            for line in lines:
                self.assertRegex(line, r"any\.yaml:[0-9]+:[0-9]+: .")
                line.encode()
