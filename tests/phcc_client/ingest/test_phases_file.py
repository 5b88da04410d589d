from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from phase_examinations import T1, make

from phcc_client.ingest.phase_rules import recognise_series
from phcc_client.ingest.phases_file import PhasesFile, Unsure, load_phases, parse_phases, template, unsure_of
from phcc_model.errors import ConfigError

GOLDEN = Path(__file__).parent / "data" / "phases_template.yaml"


def uncommented(text: str) -> str:
    """As a person leaves the draft who removes every # before a line of rules or patients."""
    _, rest = text.split("\nrules:\n")
    return (
        "rules:\n"
        + "\n".join(line.removeprefix("#") for line in rest.splitlines() if not re.match("# [^ ]", line))
        + "\n"
    )


def some_unsure() -> tuple[Unsure, ...]:
    first = [make(3, "T1 post", 0, **T1), make(4, 'THRIVE "BH" 4: müde', 50, **T1), make(5, "T2 HASTE", 60)]
    points = [
        make(7, "THRIVE dyn", None, temporal_position=n, time_points=3, uid="7", **T1) for n in (1, 2, 3)
    ]
    swapped = [make(1, "portal", 0), make(2, "arterial", 60)]
    return (
        *unsure_of("4711", first, recognise_series(first)),
        *unsure_of("0815", points, recognise_series(points)),
        *unsure_of('O"Brien: #1', swapped, recognise_series(swapped)),
    )


def test_the_draft() -> None:
    assert template(some_unsure()) == GOLDEN.read_text(encoding="utf-8")


def test_the_draft_does_not_depend_on_the_order() -> None:
    assert template(some_unsure()[::-1]) == template(some_unsure())


def test_the_draft_says_nothing_until_a_sign_is_removed() -> None:
    assert parse_phases(template(some_unsure()), where="phases.yaml") == PhasesFile()
    assert parse_phases(template(()), where="phases.yaml") == PhasesFile()


def test_the_draft_is_valid_when_the_signs_are_removed() -> None:
    draft = uncommented(template(some_unsure()))
    with pytest.raises(ConfigError, match=r"should be .* \(found 'which\?'\)"):
        parse_phases(draft, where="phases.yaml")
    rules = parse_phases(draft.replace("which?", "delayed"), where="phases.yaml")
    assert rules.patients["0815"] == {f"series 7, time point {n}": "delayed" for n in (1, 2, 3)}
    assert rules.patients['O"Brien: #1'] == {"series 1": "portal-venous", "series 2": "arterial"}
    assert {rule.description for rule in rules.rules} >= {"T1 post", 'THRIVE "BH" 4: müde'}


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=30), patient=st.text(min_size=1, max_size=20), number=st.integers(0, 10**6))
def test_a_draft_of_strange_texts_is_valid(text: str, patient: str, number: int) -> None:
    series = [make(number, text, 0, "", None, scanning_sequence=("GR",))]
    draft = template(unsure_of(patient, series, recognise_series(series)))
    assert parse_phases(draft, where="phases.yaml") == PhasesFile()
    yaml.safe_load(uncommented(draft))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "patients: {4711: {series 12: arterial}}",
            'write the patient 4711 in quotes ("...", with its leading zeros)',
        ),
        ("rule: []", "rule: unknown key (did you mean rules?)"),
        (
            "rules:\n- {descripton: a, phase: arterial}",
            "'descripton' is an unknown key (did you mean description?)",
        ),
        ("rules:\n- {description: a, phase: artrial}", "rules[0].phase: should be"),
        ("rules:\n- {phase: arterial}", "a rule needs a description, a protocol or a series number"),
        ("rules:\n- {description: a}", "rules[0].phase: a value is missing here"),
        ("rules:\n- {series: -1, phase: other}", "rules[0].series"),
        ('patients: {"1": {"ser 12": arterial}}', 'write "series 12" or "series 12, time point 2"'),
        ('patients: {"1": {"series 12": image}}', "should be"),
        ("- a", "is not a list of rules"),
        ("rules: [", "is not valid YAML"),
        ('patients: {"1": {}, "1": {}}', "stands twice"),
        ("patients: []", "patients: should be"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_phases(text, where="phases.yaml")
    assert complaint in str(raised.value)
    assert str(raised.value).startswith("phases.yaml: ")
    assert "\n" not in str(raised.value)


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.text("rulespatients:-{}[]\"'#&*!|> \n123,", max_size=60)))
def test_any_text_is_rules_or_an_error(text: str) -> None:
    with suppress(ConfigError):
        assert isinstance(parse_phases(text, where="phases.yaml"), PhasesFile)


def test_patterns_are_globs_and_capitals_do_not_count() -> None:
    rules = parse_phases(
        'rules:\n- {description: "*thrive*BH*4*", phase: delayed}\n'
        '- {protocol: "LIVER?", series: 3, phase: other}\n'
        "- {series: 9, time_point: 2, phase: arterial}\n",
        where="",
    )

    def of(number: int, description: str, **facts: object) -> str | None:
        found = rules.phase_of(make(number, description, None, "", facts).facts, "x")
        return found and found[0]

    assert of(1, "e-THRIVE  bh scan 4b") == "delayed"
    assert of(1, "THRIVE 4 BH") is None
    assert of(3, "a", protocol="liver1") == "other"
    assert of(3, "a", protocol="liver") is None
    assert of(9, "a", temporal_position=2) == "arterial"
    assert of(9, "a", temporal_position=1) is None


def test_the_patient_s_line_wins_and_a_time_point_before_the_series() -> None:
    rules = parse_phases(
        "rules: [{series: 7, phase: other}]\n"
        'patients:\n  "007": {series 7: delayed, "Series 7 time point 2": arterial}\n',
        where="",
    )
    of = [rules.phase_of(make(7, "", None, temporal_position=n).facts, "007") for n in (1, 2)]
    assert [found and found[0] for found in of] == ["delayed", "arterial"]
    assert rules.phase_of(make(7, "", None).facts, "7") == ("other", "rule 1 of phases.yaml")


def test_a_line_for_a_series_that_is_not_there_is_told() -> None:
    rules = parse_phases('patients: {"1": {series 7: delayed, series 8: other}}', where="")
    assert rules.unmatched("1", [make(8, "", None)]) == ("series 7",)
    assert rules.unmatched("2", []) == ()


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "phases.yaml"
    path.write_text("rules:\n", encoding="utf-8")
    assert load_phases(path) == PhasesFile()
    with pytest.raises(ConfigError, match="no such file"):
        load_phases(tmp_path / "missing.yaml")
