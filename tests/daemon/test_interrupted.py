"""Long work that is stopped or fails says how far it came, in whose name, and with which exit status."""

import signal
import sys
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import trio

from daemon import importing, verify
from daemon.cli import DONE, FAILED, WRONG, main
from daemon.progress import Progress
from storage.errors import BadRequest, Unavailable
from tests.disks import filled, small
from tests.stacks import flush, running, say, trade

ROWS = 100
AT_A_TIME = 10


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Signals are as they were afterwards; meanwhile as a shell leaves them to what it runs in the background."""
    before = [(one, signal.getsignal(one)) for one in (signal.SIGTERM, signal.SIGINT)]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    for one, handler in before:
        signal.signal(one, handler)


async def lived(data: Path) -> None:
    async with running(data) as stack:
        await say(stack, *(trade(60 * minute, 100 + minute) for minute in range(50)))
        await flush(stack)


def test_an_import_that_is_told_to_stop_says_how_far_it_came_and_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "trades.csv"
    file.write_text("ts,price,size,trade_id\n" + "".join(f"{1_700_000_000 + n},{n + 1},1,{n}\n" for n in range(ROWS)))
    command = ["import", str(file), "--market", "GOLD", "--create", "spot", "--data", str(tmp_path / "data")]
    monkeypatch.setattr(importing, "ROWS", AT_A_TIME)
    monkeypatch.setattr(importing, "FLYING", 1)
    submit = importing.Direct.submit
    sent: list[bytes] = []

    async def stopping(self: importing.Direct, body: bytes, what: importing.What) -> bytes:
        if len(sent) == 3:
            signal.raise_signal(signal.SIGTERM)
            await trio.lowlevel.checkpoint()
        sent.append(body)
        return await submit(self, body, what)

    with monkeypatch.context() as patch:
        patch.setattr(importing.Direct, "submit", stopping)
        assert main(command) == FAILED
    said = capsys.readouterr().err.splitlines()[-1]
    came = f"trades.csv: {3 * AT_A_TIME} of {ROWS} rows"
    assert said == f"candled: interrupted at {came}; what was taken stays: the same command goes on behind it"
    assert main(command) == DONE
    again = capsys.readouterr().err
    assert f"trades.csv: {3 * AT_A_TIME} rows were taken by an earlier run; going on behind them" in again
    assert f"{ROWS - 3 * AT_A_TIME} events taken, 0 known already" in again


def test_a_verify_that_is_told_to_stop_says_how_far_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trio.run(lived, tmp_path)
    monkeypatch.setattr(verify, "_out", lambda _: signal.raise_signal(signal.SIGTERM))
    assert main(["verify", "--data", str(tmp_path)]) == FAILED
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "candled: interrupted at events: 50 of 50 events; not everything was compared, nothing was changed"


def test_what_is_not_there_fails_and_what_is_asked_wrongly_is_wrong_usage(tmp_path: Path) -> None:
    trio.run(lived, tmp_path)
    assert main(["verify", "--data", str(tmp_path)]) == DONE
    assert main(["verify", "--data", str(tmp_path), "--market", "NOPE"]) == FAILED
    assert main(["verify", "--data", str(tmp_path / "nowhere")]) == FAILED
    assert main(["verify", "--data", str(tmp_path), "--from", "yesterday"]) == WRONG
    for status in (401, 403, 404, 409, 500):
        assert isinstance(importing.refusal(status, "no"), Unavailable)
    for status in (400, 422):
        assert isinstance(importing.refusal(status, "no"), BadRequest)


def test_an_export_names_the_file_that_was_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trio.run(lived, tmp_path / "data")
    command = ["export", "--market", "GOLD", "--resolution", "1m", "--data", str(tmp_path / "data"), "-o"]
    missing = tmp_path / "nowhere" / "gold.csv"
    assert main([*command, str(missing)]) == FAILED
    assert capsys.readouterr().err == f"candled: {missing} cannot be written: No such file or directory\n"
    with small(tmp_path / "disk", "1m") as disk:
        filled(disk)
        assert main([*command, str(disk / "gold.csv")]) == FAILED
        assert capsys.readouterr().err == f"candled: {disk / 'gold.csv'} cannot be written: No space left on device\n"
        assert [path.name for path in disk.iterdir()] == ["ballast"]


def test_progress_has_units(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = iter((0.0, 10.0, 20.0))
    out = StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(sys, "stderr", out)
    with Progress() as told:
        told.begin("GOLD", 40, 0, "days")
        told.advance(5)
        told.advance(35)
    assert out.getvalue().splitlines() == [
        "GOLD: 5 of 40 days, 0.5 days/s, 70 s left",
        "GOLD: 40 of 40 days, 2.0 days/s, 0 s left",
    ]
