"""What holds for `history` holds through the second door, over one connection that stays open."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
from quart import Response
from werkzeug.datastructures import Headers

from tests.web.conftest import LOCAL, Web, serving
from tests.web.test_hot import Kept, doors
from tests.web.test_udf import (  # noqa: F401 # these are run here
    test_a_failure_is_an_error_object_with_its_reason,
    test_a_fault_of_ours_is_an_error_that_tells_nothing_but_its_number,
    test_a_market_without_events_has_no_data_and_no_older_either,
    test_a_month_more_than_counted_is_given_whole_when_the_window_holds_it,
    test_a_poll_after_a_quiet_hour_finds_the_bar_before,
    test_a_quiet_market,
    test_a_second_that_begins_at_the_end_appears_one_poll_later,
    test_an_answer_names_its_cursor_and_has_seen_what_was_acknowledged,
    test_an_answer_of_closed_bars_is_kept_until_one_of_them_changes,
    test_an_answer_with_the_open_bar_is_not_kept,
    test_days_weeks_and_months_begin_at_midnight_of_their_first_day,
    test_more_bars_than_fit_leave_the_newest_and_the_rest_can_be_asked_for,
    test_no_end_is_too_far,
    test_the_open_bar_is_there_with_its_state_so_far,
)


class Through(Web):
    """Asks through the door whatever has no body, twice: the second answer comes from memory where it is kept."""

    client: Kept

    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        client: tuple[str, int] = LOCAL,
        **more: Any,
    ) -> Response:
        if method != "GET" or client != LOCAL or more:
            return await super().ask(method, path, headers=headers, client=client, **more)
        told = {**self.headers, **(headers or {})}
        found, body = await self.client.ask(path, **told)
        again, same = await self.client.ask(path, **told)
        assert (found.status_code, body if found.status_code != 500 else same) == (again.status_code, same)
        return Response(
            body, found.status_code, Headers([(name.decode(), value.decode()) for name, value in found.headers])
        )


@pytest.fixture
async def web(tmp_path: Path) -> AsyncIterator[Web]:
    async with serving(tmp_path / "data") as running:
        await running.market()
        through = Through(running.app, running.stack, running.clock)
        async with doors(running) as at, await trio.open_tcp_stream("127.0.0.1", at.hot) as stream:
            through.client = Kept(stream)
            yield through
