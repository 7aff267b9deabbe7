"""Settings: who wins, what is refused, what is shown."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon import config
from daemon.config import BadSetting, Config, load
from storage.retention import RAW, Keep
from tests.test_layers import ROOT

SPECS = ROOT.parent / "shared"


def loaded(file: str = "", folder: Path | None = None, **environment: str) -> config.Settings:
    """Settings from the text of a TOML file and variables."""
    flags: dict[str, str | None] = {}
    if folder is not None:
        path = folder / "candled.toml"
        path.write_text(file, "utf-8")
        flags["config"] = str(path)
    return load(flags, {"HOME": "/nowhere", **environment})


def test_without_a_word_from_anybody_every_setting_has_its_default() -> None:
    settings = load({}, {})
    assert settings.origins == {}
    assert settings.config == Config(data=settings.config.data)
    assert settings.config.auth == "open"


def test_a_flag_wins_over_the_environment_and_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("port = 1\nflush_seconds = 3\nhost = '127.0.0.3'\n")
    settings = load(
        {"config": str(file), "port": "3"}, {"CANDLED_PORT": "2", "PORT": "4", "CANDLED_FLUSH_SECONDS": "2.5"}
    )
    assert (settings.config.port, settings.config.flush_seconds, settings.config.host) == (3, 2.5, "127.0.0.3")
    assert settings.origins == {"port": "--port", "flush_seconds": "CANDLED_FLUSH_SECONDS", "host": str(file)}


def test_our_own_variable_wins_over_its_older_name() -> None:
    settings = load({}, {"RATE_LIMIT_REQUESTS": "5", "CANDLED_RATE_LIMIT_REQUESTS": "6", "PORT": "81"})
    assert settings.config.rate_limit_requests == 6
    assert settings.config.port == 81
    assert settings.origins == {"rate_limit_requests": "CANDLED_RATE_LIMIT_REQUESTS", "port": "PORT"}


def test_the_file_may_be_named_by_a_variable(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("port = 7\n")
    assert load({}, {"CANDLED_CONFIG": str(file)}).config.port == 7


def test_an_empty_variable_is_not_set() -> None:
    assert load({}, {"CANDLED_PORT": "", "CORS_ORIGINS": ""}).origins == {}


def test_lists_have_commas_in_the_environment_and_are_arrays_in_the_file(tmp_path: Path) -> None:
    wanted = ("https://a.example", "http://localhost:3000")
    assert load({}, {"CORS_ORIGINS": "https://a.example, http://localhost:3000"}).config.cors_origins == wanted
    assert (
        loaded("cors_origins = ['https://a.example', 'http://localhost:3000']", tmp_path).config.cors_origins == wanted
    )


def test_a_relative_path_is_relative_to_where_it_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert loaded("data = 'd'", tmp_path).config.data == tmp_path / "d"
    assert load({"data": "d"}, {}).config.data == tmp_path / "here" / "d"
    assert load({"data": "/d"}, {}).config.data == Path("/d")


def test_data_lies_in_the_users_own_data_directory_and_the_demo_beside_it() -> None:
    assert load({}, {"XDG_DATA_HOME": "/x"}).config.data == Path("/x/candled")
    assert load({}, {"XDG_DATA_HOME": "/x"}, demo=True).config.data == Path("/x/candled-demo")
    assert load({}, {"XDG_DATA_HOME": "x"}).config.data == Path.home() / ".local/share/candled"


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("port = 'eighty'", "port (FILE): expected a whole number from 0 to 65535, found 'eighty'"),
        ("port = 8000.5", "port (FILE): expected a whole number from 0 to 65535, found 8000.5"),
        ("port = true", "port (FILE): expected a whole number from 0 to 65535, found True"),
        ("port = 65536", "port (FILE): expected a whole number from 0 to 65535, found 65536"),
        ("flush_seconds = nan", "flush_seconds (FILE): expected a number from 0.05 to 3600, found nan"),
        ("host = ''", "host (FILE): expected a text that is not empty, found ''"),
        ("host = '0.0.0.0'\nauth = 'maybe'", "auth (FILE): expected one of open, token, found 'maybe'"),
        ("create_markets = 'card'", "create_markets (FILE): expected one of no, perp, spot, found 'card'"),
        ("create_markets = ['spot']", "create_markets (FILE): expected one of no, perp, spot, found ['spot']"),
        ("data = 5", "data (FILE): expected a path, found 5"),
        ("cors_origins = 'https://a.example'", "cors_origins (FILE): expected a list of origins, such as"),
        ("cors_origins = ['https://a.example/page']", "cors_origins (FILE): expected a list of origins, such as"),
        ("trusted_proxies = ['10.0.0.0/33']", "trusted_proxies (FILE): expected a list of addresses or networks"),
        ("prot = 1", "FILE: no setting is called 'prot'; did you mean 'port'?"),
        ("retention = 5", "retention (FILE): expected days by kind of market and what is kept, such as spot.raw=90"),
        ("[retention.gold]\nraw = 1", "retention.gold: no kind of market is called 'gold'; there are perp, spot, "),
        (
            "[retention.spot]\n2s = 1",
            "retention.spot: nothing kept is called '2s'; there are raw, 1s, 1m, 5m, 15m, 1h, ",
        ),
        ("[retention.spot]\nraw = 0", "retention.spot.raw: expected days, more than 0 to 36500, found 0 (FILE)"),
        ("[retention.spot]\nraw = true", "retention.spot.raw: expected days, more than 0 to 36500, found True"),
        (
            "[retention.spot]\n1s = 30\n1m = 7",
            "retention.spot.1m: expected at least as long as 1s bars are kept, 30 days, found 7 (FILE)",
        ),
        (
            "[retention.spot]\n1h = 7",
            "retention.spot.1h: expected at least as long as 1s bars are kept, for ever, found 7",
        ),
        ("zzz = 1", "FILE: no setting is called 'zzz'; docs/settings.md lists them all"),
        ("port = ", "FILE: expected TOML: Invalid value (at end of document)"),
        ("tls_cert = 'x.pem'", "tls_key: not set, and tls_cert (FILE) needs it"),
        ("tls_cert = 'x.pem'\ntls_key = 'y.pem'", "tls_cert (FILE): expected a file, found none at "),
    ],
)
def test_what_cannot_be_is_refused_with_its_name_what_was_expected_and_what_was_found(
    file: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(BadSetting) as caught:
        loaded(file, tmp_path)
    message = str(caught.value)
    assert message.startswith(said.replace("FILE", str(tmp_path / "candled.toml")))
    assert "\n" not in message


def test_a_bad_variable_is_refused_by_its_own_name() -> None:
    with pytest.raises(BadSetting, match=r"^rate_limit_window_ms \(RATE_LIMIT_WINDOW_MS\): expected .*, found '1m'$"):
        load({}, {"RATE_LIMIT_WINDOW_MS": "1m"})
    with pytest.raises(BadSetting, match="no setting is called 'CANDLED_PROT'; did you mean 'CANDLED_PORT'"):
        load({}, {"CANDLED_PROT": "1"})


@pytest.mark.parametrize("name", ["CANDLED_ZZZ", "CANDLED_SECRET_KEY", "CANDLED_CANDLED", "CANDLED_"])
def test_only_a_name_that_is_close_is_suggested(name: str) -> None:
    with pytest.raises(BadSetting, match=f"no setting is called {name!r}; docs/settings.md lists them all"):
        load({}, {name: "1"})


def test_the_name_of_a_variable_in_the_file_is_known_for_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(BadSetting, match="no setting is called 'RATE_LIMIT_OTHER'; did you mean 'rate_limit_other'"):
        loaded("RATE_LIMIT_OTHER = 1", tmp_path)


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(BadSetting, match=r"^no configuration file /nowhere/c\.toml; "):
        load({"config": "/nowhere/c.toml"}, {})


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(BadSetting, match="expected TOML"):
        load({"config": str(tmp_path / "c.toml")}, {})
    with pytest.raises(BadSetting, match="cannot be read"):
        load({"config": str(tmp_path)}, {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "charts.example"])
def test_an_address_that_others_can_reach_needs_a_choice(host: str) -> None:
    with pytest.raises(BadSetting, match="auth: not set"):
        load({"host": host}, {})
    assert load({"host": host, "auth": "open"}, {}).config.auth == "open"
    assert not load({"host": host}, {"CANDLED_AUTH": "token"}).config.loopback


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_a_loopback_address_reading_is_open(host: str) -> None:
    settings = load({"host": host}, {})
    assert settings.config.loopback
    assert settings.config.auth == "open"


def test_a_setting_that_does_nothing_is_accepted_and_named() -> None:
    settings = load({}, {"PUSHER_KEY": "k", "RATE_LIMIT_REQUESTS": "9", "CANDLED_RATE_LIMIT_SEARCH": "4"})
    assert {row.name: row.no_effect for row in settings.without_effect()} == {
        "pusher_key": "there is an app only where pusher_app_id, pusher_key, pusher_secret are set",
        "rate_limit_search": "rate_limit_requests replaces it",
    }


def test_the_public_names_of_the_pusher_settings_are_aliases() -> None:
    settings = load({}, {"NEXT_PUBLIC_PUSHER_KEY": "k", "NEXT_PUBLIC_PUSHER_CLUSTER": "eu"})
    assert (settings.config.pusher_key, settings.later) == ("k", {"pusher_cluster": "eu"})


def test_apps_are_tables_or_a_variable_in_json(tmp_path: Path) -> None:
    tables = loaded(
        'pusher_app_id = 1\npusher_key = "k"\npusher_secret = "hush-hush"\n'
        '[[pusher_apps]]\nid = 2\nkey = "q"\nsecret = "hush-hush"\nclient_events = false',
        tmp_path,
    )
    assert [(app.id, app.key, app.secret, app.client_events) for app in tables.config.apps] == [
        ("1", "k", "hush-hush", True),
        ("2", "q", "hush-hush", False),
    ]
    assert "hush-hush" not in repr((tables.shown(), tables.config.apps))
    said = '[{"id": "2", "key": "q", "secret": "hush-hush", "client_events": false}]'
    assert loaded(CANDLED_PUSHER_APPS=said).config.apps == tables.config.apps[1:]


@pytest.mark.parametrize(
    ("said", "why"),
    [("[", "expected tables"), ("7", "expected tables"), ("[7]", "expected tables"),
     ('[{"id": "2"}]', "app 1: key: needed"),
     ('[{"id": "a/b", "key": "q", "secret": "s"}]', "app 1: id: expected 1 to 100 letters"),
     ('[{"id": "2", "key": "q", "secret": "s", "colour": 1}]', "nothing of an app is called 'colour'"),
     ('[{"id": "2", "key": "q", "secret": "s", "client_events": "yes"}]', "client_events: expected true or false"),
     ('[{"id": "2", "key": "q", "secret": "s", "webhook": "ftp://a"}]', "webhook: expected an http"),
     ('[{"id": "2", "key": "q", "secret": "s", "encryption_key": "QUJD"}]', "encryption_key: expected 32 bytes"),
     ('[{"id": "2", "key": "q", "secret": "s"}, {"id": "3", "key": "q", "secret": "s"}]', "keys, found 'q' twice")],
)  # fmt: skip
def test_an_app_that_cannot_be_is_refused(said: str, why: str) -> None:
    with pytest.raises(BadSetting, match=f"^pusher_apps.*{why}"):
        loaded(CANDLED_PUSHER_APPS=said)


SECRET = [name for some in (config.LATER, config.SETTINGS) for name, known in some.items() if known.secret]


def test_a_secret_that_cannot_be_is_not_repeated() -> None:
    for name in SECRET:
        if name in config.SETTINGS:
            with pytest.raises(BadSetting) as refused:
                load({}, {config.PREFIX + name.upper(): "\0hush-hush"})
            assert "hush" not in str(refused.value)


@given(
    st.sampled_from([name for name in SECRET if name not in ("pusher_apps", "pusher_webhook")]),
    st.text("0123xyz", min_size=32),
)
def test_a_secret_is_never_shown(name: str, secret: str) -> None:
    settings = load({}, {config.PREFIX + name.upper(): secret})
    row = next(row for row in settings.shown() if row.name == name)
    assert row.value == "(secret)"
    assert row.origin == "CANDLED_" + name.upper()
    assert secret not in repr(settings.shown())


@given(st.dictionaries(st.sampled_from(config.KNOWN), st.text(max_size=20)))
def test_whatever_the_variables_say_the_answer_is_settings_or_one_sentence(said: dict[str, str]) -> None:
    refusal = ""
    try:
        settings = load({}, {config.PREFIX + name.upper(): value for name, value in said.items()})
    except BadSetting as error:
        refusal = str(error)
    if refusal:
        assert re.match(r"[a-z_]+( \([A-Z_]+\))?: \S.*\Z", refusal)
        return
    assert {row.name for row in settings.shown() if row.origin != "default"} == {n for n, v in said.items() if v}


@pytest.mark.skipif(not SPECS.is_dir(), reason="the specifications are not here")
def test_every_variable_that_the_specification_or_the_first_designs_name_is_known() -> None:
    known = {config.PREFIX + name.upper() for name in config.KNOWN}
    known |= {v for some in (config.SETTINGS, config.LATER) for one in some.values() for v in one.variables}
    pages = [*SPECS.glob("specs/operate.md"), *SPECS.glob("seeds/*")]
    text = "\n".join(page.read_text("utf-8") for page in pages)
    assigned = r"^(?:export )?([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)="
    named = {*re.findall(r"`([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)`", text), *re.findall(assigned, text, re.MULTILINE)}
    named |= set(re.findall(r"process\.env\.([A-Z0-9_]+)", text))
    assert len(named) > 25
    assert named <= known


def test_every_default_is_a_value_that_could_be_given() -> None:
    for name, default in config.DEFAULTS.items():
        if default is not None:
            native = list(default) if isinstance(default, tuple) else default  # TOML has no tuples
            native = {} if name == "retention" else native
            assert config.SETTINGS[name].kind.take(native) == default, name


def test_retention_is_said_in_tables_or_in_one_variable_and_shown(tmp_path: Path) -> None:
    tables = loaded("[retention.card]\nraw = 730\n[retention.spot]\n1m = 730\nraw = 90.5\n1s = 30", tmp_path)
    line = "spot.raw=90.5, spot.1s=30, spot.1m=730, card.raw=730"
    (row,) = [row for row in tables.shown() if row.name == "retention"]
    assert (row.value, row.origin) == (line, str(tmp_path / "candled.toml"))
    assert loaded(CANDLED_RETENTION=line).config.retention == tables.config.retention
    assert tables.config.retention[0] == Keep("spot", RAW, 90.5)
    for wrong in ("spot.raw", "spot.raw=x", "raw=5"):
        with pytest.raises(BadSetting, match="retention"):
            loaded(CANDLED_RETENTION=wrong)


def test_the_sample_configuration_drops_nothing_until_its_lines_are_taken(tmp_path: Path) -> None:
    sample = (ROOT / "docs" / "candled.toml").read_text("utf-8")
    assert loaded(sample, tmp_path).origins == {}
    taken = re.sub(r"^# (\[|\w+ = )", r"\1", sample, flags=re.MULTILINE)
    keeps = {str(keep) for keep in loaded(taken, tmp_path).config.retention}
    assert keeps >= {"perp.raw=90", "spot.1s=30", "spot.1m=730", "card.raw=730"}


def test_no_two_settings_answer_to_one_variable() -> None:
    named = [v for known in (config.SETTINGS, config.LATER) for one in known.values() for v in one.variables]
    assert len(named) == len(set(named))


def test_the_page_of_settings_says_what_the_table_says() -> None:
    page = (ROOT / "docs" / "settings.md").read_text("utf-8")
    rows = re.findall(r"^\| `.*$", page, re.MULTILINE)
    assert rows == [documented(name) for name in config.KNOWN]
    for flag in ("host", "port", "tls-cert", "tls-key", "auth", "data", "config"):
        assert f"`--{flag}`" in page


def documented(name: str) -> str:
    """A setting's row in docs/settings.md."""
    known = config.SETTINGS.get(name) or config.LATER[name]
    variables = ", ".join(f"`{variable}`" for variable in (config.PREFIX + name.upper(), *known.variables))
    if isinstance(known, config.Later):
        return f"| `{name}` | {variables} | {known.reason} |"
    default = known.default or f"`{config.printed(config.DEFAULTS[name])}`".replace("`not set`", "not set")
    return f"| `{name}` | {variables} | {default} | {known.about} Expected: {known.kind.expected}. |"
