"""llama-server's command line over the `xllamacpp` wheel: the real C++ server, without a compiler.

Run as `python -m rolemesh.demo.llama_server --model FILE --port N …`. It differs from the binary
in one way that a supervisor can see: a second SIGTERM ends it at once by that signal, not with 1.
"""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

_FLAGS = {
    "--embeddings --embedding": ("embedding", True),
    "--jinja": ("use_jinja", True),
    "--no-jinja": ("use_jinja", False),
    "--kv-unified -kvu": ("kv_unified", True),
    "--no-kv-unified -no-kvu": ("kv_unified", False),
    "--metrics": ("endpoint_metrics", True),
    "--no-slots": ("endpoint_slots", False),
    "--no-ui --no-webui": ("ui", False),
    "--no-warmup": ("warmup", False),
    "--props": ("endpoint_props", True),
    "--slots": ("endpoint_slots", True),
}

_NUMBERS = {
    "--batch-size -b": "n_batch",
    "--cache-ram -cram": "cache_ram_mib",
    "--cache-reuse": "n_cache_reuse",
    "--ctx-size -c": "n_ctx",
    "--parallel -np": "n_parallel",
    "--predict -n --n-predict": "n_predict",
    "--port": "port",
    "--sse-ping-interval": "sse_ping_interval",
    "--threads-http": "n_threads_http",
    "--ubatch-size -ub": "n_ubatch",
}

_TEXTS = {"--api-prefix": "api_prefix", "--slot-save-path": "slot_save_path"}

_WITHOUT_EFFECT_HERE = {
    "store": (
        "--cache-type-k -ctk",
        "--cache-type-v -ctv",
        "--device -dev",
        "--fit -fit",
        "--flash-attn -fa",
        "--log-file",
        "--log-verbosity -lv",
        "--main-gpu -mg",
        "--split-mode -sm",
        "--tags",
        "--tensor-split -ts",
        "--timeout -to",
    ),
    "store_true": (
        "--cont-batching -cb",
        "--log-jsonl",
        "--log-prefix",
        "--log-timestamps",
        "--mlock",
        "--no-mmap",
    ),
}


class _Parser(argparse.ArgumentParser):
    """Refuses as llama-server does: one line, exit 1."""

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"error: {message}\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Read llama-server's arguments; ends the process with 1 on those it does not know."""
    arguments, unknown = _parser().parse_known_args(argv)
    if unknown:
        _refuse(f"error: invalid argument: {unknown[0]}")
    if not hasattr(arguments, "model"):
        _refuse("error: no model; give one with --model FILE")
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = _Parser("llama-server", allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("-m", "--model", type=Path)
    parser.add_argument("-a", "--alias")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--api-key")
    parser.add_argument("--api-key-file", type=Path)
    parser.add_argument("--pooling", choices=["none", "mean", "cls", "last", "rank"])
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("-ngl", "--n-gpu-layers", "--gpu-layers")
    for names, (attribute, value) in _FLAGS.items():
        parser.add_argument(*names.split(), dest=attribute, action="store_const", const=value)
    for names, attribute in _NUMBERS.items():
        parser.add_argument(*names.split(), dest=attribute, type=int)
    for names, attribute in _TEXTS.items():
        parser.add_argument(*names.split(), dest=attribute)
    for action, options in _WITHOUT_EFFECT_HERE.items():
        for names in options:
            parser.add_argument(*names.split(), dest="without_effect", action=action)
    return parser


def api_keys(arguments: argparse.Namespace) -> list[str]:
    """The keys of `--api-key`, else of LLAMA_API_KEY, and those of `--api-key-file`, one a line."""
    given = getattr(arguments, "api_key", None) or os.environ.get("LLAMA_API_KEY", "")
    keys = given.split(",")
    if hasattr(arguments, "api_key_file"):
        keys += _key_lines(arguments.api_key_file)
    return [key.strip() for key in keys if key.strip()]


def _key_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError as problem:
        _refuse(f"error: failed to open file '{path}': {problem.strerror}")


def parameters(arguments: argparse.Namespace) -> Any:
    """llama.cpp's own parameter object, filled from `arguments`."""
    import xllamacpp

    filled = xllamacpp.CommonParams()
    filled.port = 8080
    for attribute in _simple_attributes():
        if hasattr(arguments, attribute):
            setattr(filled, attribute, getattr(arguments, attribute))
    filled.model.path, filled.hostnames = str(arguments.model), [arguments.host]
    filled.api_keys = api_keys(arguments)
    if hasattr(arguments, "alias"):
        filled.model_alias = {arguments.alias}
    if hasattr(arguments, "threads"):
        filled.cpuparams.n_threads = arguments.threads
    if getattr(arguments, "n_gpu_layers", "").lstrip("-").isdigit():
        filled.n_gpu_layers = int(arguments.n_gpu_layers)
    if hasattr(arguments, "pooling"):
        kind = f"LLAMA_POOLING_TYPE_{arguments.pooling.upper()}"
        filled.pooling_type = getattr(xllamacpp.llama_pooling_type, kind)
    return filled


def _simple_attributes() -> list[str]:
    return [name for name, _ in _FLAGS.values()] + [*_NUMBERS.values(), *_TEXTS.values()]


def main(argv: Sequence[str] = tuple(sys.argv[1:])) -> NoReturn:
    """Serve until SIGTERM or SIGINT, then wait for the clients and exit 0; 1 when it cannot start.

    As the binary, it leaves the signals alone while it loads: one of them ends it at once.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = parse(argv)
    try:
        import xllamacpp
    except ImportError as problem:
        _refuse(f"error: {problem}; pip install 'rolemesh[demo]' brings llama.cpp")
    _serve(xllamacpp.Server, parameters(arguments))
    sys.exit(0)


def _serve(start: Callable[[Any], Any], parameters: Any) -> None:
    try:
        server = start(parameters)
    except RuntimeError as problem:
        _refuse(f"error: {problem}")
    _wait_for_signal({signal.SIGTERM, signal.SIGINT})
    del server  # closes the listener and waits for the clients, deaf to Python's signal handlers


def _wait_for_signal(numbers: set[signal.Signals]) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)  # whichever of the server's threads the signal is given to
    for number in numbers:
        signal.signal(number, lambda *_: None)
    os.read(reading, 1)
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)


def _refuse(line: str) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
