"""The promises of `rolemesh.core.addresses`, row N4 and N5 and the seven steps among them."""

import unicodedata
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.addresses import (
    Address,
    AddressPolicy,
    BaseUrl,
    judge,
    parse_base_url,
    read_address,
    read_network,
)
from rolemesh.core.errors import Refusal

EVERYWHERE = (read_network("0.0.0.0/0"), read_network("::/0"))
GENEROUS = AddressPolicy(allowed_networks=EVERYWHERE)
FORBIDDEN_V4 = ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
FORBIDDEN_V6 = ("::", "::1", "fe80::/10", "ff00::/8", "fd00:ec2::254")


def addresses_in(networks: Sequence[str]) -> st.SearchStrategy[int]:
    spans = [read_network(text) for text in networks]
    return st.one_of([st.integers(int(each[0]), int(each[-1])) for each in spans])


def refusal(text: str, policy: AddressPolicy = GENEROUS) -> Refusal | None:
    """What becomes of a base URL whose name, if it has one, leads where its spelling says."""
    try:
        url = parse_base_url(text)
    except Refusal as refused:
        return refused
    address = url.address or resolved(url.host)
    return judge(url, address, policy) if address else None


def resolved(host: str) -> Address | None:
    """What a careless resolver makes of a name: labels decoded, letters folded, numbers read."""
    labels = [
        label[4:].encode().decode("punycode") if label.startswith("xn--") else label
        for label in host.split(".")
    ]
    folded = unicodedata.normalize("NFKC", ".".join(labels)).rstrip(".")
    return IPv4Address(int(folded)) if folded.isdecimal() else read_address(folded)


def wide(text: str) -> str:
    """The same in full-width letters."""
    return "".join(chr(ord(each) + 0xFEE0) for each in text)


def spellings_v4(number: int) -> list[str]:
    """The ways in which resolvers and URL libraries let an IPv4 address be written."""
    a, b, c, d = IPv4Address(number).packed
    dotted = f"{a}.{b}.{c}.{d}"
    circled = dotted.replace("1", "\N{CIRCLED DIGIT ONE}").replace("0", "\N{CIRCLED DIGIT ZERO}")
    plain = [
        dotted, f"{dotted}.", f"{dotted}..", str(number), hex(number), hex(number).upper(),
        f"0{number:o}", f"{a:#x}.{b:#x}.{c:#x}.{d:#x}", f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"{a}.{number & 0xFFFFFF}", f"{a}.{b}.{number & 0xFFFF}", f"{a:03}.{b:03}.{c:03}.{d:03}",
        f"{a:#x}.{b}.0{c:o}.{d}", wide(dotted), wide(dotted).replace("\uff0e", "\u3002"),
        dotted.replace(".", "\uff0e"), circled + "\N{CIRCLED DIGIT ONE}", wide(str(number)),
        dotted.replace(".", "%2e"), f"{dotted}%00", f"{dotted} ", f"\t{dotted}",
    ]  # fmt: skip
    hidden = [wide(dotted), dotted.replace(".", "\uff0e"), wide(str(number))]
    plain += [f"xn--{each.encode('punycode').decode()}" for each in hidden]
    plain += [f"xn--{wide(str(a)).encode('punycode').decode()}.{b}.{c}.{d}"]
    low = f"{number >> 16:x}:{number & 0xFFFF:x}"
    six = [f"::ffff:{dotted}", f"::ffff:{low}", f"::FFFF:{low}", f"0:0:0:0:0:ffff:{low}"]
    six += [f"64:ff9b::{low}", f"64:ff9b::{dotted}", f"64:ff9b:1::{low}", f"::{dotted}"]
    six += [f"2002:{low}::", f"::ffff:{dotted}%eth0"]
    return plain + [f"[{each}]" for each in six]


def spellings_v6(number: int) -> list[str]:
    address = IPv6Address(number)
    texts = {str(address), str(address).upper(), address.exploded, address.exploded.upper()}
    texts |= {f"{address}%1", f"{address}%25eth0", f"{address}."}
    return [f"[{text}]" for text in texts] + [str(address)]


class SpellingTests(SynchronousTestCase):
    """N5: a forbidden address in every spelling."""

    @given(addresses_in(FORBIDDEN_V4), st.sampled_from(["http", "HTTPS", "hTTp"]))
    def test_N5_forbidden_v4(self, number: int, scheme: str) -> None:
        """N5: no spelling of a forbidden IPv4 address passes, even where everything is allowed."""
        for spelling in spellings_v4(number):
            self.assertIsNotNone(refusal(f"{scheme}://{spelling}:8080"), spelling)

    @given(addresses_in(FORBIDDEN_V6))
    def test_N5_forbidden_v6(self, number: int) -> None:
        """N5: no spelling of a forbidden IPv6 address passes, even where everything is allowed."""
        for spelling in spellings_v6(number):
            self.assertIsNotNone(refusal(f"http://{spelling}:8080"), spelling)

    def test_N5_known_tricks(self) -> None:
        """N5: the spellings of the metadata service and of loopback that fooled others."""
        for host in (
            "2852039166", "0xA9FEA9FE", "0251.0376.0251.0376", "127.1", "0", "0x", "127.0.0.1.",
            "[::ffff:169.254.169.254]", "\uff11\uff12\uff17.0.0.1", "169.254.169.254",
            "[fd00:ec2::254]", "[::]", "[::1]", "localhost.", "xn--.a", "a..b", "-a.b", "a_.b",
        ):  # fmt: skip
            refused = refusal(f"http://{host}:8080")
            self.assertIsNotNone(refused, host)
            assert refused is not None
            self.assertEqual(refused.code, "base_url_not_allowed", host)

    def test_N5_hidden_in_idna(self) -> None:
        """N5: an IDNA label that hides other letters is no name, as libraries may unfold it."""
        for hidden in (wide("127.0.0.1"), "127\uff0e0.0.1", wide("2130706433"), "\u212aox"):
            label = f"xn--{hidden.encode('punycode').decode()}"
            for host in (label, hidden):
                self.assertRaises(Refusal, parse_base_url, f"http://{host}:8080")

    def test_N5_one_spelling_of_an_allowed_address(self) -> None:
        """N5: an allowed address in another spelling is refused with its own."""
        for host, own in (("[::ffff:10.0.0.2]", "10.0.0.2"), ("[fd00:0::5]", "fd00::5")):
            refused = self.assertRaises(Refusal, parse_base_url, f"http://{host}:8080")
            self.assertEqual(refused.code, "base_url_not_allowed")
            self.assertIn(f"write {own}", refused.message)

    @given(st.ip_addresses().filter(lambda each: not GENEROUS.forbids(each)))
    def test_allowed_round_trip(self, address: Address) -> None:
        """An address that is not forbidden passes in its own spelling and comes out the same."""
        canonical = read_address(str(address))
        assert canonical is not None
        host = f"[{canonical}]" if canonical.version == 6 else str(canonical)
        url = parse_base_url(f"http://{host}:8080")
        self.assertEqual((url.url, url.address), (f"http://{host}:8080", canonical))
        self.assertEqual(parse_base_url(url.url), url)
        self.assertIsNone(judge(url, canonical, GENEROUS))


class ShapeTests(SynchronousTestCase):
    """N4: what a base URL looks like."""

    def test_one_spelling(self) -> None:
        """Upper case, a last `/` and `/v1` mean the same server, and the port is filled in."""
        for text in ("http://Box2.LAN:8080", "HTTP://box2.lan:8080/", "http://box2.lan:8080/v1/"):
            self.assertEqual(parse_base_url(text), BaseUrl("http", "box2.lan", 8080))
        self.assertEqual(parse_base_url("https://box2").url, "https://box2:443")
        self.assertEqual(parse_base_url("http://10.0.0.2/v1").url, "http://10.0.0.2:80")

    def test_names_need_resolution(self) -> None:
        """A name is to be resolved, an address is not; an international name is a name."""
        for host in ("box2", "a.b-c.example", "llama_1", "xn--bcher-kva.example", "1e100.net"):
            self.assertTrue(parse_base_url(f"http://{host}:8080").needs_resolution, host)
        self.assertFalse(parse_base_url("http://[fd00::5]:8080").needs_resolution)

    def test_N4_misshapen(self) -> None:
        """N4: other schemes, userinfo, query, fragment, backslash, path, port, length are 400."""
        for text in (
            "file:///etc/passwd", "ftp://box2:8080", "box2:8080", "http://", "http://:8080", "",
            "http://user@box2:8080", "http://user:pw@box2:8080", "http://box2:8080?x", "//box2",
            "http://box2:8080#x", "http:\\\\box2:8080", "http://box2\\@evil:8080", "http://box2:0",
            "http://box2:99999", "http://box2:", "http://box2:8080/v2", "http://box2:8080//",
            "http://[::1:8080", "http://box2:8080\n", "http://" + "a" * 250 + ":8080",
        ):  # fmt: skip
            refused = self.assertRaises(Refusal, parse_base_url, text)
            self.assertEqual((refused.code, refused.param), ("bad_request", "base_url"), text)

    @given(st.text(max_size=300))
    def test_anything(self, text: str) -> None:
        """Whatever is sent, the answer is a base URL or a refusal of at most a line."""
        for sent in (text, f"http://{text}", f"http://{text}:8080"):
            try:
                parse_base_url(sent)
            except Refusal as refused:
                self.assertLess(len(refused.message), 1024)
                self.assertTrue(refused.message.isprintable())


class JudgeTests(SynchronousTestCase):
    """The address behind a base URL."""

    def judged(self, text: str, policy: AddressPolicy, address: str = "") -> str | None:
        url = parse_base_url(text)
        refused = judge(url, ip_address(address) if address else url.address, policy)  # type: ignore[arg-type]
        return refused.message if refused else None

    def test_nothing_is_allowed_by_default(self) -> None:
        """An address is refused with the setting that would allow it."""
        message = self.judged("http://10.0.0.2:8080", AddressPolicy())
        self.assertIn("gateway.nodes.allowed_networks", message or "")

    def test_allowed_networks(self) -> None:
        """An address in an allowed network passes, its neighbour outside does not."""
        policy = AddressPolicy((read_network("10.0.0.0/24"),))
        self.assertIsNone(self.judged("http://10.0.0.2:8080", policy))
        self.assertIsNotNone(self.judged("http://10.0.1.2:8080", policy))
        self.assertIsNone(self.judged("http://box2:8080", policy, "::ffff:10.0.0.2"))

    def test_source(self) -> None:
        """The address that a registration came from passes without a setting, and no other."""
        policy = AddressPolicy(source=read_address("::ffff:192.168.1.5"))
        self.assertIsNone(self.judged("http://192.168.1.5:8080", policy))
        self.assertIsNotNone(self.judged("http://192.168.1.6:8080", policy))

    def test_forbidden_source(self) -> None:
        """A forbidden address is no better for the registration having come from there."""
        for text in ("169.254.1.1", "127.0.0.1"):
            policy = AddressPolicy(source=read_address(text))
            self.assertIsNotNone(self.judged(f"http://{text}:8080", policy))

    def test_loopback(self) -> None:
        """Loopback passes for a gateway that is on loopback only, on every port, by name too."""
        policy = AddressPolicy(allow_loopback=True)
        for text in ("http://127.0.0.1:81", "http://127.8.8.8:8080", "http://[::1]:8080"):
            self.assertIsNone(self.judged(text, policy), text)
        self.assertIsNone(self.judged("http://localhost:8080", policy, "127.0.0.1"))
        self.assertIsNotNone(self.judged("http://169.254.169.254:80", policy))

    def test_ports(self) -> None:
        """Beyond loopback the ports of other services are refused: 80, 443 and 1024 on pass."""
        for port, passes in ((22, False), (80, True), (443, True), (1023, False), (1024, True)):
            message = self.judged(f"http://10.0.0.2:{port}", GENEROUS)
            self.assertEqual(message is None, passes, port)

    def test_tells_nothing_of_resolution(self) -> None:
        """What a name resolves to inside our network is not told to who registers it."""
        policy = AddressPolicy()
        secret, loopback = (
            self.judged("http://box2:8080", policy, each) for each in ("10.9.8.7", "127.0.0.1")
        )
        self.assertNotIn("10.9.8.7", secret or "")
        self.assertEqual(secret, loopback)
