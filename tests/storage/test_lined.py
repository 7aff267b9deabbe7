"""Lines of CSV and JSON as rows of texts: what is read, what is wrong, and where."""

import csv
import gzip
import io
import random
from pathlib import Path

import pytest

from storage import lined
from storage.errors import BadRequest
from storage.files import File
from storage.lined import LINE, PROBLEM

Row = tuple[int, str | None, list[str | None]]  # line, problem, values


def rows(path: Path) -> tuple[list[str], list[Row]]:
    file = lined.opened(path, path.name.split(".")[1])
    found: list[Row] = []
    for batch in file.batches():
        assert batch.schema == lined.schema(file.names)
        for row in batch.to_pylist():
            found.append((row[LINE], row[PROBLEM], [row[name] for name in file.names]))
    return file.names, found


def read(folder: Path, content: bytes, name: str = "a.csv") -> tuple[list[str], list[Row]]:
    (folder / name).write_bytes(content)
    return rows(folder / name)


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_every_row_has_its_line_and_bad_ones_their_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(lined, "BLOCK", block)
    content = b'time,price\n1,2\n\n3\r\n4,5,6\n"7","8, 9"\n\xff,1\n"1\n1",12\n13,"14\n15,16\n   \n17,5" wide\n18,'
    assert read(tmp_path, content) == (
        ["time", "price"],
        [
            (2, None, ["1", "2"]),
            (4, 'expected 2 fields, got 1: "3"', [None, None]),
            (5, 'expected 2 fields, got 3: "4,5,6"', [None, None]),
            (6, None, ["7", "8, 9"]),
            (7, "not UTF-8: b'\\xff,1'", [None, None]),
            (8, None, ["1\n1", "12"]),
            (10, 'a quote is opened and not closed: "13,\\"14"', [None, None]),
            (11, None, ["15", "16"]),
            (13, None, ["17", '5" wide']),
            (14, None, ["18", None]),
        ],
    )


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_files_that_csv_writes_are_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    chance = random.Random(5)
    words = ["plain", "1.50", "with, comma", 'with "quotes"', "two\nlines", "ümlaut", "x" * 300, "'"]
    for case in range(40):
        monkeypatch.setattr(lined, "BLOCK", chance.choice([50, 400, 1 << 20]))
        written = [[chance.choice(words) for _ in range(4)] for _ in range(chance.randrange(1, 60))]
        text = io.StringIO(newline="")
        dialect = "unix" if case % 2 else "excel"  # which quotes all, or what it must
        writer = csv.writer(text, dialect, delimiter=chance.choice(",;\t|"), lineterminator="\r\n")
        writer.writerows([["a", "b", "c", "d"], *written])
        path = tmp_path / f"{case}{name.removeprefix('a')}"
        data = text.getvalue().encode()
        if name.endswith(".gz"):
            data = gzip.compress(data)
        path.write_bytes(data)
        names, found = rows(path)
        assert names == ["a", "b", "c", "d"]
        assert [values for _, _, values in found] == [[v.replace("\r\n", "\n") for v in row] for row in written]
        assert all(problem is None for _, problem, _ in found)


@pytest.mark.parametrize(
    ("content", "names", "first"),
    [
        (b"time;price\n1;2,5\n3;4,5\n", ["time", "price"], (2, None, ["1", "2,5"])),
        (b"https://example.com\nunix,price\n1,2\n", ["unix", "price"], (3, None, ["1", "2"])),
        (b"1700000000,2.5,true\n1700000001,2.5,true\n", ["column0", "column1", "column2"], None),
        (b"price\n5\n", ["price"], (2, None, ["5"])),
        (b"\xef\xbb\xbftime,price\n1,2\n", ["time", "price"], (2, None, ["1", "2"])),
        (b"m,M,,m_1\n1,2,3,4\n", ["m", "M_1", "column2", "m_1_1"], (2, None, ["1", "2", "3", "4"])),
        (b"time,price\r1,2\r", ["time", "price"], (2, None, ["1", "2"])),
    ],
)
def test_what_a_file_is_like_is_told_by_its_beginning(
    tmp_path: Path, content: bytes, names: list[str], first: Row | None
) -> None:
    found, some = read(tmp_path, content)
    assert found == names
    assert first is None or some[0] == first
    if first is None:
        assert some[0][0] == 1


def test_a_column_that_is_there_twice_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match=r"a\.csv: the header has the column 'price' twice: rename one of the two"):
        read(tmp_path, b"time,price,size,price\n1,2,3,4\n")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv.gz", b"not gzip", r"a\.csv\.gz: "),
        ("a.csv", "time,price\n1,2\n".encode("utf-16"), r"a\.csv: expected UTF-8, got UTF-16"),
        ("a.json", b'[{"a": 1}, {', r"a\.json: .*truncated"),
    ],
)
def test_what_is_no_such_file_is_named(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        read(tmp_path, content, name)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.ndjson"])
def test_a_file_with_nothing_in_it_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"") if name.endswith("gz") else b"\n")
    with pytest.raises(BadRequest, match=rf"{name}: there is nothing in it"):
        File(path)


@pytest.mark.parametrize("block", [5, 1 << 20])
def test_json_keeps_every_digit_and_bad_lines_their_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(lined, "BLOCK", block)
    lines = [b'{"p": 1.50, "q": "007"}', b'{"p": 0.123456789012345678901', b"", b'{"q": true, "late": {"x": [1]}}']
    lines += [b"[]", b'{"p": 123456789012345678901234567890}', b'{"p": null, "q": ""}', b"{'p': 1}"]
    names, found = read(tmp_path, b"\n".join(lines), "a.json")
    assert names == ["p", "q", "late"]
    assert [(line, values) for line, problem, values in found if problem is None] == [
        (1, ["1.50", "007", None]),
        (4, [None, "true", '{"x":[1]}']),
        (6, ["123456789012345678901234567890", None, None]),
        (7, [None, None, None]),
    ]
    assert [(line, problem) for line, problem, _ in found if problem] == [
        (2, 'not JSON: truncated: "{\\"p\\": 0.123456789012345678901"'),
        (5, 'expected `object`, got `array`: "[]"'),
        (8, "not JSON: object keys must be strings at byte 2: \"{'p': 1}\""),
    ]


def test_an_array_of_objects_is_read_element_by_element(tmp_path: Path) -> None:
    assert read(tmp_path, b'[\n {"a": 1,\n  "b": "x\\ny"},\n {"a": 2.0, "A": 3}\n]', "a.json") == (
        ["a", "b", "A_1"],
        [(1, None, ["1", "x\ny", None]), (2, None, ["2.0", None, "3"])],
    )
