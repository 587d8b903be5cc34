"""What is hidden of a text before anybody reads it: keys, tokens, passwords."""

import re
from collections.abc import Iterable

_Rules = tuple[tuple[re.Pattern[str], str], ...]

_KEYS: _Rules = (
    (re.compile(r"\b(rm[knaj]_[a-z2-7]{8}_)[\w-]+"), r"\1***"),  # the id tells whose it was
    (re.compile(r"\b(rm[knaj]_)(?![a-z2-7]{8}(?:_\*|(?![\w-])))[\w-]+"), r"\1***"),
    (re.compile(r"\b(sk-)[\w-]{8,}"), r"\1***"),
)
_SECRETS: _Rules = (
    *_KEYS,
    (re.compile(r"\b(Bearer)\s+[^\s\"',]+", re.IGNORECASE), r"\1 ***"),
    (re.compile(r"(://)[^/\s\"'@]+@"), r"\1***@"),
    (re.compile(r"((?:key|token|password|secret)=)[^&#\s\"']+", re.IGNORECASE), r"\1***"),
    (re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:-----END|\Z)", re.DOTALL), r"\1***"),
)
_HINT = re.compile(r"rm[knaj]_|sk-|bearer|@|(?:key|token|word|secret)=|PRIVATE KEY", re.IGNORECASE)


def redacted(text: str) -> str:
    """The text without keys, tokens and the user part of URLs."""
    return _without(text, _SECRETS)


def without_keys(text: str) -> str:
    """The text without what is surely a key; what tells how to send one stays."""
    return _without(text, _KEYS)


def _without(text: str, rules: Iterable[tuple[re.Pattern[str], str]]) -> str:
    if _HINT.search(text) is None:  # as in nearly all
        return text
    for secret, instead in rules:
        text = secret.sub(instead, text)
    return text
