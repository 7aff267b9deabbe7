"""Every figure of candled, each beside a named reference that is measured in the same run.

    python -m bench [--quick] [--only ingest latency history hot fanout idle live] [--json FILE] [--folder DIR]

A full run takes about half an hour on two cores, of which nothing else should make use, and some gigabytes of
disk in DIR (by default the current folder) that are free again afterwards. Parts can be run by themselves:
`python -m bench.ingest`, and `journal`, `decode`, `registry`, `identities` for single modules.
"""

import time
from collections.abc import Callable

from bench import fanout, harness, history, hot, idle, ingest, latency
from bench.harness import BenchError, Figure, Options

PARTS: dict[str, Callable[[Options], list[Figure]]] = {
    "ingest": ingest.figures,
    "latency": latency.figures,
    "history": history.figures,
    "hot": hot.hot,
    "fanout": fanout.figures,
    "idle": idle.registered,
    "live": idle.full_rings,
}


def main() -> int:
    """Measure and report; 1 where a target was missed or something could not be measured."""
    parser = harness.parser(__doc__)
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=PARTS, help="these parts alone")
    arguments = parser.parse_args()
    options = harness.options(parser, arguments)
    found: list[Figure] = []
    for name, part in PARTS.items():
        if name not in arguments.only:
            continue
        began = time.perf_counter()
        print(f"{name} ...", end=" ", flush=True)
        try:
            found += part(options)
        except BenchError as error:
            found.append(harness.failed(name, "", error))
        print(f"{time.perf_counter() - began:.0f} s", flush=True)
    if harness.SERVER_CORE == harness.LOAD_CORE:
        print("only one core: the load took its share of what candled could have used")
    harness.report(found, options, to=arguments.json)
    fine = {"pass", "-", *(["MISS"] if options.quick else [])}
    return 0 if all(figure.verdict in fine for figure in found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
