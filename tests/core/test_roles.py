"""Which role a name means, and what somebody is told whose name means none."""

from twisted.trial.unittest import SynchronousTestCase

from rolemesh.core.errors import Refusal
from rolemesh.core.model import Role
from rolemesh.core.roles import LONGEST_NAME, RoleBook

ROLES = {
    "planner": Role("planner", aliases=("*",)),
    "coder": Role("coder", aliases=("gpt-4o", "claude-*haiku*", "reviewer")),
    "reviewer": Role("reviewer", aliases=("gpt-*", "o?-mini")),
}
STRICT = {name: role for name, role in ROLES.items() if name != "planner"}


class FindTests(SynchronousTestCase):
    def found(self, name: str | None, book: RoleBook | None = None) -> tuple[str, str | None]:
        wanted = (book or RoleBook(STRICT)).find(name)
        return wanted.role.name, wanted.node

    def refused(self, name: str | None, book: RoleBook | None = None) -> Refusal:
        return self.assertRaises(Refusal, (book or RoleBook(STRICT)).find, name)

    def test_an_exact_name_wins(self) -> None:
        """A role's name goes before an alias of the same name, that before any glob."""
        for name, role in (
            ("reviewer", "reviewer"),
            ("gpt-4o", "coder"),
            ("gpt-5", "reviewer"),
            ("o4-mini", "reviewer"),
            ("claude-3-5-haiku-20241022", "coder"),
        ):
            self.assertEqual(self.found(name), (role, None))

    def test_names_are_told_apart_exactly(self) -> None:
        """Case counts, and nothing is trimmed or normalised."""
        for name in ("Coder", " coder", "coder ", "coder\n", "GPT-5", "o44-mini"):
            self.assertEqual(self.refused(name).code, "model_not_found")

    def test_role_at_node(self) -> None:
        """A role, an alias or what a glob matches, at a node, is pinned to it."""
        self.assertEqual(self.found("coder@box2"), ("coder", "box2"))
        self.assertEqual(self.found("gpt-4o@box2"), ("coder", "box2"))
        self.assertEqual(self.found("o4-mini@box2.lan"), ("reviewer", "box2.lan"))

    def test_a_glob_does_not_swallow_a_pin(self) -> None:
        """An exact name at a node is pinned, though some glob matches the whole."""
        book = RoleBook(ROLES)
        self.assertEqual(self.found("coder@box2", book), ("coder", "box2"))
        self.assertEqual(self.found("anything", book), ("planner", None))

    def test_a_glob_may_match_a_name_with_an_at(self) -> None:
        """A client's own model name with an `@` in it is no pin, when a glob matches the whole."""
        self.assertEqual(self.found("claude-haiku-4-5@20251001"), ("coder", None))

    def test_what_cannot_be_a_node_pins_nothing(self) -> None:
        """An empty or odd node's name is no node's name."""
        for name in (
            "coder@",
            "@box2",
            "coder@-x",
            "coder@b x",
            "coder@box\n",
            "coder@" + "b" * 65,
        ):
            self.assertEqual(self.refused(name).code, "model_not_found")

    def test_no_name(self) -> None:
        """Without a name the default role is meant, else the parameter is missing."""
        self.assertEqual(self.found(None, RoleBook(STRICT, default_role="coder")), ("coder", None))
        refusal = self.refused(None)
        self.assertEqual((refusal.code, refusal.param), ("missing_required_parameter", "model"))
        self.assertIn("Roles: coder, reviewer.", refusal.message)

    def test_an_unknown_name_may_mean_a_role(self) -> None:
        """With `unknown_model`, any name that means nothing else means that role."""
        book = RoleBook(STRICT, unknown_model="reviewer", default_role="coder")
        for name in ("llama-3", "x" * 5000, "\u202e", "../etc"):
            self.assertEqual(self.found(name, book), ("reviewer", None))
        self.assertEqual(self.found("coder", book), ("coder", None))

    def test_C23_an_unknown_role(self) -> None:
        """It is a 404 with the list of roles and the likeliest of them."""
        refusal = self.refused("codr")
        self.assertEqual((refusal.status, refusal.code), (404, "model_not_found"))
        self.assertEqual(
            refusal.message,
            "The role 'codr' does not exist. Roles: coder, reviewer. Did you mean 'coder'?",
        )

    def test_C23_a_forbidden_role_is_an_unknown_one(self) -> None:
        """Who may not use a role is told the very same as if there were none, and never its name,
        neither by its aliases nor as what is meant by default."""
        mine = RoleBook(ROLES, unknown_model="coder", default_role="coder").only("reviewer".__eq__)
        without = RoleBook({"reviewer": ROLES["reviewer"]})
        for name in ("coder", "codr", "gpt-4o-x@b", "coder@box2", None):
            if name == "gpt-4o-x@b":
                self.assertEqual(self.found(name, mine), ("reviewer", None))
                continue
            self.assertEqual(self.refused(name, mine).message, self.refused(name, without).message)
        self.assertNotIn("Did you mean", self.refused("codr", mine).message)

    def test_no_roles_yet(self) -> None:
        """Where there is no role at all, the message says what is missing."""
        self.assertIn("no node has announced one", self.refused("coder", RoleBook({})).message)

    def test_C24_odd_names_are_not_echoed(self) -> None:
        """A name that no role could have is not repeated; it costs no more than another one."""
        odd = ("\u202ecoder", "cafe\u0301", "a\r\nb", "<b>", "../x", "'", "%2e", "x" * 65)
        for name in (*odd, "ab" * 2_000_000, "x" * (LONGEST_NAME + 1)):
            refusal = self.refused(name)
            self.assertTrue(refusal.message.startswith("The role of that name does not exist. "))
            self.assertNotIn(name, refusal.message)

    def test_C24_a_very_long_name_is_no_glob_s(self) -> None:
        """No alias is compared with a name that is too long to be one."""
        self.assertEqual(self.found("gpt-" + "x" * (LONGEST_NAME - 4)), ("reviewer", None))
        self.assertEqual(self.refused("gpt-" + "x" * LONGEST_NAME).code, "model_not_found")


class BookTests(SynchronousTestCase):
    def test_announced_roles_come_to_those_listed(self) -> None:
        """What nodes announce is found; what the file says of a role stands."""
        book = RoleBook(STRICT).with_announced({"writer", "coder"})
        self.assertEqual(set(book.listed), {"coder", "reviewer", "writer"})
        self.assertIs(book.listed["coder"], STRICT["coder"])

    def test_with_nothing_new_it_is_the_same(self) -> None:
        """Announcing listed roles only leaves the book itself."""
        book = RoleBook(STRICT)
        self.assertIs(book.with_announced({"coder"}), book)
