"""What a model saw, put together from its sites."""

from __future__ import annotations

from phcc_server.ledger import CardRecord
from phcc_server.seen import in_words, seen_of


def card(patients: int, **ends: tuple[float, float]) -> CardRecord:
    seen = {}
    for name, (low, high) in ends.items():
        plain = name.replace("__", ".").replace("_", "-")
        seen |= {f"{plain}.low": low, f"{plain}.high": high}
    return CardRecord(patients={"train": patients}, seen=seen)


def test_the_widest_ranges_of_all_sites_stand_for_the_model() -> None:
    spacing = {"spacing__d": (2.0, 3.0), "spacing__h": (1.0, 1.5), "spacing__w": (1.0, 1.5)}
    found = seen_of(
        {
            "A": card(40, **spacing, field=(1.5, 1.5), enhancement__arterial=(0.1, 0.6)),
            "B": card(20, **{**spacing, "spacing__d": (2.5, 5.0)}, field=(3.0, 3.0)),
            "C": card(30, enhancement__arterial=(0.3, 0.9), seconds__arterial__portal_venous=(30.0, 50.0)),
            "silent": card(90),
            "external": CardRecord(patients={"test": 50}),
        }
    )
    assert found is not None
    assert (found.patients, found.sites) == (90, 3)
    assert found.spacing_mm is not None
    assert [(s.low, s.high) for s in found.spacing_mm] == [(2.0, 5.0), (1.0, 1.5), (1.0, 1.5)]
    assert found.field_t is not None
    assert (found.field_t.low, found.field_t.high) == (1.5, 3.0)
    assert set(found.enhancement) == {"arterial"}
    assert (found.enhancement["arterial"].low, found.enhancement["arterial"].high) == (0.1, 0.9)
    assert [(b.first, b.then, b.seconds.high) for b in found.seconds] == [("arterial", "portal-venous", 50.0)]
    assert len(list(in_words(found))) == 4


def test_where_no_site_said_anything_nothing_is_known() -> None:
    assert seen_of({}) is None
    assert seen_of({"A": card(9)}) is None
