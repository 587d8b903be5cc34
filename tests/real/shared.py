"""What tests of several gateways on one database begin with."""

from twisted.trial.unittest import SynchronousTestCase

from tests.doubles.postgres import Postgres
from tests.gateway.store.test_postgres import need_postgres
from tests.real.harness import Workshop


class SharedDatabaseCase(SynchronousTestCase):
    """A real PostgreSQL that runs, and a workshop, for each test."""

    def setUp(self) -> None:
        need_postgres()
        self.database = Postgres()
        self.addCleanup(self.database.remove)
        self.database.start()
        self.workshop = Workshop()
        self.addCleanup(self.workshop.close)
