"""A real process, killed at any instant under load."""

from pathlib import Path

from bench.kills import REBUILT, Killing, Real

INSTANTS = ("any", "seal", "commit", "move", "flush", "recovery", "trim", "checkpoint", "merge", "spill", "recovery")
MOST = 30  # kills: more than one for each only where none fell into the middle of something


def test_nothing_acknowledged_is_lost_or_counted_twice_whenever_the_process_is_killed(tmp_path: Path) -> None:
    killing = Killing(tmp_path, seed=2)
    wanted = ["commit", "flush", "recovery", "seal", "move", "trim", "checkpoint"]
    for instant in INSTANTS:
        killing.kill(instant)
    while killing.counts["kills"] < MOST and (missed := [p for p in wanted if not killing.counts[f"in {p}"]]):
        killing.kill(missed[0])
    killing.end()
    assert all(killing.counts[f"in {part}"] for part in wanted), killing.counts
    assert killing.counts["acknowledged"] > 20
    assert killing.counts["verified"] >= 4


def test_what_is_acknowledged_while_a_lost_store_is_made_again_survives_a_kill_amid_it(tmp_path: Path) -> None:
    killing = Killing(tmp_path, seed=6)
    for instant in ("seal", "any", "rebuild", "any", "rebuild"):
        killing.kill(instant)
    while killing.counts["kills"] < MOST and (killing.counts["in rebuild"] < 2 or killing.counts[REBUILT] < 4):
        killing.kill("rebuild")
    killing.end()
    assert killing.counts["in rebuild"] >= 2, killing.counts
    assert killing.counts[REBUILT] >= 4, killing.counts
    assert killing.counts["verified"] >= 4


def test_no_bar_is_lost_or_doubled_when_the_process_is_killed_while_bars_move_to_the_archive(tmp_path: Path) -> None:
    killing = Killing(tmp_path, seed=4, clock=Real())
    wanted = ["archive", "rename", "adopt", "unlink"]
    while killing.counts["kills"] < MOST and (missed := [p for p in wanted if not killing.counts[f"in {p}"]]):
        killing.kill(missed[killing.counts["kills"] % len(missed)])
    killing.end()
    assert all(killing.counts[f"in {part}"] for part in wanted), killing.counts
    assert killing.counts["acknowledged"] > 20
    assert killing.counts["verified"] >= 4
