from __future__ import annotations

import random

import phase_examinations as plain
import phase_examinations_timed as timed
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from phase_examinations import SHORT, T1, Examination, exam, make

from phcc_client.ingest.phase_rules import Taken, recognise_series
from phcc_client.ingest.phase_vocabulary import PHASE_WORDS
from phcc_client.ingest.phases_file import PhasesFile, parse_phases

TABLE = (
    *plain.NAMED,
    *plain.WITH_OTHERS,
    *timed.ORDERED,
    *timed.CHOSEN,
    *timed.CONTRADICTED,
    *timed.LANGUAGES,
)


def short(taken: Taken) -> str:
    """As the tables write it."""
    if taken.certainty == "unsure":
        return "USED UNSURE" if taken.used else "?"
    name = SHORT[taken.taken_for]
    return name if taken.used or name in ("other", "none") else f"-{name}"


def test_the_table_is_large_and_its_names_are_its_own() -> None:
    assert len(TABLE) >= 80
    assert len({examination.name for examination in TABLE}) == len(TABLE)


@pytest.mark.parametrize("examination", TABLE, ids=lambda e: e.name)
def test_series_of_an_examination(examination: Examination) -> None:
    taken = recognise_series(examination.series, None)
    assert [short(t) for t in taken] == examination.wanted, "\n".join(
        f"{row[0]!r} at {row[1]}: {t}" for row, t in zip(examination.rows, taken, strict=True)
    )


@pytest.mark.parametrize("examination", TABLE, ids=lambda e: e.name)
def test_whoever_is_not_used_is_told_why_and_no_phase_is_used_twice(examination: Examination) -> None:
    taken = recognise_series(examination.series, None)
    used = [t.taken_for for t in taken if t.used]
    assert len(used) == len(set(used))
    for t in taken:
        assert t.rule
        assert t.used == (t.why_not == "")
        assert "\n" not in t.rule + t.why_not


@pytest.mark.parametrize("examination", TABLE, ids=lambda e: e.name)
def test_the_order_of_the_files_does_not_matter(examination: Examination) -> None:
    series = list(examination.series)
    taken = dict(zip((id(s) for s in series), recognise_series(series, None), strict=True))
    for seed in range(3):
        shuffled = random.Random(seed).sample(series, len(series))
        assert [taken[id(s)] for s in shuffled] == list(recognise_series(shuffled, None))


@pytest.mark.parametrize("examination", plain.NAMED, ids=lambda e: e.name)
def test_a_series_less_never_turns_a_word_into_another_phase(examination: Examination) -> None:
    series = list(examination.series)
    wanted = [w.strip("-") for w in examination.wanted]
    for left_out in range(len(series)):
        rest = series[:left_out] + series[left_out + 1 :]
        names = wanted[:left_out] + wanted[left_out + 1 :]
        for t, want in zip(recognise_series(rest, None), names, strict=True):
            assert t.certainty == "unsure" or SHORT[t.taken_for] == want


def test_nothing_that_a_person_typed_reaches_the_rule() -> None:
    series = [
        make(n, f"t1_vibe {w} MUELLER^HANS 4711", 60.0 * n, **T1)
        for n, w in enumerate(["pre", "art", "x", "T2"])
    ]
    for t in recognise_series(series, None):
        assert "mueller" not in f"{t.rule} {t.why_not}".lower()
        assert "4711" not in f"{t.rule} {t.why_not}"


def test_the_rule_is_readable() -> None:
    taken = recognise_series(exam("", *timed.ORDERED[0].rows).series, None)
    assert taken[2].rule == "by order of acquisition: time point 3 of 4, 105 s after the first"
    assert recognise_series([make(1, "T1 Vibe arteriell", 0)], None)[0].rule == "description says 'arteriell'"
    portal = recognise_series([make(1, "portal", 0), make(2, "arterial", 60)], None)[1]
    assert portal.rule == (
        "description says 'arterial', but it was acquired after series 1, the portal-venous phase"
    )


def test_the_site_s_word_wins_and_says_so() -> None:
    rules = parse_phases(
        'rules:\n- {description: "*sub*", phase: arterial}\n- {series: 2, phase: other}\n'
        'patients:\n  "4711": {series 3: delayed}\n',
        where="phases.yaml",
    )
    series = [make(1, "SUB 1", 0), make(2, "pv", 60), make(3, "arterial", 200)]
    taken = recognise_series(series, rules, patient="4711")
    assert [short(t) for t in taken] == ["art", "other", "del"]
    assert [t.rule for t in taken] == [
        "rule 1 of phases.yaml",
        "rule 2 of phases.yaml",
        "phases.yaml says so for this patient",
    ]
    assert [short(t) for t in recognise_series(series, rules, patient="9")] == ["art", "other", "-art"]


def test_what_the_site_says_settles_what_was_unsure_around_it() -> None:
    series = exam("", *[("vibe", None, "", T1)] * 3).series
    assert {t.certainty for t in recognise_series(series, None)} == {"unsure"}
    rules = parse_phases("rules:\n- {series: 1, phase: arterial}\n", where="phases.yaml")
    assert [short(t) for t in recognise_series(series, rules)] == ["art", "pv", "del"]


def test_a_word_that_contradicts_the_site_is_unsure() -> None:
    rules = parse_phases("rules:\n- {series: 1, phase: portal-venous}\n", where="phases.yaml")
    series = [make(1, "x", 0, **T1), make(2, "arterial", 90, **T1), make(3, "delayed", 200, **T1)]
    assert [short(t) for t in recognise_series(series, rules)] == ["pv", "?", "del"]


def test_a_named_study_is_taken_although_another_has_more() -> None:
    series = [make(1, "art", 0, study="a"), make(2, "art", 9, study="b"), make(3, "pv", 99, study="b")]
    assert [short(t) for t in recognise_series(series, None)] == ["-art", "art", "pv"]
    assert [short(t) for t in recognise_series(series, None, study="a")] == ["art", "-art", "-pv"]


def test_of_two_that_nothing_tells_apart_one_is_used() -> None:
    series = [make(4, "art", 9, uid="1"), make(4, "art", 9, uid="1")]
    assert [short(t) for t in recognise_series(series, None)] == ["art", "-art"]


def test_no_series_is_no_error() -> None:
    assert recognise_series([], None) == ()


WORDS = [(word.replace("*", ""), phase) for phase, words in PHASE_WORDS.items() for word in words]
ANY_SERIES = st.builds(
    lambda text, word, at, number, point, extra: (f"{text} {word}", at, "", {
        "series_number": number, "temporal_position": point, "time_points": 3 if point else 1, **extra}),
    st.sampled_from(["t1_vibe", "LAVA", "", "dixon_W", "T2", "sub", "THRIVE BH", "\x00\ud800", "5 min"]),
    st.sampled_from([*(w for w, _ in WORDS), "", "", "", "pre post", "20 min", "30 sec"]),
    st.one_of(st.none(), st.integers(-100, 4000)),
    st.one_of(st.none(), st.integers(0, 30)),
    st.one_of(st.none(), st.integers(1, 3)),
    st.fixed_dictionaries({}, optional={
        "contrast_agent": st.sampled_from(["Primovist", "Gadovist", "YES", "none"]),
        "derived": st.booleans(), "slices": st.integers(1, 90), "defect": st.sampled_from(["", "broken"]),
        "injected": st.integers(-50, 300), "uid": st.sampled_from(["1",
             "2"]), "study": st.sampled_from(["a", "b"]),
        "trigger_time_ms": st.sampled_from([0.0, 2e4]), "echo_time_ms": st.sampled_from([1.9, 90.0]),
        "scanning_sequence": st.sampled_from([("GR",), ("SE",), ("EP",)]),
    }),
)  # fmt: skip
ANY_RULES = st.sampled_from(
    [
        None,
        PhasesFile(),
        parse_phases('rules: [{series: 3, phase: arterial}, {description: "*", phase: delayed}]', where=""),
    ]
)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ANY_SERIES, max_size=9), rules=ANY_RULES, seed=st.integers(0, 9))
def test_whatever_the_headers_hold(
    rows: list[tuple[object, ...]], rules: PhasesFile | None, seed: int
) -> None:
    series = exam("any", *rows).series
    taken = recognise_series(series, rules)
    assert len(taken) == len(series)
    used = [t.taken_for for t in taken if t.used]
    assert len(used) == len(set(used))
    assert not {"other", None} & set(used)
    assert len({s.study for s, t in zip(series, taken, strict=True) if t.used}) <= 1
    for one, t in zip(series, taken, strict=True):
        assert not (t.used and t.certainty == "unsure")
        assert not (t.used and one.image is None)
        assert t.used == (t.why_not == "")
    shuffled = random.Random(seed).sample(range(len(series)), len(series))
    again = recognise_series([series[i] for i in shuffled], rules)
    # Series that nothing tells apart may change places with each other.
    assert sorted(map(repr, again)) == sorted(map(repr, taken))
