"""Measure what RoleMesh promises: `python -m tests.bench NAME`, with `--help` after the name."""

import sys
from argparse import ArgumentParser
from collections.abc import Callable, Mapping

from attrs import frozen

from tests.bench import affinity, chaos, cost, faults, leavers, rescue, streams, survival


@frozen
class Benchmark:
    """What one is about, the arguments that it takes, and how it is run to its exit code."""

    about: str
    options: Callable[[ArgumentParser], None]
    run: Callable[..., int]


BENCHMARKS: Mapping[str, Benchmark] = {
    "cost": Benchmark("CPU a request and an event, beside bare proxies", cost.options, cost.run),
    "faults": Benchmark("requests over backends that keep failing", faults.options, faults.run),
    "leavers": Benchmark("clients that leave in every phase", leavers.options, leavers.run),
    "affinity": Benchmark("prompt tokens read by each policy", affinity.options, affinity.run),
    "streams": Benchmark(
        "many streams, and clients that do not read", streams.options, streams.run
    ),
    "rescue": Benchmark("servers killed in the middle of a stream", rescue.options, rescue.run),
    "survival": Benchmark(
        "a gateway killed again and again while nodes register", survival.options, survival.run
    ),
    "chaos": Benchmark("signals to agents and servers at random", chaos.options, chaos.run),
}


def main() -> int:
    """Run the benchmark that is named; 0 when its promises held, 1 when one did not."""
    parser = ArgumentParser("python -m tests.bench", description=__doc__)
    names = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, benchmark in BENCHMARKS.items():
        benchmark.options(names.add_parser(name, help=benchmark.about))
    chosen = vars(parser.parse_args())
    return BENCHMARKS[chosen.pop("name")].run(**chosen)


if __name__ == "__main__":
    sys.exit(main())
