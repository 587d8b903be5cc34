"""What `models.yaml` says, and all that can be wrong with it."""

from rolemesh.config.gateway import GatewaySettings, NodeRules
from rolemesh.config.listeners import Listener
from rolemesh.core.model import Params, Policy, QueueLimits, Requirements, Role, Target, Timeouts
from tests.config.written import WrittenTests


class RoleTests(WrittenTests):
    """The values that a role may have."""

    def test_three_lines(self) -> None:
        """Who knows only role and URL needs three lines."""
        settings = self.gateway(
            "roles:\n  planner: http://127.0.0.1:8081\n  coder: http://b:1/v1\n"
        )
        planner = Role("planner", use=(Target(url="http://127.0.0.1:8081"),))
        coder = Role("coder", use=(Target(url="http://b:1"),))
        self.assertEqual(settings, GatewaySettings({"planner": planner, "coder": coder}))
        self.assertEqual(settings.warnings, ())

    def test_lists(self) -> None:
        """A list may mix models and URLs, and keeps their order."""
        role = self.gateway("roles: {a: [m, 'http://b', n]}").roles["a"]
        self.assertEqual(role.use, (Target("m"), Target(url="http://b"), Target("n")))

    def test_everything(self) -> None:
        """Every key of a role ends in its field."""
        settings = self.gateway(
            """
            roles:
              b: {}
              a:
                use:
                  - m
                  - {url: http://h/v1, model: n, key: {env: KEY}, slots: 3}
                policy: least-loaded
                fallback: b
                aliases: [gpt-4o, "claude-*"]
                require: {context: 32k, tools: true, labels: {site: basement, rack: 7}}
                params: {default: {temperature: 0.2}, set: {stop: [x]}, drop: logit_bias}
                timeout: {connect: 1s, first_byte: 2s, idle: 3s, total: 4s}
                queue: {max: 9, wait: 10s}
                rescue: continue
                assemble: false
            """,
            {"KEY": "sk-1"},
        )
        self.assertEqual(
            settings.roles["a"],
            Role(
                "a",
                use=(Target("m"), Target("n", "http://h", "sk-1", 3)),
                policy=Policy.LEAST_LOADED,
                fallback=("b",),
                aliases=("gpt-4o", "claude-*"),
                require=Requirements(32768, True, {"site": "basement", "rack": "7"}),
                params=Params({"temperature": 0.2}, {"stop": ["x"]}, frozenset({"logit_bias"})),
                timeouts=Timeouts(1.0, 2.0, 3.0, 4.0),
                queue=QueueLimits(9, 10.0),
                rescue=True,
                assemble=False,
            ),
        )

    def test_words_of_their_own(self) -> None:
        """`wait: auto` and `rescue: off` are the defaults, in words."""
        role = self.gateway("roles: {a: {use: b, queue: {wait: auto}, rescue: off}}").roles["a"]
        self.assertEqual(role, Role("a", use=(Target("b"),)))

    def test_rescue_of_unknown_models(self) -> None:
        """A URL without its model is never gone on with, which is told beforehand."""
        content = "roles: {a: {use: [http://h, m], rescue: continue}}"
        (warning,) = map(str, self.gateway(content).warnings)
        self.assertIn(":1:41: roles.a.rescue: ", warning)
        self.assertIn("write {url: …, model: …}", warning)
        content = "roles: {a: {use: [{url: 'http://h', model: n}, m], rescue: continue}}"
        self.assertEqual(self.gateway(content).warnings, ())

    def test_empty_values(self) -> None:
        """A role without a value is told what it may have."""
        self.assertEqual(
            self.gateway_problems("roles:\n  a:\n  b: []\n"),
            [
                "2:5: roles.a: is empty: give it a URL, a model's name, a list of them or a"
                " mapping",
                "3:6: roles.b: must not be empty",
            ],
        )

    def test_targets(self) -> None:
        """What an entry of `use` lacks, or has too much, is told."""
        self.assertEqual(
            self.gateway_problems("roles:\n  a: [m, {slots: 2}, {model: n, slots: 2}, m, 7]\n"),
            [
                "2:10: roles.a[1]: needs a 'url' or a 'model'",
                "2:40: roles.a[2].slots: belongs to a 'url'; a node says this of its own models",
                "2:47: roles.a[4]: expected text, so in quotes: \"7\", found '7'",
            ],
        )
        self.assertEqual(
            self.gateway_problems("roles:\n  a: ['http://b', 'http://b/v1']\n"),
            ["2:19: roles.a[1]: 'http://b/v1' is in this list twice"],
        )

    def test_names(self) -> None:
        """A role's name is fit for URLs and headers."""
        for name in ("Coder", "a b", "-a", "a" * 65, "ä", "a/b", ""):
            (problem,) = self.gateway_problems(f'roles:\n  "{name}": x\n')
            self.assertIn("2:3: ", problem)
            self.assertIn("cannot be a role's name", problem)

    def test_roles_that_are_not_there(self) -> None:
        """A role named elsewhere must exist, also when its own value is wrong."""
        self.assertEqual(
            self.gateway_problems(
                """\
                roles:
                  coder: 7
                  writer: {use: m, fallback: [coder, codr]}
                gateway: {unknown_model: writr, default_role: nobody}
                """
            ),
            [
                "2:10: roles.coder: expected text, so in quotes: \"7\", found '7'",
                "3:38: roles.writer.fallback[1]: there is no role 'codr' - did you mean 'coder'?",
                "4:26: gateway.unknown_model: there is no role 'writr' - did you mean 'writer'?",
                "4:47: gateway.default_role: there is no role 'nobody' (there are: coder, writer)",
            ],
        )

    def test_own_fallback(self) -> None:
        """A role that falls back to itself is refused."""
        (problem,) = self.gateway_problems("roles: {a: {use: m, fallback: [a]}}")
        self.assertIn("a role cannot fall back to itself", problem)

    def test_params_keep_routing_whole(self) -> None:
        """What RoleMesh decides by itself is not set, filled in or dropped by a role."""
        problems = self.gateway_problems(
            "roles: {a: {use: m, params: {set: {model: x}, default: {stream: true}, drop: model}}}"
        )
        self.assertEqual(len(problems), 3)
        self.assertTrue(all("is RoleMesh's own" in problem for problem in problems))


class AliasTests(WrittenTests):
    """Which aliases can stand side by side."""

    def problems(self, one: str, other: str) -> list[str]:
        return self.gateway_problems(
            f"roles:\n  a: {{use: m, aliases: ['{one}']}}\n  b: {{use: m, aliases: ['{other}']}}\n"
        )

    def test_overlaps(self) -> None:
        """Two roles that could both answer to a name are a problem, at the second."""
        for one, other, both in (
            ("gpt-4", "gpt-4", "gpt-4"),
            ("gpt-*", "*-4o", "gpt-4o"),
            ("gpt-?", "gpt-4*", "gpt-4"),
            ("*", "a*", "a"),
            ("*", "*", "x"),
            ("a*b*c", "*b*b*", "abbc"),
            ("claude-*haiku*", "claude-sonnet*", "claude-sonnethaiku"),
            ("*" * 64, "?" * 128, "x" * 128),
        ):
            self.assertEqual(
                self.problems(one, other),
                [
                    f"3:25: roles.b.aliases[0]: '{other}' overlaps '{one}' of role 'a': '{both}'"
                    " would be both; narrow one of them, or list its names in full, which win over"
                    " globs"
                ],
            )

    def test_side_by_side(self) -> None:
        """Globs that share no name can stand together, and a plain alias beside a glob."""
        for one, other in {
            "gpt-*": "claude-*",
            "?": "??",
            "a*b": "a*c",
            "gpt-4*": "gpt-4o",
            "X": "x",
        }.items():
            settings = self.gateway(
                f"roles: {{a: {{aliases: '{one}'}}, b: {{aliases: '{other}'}}}}"
            )
            self.assertEqual(settings.roles["b"].aliases, (other,))

    def test_names_of_roles(self) -> None:
        """An alias that is a role's name could never mean anything."""
        self.assertEqual(
            self.gateway_problems("roles:\n  a: {use: m, aliases: b}\n  b: m\n"),
            ["2:24: roles.a.aliases: 'b' is a role's own name, which always wins"],
        )

    def test_no_aliases(self) -> None:
        """Blanks and character classes are no aliases."""
        for alias in ("a b", "gpt-[34]", "ä", "a" * 129):
            (problem,) = self.gateway_problems(f"roles: {{a: {{use: m, aliases: ['{alias}']}}}}")
            self.assertIn("is not an alias", problem)


class GatewayTests(WrittenTests):
    """The `gateway` part."""

    def test_everything(self) -> None:
        """Every key of the gateway ends in its field; paths are relative to the file."""
        self.write("keys.yaml", "", mode=0o600)
        self.write("nodes.yaml", "", mode=0o600)
        settings = self.gateway(
            """
            roles: {a: m}
            gateway:
              listen: [8123, "tcp:8124"]
              keys: {file: keys.yaml}
              nodes:
                tokens: {file: nodes.yaml}
                allowed_networks: 10.0.0.0/8
                announce: false
                advertise: http://gw1.lan:8000/
              unknown_model: a
              default_role: a
              drain: 5s
            """
        )
        self.assertEqual(
            settings,
            GatewaySettings(
                roles={"a": Role("a", use=(Target("m"),))},
                listen=(Listener("tcp:8123:interface=127.0.0.1"), Listener("tcp:8124")),
                keys=self.folder / "keys.yaml",
                nodes=NodeRules(
                    self.folder / "nodes.yaml", ("10.0.0.0/8",), False, "http://gw1.lan:8000"
                ),
                unknown_model="a",
                default_role="a",
                drain=5.0,
            ),
        )
        self.assertEqual(settings.warnings, ())

    def test_unknown_model_error(self) -> None:
        """`unknown_model: error` is the default, in words."""
        self.assertIsNone(self.gateway("gateway: {unknown_model: error}").unknown_model)

    def test_only_announced_roles(self) -> None:
        """A file without roles is taken, with a warning."""
        for content in ("", "roles:\n", "gateway:\n"):
            (warning,) = self.gateway(content).warnings
            self.assertIn("lists no roles", str(warning))

    def test_key_file_of_others(self) -> None:
        """A key file that others may read is refused where it is named, with the cure."""
        path = self.write("keys.yaml", "", mode=0o640)
        (problem,) = self.gateway_problems("gateway: {keys: {file: keys.yaml}}")
        self.assertIn(f"1:24: gateway.keys.file: {path}: others may read", problem)
        self.assertIn(f"chmod 600 {path}", problem)

    def test_key_file_to_come(self) -> None:
        """A key file that is not there yet is a warning that says what makes it."""
        warnings = self.gateway("roles: {a: m}\ngateway: {keys: {file: keys.yaml}}").warnings
        (warning,) = map(str, warnings)
        self.assertIn(":2:24: gateway.keys.file: ", warning)
        command = f"rolemesh keys add --file {self.folder / 'keys.yaml'}"
        self.assertIn(f"'{command}' makes it, with --node NAME for nodes", warning)

    def test_files(self) -> None:
        """Every file that the configuration names is told, of keys as of secrets, each once."""
        secret = self.folder / "secret"
        secret.write_text("s3cret")
        secret.chmod(0o600)
        told = self.gateway(
            "roles: {a: {use: {url: 'http://b', key: {file: secret}}}}\n"
            "gateway: {keys: {file: keys.yaml}, nodes: {tokens: {file: keys.yaml}}}"
        )
        self.assertEqual(set(told.files), {secret, self.folder / "keys.yaml"})
        self.assertEqual(len(told.files), 2)

    def test_keys_in_the_file(self) -> None:
        """A key that stands in the configuration itself is refused and not shown."""
        (problem,) = self.gateway_problems("gateway: {keys: sk-hunter2}")
        self.assertEqual(problem, "1:17: gateway.keys: write {file: PATH}, or store")
        (problem,) = self.gateway_problems("roles: {a: {use: {url: 'http://b', key: hunter2}}}")
        self.assertIn("write {file: PATH} or {env: NAME}", problem)
        self.assertNotIn("hunter2", problem)

    def test_networks(self) -> None:
        """A network must be one."""
        problems = self.gateway_problems(
            "gateway: {nodes: {allowed_networks: [10.0.0.1/8, lan, '::/0']}}"
        )
        self.assertEqual(len(problems), 2)
        self.assertIn("'10.0.0.1/8' is not a network: write 10.0.0.0/8", problems[0])

    def test_keys_of_later(self) -> None:
        """Keys that do not exist are unknown, each where it stands, with a guess or a list."""
        self.assertEqual(
            self.gateway_problems(
                """\
                gateway:
                  colour: red
                  lisen: 8000
                role: {}
                """
            ),
            [
                "2:3: unknown key 'colour' in gateway (there are: listen, allowed_hosts,"
                " keys, nodes, unknown_model, default_role, drain, memory_max, store)",
                "3:3: unknown key 'lisen' in gateway - did you mean 'listen'?",
                "4:1: unknown key 'role' in this file - did you mean 'roles'?",
            ],
        )

    def test_wrong_shapes(self) -> None:
        """A value of the wrong shape is told what was expected, wherever it stands."""
        for content, text in {
            "[]": "this file: expected a mapping of keys, found a list",
            "7": "this file: expected a mapping of keys, found '7'",
            "roles: [a]": "roles: expected a mapping of keys, found a list",
            "gateway: http://b": "gateway: expected a mapping of keys, found 'http://b'",
            "roles: {a: {policy: fist}}": "not one of the choices - did you mean 'first'?",
            "roles: {a: {policy: [first]}}": "a list is not one of the choices",
            "roles: {a: {timeout: 5s}}": "roles.a.timeout: expected a mapping of keys, found '5s'",
            "roles: {a: {rescue: true}}": "expected continue or off, found 'true'",
            "roles: {a: {params: {drop: {}}}}": "expected text, found a mapping",
        }.items():
            (problem,) = self.gateway_problems(content)
            self.assertIn(text, problem)
