"""The command as it is typed: what it prints where, and its exit status."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import __version__
from daemon.cli import main
from storage import keys, rejects
from storage.journal import Journal
from storage.records import Reject
from storage.state import State
from tests.test_layers import ROOT

COMMANDS = [["serve"], ["demo"], ["token", "create"], ["token", "list"], ["token", "revoke"], ["check"], ["rejects"]]
COMMANDS += [["backup"], ["restore"]]


@pytest.fixture(autouse=True)
def _nobodys_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CANDLED_") or name == "PORT":
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.chdir(tmp_path)


def left(*argv: str) -> int:
    """The exit status, however the command ends."""
    try:
        return main(argv)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert left(*command, "--help") == 0
    shown = capsys.readouterr().out
    assert "example:\n" in shown
    assert f"candled {' '.join(command)}" in shown.partition("example:\n")[2]
    assert "--data" in shown
    assert "--config" in shown


@pytest.mark.parametrize(
    "argv",
    [
        ["nonsense"],
        ["serve", "--nonsense"],
        ["serve", "--port", "x"],
        ["serve", "--host", "0.0.0.0"],
        ["check", "--config", "nowhere.toml"],
        ["token", "create"],
        ["token", "create", "--scope", "all"],
        ["token", "revoke", "one"],
        ["token", "create", "--scope", "read", "--name", "two\nlines"],
        ["token", "create", "--scope", "read", "extra"],
        ["token", "revoke", "0"],
        ["token", "revoke", "-1"],
        ["token", "revoke", "9" * 30],
        ["rejects", "--limit", "-1"],
        ["rejects", "--limit", "0"],
        ["rejects", "--limit", "1_0"],
        ["rejects", "--limit", "٣"],
        ["check", "--config", ""],
        ["check", "--data", ""],
        ["backup"],
        ["restore", "a", "b"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_on_standard_error_and_two(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert left(*argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("candled")
    assert err.count("\n") == 1


def test_what_a_command_does_not_know_is_refused_in_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert left("rejects", "all", "of", "them") == 2
    expected = "candled rejects: unrecognized arguments: all of them; see candled rejects --help\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("argv", [["--help"], ["token", "--help"]], ids=" ".join)
def test_the_lists_of_commands_have_an_example_too(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert left(*argv) == 0
    assert "example:\n  candled " in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["token"]])
def test_a_command_that_is_missing_is_answered_with_the_list_of_them(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert left(*argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "usage: candled" in err


def test_the_version_is_printed_without_loading_what_serving_needs() -> None:
    code = """
import sys
sys.argv = ["candled", "--version"]
try:
    import daemon.cli
    daemon.cli.main()
finally:
    print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    version, modules = done.stdout.splitlines()
    assert version == f"candled {__version__}"
    assert not {"trio", "duckdb", "numpy", "quart", "msgspec", "structlog"} & set(modules.split())


def test_the_module_can_be_run_as_the_command_is() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "--version"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"candled {__version__}\n"


def test_a_mistake_of_ours_is_told_in_full_and_ends_the_process_at_once() -> None:
    code = """
import atexit
from daemon import cli
atexit.register(print, "the interpreter is taken down")
cli.main = lambda: 1 // 0
cli.run()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("ZeroDivisionError: integer division or modulo by zero\n")


def test_a_key_is_alone_on_standard_output_and_opens_what_its_scope_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert left("token", "create", "--scope", "ingest", "--name", "feeder", "--data", str(tmp_path / "new" / "d")) == 0
    out, err = capsys.readouterr()
    key = out.removesuffix("\n")
    assert key
    assert key.split() == [key]
    assert key not in err
    with State.open(tmp_path / "new" / "d" / "state.db") as state:
        assert keys.check(state, key) == "ingest"
    assert (tmp_path / "new" / "d").stat().st_mode & 0o777 == 0o700


def test_a_key_can_be_made_beside_a_process_that_has_the_data_directory_open(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "d"
    data.mkdir()
    with Journal.open(data / "journal"), State.open(data / "state.db") as state:
        assert left("token", "create", "--scope", "read", "--data", str(data)) == 0
        assert keys.check(state, capsys.readouterr().out.strip()) == "read"


def test_the_list_of_keys_has_no_key_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert left("token", "create", "--scope", "admin", "--name", "me") == 0
    key = capsys.readouterr().out.strip()
    assert left("token", "list") == 0
    assert left("token", "list", "--json") == 0
    shown = capsys.readouterr().out
    assert key not in shown
    listed = json.loads(shown[shown.index("[") :])
    assert [(one["id"], one["scope"], one["name"], one["revoked"]) for one in listed] == [(1, "admin", "me", None)]


def test_a_revoked_key_opens_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert left("token", "create", "--scope", "admin") == 0
    key = capsys.readouterr().out.strip()
    assert left("token", "revoke", "1") == 0
    with State.open(tmp_path / "share" / "candled" / "state.db") as state:
        assert keys.check(state, key) is None
    assert left("token", "revoke", "2") == 1
    assert capsys.readouterr().err.endswith("candled: no key 2; `candled token list` shows those that there are\n")


@pytest.mark.parametrize(
    "command", [["token", "list"], ["token", "revoke", "1"], ["rejects"], ["backup", "b"]], ids=" ".join
)
def test_a_data_directory_that_is_not_there_is_named_and_not_made(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert left(*command, "--data", str(tmp_path / "none")) == 1
    assert capsys.readouterr().err == f"candled: no data directory {tmp_path / 'none'}; give the daemon's with --data\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "command", [["token", "list"], ["token", "revoke", "1"], ["rejects"], ["backup", "b"]], ids=" ".join
)
def test_a_directory_of_something_else_is_named_and_left_as_it_is(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert left(*command, "--data", str(tmp_path)) == 1
    expected = f"candled: no candled has used {tmp_path} yet; give the daemon's data directory with --data\n"
    assert capsys.readouterr().err == expected
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command",
    [
        ["token", "create", "--scope", "read"],
        ["token", "list"],
        ["token", "revoke", "1"],
        ["rejects"],
        ["serve"],
        ["backup", "b"],
    ],
    ids=" ".join,
)
def test_a_file_in_place_of_the_data_directory_is_called_that(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert left(*command, "--data", str(file)) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == [f"candled: data directory {file}: expected a directory, found a file; give another with --data"]


@pytest.mark.parametrize("below", [".", "d"])
def test_check_does_not_promise_to_make_a_directory_where_a_file_is(
    below: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("")
    data = file / below
    assert left("check", "--data", str(data)) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"data directory {data}: cannot be used"
    assert err == f"candled: {file}: expected a directory, found a file; give another one with --data\n"
    assert left("check", "--json", "--data", str(data)) == 1
    told = json.loads(capsys.readouterr().out)["data"]
    assert (told["exists"], told["usable"], len(told["problems"])) == (False, False, 1)


def test_check_says_whether_there_is_an_admin_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for scope, more in (("read", ", no admin key yet"), ("admin", "")):
        assert left("token", "create", "--scope", scope, "--data", str(tmp_path)) == 0
        capsys.readouterr()
        assert left("check", "--data", str(tmp_path)) == 0
        assert capsys.readouterr().out.splitlines()[-1].endswith(f" keys{more}")


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_certificate_that_is_none_is_named(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "cert.pem", tmp_path / "key.pem"
    for file in files:
        file.write_text("no certificate")
    assert left(command, "--tls-cert", str(files[0]), "--tls-key", str(files[1])) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"candled: tls_cert, tls_key: expected a PEM certificate chain in {files[0]} and its private")
    assert err.count("\n") == 1
    assert not (tmp_path / "share").exists()


def test_an_address_that_nobody_knows_is_named(tmp_path: Path) -> None:
    flags = ["--host", "nowhere.invalid", "--auth", "open", "--port", "8123", "--data", str(tmp_path / "d")]
    done = subprocess.run(
        [sys.executable, "-m", "daemon", "serve", *flags], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("candled: cannot listen on nowhere.invalid port 8123: ")
    assert last.endswith("; choose with --host and --port")


def test_what_cannot_be_printed_is_a_failure_that_says_so(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "daemon", "check"],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            env={**os.environ, "XDG_DATA_HOME": str(tmp_path)},
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"candled: standard output: No space left on device\n")


def test_no_key_is_made_where_nobody_would_see_it(tmp_path: Path) -> None:
    command = f"{sys.executable} -m daemon token create --scope admin --data {tmp_path / 'd'} >&-"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr == b"candled: standard output is closed, and a key that nobody sees is of no use\n"
    assert not (tmp_path / "d").exists()


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert left("token", "create", "--scope", "read", "--data", str(tmp_path / "file" / "d")) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"candled: data directory {tmp_path / 'file' / 'd'}: cannot be made: ")
    assert err.count("\n") == 1


def test_a_state_file_that_is_something_else_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database at all" * 100)
    assert left("token", "list", "--data", str(tmp_path)) == 1
    assert left("check", "--data", str(tmp_path)) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"candled: {tmp_path / 'state.db'}: ") for line in lines)


def test_check_shows_each_setting_with_its_origin_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PUSHER_SECRET", "hush-hush")
    monkeypatch.setenv("RATE_LIMIT_REQUESTS", "12")
    assert left("check", "--port", "9") == 0
    shown = capsys.readouterr().out
    lines = [line.split() for line in shown.splitlines()]
    assert ["port", "9", "--port"] in lines
    assert ["rate_limit_requests", "12", "RATE_LIMIT_REQUESTS"] in lines
    assert ["flush_seconds", "2", "default"] in lines
    assert "hush-hush" not in shown
    assert any(line[:4] == ["pusher_secret", "(secret)", "PUSHER_SECRET", "no"] for line in lines)
    assert not (tmp_path / "share").exists()


def test_check_tells_a_script_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert left("token", "create", "--scope", "admin") == 0
    capsys.readouterr()
    assert left("check", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert {"name": "port", "value": "8000", "origin": "default", "no_effect": ""} in answer["settings"]
    assert (answer["data"]["exists"], answer["data"]["in_use"], answer["data"]["keys"]) == (True, False, 1)


def test_check_knows_a_data_directory_in_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for expected in (True, False):
        if expected:
            with Journal.open(tmp_path / "journal"):
                assert left("check", "--json", "--data", str(tmp_path)) == 0
        else:
            assert left("check", "--json", "--data", str(tmp_path)) == 0
        assert json.loads(capsys.readouterr().out)["data"]["in_use"] is expected


def test_rejects_shows_the_newest_first_with_the_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    letters = [
        Reject(at=n * 1_000_000, source="http", market_symbol="GOLD", error=f"price: {n}", event='{"a": 1}')
        for n in range(3)
    ]
    with rejects.opened(tmp_path / "rejects.db") as state:
        rejects.put(state, letters)
    assert left("rejects", "--data", str(tmp_path), "--limit", "2") == 0
    assert capsys.readouterr().out.splitlines() == [
        "1970-01-01 00:00:02Z  http  GOLD  price: 2",
        '    {"a": 1}',
        "1970-01-01 00:00:01Z  http  GOLD  price: 1",
        '    {"a": 1}',
    ]
    assert left("rejects", "--data", str(tmp_path), "--json") == 0
    assert [one["error"] for one in json.loads(capsys.readouterr().out)] == ["price: 2", "price: 1", "price: 0"]


def test_rejects_shows_nothing_that_a_terminal_would_obey(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rejects.opened(tmp_path / "rejects.db") as state:
        rejects.put(state, [Reject(at=0, source="http", error="x: \x1b[2J\u202e", event='{"é":\n "\x9b1m"}')])
    assert left("rejects", "--data", str(tmp_path)) == 0
    assert capsys.readouterr().out.splitlines() == [
        r"1970-01-01 00:00:00Z  http  -  x: \x1b[2J\u202e",
        r'    {"é":\n "\x9b1m"}',
    ]


def test_a_reader_that_leaves_early_is_no_error(tmp_path: Path) -> None:
    with rejects.opened(tmp_path / "rejects.db") as state:
        rejects.put(state, [Reject(at=n, source="http", error="x" * 500, event="y" * 4000) for n in range(100)])
    command = [sys.executable, "-m", "daemon", "rejects", "--data", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
