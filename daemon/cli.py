"""The `candled` command: what may be typed, what is printed, and the exit status."""

import argparse
import errno
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from daemon import __version__

# Everything else is imported by the command that needs it, so that `--help` and `--version` answer at once.
if TYPE_CHECKING:
    from daemon.config import Settings
    from daemon.progress import Progress

DONE, FAILED, WRONG = 0, 1, 2
UNBINDABLE = (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES)
FLAGS = ("config", "data", "host", "port", "auth", "tls_cert", "tls_key")
SCOPES = ("read", "ingest", "admin")


class Parser(argparse.ArgumentParser):
    """Says what is wrong on one line."""

    def error(self, message: str) -> NoReturn:
        """Leave with the status of wrong usage."""
        self.exit(WRONG, f"{self.prog}: {message}; see {self.prog} --help\n")


def run() -> NoReturn:
    """Run the command that was typed, and end the process.

    At once: DuckDB's bindings take whatever an error left alive for leaks, and list it on standard error while the
    interpreter is taken down.
    """
    try:
        status = main()
    except SystemExit as stop:  # what argparse does after help, a version or wrong usage
        status = stop.code if isinstance(stop.code, int) else FAILED
    except BaseException:  # a mistake of ours
        traceback.print_exc()
        status = FAILED
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # full, or closed by now, or from the beginning
            stream.flush()
    os._exit(status)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 it is done, 1 it failed, 2 it was asked for wrongly."""
    parser = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        arguments.of.error(f"unrecognized arguments: {' '.join(unknown)}")
    command: Callable[[argparse.Namespace], int] | None = getattr(arguments, "command", None)
    if command is None:
        arguments.of.print_help(sys.stderr)
        return WRONG
    try:
        return command(arguments)
    except BrokenPipeError:
        # Whoever read us has had enough; keep the interpreter from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except KeyboardInterrupt:
        print("candled: interrupted", file=sys.stderr)
        return FAILED
    except Exception as error:
        said = _said(error)
        if said is None:
            raise
        message, failure = said
        print(f"candled: {message}", file=sys.stderr)
        return failure


def _serve(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    import structlog
    import trio

    from daemon import logs
    from daemon.serve import serve
    from storage.errors import Unavailable

    config = settings.config
    logs.configure(config.log_format, config.log_level)
    for row in settings.without_effect():
        structlog.get_logger("candled").warning(
            "a setting has no effect", setting=row.name, origin=row.origin, reason=row.no_effect
        )
    try:
        trio.run(lambda: serve(config, demo=arguments.demo))
    except (OSError, ExceptionGroup) as error:
        first = _first(error)
        unbindable = isinstance(first, socket.gaierror) or getattr(first, "errno", None) in UNBINDABLE
        if isinstance(first, OSError) and unbindable and not first.filename:
            raise Unavailable(
                f"cannot listen on {config.host} port {config.port}: {first.strerror}; choose with --host and --port"
            ) from error
        raise
    return DONE


def _token_create(arguments: argparse.Namespace) -> int:
    from daemon import commands
    from storage.errors import Unavailable

    config = _settings(arguments).config
    if sys.stdout is None:
        raise Unavailable("standard output is closed, and a key that nobody sees is of no use")
    key = commands.create_token(config, arguments.scope, arguments.name)
    print(f"a key with scope {arguments.scope} for {config.data}; it is shown this once:", file=sys.stderr)
    _print(key)
    return DONE


def _token_list(arguments: argparse.Namespace) -> int:
    from msgspec import structs

    from daemon import commands

    found = commands.tokens(_settings(arguments).config)
    if arguments.json:
        return _print_json([structs.asdict(key) for key in found])
    rows = [["id", "scope", "name", "made", "last used", "revoked"]]
    for key in found:
        instants = [_instant(at) for at in (key.created, key.last_used, key.revoked)]
        rows.append([str(key.id), key.scope, key.name or "-", *instants])
    _print_table(rows)
    return DONE


def _token_revoke(arguments: argparse.Namespace) -> int:
    from daemon import commands

    commands.revoke_token(_settings(arguments).config, arguments.id)
    print(f"key {arguments.id} is revoked", file=sys.stderr)
    return DONE


def _check(arguments: argparse.Namespace) -> int:
    from msgspec import structs

    from daemon import commands, tls

    settings = _settings(arguments)
    tls.context(settings.config)
    rows = settings.shown()
    folder = commands.folder(settings.config)
    if arguments.json:
        _print_json({"settings": [row._asdict() for row in rows], "data": structs.asdict(folder)})
    else:
        effects = [f"no effect: {row.no_effect}" if row.no_effect else "" for row in rows]
        _print_table([[*row[:3], effect] for row, effect in zip(rows, effects, strict=True)])
        _print("", f"data directory {folder.path}: {_described(folder)}")
    for problem in folder.problems:
        print(f"candled: {problem}", file=sys.stderr)
    return FAILED if folder.problems else DONE


def _doctor(arguments: argparse.Namespace) -> int:
    from collections import Counter

    from msgspec import structs

    from daemon.doctor.examined import Wanted, examined

    findings = []
    for one in examined(Wanted(arguments.url, arguments.only or "", arguments.symbol or "", arguments.key or "")):
        findings.append(one)
        if not arguments.json:
            why = f" ({one.reason})" if one.reason else ""
            _print(_harmless(f"{one.state:<8} {one.protocol} {one.rule}: {one.says}{why}"))
            if one.state == "failed":
                told = (("asked", one.request), ("answered", one.answered), ("expected", one.expected))
                _print(*(_harmless(f"         {name:<9} {text}") for name, text in told))
    if arguments.json:
        _print_json([structs.asdict(one) for one in findings])
    count = Counter(one.state for one in findings)
    print(f"{count['ok']} ok, {count['failed']} failed, {count['skipped']} skipped", file=sys.stderr)
    return FAILED if count["failed"] else DONE


def _rejects(arguments: argparse.Namespace) -> int:
    from msgspec import structs

    from daemon import commands

    found = commands.refused_events(_settings(arguments).config, arguments.limit)
    if arguments.json:
        return _print_json([structs.asdict(letter) for letter in found])
    for letter in found:
        said = f"{_instant(letter.at)}  {letter.source}  {letter.market_symbol or '-'}  {letter.error}"
        _print(_harmless(said), _harmless(f"    {letter.event}"))
    if not found:
        print("no event has been refused", file=sys.stderr)
    return DONE


def _import(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    import trio

    from daemon import importing, logs
    from daemon.progress import Progress
    from storage.mapping import Times

    config = _settings(arguments).config
    plan = importing.Plan(
        files=tuple(Path(name) for name in arguments.files),
        market=arguments.market or "",
        given=tuple(arguments.map),
        where=arguments.where or "",
        times=Times(arguments.time_unit, arguments.timezone, arguments.time_format),
        create=arguments.create,
        bars=arguments.bars,
        labelled=arguments.time,
        snapshots=arguments.snapshots,
    )
    with importing.sources(plan) as some:
        for source in some:
            _tell(f"{source.file.path}:", *(f"  {_harmless(line)}" for line in source.lines(plan.where)))
        if arguments.dry_run:
            return DONE
        logs.configure(config.log_format, "warning")
        with Progress() as progress, _stoppable(progress, "what was taken stays: the same command goes on behind it"):
            tally = trio.run(importing.run, config, plan, some, progress, arguments.url, arguments.key)
    for problem in tally.errors:
        print(f"candled: {_harmless(problem)}", file=sys.stderr)
    if tally.rejected > len(tally.errors):
        _tell(f"  and {tally.rejected - len(tally.errors):,} more; `candled rejects` lists the newest")
    rate = tally.rows / tally.seconds if tally.seconds else 0
    _tell(
        f"{tally.accepted:,} events taken, {tally.duplicates:,} known already, {tally.corrected:,} corrected, "
        f"{tally.retracted:,} taken back, {tally.rejected:,} refused, in {tally.seconds:.1f} s ({rate:,.0f}/s)"
    )
    if arguments.json:
        from msgspec import structs

        _print_json(structs.asdict(tally))
    return FAILED if tally.rejected else DONE


def _export(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    import trio

    from daemon import exporting, logs
    from daemon.progress import Progress

    config = _settings(arguments).config
    to = Path(arguments.output) if arguments.output else None
    wanted = exporting.Wanted(
        market=arguments.market,
        resolution=arguments.resolution,
        start=arguments.start,
        end=arguments.end,
        format=exporting.format_of(arguments.format, to),
        to=to,
    )
    logs.configure(config.log_format, "warning")
    try:
        with Progress() as progress, _stoppable(progress, "nothing whole came of it"):
            size, seconds = trio.run(exporting.run, config, wanted, progress, arguments.url, arguments.key)
    except ExceptionGroup as group:
        first = _first(group)
        if isinstance(first, BrokenPipeError):  # whoever reads us has had enough
            raise first from None
        raise
    _tell(f"{to or 'standard output'}: {size:,} bytes in {seconds:.1f} s")
    return DONE


def _backup(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from msgspec import structs

    from daemon import backup
    from daemon.progress import Progress

    again = "start it again, what was copied stays; a daemon that makes it goes on by itself"
    with Progress() as progress, _stoppable(progress, again):
        made = backup.made(_settings(arguments).config, Path(arguments.directory), progress)
    _tell(
        f"{made.directory}: {made.cursor}; {made.copied_files:,} files ({made.copied_bytes:,} bytes) copied, "
        f"{made.kept_files:,} ({made.kept_bytes:,} bytes) there already, in {made.seconds:.1f} s"
    )
    for path in made.missing:
        print(f"candled: not in the backup: {_harmless(path)}", file=sys.stderr)
    if arguments.json:
        _print_json(structs.asdict(made))
    return FAILED if made.missing else DONE


def _restore(arguments: argparse.Namespace) -> int:
    import shlex
    from pathlib import Path

    from msgspec import structs

    from daemon import backup
    from daemon.progress import Progress

    config = _settings(arguments).config
    with Progress() as progress, _stoppable(progress, "start it again"):
        found = backup.restored(config, Path(arguments.directory), progress, force=arguments.force)
    if found.aside is not None:
        _tell(f"what was in {found.data} is in {found.aside} now")
    _tell(
        f"{found.data}: {found.files:,} files, {found.bytes:,} bytes, as of {found.before} "
        f"({_instant(int(found.made * 1_000_000))}); clients start afresh at {found.cursor}",
        f"`candled serve --data {shlex.quote(found.data)}` rebuilds its index and serves",
    )
    for path in found.missing:
        print(f"candled: the backup has no copy of {_harmless(path)}", file=sys.stderr)
    if arguments.json:
        _print_json(structs.asdict(found))
    return DONE


def _verify(arguments: argparse.Namespace) -> int:
    import trio

    from daemon import logs, verify
    from daemon.progress import Progress

    config = _settings(arguments).config
    asked = verify.Asked(start=arguments.start, end=arguments.end, market=arguments.market, repair=arguments.repair)
    logs.configure(config.log_format, "warning")
    then = "what was repaired stays" if arguments.repair else "nothing was changed"
    with Progress() as progress, _stoppable(progress, f"not everything was compared, {then}"):
        end = trio.run(lambda: verify.run(config, asked, progress, json=arguments.json))
    rate = end.events / end.seconds if end.seconds else 0
    _tell(
        f"{end.days:,} days, {end.events:,} events, {end.bars:,} bars, {end.files:,} files in {end.seconds:.1f} s "
        f"({rate:,.0f} events/s): {_found(end)}"
    )
    return DONE if end.clean else FAILED


def _found(end: Any) -> str:
    if not end.differences and not end.problems:
        return "all as the events have it"
    parts = [f"{end.differences:,} differences"] if end.differences else []
    parts += [f"{end.repaired:,} repaired"] if end.repaired else []
    parts += [f"{end.problems:,} problems"] if end.problems else []
    return ", ".join(parts)


@contextmanager
def _stoppable(progress: "Progress", then: str) -> Iterator[None]:
    """Have SIGTERM end the work as Ctrl-C does, and say how far it came, and what becomes of it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells have it for what runs in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    except BaseException as error:
        stopped = error.subgroup(KeyboardInterrupt) if isinstance(error, BaseExceptionGroup) else None
        if stopped is None and not isinstance(error, KeyboardInterrupt):
            raise
        from storage.errors import Unavailable

        said = f" at {progress.said()}" if progress.said() else ""
        raise Unavailable(f"interrupted{said}; {then}") from None


def _tell(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _parser() -> Parser:
    parser = Parser(
        prog="candled",
        description="A candle daemon: priced events in, live charts out, from one process.",
        epilog="example:\n  candled demo\n\n`candled COMMAND --help` has an example of each command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"candled {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    parser.set_defaults(of=parser)

    serve = _command(commands, "serve", _serve, "run the daemon", "candled serve --port 8000 --data /var/lib/candled")
    serve.set_defaults(demo=False)
    _listening(serve)
    serve.add_argument(
        "--auth", metavar="WHO", help="who may read charts: open (everybody) or token (holders of a key)"
    )
    demo = _command(
        commands,
        "demo",
        _serve,
        "run the daemon on sample markets (GOLD, BTC, ETH) with a made-up live feed",
        "candled demo --port 8000",
    )
    demo.set_defaults(demo=True)
    _listening(demo)
    demo.add_argument("--auth", metavar="WHO", help="who may read charts: open (everybody) or token (holders of a key)")

    token = commands.add_parser(
        "token",
        help="make, list and revoke API keys",
        description="Make, list and revoke keys.",
        epilog="example:\n  candled token create --scope admin --name me",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    token.set_defaults(of=token)
    kinds = token.add_subparsers(title="commands", metavar="COMMAND")
    create = _command(
        kinds,
        "create",
        _token_create,
        "make a key, print it alone on standard output; works whether the daemon runs or not",
        "KEY=$(candled token create --scope ingest --name feeder)",
    )
    create.add_argument("--scope", required=True, choices=SCOPES, help="what it allows; admin includes read and ingest")
    create.add_argument("--name", default="", help="what to call it in lists")
    listing = _command(kinds, "list", _token_list, "list the keys, never their secrets", "candled token list --json")
    _json(listing)
    revoke = _command(kinds, "revoke", _token_revoke, "end a key", "candled token revoke 3")
    revoke.add_argument("id", type=_key_number, metavar="ID", help="its number in the list")

    importing = _command(
        commands,
        "import",
        _import,
        "read files of events, finished bars or prices of cards (CSV, Parquet, NDJSON; also .gz, .zst), into the data "
        "directory or through its daemon",
        "candled import trades.csv.gz --market BTC --create spot --dry-run",
    )
    importing.add_argument("files", nargs="+", metavar="FILE", help="what to read; again after a cut, it goes on")
    importing.add_argument("--market", metavar="M", help="the market of every row, where no column names it")
    importing.add_argument(
        "--map",
        action="append",
        default=[],
        type=_pair,
        metavar="COLUMN=FIELD",
        help="read a field of the events from this column, or from an SQL expression over the columns",
    )
    said = importing.add_mutually_exclusive_group()
    said.add_argument(
        "--bars", choices=("1s", "1m", "5m", "15m", "1h", "1d"), help="the files are of finished bars, of this length"
    )
    said.add_argument("--snapshots", action="store_true", help="the files are of prices of cards")
    importing.add_argument(
        "--time", choices=("start", "end"), default="start", help="which end of a bar its time is (default start)"
    )
    importing.add_argument("--where", metavar="SQL", help="only rows for which this holds, such as 'NOT suspicious'")
    importing.add_argument("--time-unit", choices=("s", "ms", "us", "ns"), help="of times that are numbers")
    importing.add_argument(
        "--time-format", metavar="FORMAT", help="of times that are texts, such as '%%Y%%m%%d %%H:%%M'"
    )
    importing.add_argument("--timezone", default="UTC", metavar="ZONE", help="of times without a zone (default UTC)")
    importing.add_argument("--create", choices=("perp", "spot"), help="make markets that are not there, of this kind")
    importing.add_argument("--dry-run", action="store_true", help="show how the files would be read, and stop")
    importing.add_argument("--url", metavar="URL", help="a daemon elsewhere, instead of the data directory")
    importing.add_argument("--key", default=os.environ.get("CANDLED_KEY"), help="its ingest key (or CANDLED_KEY)")
    _json(importing)

    exporting = _command(
        commands,
        "export",
        _export,
        "write the bars or the events of a market to a file (CSV, Parquet, Arrow, NDJSON) or to standard output",
        "candled export --market BTC --resolution 1m --from 2024-01-01 --to 2024-02-01 -o btc.parquet",
    )
    exporting.add_argument("--market", metavar="M", required=True, help="the market")
    what = exporting.add_mutually_exclusive_group(required=True)
    what.add_argument("--resolution", metavar="R", help="bars: 1s 1m 5m 1h 4h 1d 1w 1M, or a name that charts use")
    what.add_argument("--events", action="store_true", help="events, as `candled import` reads them")
    exporting.add_argument(
        "--from", dest="start", default="", metavar="TIME", help="ISO 8601 with a zone, a date (UTC) or Unix seconds"
    )
    exporting.add_argument(
        "--to", dest="end", default="", metavar="TIME", help="the same; what begins then is left out"
    )
    exporting.add_argument(
        "--format", choices=("csv", "parquet", "arrow", "ndjson"), help="default: what FILE is named, else csv"
    )
    exporting.add_argument("-o", "--output", metavar="FILE", help="where to write; has its name once it is whole")
    exporting.add_argument("--url", metavar="URL", help="a daemon elsewhere, instead of the data directory")
    exporting.add_argument(
        "--key", default=os.environ.get("CANDLED_KEY"), help="its key: read, for events admin (or CANDLED_KEY)"
    )

    backing = _command(
        commands,
        "backup",
        _backup,
        "copy all that is needed to restore the data directory, while its daemon serves; again, only what is new",
        "candled backup /mnt/backup/candled",
    )
    backing.add_argument("directory", metavar="DIR", help="an empty or new directory, or one with earlier backups")
    _json(backing)
    restoring = _command(
        commands,
        "restore",
        _restore,
        "make a data directory from a backup, every file of it verified before",
        "candled restore /mnt/backup/candled --data /var/lib/candled",
    )
    restoring.add_argument("directory", metavar="DIR", help="what `candled backup` was given")
    restoring.add_argument(
        "--force", action="store_true", help="move what is in the data directory aside, to a name that is printed"
    )
    _json(restoring)

    verifying = _command(
        commands,
        "verify",
        _verify,
        "fold all events again and compare the stored bars with that, and every file with its hash",
        "candled verify --from 2024-05-01 --to 2024-06-01",
    )
    verifying.add_argument(
        "--from", dest="start", default="", metavar="TIME", help="ISO 8601 with a zone, a date (UTC) or Unix seconds"
    )
    verifying.add_argument("--to", dest="end", default="", metavar="TIME", help="the same; days are compared whole")
    verifying.add_argument("--market", metavar="M", help="this market alone")
    verifying.add_argument("--repair", action="store_true", help="make bars that differ again from the events")
    verifying.add_argument("--json", action="store_true", help="print a JSON object a line, with every difference")

    check = _command(
        commands,
        "check",
        _check,
        "show every setting with its origin, and look at the data directory, without starting",
        "candled check --config candled.toml",
    )
    _listening(check)
    check.add_argument("--auth", metavar="WHO", help="as for serve")
    _json(check)
    refused = _command(
        commands, "rejects", _rejects, "show the newest events that were refused, and why", "candled rejects --limit 20"
    )
    refused.add_argument("--limit", type=_count, default=100, metavar="N", help="how many at most (default 100)")
    _json(refused)
    doctor = _command(
        commands,
        "doctor",
        _doctor,
        "check rule by rule whether an endpoint, candled's or another's, answers as chart clients need",
        "candled doctor http://localhost:8000",
    )
    doctor.add_argument("url", metavar="URL", help="of a candled, of a UDF datafeed, of rows or of a WebSocket")
    doctor.add_argument(
        "--only", choices=("udf", "lightweight", "ws", "pusher"), help="one protocol; else whatever is found"
    )
    doctor.add_argument("--symbol", metavar="S", help="the market to ask for; else one that it names")
    doctor.add_argument("--key", metavar="KEY", help="sent as `Authorization: Bearer KEY`")
    _json(doctor)
    return parser


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], about: str, example: str) -> Parser:
    parser: Parser = commands.add_parser(
        name,
        help=about,
        description=about[0].upper() + about[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=run, demo=False, of=parser)
    parser.add_argument("--data", metavar="DIR", help="the data directory")
    parser.add_argument("--config", metavar="FILE", help="a TOML file of settings; see docs/settings.md")
    return parser


def _listening(parser: Parser) -> None:
    parser.add_argument("--host", metavar="ADDRESS", help="the address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", metavar="N", help="the port to listen on (default 8000)")
    parser.add_argument("--tls-cert", metavar="FILE", help="serve TLS with this certificate chain (PEM)")
    parser.add_argument("--tls-key", metavar="FILE", help="and this private key (PEM)")


def _json(parser: Parser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def _pair(text: str) -> tuple[str, str]:
    source, equals, field = text.rpartition("=")
    if not equals or not source.strip() or not field.strip():
        raise argparse.ArgumentTypeError(f"expected COLUMN=FIELD, got {text!r}")
    return source.strip(), field.strip()


def _count(text: str) -> int:
    return _whole(text, 1_000_000, "a whole number from 1 to 1000000")


def _key_number(text: str) -> int:
    return _whole(text, (1 << 63) - 1, "the number of a key in `candled token list`")


def _whole(text: str, most: int, expected: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and 1 <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r:.100}")
    return int(text)


def _settings(arguments: argparse.Namespace) -> "Settings":
    from daemon import config

    flags = {name: getattr(arguments, name, None) for name in FLAGS}
    return config.load(flags, os.environ, demo=arguments.demo)


def _said(error: Exception) -> tuple[str, int] | None:
    """What to say of an error that is not a mistake of ours, and the exit status."""
    from daemon.config import BadSetting
    from storage.errors import BadRequest, CandledError

    if isinstance(error, ExceptionGroup) and error.split((CandledError, OSError))[1]:
        return None
    error = _first(error)
    if isinstance(error, (BadSetting, BadRequest)):
        return str(error), WRONG
    if isinstance(error, CandledError):
        return str(error), FAILED
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error), FAILED
    return None


def _first(error: Exception) -> Exception:
    """What went wrong first in a nursery; what it raises beside that is what that one brought down."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _described(folder: Any) -> str:
    if not folder.usable:
        return "cannot be used"
    if not folder.exists:
        return "will be made at the first start"
    return (
        f"{'in use by a running daemon' if folder.in_use else 'not in use'}, {folder.bytes / (1 << 20):.1f} MiB, "
        f"{folder.free_bytes / (1 << 30):.1f} GiB free; {folder.markets} markets, {folder.keys} keys"
        f"{'' if folder.admin_key else ', no admin key yet'}"
    )


def _instant(at: int | None) -> str:
    from datetime import UTC, datetime

    return "-" if at is None else datetime.fromtimestamp(at // 1_000_000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _print(*lines: str) -> None:
    """Lines on standard output, and everything before them out of our hands."""
    if sys.stdout is None:  # closed by whoever started us
        return
    try:
        for line in lines:
            print(line)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        error.filename = "standard output"
        raise


def _harmless(line: str) -> str:
    """A line that says what others sent, without what a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def _print_json(value: object) -> int:
    import json

    _print(json.dumps(value, indent=2, ensure_ascii=False))
    return DONE


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    _print(*("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows))
