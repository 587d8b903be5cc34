"""Where a gateway's file may say that its state is kept."""

from tests.config.written import WrittenTests


class StoreTests(WrittenTests):
    """`gateway: {store: …}`"""

    def store(self, written: str, **environ: str) -> str | None:
        return self.gateway(f"roles: {{}}\ngateway: {{store: {written}}}", environ).store

    def test_sqlite(self) -> None:
        """The default is a file, and can be said."""
        self.assertIsNone(self.gateway("roles: {}").store)
        self.assertIsNone(self.store("sqlite"))

    def test_postgres(self) -> None:
        """A database is named by its URL, one with a password from the environment."""
        self.assertEqual(self.store("postgresql://me@db/mesh"), "postgresql://me@db/mesh")
        secret = "postgresql://me:s3cret@db/mesh"
        self.assertEqual(self.store("{env: DB}", DB=secret), secret)
        told = self.gateway("roles: {}\ngateway: {store: {env: DB}}", {"DB": secret})
        self.assertNotIn("s3cret", repr(told))

    def test_password_here(self) -> None:
        """A password does not stand in the file, and is not repeated in what is said of it."""
        for url in ("postgresql://me:s3cret@db/mesh", "postgresql://db/mesh?password=s3cret"):
            [problem] = self.gateway_problems(f"roles: {{}}\ngateway: {{store: '{url}'}}")
            self.assertIn("password does not stand here", problem)
            self.assertNotIn("s3cret", problem)

    def test_something_else(self) -> None:
        """Anything else is refused, with what may stand there."""
        [problem] = self.gateway_problems("roles: {}\ngateway: {store: 'mysql://me:s3cret@db'}")
        self.assertIn("write sqlite, postgresql://", problem)
        self.assertNotIn("s3cret", problem)
        told = self.gateway_problems("roles: {}\ngateway: {store: {env: DB}}", {"DB": "mysql://h"})
        self.assertEqual(len(told), 1)

    def test_keys_in_store(self) -> None:
        """Keys and tokens may be in the store where that is a database, and only there."""
        told = self.gateway(
            "gateway: {keys: store, nodes: {tokens: store}, store: 'postgresql://me@db/mesh'}"
        )
        self.assertEqual((told.keys, told.nodes.tokens), ("store", "store"))
        for store in ("", ", store: sqlite"):
            [problem] = self.gateway_problems(f"gateway: {{keys: store{store}}}")
            self.assertIn("gateway.keys: takes gateway.store: postgresql://", problem)
