"""A program's options, as its own `--help` lists them, and which arguments are none of them."""

import re
from collections.abc import Iterator, Mapping, Sequence

# A line that begins an option; what continues a description stands much further to the right.
_LINE = re.compile(r" {0,4}(-\S.*)")
_DESCRIPTION = re.compile(r"(?<![, ]) {2,}|\t")  # behind a comma there are more names
_NAME = re.compile(r"(?<![\w-])--?[A-Za-z][\w-]*")


def read_help(text: str) -> Mapping[str, bool]:
    """Each option of a help text, with whether a value follows it."""
    found: dict[str, bool] = {}
    for line in text.splitlines():
        begun = _LINE.fullmatch(line)
        if begun:
            names = _DESCRIPTION.split(begun[1], maxsplit=1)[0]
            takes_value = bool(_NAME.sub("", names).replace(",", "").strip())
            for name in _NAME.findall(names):
                found[name] = found.get(name, False) or takes_value
    return found


def spelled(argument: str) -> str:
    """An argument as llama-server reads it, which takes `--ctx_size` for `--ctx-size`."""
    name, equals, value = argument.partition("=")
    return (name.replace("_", "-") if name.startswith("--") else name) + equals + value


def unknown(args: Sequence[str], options: Mapping[str, bool]) -> Iterator[int]:
    """The indexes of the arguments that look like options and are none."""
    value_expected = False
    for index, arg in enumerate(args):
        name, equals, _ = spelled(arg).partition("=")
        if value_expected:
            value_expected = False
        elif name in options:
            value_expected = options[name] and not equals
        elif _NAME.match(name):
            yield index
