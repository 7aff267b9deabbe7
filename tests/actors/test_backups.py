"""A backup that was asked for is made once, whatever else is out of order."""

from pathlib import Path

from actors.background import Background
from actors.backups import Backups
from storage import answers, backup
from storage.backup import Named, Source
from storage.errors import Unavailable
from storage.journal import Journal
from storage.state import State


async def unknown() -> Named:
    """What a damaged history store says of the files that it should know."""
    raise Unavailable("history store: damaged")


async def test_a_damaged_history_store_does_not_keep_the_truth_from_being_backed_up(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with (
        Journal.open(data / "journal") as journal,
        State.open(data / "state.db") as state,
        answers.opened(data / "answers.db") as told,
    ):
        journal.append(1, [b"said"])
        backups = Backups(Source(data, journal, state, told, {}, "1.2.3"), unknown, Background())
        assert not backups.due()
        backups.begin(tmp_path / "backup")
        assert backups.due()
        await backups.run()
        assert not backups.due()
        found = backups.told()
        assert found is not None
        assert (found.state, found.cursor) == ("done", f"{journal.epoch}.1")
    assert backup.read(tmp_path / "backup").seq == 1
