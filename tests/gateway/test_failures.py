"""The promises of `rolemesh.gateway.failures`."""

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress

from rolemesh.core.addresses import read_address
from rolemesh.gateway.failures import ADDRESSES, Failures
from tests.gateway.keys_case import HERE, GatekeeperCase, asking


class FailureTests(GatekeeperCase):
    """Many failures from one address."""

    def failing(self, times: int, source: IAddress = HERE) -> list[int]:
        ask = self.keeper.client
        return [self.refusal(ask, asking("nonsense", source)).status for _ in range(times)]

    def test_throttled(self) -> None:
        """Ten failures in a second are answered, more get 429 until a second has passed."""
        self.assertEqual(self.failing(12), [401] * 10 + [429] * 2)
        self.clock.advance(1)
        self.assertEqual(self.failing(11), [401] * 10 + [429])

    def test_good_key_passes(self) -> None:
        """A good key is let in from where many failures come, and other addresses are free."""
        self.failing(20)
        self.assertEqual(self.keeper.client(asking(self.key)), self.client)
        self.assertEqual(self.failing(1, IPv4Address("TCP", "10.0.0.10", 1)), [401])

    def test_ipv6_network(self) -> None:
        """An IPv6 sender does not escape by taking another address of its network."""
        sources = [IPv6Address("TCP", f"2001:db8::{each:x}", 1) for each in range(1, 12)]
        statuses = [self.failing(1, source)[0] for source in sources]
        self.assertEqual(statuses, [401] * 10 + [429])

    def test_bounded(self) -> None:
        """However many addresses fail, no more than a fixed number are remembered."""
        failures = Failures(self.clock)
        for each in range(ADDRESSES + 10):
            failures.too_many(read_address(f"10.1.{each // 256}.{each % 256}"))
        self.assertEqual(len(failures), ADDRESSES)
