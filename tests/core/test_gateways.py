"""Which gateways a node tells, and when it tries one again."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.gateways import (
    FORGOTTEN,
    LONG_AWAY,
    LONGEST,
    MOST,
    RARELY,
    acceptable,
    hear,
    next_try,
    spelled,
)

LAN, TLS, HERE = "http://gw.lan:8000", "https://gw.lan", "http://127.0.0.1:8000"
OTHER = "http://10.0.0.2:8000"


class TryTests(SynchronousTestCase):
    def test_A23_pauses_grow_to_a_beat_and_after_long_to_a_bit_more(self) -> None:
        """1, 2, 4, 5 seconds; 12 when it has been away for ten minutes."""
        pauses = [next_try(number, 0, 1.0) for number in range(1, 6)]
        self.assertEqual(pauses, [1, 2, 4, LONGEST, LONGEST])
        self.assertEqual(next_try(10**6, LONG_AWAY, 1.0), RARELY)

    def test_A24_chance_only_shortens(self) -> None:
        """So the longest pause is the bound, and four tenths of it are the spread."""
        self.assertAlmostEqual(next_try(9, 60, 0.0), 3.0)
        self.assertAlmostEqual(next_try(9, 3600, 0.0), 7.2)


class AcceptableTests(SynchronousTestCase):
    def test_one_of_the_same_kind(self) -> None:
        """Plain beside plain, TLS beside TLS, and TLS beside plain."""
        for told, own in ((OTHER, LAN), ("https://b:8443", TLS), ("https://b", LAN)):
            self.assertTrue(acceptable(told, [own]), told)

    def test_never_plainer_than_the_file(self) -> None:
        """Our token was meant for TLS, or for this machine alone."""
        self.assertFalse(acceptable(OTHER, [TLS]))
        self.assertFalse(acceptable(OTHER, [LAN, TLS]))
        self.assertFalse(acceptable(OTHER, [HERE]))

    def test_nobody_sends_us_to_this_machine_from_elsewhere(self) -> None:
        """What listens here is none of a distant gateway's business."""
        for told in (HERE, "http://localhost:22", "http://[::1]:8000"):
            self.assertFalse(acceptable(told, [LAN]))
            self.assertTrue(acceptable(told, [HERE]))

    def test_A40_what_is_no_gateway(self) -> None:
        """Other schemes, users, odd spellings, link-local and multicast addresses."""
        for told in (
            "ftp://gw",
            "http://user@gw",
            "http://gw/x?y",
            "http://0x0a000001",
            "http://169.254.169.254",
            "http://224.0.0.1",
            "http://0.0.0.0:8000",
            "",
            "x" * 1000,
        ):
            self.assertFalse(acceptable(told, [LAN]), told)

    def test_a_configured_one_may_have_a_path(self) -> None:
        """A gateway behind another server is judged by its host."""
        self.assertTrue(acceptable(OTHER, ["http://front.lan/mesh"]))
        self.assertEqual(spelled("http://front.lan/mesh/"), "http://front.lan/mesh")


class HearTests(SynchronousTestCase):
    def test_what_is_told_is_learned_but_for_what_is_known(self) -> None:
        """In one spelling, once."""
        told = ["http://GW.lan:8000/", OTHER, f"{OTHER}/v1", OTHER]
        self.assertEqual(hear({}, LAN, told, [LAN], 0), {OTHER: None})

    def test_there_are_never_more_than_eight(self) -> None:
        """Those of the file count."""
        told = [f"http://10.0.0.{number}:8000" for number in range(20)]
        self.assertEqual(len(hear({}, LAN, told, [LAN], 0)), MOST - 1)
        crowd = [f"http://10.1.0.{number}" for number in range(9)]
        self.assertEqual(hear({}, LAN, told, crowd, 0), {})

    def test_forgotten_an_hour_after_the_last_word(self) -> None:
        """A word in between begins the hour anew; one's own silence about oneself is none."""
        learned = hear({OTHER: None}, LAN, [], [LAN], 10)
        self.assertEqual(learned, {OTHER: 10})
        self.assertEqual(hear(learned, LAN, [OTHER], [LAN], 20), {OTHER: None})
        self.assertEqual(hear(learned, LAN, [], [LAN], 10 + FORGOTTEN - 1), {OTHER: 10})
        self.assertEqual(hear(learned, LAN, [], [LAN], 10 + FORGOTTEN), {})
        self.assertEqual(hear({OTHER: None}, OTHER, [], [LAN], 10), {OTHER: None})
