"""Files of prices of cards: small ones that say everything, and price lists as they are."""

import json
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import pytest
import trio

from actors.decode import SNAPSHOTS
from daemon import importing
from daemon.importing import Plan, Tally
from storage.errors import BadRequest
from storage.formats import Format
from storage.mapping import Times
from storage.variants import Variant
from tests.daemon.test_importing import Told, config, csv, ndjson, parquet
from tests.daemon.test_importing_bars import COARSER, exported, tables
from tests.daemons import BIN, environment
from tests.daemons import running as daemon
from tests.stacks import flush, running
from tests.test_cards import CARD, FOIL, bars
from tests.test_layers import ROOT
from tests.test_verify import clean

LISTS = ROOT.parent / "shared" / "data" / "cards"
REAL = pytest.mark.skipif(not LISTS.is_dir(), reason="recorded price lists are not here")


def plan(*files: Path, given: tuple[tuple[str, str], ...] = (), where: str = "", **more: Any) -> Plan:
    usual: dict[str, Any] = {"market": "", "times": Times(), "create": None, "snapshots": True}
    return Plan(files=files, given=given, where=where, **{**usual, **more})


async def imported(data: Path, wanted: Plan) -> Tally:
    with importing.sources(wanted) as some:
        return await importing.run(config(data), wanted, some, Told(), None, None)


def rows(count: int) -> list[dict[str, object]]:
    """Prices of two variants, one for each of so many hours."""
    return [
        {
            "time": f"2023-11-{1 + i // 24:02}T{i % 24:02}:00:00Z",
            "card_id": "sv3.5-1",
            "marketplace": "tcgplayer",
            "condition": "DAMAGED" if foil else "NM",
            "foil": "true" if foil else "false",
            "language": "ja" if foil else "English",
            "currency": "JPY" if foil else "USD",
            "price": f"{10 + i * 37 % 11}.{i % 7}5",
            "lowPrice": i % 9,
            "listings": i % 5,
        }
        for i in range(count)
        for foil in (False, True)
    ]


EXPECTED = [10 + i * 37 % 11 + (i % 7) / 10 + 0.05 for i in range(100)]


@pytest.mark.parametrize("name", ["prices.csv.gz", "prices.parquet", "prices.ndjson.gz"])
async def test_a_file_is_read_by_the_names_of_its_columns_and_its_charts_are_there(tmp_path: Path, name: str) -> None:
    write = {"csv": csv, "parquet": parquet, "ndjson": ndjson}[name.split(".")[1]]
    file = write(tmp_path / name, rows(100))
    tally = await imported(tmp_path / "data", plan(file, snapshots=False))  # known by its columns
    assert (tally.rows, tally.accepted, tally.rejected) == (200, 200, 0), tally.errors
    again = await imported(tmp_path / "data", plan(file))
    assert (again.accepted, again.duplicates) == (0, 0), "the note says that all of it is here"
    for note in (tmp_path / "data" / "imports").iterdir():
        note.unlink()
    again = await imported(tmp_path / "data", plan(file))
    assert (again.accepted, again.duplicates) == (0, 200)
    async with running(tmp_path / "data") as stack:
        for variant in (CARD, FOIL):
            hours = await bars(stack, variant, "60")
            assert [bar["close"] for bar in hours] == pytest.approx(EXPECTED)
            assert [bar["min_price"] for bar in hours] == [i % 9 for i in range(100)]
            assert [bar["total_listings"] for bar in hours] == [i % 5 for i in range(100)]
            assert [bar["trades_count"] for bar in await bars(stack, variant, "1D")] == [24, 24, 24, 24, 4]


async def test_the_last_price_of_a_variant_for_a_time_counts_however_far_the_first_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importing, "ROWS", 3)
    some = rows(30)
    file = csv(tmp_path / "prices.csv", [*some, *({**row, "price": 5} for row in some[:20]), *some[:4]])
    tally = await imported(tmp_path / "data", plan(file))
    assert (tally.accepted, tally.corrected, tally.rejected) == (60, 24, 0)
    async with running(tmp_path / "data") as stack:
        closes = [bar["close"] for bar in await bars(stack, CARD, "60")]
        assert closes == pytest.approx([*EXPECTED[:2], *[5] * 8, *EXPECTED[10:30]])


async def test_an_import_that_was_cut_off_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importing, "ROWS", 20)
    file = csv(tmp_path / "prices.csv", rows(100))
    submit = importing.Direct.submit
    count = 0

    async def cut(sink: importing.Direct, *arguments: Any) -> bytes:
        nonlocal count
        count += 1
        if count > 4:
            raise OSError("pulled the plug")
        return await submit(sink, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(importing.Direct, "submit", cut)
        with pytest.raises((OSError, ExceptionGroup)):
            await imported(tmp_path / "data", plan(file))
    tally = await imported(tmp_path / "data", plan(file))
    assert (tally.rows, tally.accepted, tally.duplicates) == (120, 120, 0)
    async with running(tmp_path / "data") as stack:
        assert len(await bars(stack, FOIL, "60")) == 100


@pytest.mark.parametrize("flag", [{"market": "GOLD"}, {"create": "spot"}])
def test_prices_of_cards_take_no_market(tmp_path: Path, flag: dict[str, Any]) -> None:
    file = csv(tmp_path / "prices.csv", rows(1))
    (name,) = flag
    with (
        pytest.raises(BadRequest, match=f"--{name}: the prices of cards in .* name their markets themselves"),
        importing.sources(plan(file, **flag)),
    ):
        pass


@pytest.mark.parametrize("form", ["csv", "parquet"])
async def test_bars_of_a_card_that_were_exported_make_the_same_bars_again(tmp_path: Path, form: Format) -> None:
    """Also where nobody has registered the card, and some hours have no price at all."""
    given = [{**row, "price": 0 if i % 9 == 5 else row["price"]} for i, row in enumerate(rows(100))]
    given = [{**row, "marketPrice": i % 4 * 1.25, "quantity": 3} if i % 3 else row for i, row in enumerate(given)]
    await imported(tmp_path / "data", plan(ndjson(tmp_path / "prices.ndjson", given)))
    file = tmp_path / f"bars.{form}"
    async with running(tmp_path / "data") as stack:
        expected = await tables(stack, CARD.symbol)
        file.write_bytes(await exported(stack, CARD.symbol, "60", form))
    wanted = plan(file, market=CARD.symbol, snapshots=False, bars="1h")
    tally = await imported(tmp_path / "again", wanted)
    assert (tally.rejected, tally.accepted) == (0, expected[COARSER.index("60")].num_rows)
    assert tally.accepted > 80
    async with running(tmp_path / "again") as stack:
        found = await tables(stack, CARD.symbol)
        for resolution, one, other in list(zip(COARSER, expected, found, strict=True))[COARSER.index("60") :]:
            assert one.equals(other), resolution
        before = await bars(stack, CARD, "1D")
        assert before[0]["total_quantity"] > 0
        # A price that is told later wins over the bar of its hour.
        later = {"time": 1_698_796_900_000, "card_id": CARD.card_id, "marketplace": CARD.marketplace, "price": 1000}
        answer = await stack.intake.submit(json.dumps(later).encode(), "application/json", form=SNAPSHOTS)
        assert json.loads(answer)["accepted"] == 1
        assert (await bars(stack, CARD, "60"))[0]["close"] == 1000
        await flush(stack)
        await clean(stack)
        await stack.sealing.run()
        expected = await tables(stack, CARD.symbol)
    (tmp_path / "again" / "candles.duckdb").unlink()
    async with running(tmp_path / "again") as stack:
        assert all(one.equals(other) for one, other in zip(expected, await tables(stack, CARD.symbol), strict=True))
        await clean(stack)


async def command(data: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return await trio.run_process(
        [BIN / "candled", *arguments, "--data", str(data)],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        env=environment(data.parent),
    )


async def test_the_command_shows_what_it_reads_and_goes_through_a_running_daemon(tmp_path: Path) -> None:
    data = tmp_path / "data"
    bad = {**rows(1)[0], "condition": "Unopened"}
    file = csv(tmp_path / "prices.csv", [*rows(40), bad])
    shown = await command(data, "import", "--snapshots", str(file), "--dry-run")
    assert shown.returncode == 0, shown.stderr
    told = " ".join(shown.stderr.decode().split())
    for said in ("prices of cards", "card_id from card_id", "is_foil from foil", "price_low from lowPrice"):
        assert said in told
    assert "condition NEAR_MINT, is_foil false, language English" in told
    async with daemon("serve", "--data", str(data), home=tmp_path):
        done = await command(data, "import", "--snapshots", str(file))
        assert done.returncode == 1
        assert "80 events taken" in done.stderr.decode()
        assert "prices.csv: line 82: condition: expected one of MINT, NEAR_MINT" in done.stderr.decode()
        symbol = CARD.symbol
        out = tmp_path / "out.ndjson"
        exported = await command(data, "export", "--market", symbol, "--events", "-o", str(out))
        assert exported.returncode == 0, exported.stderr
    prices = [json.loads(line) for line in out.read_bytes().splitlines()]
    assert [price["card_id"] for price in prices] == ["sv3.5-1"] * 40
    again = tmp_path / "again"
    done = await command(again, "import", str(out))
    assert done.returncode == 0, done.stderr
    assert "40 events taken" in done.stderr.decode()
    for resolution in ("1s", "1h", "1w"):
        asked = ("export", "--market", symbol, "--resolution", resolution)
        first, second = (await command(data, *asked)).stdout, (await command(again, *asked)).stdout
        assert first == second
        assert len(first.splitlines()) > 1


# --- price lists as they are


def sql(query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as db:
        return db.execute(query.replace("LISTS", str(LISTS))).fetchall()


async def charted(data: Path, variant: Variant, resolution: str) -> list[tuple[Any, ...]]:
    async with running(data) as stack:
        return [(bar["time"], bar["close"]) for bar in await bars(stack, variant, resolution)]


@REAL
async def test_windows_that_overlap_and_are_a_year_ahead_come_to_one_price_a_day(tmp_path: Path) -> None:
    time = "CASE WHEN period_start_date > scraped_at THEN period_end_date - INTERVAL 1 YEAR ELSE period_end_date END"
    given = (("'tcgplayer'", "marketplace"), ("\"set\" || ' ' || type", "card_id"), (time, "time"))
    where = "period_end_date IS NOT NULL AND market_price > 0"
    tally = await imported(
        tmp_path / "data", plan(LISTS / "tcgplayer_pokemon_price_history.csv.gz", given=given, where=where)
    )
    assert (tally.rows, tally.rejected) == (15196, 0), tally.errors
    assert tally.accepted == 12919
    listed = sql(
        f"SELECT epoch({time})::BIGINT AS t, last(market_price ORDER BY n) FROM (SELECT *, row_number() OVER () AS n "
        "FROM read_csv('LISTS/tcgplayer_pokemon_price_history.csv.gz', sample_size = -1)) "
        f"WHERE {where} AND \"set\" = 'SV02' AND type = 'Booster Box' GROUP BY t ORDER BY t"
    )
    assert len(listed) > 400
    found = await charted(tmp_path / "data", Variant("SV02 Booster Box", "tcgplayer"), "1D")
    assert found == listed
    assert found[-1][0] < 1_788_220_800, "nothing lies beyond September 2026"


@REAL
async def test_monthly_prices_of_graded_cards_are_charts_of_their_own(tmp_path: Path) -> None:
    given = (
        ("CASE grade WHEN 'RAW' THEN card_id ELSE card_id || ' ' || grade END", "card_id"),
        ("'graded'", "marketplace"),
    )
    where = "card_id LIKE 'pokemon_swsh3.5_7%'"
    tally = await imported(tmp_path / "data", plan(LISTS / "pokemon_graded_monthly.parquet", given=given, where=where))
    assert tally.rejected == 0, tally.errors
    for grade, card in (("RAW", "pokemon_swsh3.5_74"), ("PSA_10", "pokemon_swsh3.5_74 PSA_10")):
        listed = sql(
            "SELECT epoch(month::DATE)::BIGINT, market_price FROM 'LISTS/pokemon_graded_monthly.parquet' "
            f"WHERE card_id = 'pokemon_swsh3.5_74' AND grade = '{grade}' ORDER BY month"
        )
        assert len(listed) > 10
        assert await charted(tmp_path / "data", Variant(card, "graded"), "1M") == listed


@REAL
async def test_changes_of_prices_are_bars_of_the_days_on_which_they_changed(tmp_path: Path) -> None:
    given = (
        ("'tcgdex'", "marketplace"),
        ("'BRL'", "currency"),
        ("new_brl", "price"),
        ("card_id || ' ' || variant", "card_id"),
        ("variant IN ('holo', 'reverse')", "is_foil"),
    )
    name = "tcgdex_pokemon_price_changes_brl.csv.gz"
    where = "lower(card_id) LIKE 'sm10-10%'"
    tally = await imported(tmp_path / "data", plan(LISTS / name, given=given, where=where))
    assert (tally.accepted, tally.rejected) == (tally.rows, 0), tally.errors
    listed = sql(
        "SELECT epoch(date)::BIGINT, new_brl FROM read_csv('LISTS/tcgdex_pokemon_price_changes_brl.csv.gz', "
        "sample_size = -1) WHERE lower(card_id) = 'sm10-106' AND variant = 'holo' ORDER BY date"
    )
    assert len(listed) > 3
    variant = Variant("sm10-106 holo", "tcgdex", is_foil=True, currency="BRL")
    assert await charted(tmp_path / "data", variant, "1D") == listed


@REAL
async def test_a_search_and_a_look_at_sealed_products_go_in_whole(tmp_path: Path) -> None:
    place = ("'tcgplayer'", "marketplace")
    search = await imported(tmp_path / "data", plan(LISTS / "tcgplayer_pokemon_search_20260521.csv.gz", given=(place,)))
    assert (search.accepted, search.rejected) == (48, 0)
    given = (
        place,
        ("median_ask_price", "price"),
        ("seller_count", "num_listings"),
        ("product_count", "total_quantity"),
    )
    sealed = await imported(
        tmp_path / "data", plan(LISTS / "tcgplayer_sealed_market_snapshot_202603.csv.gz", given=given)
    )
    assert (sealed.accepted, sealed.duplicates, sealed.rejected) == (328, 1, 0)
    async with running(tmp_path / "data") as stack:
        (eevee,) = await bars(stack, Variant("246847", "tcgplayer"), "1D")
        assert [eevee[name] for name in ("close", "min_price", "avg_market_price", "total_listings")] == [
            *(0.74, 0.06, 0.74, 379)
        ]
        assert await bars(stack, Variant("185731", "tcgplayer"), "1D") == [], "nobody asks anything for it"


@REAL
async def test_two_series_side_by_side_are_two_variants(tmp_path: Path) -> None:
    file = LISTS / "mtgstocks_single_card_daily.csv.gz"
    names = (("'card'", "card_id"), ("'mtgstocks'", "marketplace"))
    plain = await imported(tmp_path / "data", plan(file, given=names))
    price = "coalesce(foil, market_foil)"
    foil = await imported(
        tmp_path / "data",
        plan(
            file,
            given=(
                *names,
                ("true", "is_foil"),
                (price, "price"),
                ("market_foil", "price_market"),
                ("NULL", "price_low"),
            ),
            where=f"{price} IS NOT NULL",
        ),
    )
    assert (plain.accepted, plain.rejected, foil.rejected) == (2212, 0, 0), foil.errors
    async with running(tmp_path / "data") as stack:
        for is_foil, column in ((False, "avg"), (True, price)):
            (listed,) = sql(
                f"SELECT count({column}), max({column}), "
                f"count(DISTINCT ts_ms // 86400000) FILTER ({column} IS NOT NULL) FROM "
                "read_csv('LISTS/mtgstocks_single_card_daily.csv.gz', sample_size = -1)"
            )
            days = await bars(stack, Variant("card", "mtgstocks", is_foil=is_foil), "1D")
            assert (sum(day["trades_count"] for day in days), max(day["high"] for day in days), len(days)) == listed
        assert {day["min_price"] for day in days} == {None}
