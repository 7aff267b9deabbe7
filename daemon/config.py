"""Every setting, read once from flags, environment and one TOML file into a frozen Struct, each with its origin."""

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints

from msgspec import Struct, structs

from actors.tiers import BOUNDS
from daemon.kinds import Kind, Wrong, falling, number, one_of, path, pushers, spans, text, texts, url, whole, word
from storage.errors import CandledError
from storage.retention import Keep
from web.pusher.apps import DATA_BYTES, App

Auth = Literal["open", "token"]
Creates = Literal["perp", "spot"]
Switch = Literal["on", "off"]
LogFormat = Literal["auto", "human", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

PREFIX = "CANDLED_"
FILE = PREFIX + "CONFIG"  # names the TOML file, as --config does
MASK = "(secret)"


class BadSetting(CandledError):
    """A setting that nobody knows, or a value that it cannot have."""


class Setting(NamedTuple):
    """One line of the table below."""

    about: str
    kind: Kind
    variables: tuple[str, ...] = ()  # environment variables beside CANDLED_…, which wins over them
    default: str = ""  # where the default is not simply the value
    secret: bool = False


class Later(NamedTuple):
    """A setting that is accepted so that a configuration can name it, and that does nothing yet."""

    reason: str
    variables: tuple[str, ...]
    secret: bool = False


def _origin(value: str) -> None:
    scheme, separator, rest = value.partition("://")
    if value != "*" and not (scheme in ("http", "https") and separator and rest and "/" not in rest):
        raise ValueError


def _prefix(value: str) -> None:
    if not re.fullmatch(r"(/[\w.~-]+)+", value, re.ASCII):
        raise ValueError


PER_WINDOW = "requests per address and window; 0 is no limit"


class Config(Struct, frozen=True, kw_only=True):
    """All settings; what each means is its annotation, which `candled check` and docs/settings.md show."""

    host: Annotated[
        str, Setting("The address to listen on. One that others can reach needs `auth` to be chosen.", text())
    ] = "127.0.0.1"
    port: Annotated[int, Setting("The TCP port; 0 takes any free one.", whole(0, 65535), ("PORT",))] = 8000
    tls_cert: Annotated[Path | None, Setting("Certificate chain (PEM) to serve TLS with; needs `tls_key`.", path())] = (
        None
    )
    tls_key: Annotated[Path | None, Setting("Private key (PEM) of `tls_cert`.", path())] = None
    trusted_proxies: Annotated[
        tuple[str, ...],
        Setting(
            "Proxies whose word about the client's address is taken: addresses or networks.",
            texts("a list of addresses or networks, such as 10.0.0.0/8", lambda v: ipaddress.ip_network(v)),
        ),
    ] = ()
    cors_origins: Annotated[
        tuple[str, ...],
        Setting(
            "Origins whose pages may read answers; `*` is all of them, without cookies.",
            texts("a list of origins, such as https://example.org, or *", _origin),
            ("CORS_ORIGINS",),
        ),
    ] = ("*",)

    udf_prefixes: Annotated[
        tuple[str, ...],
        Setting(
            "Further paths under which the verbs of `/api/tradingview` are served.",
            texts("a list of paths, such as /datafeed", _prefix),
        ),
    ] = ()

    auth: Annotated[
        Auth,
        Setting(
            "Who may read charts: everybody (`open`) or holders of a key (`token`). Writing always needs a key.",
            one_of(*get_args(Auth)),
            default="`open` on a loopback address; else it must be chosen",
        ),
    ] = "open"
    create_markets: Annotated[
        Creates | None,
        Setting(
            "Register a market that an event names and nobody knows, as this kind; `no` refuses the event.",
            one_of(*get_args(Creates), absent="no"),
            default="no",
        ),
    ] = None

    data: Annotated[
        Path,
        Setting(
            "The data directory, made when it does not exist.",
            path(),
            default="`$XDG_DATA_HOME/candled` or `~/.local/share/candled`; `candled demo`: `candled-demo` there",
        ),
    ]
    flush_seconds: Annotated[
        float, Setting("How often candles are written to the history store.", number(0.05, 3600))
    ] = 2.0
    flush_rows: Annotated[int, Setting("How many events waiting to be written bring that forward.", whole(1_000))] = (
        1_000_000
    )
    seal_seconds: Annotated[
        float, Setting("How often events are sealed: moved from the journal into Parquet files.", number(0.1, 86400))
    ] = 3600.0
    seal_events: Annotated[
        int, Setting("How many events that are not sealed yet bring that forward.", whole(1_000, 1 << 24))
    ] = 1_000_000
    archive_days: Annotated[
        int, Setting("How many days after its end a day or month of bars moves into Parquet files.", whole(1, 36500))
    ] = 7
    archive_quiet_seconds: Annotated[
        float, Setting("How long nothing must have been said of it before that.", number(0, 86400))
    ] = 3600.0
    audit_seconds: Annotated[
        float,
        Setting(
            "How often the daemon compares all that is stored with the events, at low priority; 0: never.",
            number(0, 31_536_000),
        ),
    ] = 86400.0
    feed_silence_seconds: Annotated[
        float, Setting("How long a feed may go without a heartbeat before it counts as down.", number(0.1, 86400))
    ] = 60.0
    retention: Annotated[
        tuple[Keep, ...],
        Setting(
            "For how many days raw events and bars are kept, by kind of market: see [below](#retention).",
            spans(),
        ),
    ] = ()
    drain_seconds: Annotated[
        float, Setting("How long a stop may take before what still hangs is cut.", number(0, 600))
    ] = 10.0

    max_body_bytes: Annotated[int, Setting("The largest request body, decompressed.", whole(1024, 1 << 31))] = 64 << 20
    max_concurrent_queries: Annotated[
        int, Setting("How many threads read and write files at a time.", whole(1, 256), ("MAX_CONCURRENT_QUERIES",))
    ] = 10
    query_seconds: Annotated[float, Setting("How long a query may run before it is cancelled.", number(0.1, 3600))] = (
        30.0
    )
    kept_answer_bytes: Annotated[
        int,
        Setting(
            "Bytes of answers with bars that are kept in memory, as they are sent, until one of them changes.",
            whole(0, 1 << 40),
        ),
    ] = 64 << 20
    hot_door: Annotated[
        Switch, Setting("Whether requests for bars go past the general HTTP server.", one_of(*get_args(Switch)))
    ] = "on"
    saved_bytes_per_user: Annotated[
        int,
        Setting(
            "Bytes of layouts, templates and drawings that may be saved for one user of a client.", whole(0, 1 << 40)
        ),
    ] = 32 << 20
    saved_bytes: Annotated[int, Setting("The same for all of them together.", whole(0, 1 << 40))] = 1 << 30
    market_data_cache_ttl: Annotated[
        float,
        Setting(
            "How old the 24-hour figures that lists and searches of markets are ordered by may be, in seconds.",
            number(0, 3600),
            ("MARKET_DATA_CACHE_TTL",),
        ),
    ] = 60.0
    tier_turnover: Annotated[
        tuple[float, ...],
        Setting(
            "From how much traded in 24 hours on, in its quote currency, a market is of tier 1, 2 and 3; "
            "it stays of one down to 80 % of that.",
            falling(3),
        ),
    ] = BOUNDS
    rate_limit_window_ms: Annotated[
        int,
        Setting("Length of the sliding window of the limits below, in ms.", whole(1_000), ("RATE_LIMIT_WINDOW_MS",)),
    ] = 60_000
    rate_limit_requests: Annotated[
        int | None,
        Setting(
            f"Replaces all four limits below: {PER_WINDOW}.", whole(0), ("RATE_LIMIT_REQUESTS",), default="not set"
        ),
    ] = None
    rate_limit_history: Annotated[int, Setting(f"`/api/tradingview/history`: {PER_WINDOW}.", whole(0))] = 100
    rate_limit_ohlcv: Annotated[int, Setting(f"`/api/lightweight/ohlcv`: {PER_WINDOW}.", whole(0))] = 200
    rate_limit_search: Annotated[int, Setting(f"`/api/tradingview/search`: {PER_WINDOW}.", whole(0))] = 50
    rate_limit_other: Annotated[int, Setting(f"Every other route: {PER_WINDOW}.", whole(0))] = 1_000

    stream_connections: Annotated[
        int,
        Setting(
            "WebSockets and event streams open at a time; further ones are closed with 1013, or told 503.", whole(0)
        ),
    ] = 1_000
    stream_subscriptions: Annotated[int, Setting("Subscriptions of one WebSocket.", whole(1))] = 50
    stream_messages_per_second: Annotated[int, Setting("Messages taken from one WebSocket.", whole(1))] = 100
    stream_message_bytes: Annotated[
        int, Setting("The largest message taken from a WebSocket; beyond it, close 1009.", whole(256, 1 << 24))
    ] = 16 << 10
    stream_ingest_bytes: Annotated[
        int, Setting("The same for a producer's on `/api/ingest/stream`.", whole(256, 1 << 28))
    ] = 8 << 20
    jwt_secret: Annotated[
        str | None,
        Setting(
            "Secret of the tokens (HS256) that users show on `/ws` and at `/pusher/auth`.",
            text("a text of at least 32 characters", 32),
            default="made once and kept in the data directory",
            secret=True,
        ),
    ] = None
    jwt_audience: Annotated[str | None, Setting("Whom such tokens must be for (`aud`).", text())] = None
    jwt_issuer: Annotated[str | None, Setting("Whom such tokens must be from (`iss`).", text())] = None
    websocket_heartbeat_interval: Annotated[
        int,
        Setting(
            "Time between WebSocket pings, in ms; twice that in silence closes the connection.",
            whole(1_000, 3_600_000),
            ("WEBSOCKET_HEARTBEAT_INTERVAL",),
        ),
    ] = 30_000

    pusher_app_id: Annotated[
        str | None,
        Setting("The Pusher app's id; there is one where id, key and secret are set.", word(), ("PUSHER_APP_ID",)),
    ] = None
    pusher_key: Annotated[
        str | None,
        Setting("Its key, which pages connect with.", word(), ("PUSHER_KEY", "NEXT_PUBLIC_PUSHER_KEY")),
    ] = None
    pusher_secret: Annotated[
        str | None,
        Setting("Its secret, which servers sign with.", text(), ("PUSHER_SECRET",), secret=True),
    ] = None
    pusher_client_events: Annotated[
        Switch, Setting("Whether its pages may send events to each other.", one_of(*get_args(Switch)))
    ] = "on"
    pusher_webhook: Annotated[
        str | None, Setting("Where what happens in its channels is posted to.", url(), secret=True)
    ] = None
    pusher_apps: Annotated[
        tuple[App, ...], Setting("Further apps: see [pusher.md](pusher.md#several-apps).", pushers(), secret=True)
    ] = ()
    pusher_event_bytes: Annotated[
        int, Setting("The data of an event that a server publishes.", whole(256, 1 << 20))
    ] = DATA_BYTES
    pusher_activity_seconds: Annotated[
        int,
        Setting("After how long in silence a Pusher client is asked whether it lives.", whole(1, 3600)),
    ] = 120

    log_format: Annotated[
        LogFormat, Setting("`auto` is `human` on a terminal and `json` elsewhere.", one_of(*get_args(LogFormat)))
    ] = "auto"
    log_level: Annotated[LogLevel, Setting("What is worth a line.", one_of(*get_args(LogLevel)))] = "info"

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach us."""
        return is_loopback(self.host)

    @property
    def tls(self) -> bool:
        """Whether we serve TLS ourselves."""
        return self.tls_cert is not None

    @property
    def apps(self) -> tuple[App, ...]:
        """The apps of the Pusher protocol."""
        if not (self.pusher_app_id and self.pusher_key and self.pusher_secret):
            return self.pusher_apps
        first = App(
            id=self.pusher_app_id,
            key=self.pusher_key,
            secret=self.pusher_secret,
            client_events=self.pusher_client_events == "on",
            webhook=self.pusher_webhook or "",
        )
        return first, *self.pusher_apps

    @property
    def state_file(self) -> Path:
        """Markets and keys."""
        return self.data / "state.db"

    @property
    def rejects_file(self) -> Path:
        """Dead letters."""
        return self.data / "rejects.db"

    @property
    def journal_folder(self) -> Path:
        """What was acknowledged."""
        return self.data / "journal"

    @property
    def database_file(self) -> Path:
        """The history store."""
        return self.data / "candles.duckdb"


SETTINGS: dict[str, Setting] = {
    name: next(part for part in get_args(hint) if isinstance(part, Setting))
    for name, hint in get_type_hints(Config, include_extras=True).items()
}
DEFAULTS: dict[str, Any] = {f.name: f.default for f in structs.fields(Config) if not f.required}

_BY_CURSOR = "answers are kept by their cursor and so never outlive what they show"
_CLICKHOUSE = "the ClickHouse store is not built yet"
_REDIS = "the Redis backend is not built yet"

LATER: dict[str, Later] = {
    "chart_data_cache_ttl": Later(_BY_CURSOR, ("CHART_DATA_CACHE_TTL",)),
    "ohlcv_1m_cache_ttl": Later(_BY_CURSOR, ("OHLCV_1M_CACHE_TTL",)),
    "ohlcv_5m_cache_ttl": Later(_BY_CURSOR, ("OHLCV_5M_CACHE_TTL",)),
    "pusher_cluster": Later(
        "clients reach candled by its host and port, whatever their cluster",
        ("PUSHER_CLUSTER", "NEXT_PUBLIC_PUSHER_CLUSTER"),
    ),
    "clickhouse_host": Later(_CLICKHOUSE, ("CLICKHOUSE_HOST",), secret=True),  # may hold user:password@
    "clickhouse_user": Later(_CLICKHOUSE, ("CLICKHOUSE_USER",)),
    "clickhouse_password": Later(_CLICKHOUSE, ("CLICKHOUSE_PASSWORD",), secret=True),
    "clickhouse_database": Later(_CLICKHOUSE, ("CLICKHOUSE_DATABASE",)),
    "clickhouse_secure": Later(_CLICKHOUSE, ("CLICKHOUSE_SECURE",)),
    "clickhouse_request_timeout": Later(_CLICKHOUSE, ("CLICKHOUSE_REQUEST_TIMEOUT",)),
    "upstash_redis_rest_url": Later(_REDIS, ("UPSTASH_REDIS_REST_URL",), secret=True),
    "upstash_redis_rest_token": Later(_REDIS, ("UPSTASH_REDIS_REST_TOKEN",), secret=True),
    "sentry_dsn": Later("reports to Sentry are not built yet", ("SENTRY_DSN",), secret=True),
    "vercel_analytics_id": Later("candled tells no analytics service anything", ("VERCEL_ANALYTICS_ID",)),
}
KNOWN = (*SETTINGS, *LATER)


class Shown(NamedTuple):
    """A setting as it may be printed."""

    name: str
    value: str
    origin: str
    no_effect: str  # why it changes nothing at present; empty where it does


class Said(NamedTuple):
    """A value that somebody gave: as TOML would hold it, where, and what a relative path is relative to."""

    value: object
    origin: str
    folder: Path


class Settings(NamedTuple):
    """The configuration, and where each part of it came from."""

    config: Config
    origins: dict[str, str]  # of what was said; the rest is the default
    later: dict[str, object]  # what was said of the settings that do nothing yet

    def shown(self) -> list[Shown]:
        """Every setting in the order of the table; nothing secret."""
        rows = []
        for name in KNOWN:
            rows.append(Shown(name, self._value(name), self.origins.get(name, "default"), self._no_effect(name)))
        return rows

    def without_effect(self) -> list[Shown]:
        """The settings that somebody made and that change nothing."""
        return [row for row in self.shown() if row.no_effect and row.name in self.origins]

    def _value(self, name: str) -> str:
        if name in SETTINGS:
            value = getattr(self.config, name)
            if SETTINGS[name].secret and value:
                return MASK
            return "no" if name == "create_markets" and value is None else printed(value)
        if name not in self.later:
            return printed(None)
        return MASK if LATER[name].secret else printed(self.later[name])

    def _no_effect(self, name: str) -> str:
        if name in LATER:
            return LATER[name].reason
        if name in OVERRULED and self.config.rate_limit_requests is not None:
            return "rate_limit_requests replaces it"
        if name in APP and not all(getattr(self.config, part) for part in APP[:3]):
            return f"there is an app only where {', '.join(APP[:3])} are set"
        return ""


APP = ("pusher_app_id", "pusher_key", "pusher_secret", "pusher_client_events", "pusher_webhook")
OVERRULED = ("rate_limit_history", "rate_limit_ohlcv", "rate_limit_search", "rate_limit_other")


def load(flags: Mapping[str, str | None], environment: Mapping[str, str], *, demo: bool = False) -> Settings:
    """The settings: a flag wins over the environment, the environment over the file, the file over the default."""
    file = flags.get("config")
    if file is None:
        file = environment.get(FILE)
    elif not file:
        raise BadSetting("--config: expected the path of a TOML file, found ''")
    said = {
        **(_from_file(Path(file).expanduser()) if file else {}),
        **_from_environment(environment),
        **{
            name: _from_text(name, value, _flag(name))
            for name, value in flags.items()
            if value is not None and name in SETTINGS
        },
    }
    values = {name: _taken(name, one) for name, one in said.items() if name in SETTINGS}
    values.setdefault("data", _default_data(environment, demo))
    origins = {name: one.origin for name, one in said.items()}
    config = Config(**values)
    _see_together(config, origins)
    return Settings(config, origins, {name: one.value for name, one in said.items() if name in LATER})


def is_loopback(host: str) -> bool:
    """Whether this address can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def printed(value: object) -> str:
    """A value as a person would write it."""
    match value:
        case None:
            return "not set"
        case bool():
            return "true" if value else "false"
        case tuple() | list():
            return ", ".join(map(printed, value)) or "none"
        case float():
            return f"{value:.15g}"
    return str(value)


def _from_file(file: Path) -> dict[str, Said]:
    try:
        found = tomllib.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise BadSetting(f"no configuration file {file}; give an existing one with --config or {FILE}") from None
    except OSError as error:
        raise BadSetting(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSetting(f"{file}: expected TOML: {error}") from error
    for name in found:
        if name not in KNOWN:
            raise BadSetting(f"{file}: no setting is called {name!r}{_nearest(name, KNOWN)}")
    return {name: Said(value, str(file), file.absolute().parent) for name, value in found.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, Said]:
    ours = {PREFIX + name.upper(): name for name in KNOWN}
    for variable in environment:
        if variable.startswith(PREFIX) and variable not in ours and variable != FILE:
            raise BadSetting(f"environment: no setting is called {variable!r}{_nearest(variable, ours)}")
    said = {}
    for name in KNOWN:
        known = SETTINGS[name] if name in SETTINGS else LATER[name]
        for variable in (PREFIX + name.upper(), *known.variables):
            if environment.get(variable):  # an empty variable is how many tools say "not set"
                said[name] = _from_text(name, environment[variable], variable)
                break
    return said


def _from_text(name: str, value: str, origin: str) -> Said:
    if name in LATER:
        return Said(value, origin, Path.cwd())
    try:
        return Said(SETTINGS[name].kind.read(value), origin, Path.cwd())
    except ValueError:
        raise _refused(name, value, origin) from None


def _taken(name: str, said: Said) -> Any:
    try:
        value = SETTINGS[name].kind.take(said.value)
    except Wrong as error:
        raise BadSetting(f"{error} ({said.origin})") from None
    except ValueError:
        raise _refused(name, said.value, said.origin) from None
    return said.folder / value if isinstance(value, Path) else value


def _refused(name: str, found: object, origin: str) -> BadSetting:
    seen = "something else" if SETTINGS[name].secret else f"{found!r:.200}"
    return BadSetting(f"{name} ({origin}): expected {SETTINGS[name].kind.expected}, found {seen}")


def _see_together(config: Config, origins: Mapping[str, str]) -> None:
    """Refuse what is right each by itself and wrong together."""
    if not config.loopback and "auth" not in origins:
        raise BadSetting(
            f"auth: not set, and host {config.host!r} can be reached from other machines; "
            'choose auth = "open" (everybody reads charts) or "token" (only holders of a key)'
        )
    for what in ("id", "key"):
        names = [getattr(app, what) for app in config.apps]
        if len(names) > len(set(names)):
            twice = next(name for name in names if names.count(name) > 1)
            raise BadSetting(f"pusher_apps: expected apps of different {what}s, found {twice!r} twice")
    for here, there in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        file = getattr(config, here)
        if file is None:
            continue
        if getattr(config, there) is None:
            raise BadSetting(f"{there}: not set, and {here} ({origins[here]}) needs it")
        if not file.is_file():
            raise BadSetting(f"{here} ({origins[here]}): expected a file, found none at {file}")


def _default_data(environment: Mapping[str, str], demo: bool) -> Path:
    base = environment.get("XDG_DATA_HOME")
    # The convention says that a relative one is to be ignored.
    folder = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "share"
    return folder / ("candled-demo" if demo else "candled")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _nearest(name: str, known: Mapping[str, str] | tuple[str, ...]) -> str:
    # Without what all variables begin with: nothing is alike for that.
    plain = {one.removeprefix(PREFIX).lower(): one for one in known}
    close = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), plain, 1, cutoff=0.75)
    return f"; did you mean {plain[close[0]]!r}?" if close else "; docs/settings.md lists them all"
