"""The file that keys live in: YAML with hashes and no secrets, private to its owner."""

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from rolemesh.config.document import parse
from rolemesh.config.private import read_private
from rolemesh.config.problems import ConfigError, Gather, Position, Problem
from rolemesh.config.reading import Place, Reader, listed, settings
from rolemesh.config.scalars import boolean, one_of, plain_name, role_name, text, whole
from rolemesh.core.addresses import Network, read_network
from rolemesh.core.keys import LIVE_SECRETS, KeyRecord, Scope, Secret
from rolemesh.core.limits import MOST_REQUESTS, MOST_TOKENS

HEADER = "# Written by `rolemesh keys`: hashes of keys, and who may do what with them.\n"

_ID = re.compile("rm[knaj]_[a-z2-7]{8}")
_HASH = re.compile("sha256:([0-9a-f]{64})")


def read_key_file(path: Path) -> tuple[KeyRecord, ...]:
    """The records in a key file, each id once.

    :raises ConfigError: when it cannot be read, others may open it, or it is not a key file.
    """
    cure = f"`rolemesh keys add --file {path}` makes it, with --node NAME for nodes"
    content = read_private(path, cure)
    document = parse(content, path, environ={})
    gather = Gather(document.problems)
    records: tuple[KeyRecord, ...] = ()
    with gather:
        found = settings(Place(document, (), document.data), {"keys": listed(_record)})
        records = found.get("keys", ())
    gather.finish()
    if len({record.id for record in records}) < len(records):
        problem = "two keys here have the same id: take one of them out"
        raise ConfigError([Problem(str(path), Position(), problem)])
    return records


def key_file_text(records: Iterable[KeyRecord]) -> str:
    """What a key file with these records says."""
    document = {"keys": [_entry(record) for record in records]}
    return HEADER + yaml.dump(document, Dumper=_Dumper, sort_keys=False)


def record_text(record: KeyRecord) -> str:
    """One record by itself, with the fields of a key file."""
    return yaml.dump(_entry(record), Dumper=_Dumper, sort_keys=False)


def read_record(text: str, where: str) -> KeyRecord:
    """What `record_text` said; `where` it stands is for errors.

    :raises ConfigError: when it is no record.
    """
    document = parse(text.encode(), Path(where), environ={})
    gather = Gather(document.problems)
    with gather:
        record = _record(Place(document, (), document.data))
    gather.finish()
    return record


def _record(place: Place) -> KeyRecord:
    found = settings(place, _RECORD, required=("id", "secrets", "created"))
    return KeyRecord(**found)


def _secret(place: Place) -> Secret:
    return Secret(**settings(place, {"hash": _hash, "until": _moment}, required=("hash",)))


def _id(place: Place) -> str:
    if not _ID.fullmatch(text(place)):
        raise place.expected("the id of a key, such as rmk_ab23cd45")
    return text(place)


def _hash(place: Place) -> bytes:
    found = _HASH.fullmatch(text(place))
    if not found:
        raise place.wrong("expected sha256: and 64 hexadecimal digits")
    return bytes.fromhex(found[1])


def _roles(place: Place) -> Literal["*"] | tuple[str, ...]:
    return "*" if place.value == "*" else listed(role_name)(place)


def _network(place: Place) -> Network:
    try:
        return read_network(text(place))
    except ValueError as error:
        raise place.wrong(str(error)) from None


def _moment(place: Place) -> float:
    """Unix seconds, of `2027-01-31T12:00:00Z` or of a day; UTC where no zone is named."""
    try:
        moment = datetime.fromisoformat(text(place))
    except ValueError:
        raise place.expected("a time such as 2027-01-31T12:00:00Z") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


_RECORD: Mapping[str, Reader[Any]] = {
    "id": _id,
    "name": text,
    "node": plain_name,
    "roles": _roles,
    "scopes": listed(one_of(Scope)),
    "networks": listed(_network, 1),  # an empty list would read as nowhere, and mean anywhere
    "created": _moment,
    "not_before": _moment,
    "expires_at": _moment,
    "disabled": boolean,
    "note": text,
    "rpm": whole(1, MOST_REQUESTS),
    "concurrency": whole(1, MOST_REQUESTS),
    "tokens_per_day": whole(1, MOST_TOKENS),
    "secrets": listed(_secret, 1, LIVE_SECRETS),
}


class _Dumper(yaml.SafeDumper):
    """YAML whose every text is read back as the same text."""


def _represent(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    style = None if value[:1].isalpha() else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value.replace("${", "$${"), style)


_Dumper.add_representer(str, _represent)


def _entry(record: KeyRecord) -> dict[str, Any]:
    """What is said of a key, without what it does not have."""
    said = {
        "id": record.id,
        "name": record.name,
        "node": record.node,
        "roles": "*" if record.roles == "*" else list(record.roles),
        "scopes": [scope.value for scope in record.scopes],
        "networks": [str(network) for network in record.networks],
        "created": _time(record.created),
        "not_before": _time(record.not_before),
        "expires_at": _time(record.expires_at),
        "disabled": record.disabled,
        "note": record.note,
        "rpm": record.rpm,
        "concurrency": record.concurrency,
        "tokens_per_day": record.tokens_per_day,
        "secrets": [_hashed(secret) for secret in record.secrets],
    }
    return {key: value for key, value in said.items() if value}


def _hashed(secret: Secret) -> dict[str, str]:
    hashed = {"hash": f"sha256:{secret.hash.hex()}"}
    return hashed if secret.until is None else {**hashed, "until": _time(secret.until)}


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
