"""Commands against a gateway with a certificate: by its CA, by its pin, and otherwise not."""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.cli.client import Failed, Gateway, base_url
from rolemesh.cli.gateway_arguments import add_trust_arguments, trust_of
from rolemesh.config.tls import Trust
from tests.doubles.pki import Pki, pin_of_file
from tests.gateway.test_doors import DoorCase


class TlsClientTests(DoorCase):
    """Blocking commands, in a thread, against a gateway of this process."""

    async def health(self, trust: Trust, host: str = "localhost") -> Any:
        gateway = Gateway(base_url(f"https://{host}:{self.secure}"), patience=5.0, trust=trust)
        answer = await deferToThread(gateway.ask, "GET", "/health")
        return answer.good()

    async def refused(self, trust: Trust, host: str = "localhost") -> str:
        try:
            await self.health(trust, host)
        except Failed as failed:
            return str(failed)
        return self.fail("it was answered")

    async def test_trusted(self) -> None:
        """Its CA is enough, and so is its pin, by whatever name it is called."""
        await self.open(self.server)
        pin = pin_of_file(self.server.cert)
        for trust, host in ((self.trust, "localhost"), (Trust(pins=(pin,)), "127.0.0.1")):
            self.assertEqual(await self.health(trust, host), {"status": "ok"})

    async def test_A26_refused(self) -> None:
        """An unknown CA, another name and another key are told in a line with the cure."""
        await self.open(self.server)
        self.assertIn("name its CA with --ca or $ROLEMESH_CA", await self.refused(Trust()))
        self.assertIn("127.0.0.1", await self.refused(self.trust, "127.0.0.1"))
        pinned = await self.refused(Trust(pins=(self.pki.pin,)))
        self.assertIn(f"is not the one that is pinned, but {pin_of_file(self.server.cert)}", pinned)
        nothing = Trust(self.pki.folder / "none.pem")
        self.assertIn("none.pem: No such file", await self.refused(nothing))

    async def test_the_other_scheme(self) -> None:
        """Plain HTTP where TLS is spoken, and the other way round, are told with the cure."""
        await self.open(self.server)
        for scheme, port, cure in (
            ("http", self.secure, "https://"),
            ("https", self.port, "http://"),
        ):
            gateway = Gateway(base_url(f"{scheme}://localhost:{port}"), patience=5.0)
            refused = await self.assertFailure(deferToThread(gateway.ask, "GET", "/health"), Failed)
            self.assertIn(f"write {cure}", str(refused))


class ArgumentTests(SynchronousTestCase):
    """Where commands learn whom to trust."""

    def setUp(self) -> None:
        self.patch(os, "environ", {})
        self.pin = Pki(Path(self.mktemp())).pin

    def arguments(self, *words: str) -> Namespace:
        parser = ArgumentParser()
        add_trust_arguments(parser)
        return parser.parse_args(words)

    def test_options(self) -> None:
        """What is written goes before what the environment says."""
        os.environ.update(ROLEMESH_CA="of-the-environment.pem", ROLEMESH_PIN=self.pin)
        found = trust_of(self.arguments("--ca", "ca.pem"))
        self.assertEqual(found, Trust(Path("ca.pem")))
        del os.environ["ROLEMESH_PIN"]
        self.assertEqual(trust_of(self.arguments("--pin", self.pin)), Trust(pins=(self.pin,)))

    def test_environment(self) -> None:
        """Without options the environment's word holds; without both, the system's CAs."""
        self.assertEqual(trust_of(self.arguments()), Trust())
        os.environ.update(ROLEMESH_PIN=self.pin)
        self.assertEqual(trust_of(self.arguments()), Trust(pins=(self.pin,)))
        os.environ.update(ROLEMESH_PIN="nonsense")
        error = self.assertRaises(Failed, trust_of, self.arguments())
        self.assertIn("$ROLEMESH_PIN: a pin is 'sha256:'", str(error))
