"""What is said of TLS: the certificate of a listener, and whom one who connects trusts."""

from pathlib import Path

from attrs import frozen

from rolemesh.config.files import path, private_content, status_of
from rolemesh.config.reading import Place, listed, settings
from rolemesh.config.scalars import text
from rolemesh.core.pins import read_pin


@frozen
class ServerTls:
    """PEM files of a listener: its certificate with what leads to its CA, its private key, and
    the CA by which its clients must be certified, None for clients without certificates."""

    cert: Path
    key: Path
    client_ca: Path | None = None


@frozen
class Trust:
    """By what the other end is known: by its name in a certificate of `ca`, None for the system's
    CAs; or by its key, where there are `pins`. `cert` and `key` are shown to it."""

    ca: Path | None = None
    pins: tuple[str, ...] = ()
    cert: Path | None = None
    key: Path | None = None


def server_tls(place: Place) -> ServerTls:
    """`{cert: FILE, key: FILE, client_ca: FILE}` of a listener."""
    readers = {"cert": _certificate, "key": _key, "client_ca": _certificate}
    return ServerTls(**settings(place, readers, required=("cert", "key")))


def trust(place: Place) -> Trust:
    """`{ca: FILE}` or `{pin: PIN}`, and `{cert: FILE, key: FILE}`."""
    readers = {"ca": _certificate, "pin": listed(_pin, least=1), "cert": _certificate, "key": _key}
    found = settings(place, readers)
    if "ca" in found and "pin" in found:
        raise place.wrong("write either ca or pin: a pinned key needs no CA")
    if ("cert" in found) is not ("key" in found):
        raise place.wrong("a certificate needs its key: write both cert and key")
    return Trust(found.get("ca"), found.get("pin", ()), found.get("cert"), found.get("key"))


def _pin(place: Place) -> str:
    try:
        return read_pin(text(place))
    except ValueError as error:
        raise place.wrong(f"{place.shown}: {error}") from None


def _certificate(place: Place) -> Path:
    """A file that may come later, but then before the program starts."""
    named = path(place)
    if status_of(named, place) is None:
        _warn_missing(named, place)
    return named


def _key(place: Place) -> Path:
    named = path(place)
    if status_of(named, place) is None:
        _warn_missing(named, place)
    else:
        private_content(named, place)
    return named


def _warn_missing(named: Path, place: Place) -> None:
    place.warn(f"{named} does not exist yet: 'rolemesh pki issue' can make it")
