from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from phcc_model.errors import StorageError
from phcc_server.journal import Event, Journal, in_one_line


def told(journal: Journal) -> list[tuple[str, dict[str, object]]]:
    return [(event.kind, event.fields) for event in journal.new_events()]


def test_what_one_process_writes_another_reads_once_and_in_order(tmp_path: Path) -> None:
    writer, reader = Journal(tmp_path / "j"), Journal(tmp_path / "j")
    assert told(reader) == []  # not begun yet
    writer.write("note", text="Köln: keine\nzwei Zeilen \u2028")
    writer.write("round", arm="full", round=0, loss=None, left_out=["A: x"])
    assert told(reader) == [
        ("note", {"text": "Köln: keine\nzwei Zeilen \u2028"}),
        ("round", {"arm": "full", "round": 0, "loss": None, "left_out": ["A: x"]}),
    ]
    assert told(reader) == []
    writer.write("done")
    assert told(reader) == [("done", {})]
    assert [kind for kind, _ in told(Journal(tmp_path / "j"))] == ["note", "round", "done"]


def test_an_event_knows_when_it_happened(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write("done")
    (event,) = journal.new_events()
    assert abs(event.at - (tmp_path / "j").stat().st_mtime) < 5.0


def test_who_watches_in_the_same_process_is_told_what_is_written(tmp_path: Path) -> None:
    heard: list[Event] = []
    journal = Journal(tmp_path / "j", heard.append)
    journal.write("note", text="one")
    assert heard == list(Journal(tmp_path / "j").new_events())


def test_a_line_still_being_written_is_left_for_the_next_time(tmp_path: Path) -> None:
    path = tmp_path / "j"
    Journal(path).write("note", text="whole")
    Journal(path).write("note", text="half")
    content = path.read_bytes()
    path.write_bytes(content[:-9])
    reader = Journal(path)
    assert told(reader) == [("note", {"text": "whole"})]
    assert told(reader) == []
    path.write_bytes(content)
    assert told(reader) == [("note", {"text": "half"})]


events = st.lists(st.text(max_size=12), max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=events, shares=st.lists(st.floats(0, 1), max_size=5))
def test_however_the_bytes_arrive_every_event_is_told_once(
    texts: list[str], shares: list[float], tmp_path: Path
) -> None:
    path = tmp_path / "whole"
    path.unlink(missing_ok=True)
    writer = Journal(path)
    for text in texts:
        writer.write("note", text=text)
    content = path.read_bytes() if texts else b""
    arriving, reader = tmp_path / "arriving", Journal(tmp_path / "arriving")
    arriving.write_bytes(b"")
    heard = []
    for end in [*(int(share * len(content)) for share in sorted(shares)), len(content)]:
        arriving.write_bytes(content[:end])
        heard += [fields["text"] for _, fields in told(reader)]
    assert heard == texts


def test_a_line_that_a_full_disk_cut_short_hides_only_itself_and_what_was_glued_to_it(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.write("note", text="one")
    with path.open("a") as stream:
        stream.write('{"kind": "round", "ar')
    journal.write("note", text="lost")
    journal.write("failed", text="no space left")
    assert told(Journal(path)) == [("note", {"text": "one"}), ("failed", {"text": "no space left"})]


def test_a_journal_that_cannot_be_written_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"the journal cannot be written .*choose another --out"):
        Journal(tmp_path / "no" / "folder").write("note", text="x")


@pytest.mark.parametrize(
    ("kind", "fields", "line"),
    [
        (
            "round",
            {
                "arm": "full",
                "stage": "finetune",
                "round": 1,
                "status": "PARTIAL",
                "loss": 0.12345,
                "auc": None,
            }
            | {"validation_loss": 0.5, "seconds": 3.0},
            "full finetune round 2: PARTIAL loss 0.123 validation_loss 0.500 seconds 3.000",
        ),
        ("plan", {"arms": [{"arm": "full"}, {"arm": "afp"}]}, "arms: full, afp"),
        ("note", {"text": "as it is"}, "as it is"),
        ("failed", {"text": "why"}, "why"),
        ("done", {}, "done"),
    ],
)
def test_an_event_is_one_line_of_a_log(kind: str, fields: dict[str, object], line: str) -> None:
    assert in_one_line(Event(kind, fields)) == line
