from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from phcc_model.chain import Chain
from phcc_model.errors import StorageError
from phcc_server.ledger import (
    CardRecord,
    Ledger,
    RoundRecord,
    ScoreCounts,
    SiteRecord,
    ValidationRecord,
    cards_of,
    read_rounds,
    verify,
)
from phcc_server.rounds import RoundStatus


def record(number: int) -> RoundRecord:
    return RoundRecord(
        arm="full",
        stage="finetune",
        round=number,
        status=RoundStatus.PARTIAL,
        started="2030-01-02T03:04:05+00:00",
        finished="2030-01-02T03:04:09+00:00",
        seconds=4.0,
        sites={
            "H1": SiteRecord(
                status="accepted",
                patients=40,
                cases=44,
                steps=3,
                seconds=2.5,
                bytes_up=1000 + number,
                bytes_down=2000,
                metrics={"loss": 0.1 + number},
                delta_norm=0.3,
                weight=40.0,
            ),
            "H2": SiteRecord(status="refused", reason="change: shape is (1,)", bytes_up=12, bytes_down=2000),
        },
        digest_before="a" * 64,
        digest_after="b" * 64,
        validation=ValidationRecord(
            loss=0.5,
            auc=0.75,
            cases=9,
            counts={"H1": ScoreCounts(positives={7: 2, 110: 3}, negatives={3: 4})},
        ),
        best=number == 1,
        versions={"phcc-ssl-federated": "0.1.0"},
        cards={"H1": CardRecord(patients={"train": 40}, seen={"field.low": 1.5, "field.high": 3.0})}
        if number == 0
        else {},
    )


def written(path: Path, rounds: int = 4) -> list[RoundRecord]:
    ledger = Ledger(path)
    records = [record(number) for number in range(rounds)]
    for one in records:
        ledger.append(one)
    return records


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file may grow beyond so many bytes, as the operating system itself enforces it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_appended_is_read_in_order_and_holds(tmp_path) -> None:
    path = tmp_path / "run" / "ledger.jsonl"
    records = written(path)
    assert Ledger(path).read() == tuple(records)
    assert verify(path) == ()
    assert records[0].started == datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_an_opened_ledger_goes_on_with_the_chain(tmp_path) -> None:
    path, other = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    written(path, 4)
    written(other, 2)
    again = Ledger(other)
    assert again.notes == ()
    again.append(record(2))
    again.append(record(3))
    assert other.read_bytes() == path.read_bytes()
    assert again.head == Ledger(path).head


def test_no_ledger_is_an_empty_one_and_looking_makes_no_file(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    assert verify(path) == ()
    assert Ledger(path).read() == ()
    assert list(tmp_path.iterdir()) == []


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("at", range(4))
def test_every_altered_line_is_found(tmp_path, at) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    lines = lines_of(path)
    altered = json.loads(lines[at])
    altered["record"]["validation"]["auc"] = 0.99
    lines[at] = (json.dumps(altered, sort_keys=True) + "\n").encode()
    path.write_bytes(b"".join(lines))
    assert verify(path) == (f"line {at + 1} has been altered",)
    with pytest.raises(StorageError, match=f"line {at + 1} has been altered"):
        Ledger(path)


@pytest.mark.parametrize("at", range(4))
def test_every_removed_doubled_or_moved_line_is_found(tmp_path, at) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    lines = lines_of(path)
    for changed in (
        lines[:at] + lines[at + 1 :],
        [*lines[: at + 1], *lines[at:]],
        [*lines[:at], *reversed(lines[at : at + 2]), *lines[at + 2 :]] if at < 3 else lines[::-1],
        lines[:at],
    ):
        path.write_bytes(b"".join(changed))
        assert verify(path), len(changed)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_of_a_record_is_found(tmp_path, data) -> None:
    path = tmp_path / "ledger.jsonl"
    if not path.exists():
        written(path, 3)
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 2))  # the last line's end is what a crash may cut
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != content[at]))
    try:
        path.write_bytes(content[:at] + bytes([byte]) + content[at + 1 :])
        assert verify(path)
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("old", "new"), [(b'"arm": "full"', b'"arm":\t"full"'), (b'"seconds": 4.0', b'"seconds": 4e0')]
)
def test_other_bytes_for_the_same_record_are_found_too(tmp_path, old, new) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path, 2)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, 1))
    assert verify(path)


def test_a_rewritten_chain_with_its_old_head_is_found(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    head = path.with_name("ledger.jsonl.head").read_bytes()
    path.unlink()
    path.with_name("ledger.jsonl.head").unlink()
    ledger = Ledger(path)
    for number in (0, 1, 2, 7):
        ledger.append(record(number))
    assert verify(path) == ()
    path.with_name("ledger.jsonl.head").write_bytes(head)
    assert verify(path) == ("line 4 is not the one that the head names",)


@pytest.mark.parametrize("head", [None, b"", b"{}", b'{"lines":"x","seal":1}', b'{"lines":1,"seal":"0"}'])
def test_a_missing_or_wrong_head_is_found(tmp_path, head) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path)
    beside = path.with_name("ledger.jsonl.head")
    beside.unlink()
    if head is not None:
        beside.write_bytes(head)
    assert len(verify(path)) == 1


@pytest.mark.parametrize("cut", [1, 2, 40, 300])
def test_a_last_line_that_a_crash_cut_short_is_dropped_with_a_note(tmp_path, cut) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path, 3)
    whole, head = path.read_bytes(), path.with_name("ledger.jsonl.head").read_bytes()
    Ledger(path).append(record(3))
    path.write_bytes(path.read_bytes()[:-cut])  # the crash came before the line was whole, so before its head
    path.with_name("ledger.jsonl.head").write_bytes(head)
    assert verify(path) == ()
    ledger = Ledger(path)
    assert len(ledger.notes) == 1
    assert "line 4 was cut short" in ledger.notes[0]
    assert path.read_bytes() == whole
    ledger.append(record(3))
    assert [one.round for one in Ledger(path).read()] == [0, 1, 2, 3]


def test_a_crash_between_a_line_and_its_head_loses_nothing(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path, 2)
    head = path.with_name("ledger.jsonl.head").read_bytes()
    Ledger(path).append(record(2))
    path.with_name("ledger.jsonl.head").write_bytes(head)
    assert verify(path) == ()
    ledger = Ledger(path)
    ledger.append(record(3))
    assert [one.round for one in ledger.read()] == [0, 1, 2, 3]
    assert verify(path) == ()


def test_a_crash_before_the_first_line_leaves_an_empty_ledger(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path, 1)
    path.write_bytes(path.read_bytes()[:50])
    path.with_name("ledger.jsonl.head").write_text(json.dumps({"lines": 0, "seal": "0" * 64}))
    ledger = Ledger(path)
    assert len(ledger.notes) == 1
    ledger.append(record(0))
    assert Ledger(path).read() == (record(0),)


def test_a_full_disk_is_an_error_that_loses_nothing_and_can_be_tried_again(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    records = written(path, 3)
    before = path.read_bytes()
    ledger = Ledger(path)
    with full_disk(len(before) + 100), pytest.raises(StorageError, match="no space left"):
        ledger.append(record(3))
    assert path.read_bytes() == before
    assert verify(path) == ()
    ledger.append(record(3))
    assert Ledger(path).read() == (*records, record(3))


def test_a_head_that_cannot_be_written_takes_its_line_back(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path, 1)
    ledger = Ledger(path)
    head = path.with_name("ledger.jsonl.head")
    head.unlink()
    head.mkdir()  # nothing can be put in its place
    for _ in range(3):
        with pytest.raises(StorageError):
            ledger.append(record(1))
    head.rmdir()
    ledger.append(record(1))
    assert [one.round for one in Ledger(path).read()] == [0, 1]


def test_a_place_that_is_no_file_is_one_line(tmp_path) -> None:
    folder = tmp_path / "ledger.jsonl"
    folder.mkdir()
    with pytest.raises(StorageError, match="cannot be written or read"):
        Ledger(folder)


@pytest.mark.parametrize(
    "changed",
    [
        {"stage": "warmup"},
        {"round": -1},
        {"status": "GOOD"},
        {"started": "2030-01-02T03:04:05"},  # whose time?
        {"seconds": float("nan")},
        {"sites": {"H1": {"status": "lost"}}},
        {"sites": {"H1": {"status": "accepted", "metrics": {"loss": float("inf")}}}},
        {"mood": "good"},
    ],
)
def test_a_record_that_makes_no_sense_is_refused(changed) -> None:
    with pytest.raises(ValidationError):
        RoundRecord.model_validate(record(0).model_dump() | changed)


def test_a_ledger_of_an_earlier_version_is_read(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    old = record(0).model_dump(mode="json", exclude={"cards": True, "validation": {"counts"}})
    Chain(path, "the record of rounds", "x").append(old)
    (read,) = read_rounds(path)
    assert read.validation is not None
    assert read.validation.counts == {}
    assert read.validation.histogram.positives == 0
    assert verify(path) == ()
    Ledger(path).append(record(1))
    assert verify(path) == ()


def test_counts_are_sealed_like_all_the_rest(tmp_path) -> None:
    path = tmp_path / "ledger.jsonl"
    written(path, 2)
    content = path.read_bytes()
    assert b'"110": 3' in content
    path.write_bytes(content.replace(b'"110": 3', b'"110": 4', 1))
    assert verify(path) == ("line 1 has been altered",)


def test_the_last_card_of_a_site_counts_and_a_report_is_told_neither_cards_nor_counts() -> None:
    first, later = record(0), record(1)
    anew = CardRecord(patients={"train": 50})
    rounds = [first, later, record(2).model_copy(update={"cards": {"H1": anew, "H0": anew}})]
    assert cards_of(rounds) == {"H0": anew, "H1": anew}
    assert list(cards_of(rounds)) == ["H0", "H1"]
    assert cards_of(rounds, "another arm") == {}
    assert not {"cards"} & set(first.told())
    assert "counts" not in first.told()["validation"]


@pytest.mark.parametrize("bins", [{"200": 1}, {"-1": 1}, {"3": -1}])
def test_counts_that_make_no_sense_are_refused(bins) -> None:
    with pytest.raises(ValidationError):
        ScoreCounts.model_validate({"positives": bins})
