"""The keys of a database as a gateway knows them, in memory: no request waits for the database."""

from collections.abc import Mapping

from twisted.logger import Logger

from rolemesh.config.keyfile import read_record
from rolemesh.config.problems import ConfigError
from rolemesh.core.errors import Refusal
from rolemesh.core.keys import KeyRecord, KeyRing

Read = Mapping[str, KeyRecord | str | None]  # a text says why it cannot be read


class KeyShelf:
    """Opens nothing until the database was read for the first time. When the database is away
    afterwards, the keys are those of before; what changed meanwhile counts once it is back."""

    log = Logger()

    def __init__(self) -> None:
        self._records: dict[str, KeyRecord] = {}
        self._ring: KeyRing | None = None

    def load(self) -> None:
        """Nothing: the keys come with the store."""

    def ring(self) -> KeyRing:
        """The keys.

        :raises Refusal: `state_unavailable` before they were read.
        """
        if self._ring is None:
            message = "the gateway has not read its keys yet; its own log says why"
            raise Refusal("state_unavailable", message, retry_after=5)
        return self._ring

    def put_all(self, keys: Read) -> None:
        """These there are, and no others."""
        self._records = {}
        self.put(keys)
        self.log.info("{count} keys in the database", count=len(self._records))

    def put(self, keys: Read) -> None:
        """These were changed, or are no more. A record that cannot be read opens nothing, also
        where the one before it did."""
        for id, record in keys.items():
            if isinstance(record, KeyRecord):
                self._records[id] = record
            else:
                self._records.pop(id, None)
                self._tell(id, record)
        self._ring = KeyRing(self._records.values())

    def _tell(self, id: str, why: str | None) -> None:
        if why is not None:
            self.log.error("key {id} cannot be read: {why}", id=id, why=why)


def read_records(texts: Mapping[str, str]) -> Read:
    """The records of these texts by their ids; of one that cannot be read, why."""
    return {id: _read(id, text) for id, text in texts.items()}


def _read(id: str, text: str) -> KeyRecord | str:
    try:
        record = read_record(text, id)
    except ConfigError as error:
        return str(error)
    return record if record.id == id else f"it is the record of {record.id}"
