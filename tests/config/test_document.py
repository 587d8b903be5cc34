"""What YAML is taken, and where its problems are said to be."""

from rolemesh.config.gateway import GatewaySettings, load_gateway
from rolemesh.config.problems import ConfigError
from tests.config.written import WrittenTests

DEEP = {
    "flow lists": b"[" * 100_000,
    "flow mappings": b"{a: " * 1000,
    "block lists": b"- " * 1000,
    "block mappings": b"".join(b" " * i + b"a:\n" for i in range(500)),
    "complex keys": b"? " * 1000,
}


class SyntaxTests(WrittenTests):
    """Text that is not taken at all."""

    def test_broken_yaml_has_its_place(self) -> None:
        """YAML that does not parse is one problem, where it stops to be YAML."""
        (problem,) = self.gateway_problems("roles:\n  a: [b\n  c: d\n")
        self.assertTrue(problem.startswith("3:4: not YAML: "), problem)

    def test_other_encodings(self) -> None:
        """Bytes that are not UTF-8 are refused at their line and column."""
        self.assertEqual(
            self.gateway_problems(b"roles:\n  a: \xff\n"),
            ["2:6: not UTF-8: save the file as UTF-8"],
        )

    def test_control_characters(self) -> None:
        """A control character is refused at its line and column."""
        self.assertEqual(
            self.gateway_problems(b"roles:\n  a: b\x00\n"),
            ["2:7: control characters are not taken"],
        )

    def test_byte_order_mark(self) -> None:
        """A byte order mark, as some editors write, changes nothing."""
        self.assertEqual(list(self.gateway(b"\xef\xbb\xbfroles: {a: b}").roles), ["a"])

    def test_impossible_escape(self) -> None:
        """An escape beyond Unicode, on which PyYAML itself stumbles, is a problem like others."""
        (problem,) = self.gateway_problems(b'roles: {a: "\\U00110000"}')
        self.assertIn("1:15: not YAML: a number is too large", problem)

    def test_half_a_character(self) -> None:
        """A lone surrogate, which cannot be written anywhere, is refused."""
        self.assertEqual(
            self.gateway_problems(b'roles: {a: "\\ud800"}'),
            ["1:12: holds half a character, which is no text"],
        )

    def test_L10_deep_nesting(self) -> None:
        """Nesting beyond 32 levels is refused however it is written, and never recursed into."""
        for shape, content in DEEP.items():
            (problem,) = self.gateway_problems(content)
            self.assertIn("nested deeper than 32 levels", problem, shape)

    def test_L10_too_long(self) -> None:
        """A file above 1 MiB is refused without being parsed."""
        self.assertEqual(
            self.gateway_problems(b"#" * (1024 * 1024 + 1)),
            ["1:1: longer than 1 MiB, which no configuration needs"],
        )

    def test_L10_aliases(self) -> None:
        """Aliases, with which a few bytes become millions of values, are refused."""
        self.assertEqual(
            self.gateway_problems("roles:\n  a: &x b\n  c: *x\n"),
            ["3:6: YAML aliases are not taken: write the value out"],
        )

    def test_L10_tags(self) -> None:
        """Tags are refused, those of Python objects and harmless ones."""
        for tag in ("!!python/object:os.system", "!!str", "!own", "!"):
            self.assertEqual(
                self.gateway_problems(f"roles:\n  a: {tag} b\n"),
                ["2:6: YAML tags are not taken: write the plain value"],
            )

    def test_one_document(self) -> None:
        """A second document in the same file is refused rather than overlooked."""
        (problem,) = self.gateway_problems("roles: {a: b}\n---\nroles: {c: d}\n")
        self.assertIn("2:1: not YAML: ", problem)


class KeyTests(WrittenTests):
    """What may be a key."""

    def test_L9_duplicates_name_both_lines(self) -> None:
        """A key that appears twice is a problem that names the line of the first."""
        self.assertEqual(
            self.gateway_problems("roles:\n  a: b\n  c: d\n  a: e\n"),
            ["4:3: 'a' appears twice (first at line 2)"],
        )

    def test_L9_words_of_yaml_1_1_stay_text(self) -> None:
        """`no` and `on` are text, as key and as value, and never become true or false."""
        settings = self.gateway("roles: {no: on, yes: off}")
        self.assertEqual(list(settings.roles), ["no", "yes"])
        self.assertEqual([role.use[0].model for role in settings.roles.values()], ["on", "off"])

    def test_L9_keys_that_are_no_text(self) -> None:
        """Numbers, true and null are no keys, and their quotes are asked for."""
        for key in ("12", "1.5", "true", "null", "~"):
            self.assertEqual(
                self.gateway_problems(f"roles:\n  {key}: x\n"),
                [f'2:3: a key must be text: write "{key}" in quotes if it is meant'],
            )
        self.assertEqual(list(self.gateway('roles: {"12": x}').roles), ["12"])

    def test_L9_times_are_no_numbers(self) -> None:
        """`12:30`, a number of minutes to YAML 1.1, is text, and no name of a role."""
        (problem,) = self.gateway_problems("roles:\n  12:30: x\n")
        self.assertTrue(problem.startswith("2:3: '12:30' cannot be a role's name"), problem)

    def test_complex_keys(self) -> None:
        """A list is no key."""
        self.assertEqual(
            self.gateway_problems("roles:\n  [a]: b\n"),
            ["2:3: a key must be text, not a list or a mapping"],
        )

    def test_merge_keys_are_ordinary(self) -> None:
        """YAML's `<<` has no meaning here, so it is unknown."""
        (problem,) = self.gateway_problems("gateway:\n  <<: {drain: 1s}\n")
        self.assertIn("2:3: unknown key '<<' in gateway", problem)


class EnvironmentTests(WrittenTests):
    """`${…}` inside values."""

    def model(self, value: str, environ: dict[str, str]) -> str | None:
        return self.gateway(f"roles: {{a: '{value}'}}", environ).roles["a"].use[0].model

    def test_filled_in(self) -> None:
        """A variable is filled in, wherever in the text it stands."""
        self.assertEqual(self.model("x-${SIZE}-${KIND}", {"SIZE": "3b", "KIND": "q4"}), "x-3b-q4")

    def test_defaults(self) -> None:
        """A default stands in for a variable that is unset or empty."""
        self.assertEqual(self.model("${SIZE:-3b}", {}), "3b")
        self.assertEqual(self.model("${SIZE:-3b}", {"SIZE": ""}), "3b")
        self.assertEqual(self.model("${SIZE:-3b}", {"SIZE": "7b"}), "7b")

    def test_values_are_not_read_again(self) -> None:
        """What a variable holds is text: neither YAML nor another reference."""
        self.assertIn(
            "is not a model's name", self.gateway_problems("roles: {a: '${X}'}", {"X": "${Y}"})[0]
        )
        self.assertIn(
            "is not a model's name", self.gateway_problems("roles: {a: '${X}'}", {"X": "[b]"})[0]
        )

    def test_unset(self) -> None:
        """An unset variable is the only problem of its value, at its place."""
        self.assertEqual(
            self.gateway_problems("roles:\n  a: ${SIZE}\n"),
            ["2:6: ${SIZE} is not set: set it, or write ${SIZE:-a default}"],
        )

    def test_malformed(self) -> None:
        """A reference without a name or an end is told, with how to write a plain one."""
        for value in ("${", "${}", "${1}", "${A"):
            self.assertEqual(
                self.gateway_problems(f"roles:\n  a: '{value}'\n"),
                ["2:6: '${' must be ${NAME} or ${NAME:-a default}; a real one is '$${'"],
            )

    def test_plain(self) -> None:
        """`$${` is a plain `${`."""
        settings = self.gateway("roles: {a: {use: b, params: {set: {x: '$${A}'}}}}")
        self.assertEqual(settings.roles["a"].params.set, {"x": "${A}"})

    def test_errors_do_not_tell_values(self) -> None:
        """An error shows the reference, not what it stood for."""
        (problem,) = self.gateway_problems("roles: {a: 'http://${X}'}", {"X": "s e c r e t"})
        self.assertIn("${X}", problem)
        self.assertNotIn("s e c r e t", problem)


class FileTests(WrittenTests):
    """The file itself."""

    def test_missing(self) -> None:
        """A file that is not there is a problem of that file."""
        error = self.assertRaises(ConfigError, self.load, "none.yaml")
        self.assertEqual(
            str(error), f"{self.folder}/none.yaml:1:1: cannot be read: No such file or directory"
        )

    def test_folder(self) -> None:
        """A folder is no configuration."""
        (self.folder / "x.yaml").mkdir()
        self.assertIn("cannot be read", str(self.assertRaises(ConfigError, self.load, "x.yaml")))

    def test_world_writable(self) -> None:
        """A file that anybody may write is refused, with the cure."""
        path = self.write("x.yaml", "roles: {a: b}", mode=0o646)
        error = self.assertRaises(ConfigError, self.load, "x.yaml")
        self.assertIn(f"anybody may write it: chmod o-w {path}", str(error))

    def test_group_writable(self) -> None:
        """A file that its group may write gets a warning, with the cure."""
        path = self.write("x.yaml", "roles: {a: b}", mode=0o664)
        (warning,) = self.load("x.yaml").warnings
        self.assertEqual(str(warning), f"{path}:1:1: its group may write it: chmod g-w {path}")

    def test_one_line_a_problem(self) -> None:
        """What stands in a file cannot break a problem into two lines or steer a terminal."""
        (problem,) = self.gateway_problems('roles: {a: "\\e[31m\\nb"}')
        self.assertTrue(problem.isprintable())

    def load(self, name: str) -> GatewaySettings:
        return load_gateway(self.folder / name, {})
