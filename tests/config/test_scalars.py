"""Durations, sizes, numbers, URLs and endpoints, as the files that hold them are read."""

from tests.config.written import WrittenTests

ROLE = "roles: {{a: {{use: b, {}}}}}"


class NumberTests(WrittenTests):
    """Durations, sizes, whole numbers, true and false."""

    def test_durations(self) -> None:
        """Durations are one or several numbers with units, in seconds."""
        for written, seconds in {
            "30s": 30.0,
            "5m": 300.0,
            "1h30m": 5400.0,
            "500ms": 0.5,
            "1.5s": 1.5,
            "0": 0.0,
        }.items():
            settings = self.gateway(f"gateway: {{drain: {written}}}")
            self.assertEqual(settings.drain, seconds, written)

    def test_no_durations(self) -> None:
        """A number without a unit is no duration, nor is a negative, a word or a century."""
        for written in ("30", "fast", "-5s", "5 m", "1h30", "36525d", "true", "[1s]", "''", "~"):
            (problem,) = self.gateway_problems(f"gateway: {{drain: {written}}}")
            self.assertTrue(problem.startswith("1:18: gateway.drain: "), problem)

    def test_timeouts_take_time(self) -> None:
        """A timeout of nothing, which nothing could meet, is refused."""
        (problem,) = self.gateway_problems(ROLE.format("timeout: {idle: 0s}"))
        self.assertEqual(problem, "1:37: roles.a.timeout.idle: must be longer than 0s")

    def test_sizes(self) -> None:
        """k, m and g are powers of 1024, with or without iB."""
        for written, number in {
            "8192": 8192,
            "64k": 65536,
            "64K": 65536,
            "1GiB": 1 << 30,
            "2m": 2 << 20,
            "0": 0,
        }.items():
            settings = self.gateway(ROLE.format(f"require: {{context: {written}}}"))
            self.assertEqual(settings.roles["a"].require.context, number, written)

    def test_no_sizes(self) -> None:
        """Fractions, negatives and unknown units are no sizes."""
        for written in ("1.5k", "-1", "64q", "k", "true", "1e3", "999999999g"):
            (problem,) = self.gateway_problems(ROLE.format(f"require: {{context: {written}}}"))
            self.assertIn("is not a size (examples: 8192, 64k, 1GiB)", problem)

    def test_whole_numbers(self) -> None:
        """A whole number has bounds; one that came out of the environment counts."""
        self.assertEqual(
            self.gateway(ROLE.format("queue: {max: '${N}'}"), {"N": "7"}).roles["a"].queue.max, 7
        )
        for written in ("-1", "1.0", "true", "many", "1e99", "99999999999999999999"):
            (problem,) = self.gateway_problems(ROLE.format(f"queue: {{max: {written}}}"))
            self.assertIn("expected a whole number from 0 to 1000000", problem)

    def test_true_and_false(self) -> None:
        """Where true or false is wanted, yes and 1 are problems and not guesses."""
        self.assertFalse(self.gateway(ROLE.format("assemble: false")).roles["a"].assemble)
        for written in ("no", "off", "0", "maybe"):
            (problem,) = self.gateway_problems(ROLE.format(f"assemble: {written}"))
            self.assertIn(f"expected true or false, found '{written}'", problem)

    def test_numbers_without_end(self) -> None:
        """A number that only infinity could hold is a problem, also where any value may stand."""
        (problem,) = self.gateway_problems(ROLE.format("params: {set: {x: 1e999}}"))
        self.assertIn("'1e999' is too large a number", problem)


class UrlTests(WrittenTests):
    """Base URLs."""

    def url(self, written: str) -> str | None:
        return self.gateway(f"roles: {{a: '{written}'}}").roles["a"].use[0].url

    def test_spellings_of_one_server(self) -> None:
        """A last slash, a last /v1 and upper case make no difference."""
        for tail in ("", "/", "/v1", "/v1/"):
            self.assertEqual(self.url(f"HTTP://Box:8081{tail}"), "http://box:8081")

    def test_what_stays(self) -> None:
        """Other paths, IPv6 and https stay."""
        for written in ("https://box", "http://[::1]:80", "http://10.0.0.1:8080/llama/a"):
            self.assertEqual(self.url(written), written)
        self.assertEqual(self.url("http://box/llama/v1/"), "http://box/llama")

    def test_refused(self) -> None:
        """What a base URL may not hold is said, at its place."""
        for written, text in {
            "http://user:pw@box": "no user and no password",
            "http://box?a=b": "no '?' and no '#'",
            "http://box/#a": "no '?' and no '#'",
            "ftp://box": "is not a URL",
            "http://": "is not a URL",
            "http://:80": "is not a URL",
            "http://box:port": "is not a URL",
            "http://box:70000": "is not a URL",
            "http://box:0": "port 0 is no port",
            "http://b ox": "no spaces",
            "http://böx": "no spaces or such letters",
            "http://[::1": "is not a URL",
            "http://box\\\\evil": "no spaces or such letters",
        }.items():
            (problem,) = self.gateway_problems(f"roles: {{a: '{written}'}}")
            self.assertTrue(problem.startswith("1:12: roles.a: "), problem)
            self.assertIn(text, problem)

    def test_passwords_are_not_told(self) -> None:
        """The error about a password in a URL does not show it."""
        (problem,) = self.gateway_problems("roles: {a: 'http://user:hunter2@b ox'}")
        self.assertNotIn("hunter2", problem)

    def test_forgotten_scheme(self) -> None:
        """A server without http:// is not taken for a model's name."""
        for written in ("127.0.0.1:8081", "localhost:8081/v1", "10.0.0.1"):
            (problem,) = self.gateway_problems(f"roles: {{a: '{written}'}}")
            self.assertIn("write http:// before it", problem)

    def test_models_with_colons(self) -> None:
        """A model's name may have slashes and colons."""
        settings = self.gateway("roles: {a: 'openai/gpt-oss:20b'}")
        self.assertEqual(settings.roles["a"].use[0].model, "openai/gpt-oss:20b")


class ListenTests(WrittenTests):
    """Endpoints."""

    def listen(self, written: str) -> tuple[str, ...]:
        found = self.gateway(f"gateway:\n  listen: {written}\n").listen
        return tuple(each.endpoint for each in found)

    def test_a_port_alone_is_on_loopback(self) -> None:
        """A bare port never opens the gateway to the network."""
        self.assertEqual(self.listen("8123"), ("tcp:8123:interface=127.0.0.1",))
        self.assertEqual(self.listen("'8123'"), ("tcp:8123:interface=127.0.0.1",))

    def test_endpoint_strings(self) -> None:
        """Twisted's endpoint strings stay as they are, one or several."""
        self.assertEqual(
            self.listen(
                "[tcp:80, 'tcp:port=81:interface=::1', unix:/run/x, 'systemd:domain=INET']"
            ),
            ("tcp:80", "tcp:port=81:interface=::1", "unix:/run/x", "systemd:domain=INET"),
        )

    def test_addresses_are_no_endpoints(self) -> None:
        """An address is refused with the endpoint string that was meant."""
        for written, meant in {
            "127.0.0.1:8000": "tcp:8000:interface=127.0.0.1",
            "localhost:8000": "tcp:8000:interface=localhost",
            "http://0.0.0.0:80/": "tcp:80:interface=0.0.0.0",
            "'[::1]:8000'": "tcp:8000:interface=\\:\\:1",
        }.items():
            (problem,) = self.gateway_problems(f"gateway:\n  listen: {written}\n")
            self.assertTrue(problem.endswith(f": write {meant}"), problem)

    def test_refused(self) -> None:
        """Ports that are none and empty lists are refused."""
        for written in ("70000", "tcp:x", "'tcp:'", "tcp:99999", "all", "[]", "~", "-1"):
            (problem,) = self.gateway_problems(f"gateway:\n  listen: {written}\n")
            self.assertIn("2:11: gateway.listen: ", problem)
