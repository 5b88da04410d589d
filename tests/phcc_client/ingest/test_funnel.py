from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from phcc_client.ingest.funnel import STAGES, class_of, make_funnel, not_reached
from phcc_client.ingest.record import Finding, LesionRecord, PatientRecord, PhaseRecord, Stage


def finding(stops: Stage | None, code: str = "x") -> Finding:
    return Finding(code=code, text=f"{code} happened", remedy=f"undo {code}", stops=stops)


def record(
    patient: str, reached: Stage = Stage.USABLE, label: int = 1, findings: Sequence[Finding] = ()
) -> PatientRecord:
    whole = reached in (Stage.USABLE, Stage.USED)
    phase = PhaseRecord(phase="arterial", file="a", sha256="", pixels=patient, aligned="off")
    lesion = LesionRecord(
        case=f"{patient}-1", mask="m", sha256="", drawn_on="arterial", volume_ml=1, centre_mm_zyx=(0, 0, 0)
    )
    return PatientRecord.model_validate(
        {
            "patient": patient,
            "inputs": "",
            "reached": reached,
            "label": label,
            "findings": tuple(findings),
            "phases": (phase,) if whole else (),
            "lesions": (lesion,) if whole else (),
        }
    )


def test_a_small_site_by_hand() -> None:
    funnel = make_funnel(
        [
            record("a", label=1),
            record("b", label=0),
            record("c", label=-1, findings=[finding(None, "label-unknown")]),
            record("d", Stage.MR_LIVER, 1, [finding(Stage.PHASES, "no-pre-contrast")]),
            record("e", Stage.FOUND, 0, [finding(Stage.READABLE, "broken"), finding(Stage.LESION, "none")]),
            record("f", Stage.LESION, -1, [finding(Stage.LABEL, "label-invalid")]),
        ]
    )
    counted = [
        (c.stage.value, c.proliferative, c.not_proliferative, c.unknown, c.total, c.pretraining_only)
        for c in funnel.stages
    ]
    assert counted == [
        ("found", 2, 2, 2, 6, 0),
        ("readable", 2, 1, 2, 5, 0),
        ("MR liver", 2, 1, 2, 5, 0),
        ("phases complete", 1, 1, 2, 4, 0),
        ("lesion located", 1, 1, 2, 4, 0),
        ("label known", 1, 1, 1, 2, 1),
        ("usable", 1, 1, 1, 2, 1),
    ]
    assert [(one.patient, one.stage, one.code) for one in funnel.dropouts] == [
        ("e", Stage.READABLE, "broken"),
        ("d", Stage.PHASES, "no-pre-contrast"),
        ("f", Stage.LABEL, "label-invalid"),
    ]
    assert funnel.dropouts[0].further == ("none happened",)
    assert funnel.at(Stage.USED) is None


def test_used_is_what_the_prepared_study_takes() -> None:
    records = [record("a"), record("b"), record("c", label=-1)]
    records.append(record("d", findings=[finding(Stage.USABLE, "duplicate")]))
    used = {"a-1": True, "b-1": False, "c-1": True, "d-1": True, "elsewhere": True}
    funnel = make_funnel(records, used)
    assert funnel.stages[-1].total == 1
    assert funnel.stages[-1].pretraining_only == 1
    assert funnel.not_used == ("b",)
    assert funnel.used_though_stopped == ("d",)
    assert make_funnel(records, {}).stages[-1].total == 0


def test_a_dropout_without_a_reason_is_still_told() -> None:
    (dropout,) = make_funnel([record("a", Stage.PHASES)]).dropouts
    assert (dropout.stage, dropout.code) == (Stage.LESION, "no-reason-recorded")
    assert dropout.remedy


def test_where_record_and_findings_disagree_the_earlier_counts() -> None:
    assert not_reached(record("a", findings=[finding(Stage.LESION)])) is Stage.LESION
    assert not_reached(record("a", Stage.FOUND, findings=[finding(Stage.LESION)])) is Stage.READABLE
    assert not_reached(record("a", Stage.USED)) is None


def test_reasons_are_counted_by_stage_and_code() -> None:
    records = [record(f"p{i}", Stage.MR_LIVER, i % 2, [finding(Stage.PHASES, "no-pre")]) for i in range(7)]
    records += [record("z", Stage.READABLE, 1, [finding(Stage.MR_LIVER, "wrong-modality")])]
    reasons = make_funnel(records).reasons
    assert [(reason.code, reason.patients) for reason in reasons] == [("wrong-modality", 1), ("no-pre", 7)]


def test_nobody_at_all() -> None:
    funnel = make_funnel([])
    assert [count.total for count in funnel.stages] == [0] * 7
    assert funnel.dropouts == ()


findings = st.lists(
    st.builds(finding, st.sampled_from([None, *STAGES[1:]]), st.sampled_from("abc")), max_size=3
)


@given(
    st.lists(st.tuples(st.sampled_from(STAGES), st.sampled_from([-1, 0, 1]), findings), max_size=15),
    st.one_of(st.none(), st.dictionaries(st.integers(0, 14).map(lambda i: f"p{i:02d}-1"), st.booleans())),
)
def test_nobody_is_lost_and_nobody_counted_twice(
    made: list[tuple[Stage, int, list[Finding]]], used: dict[str, bool] | None
) -> None:
    records = [record(f"p{i:02d}", *one) for i, one in enumerate(made)]
    funnel = make_funnel(records, used)
    everyone = [count.total + count.pretraining_only for count in funnel.stages]
    assert everyone[0] == len(records)
    assert everyone == sorted(everyone, reverse=True)
    usable = everyone[STAGES.index(Stage.USABLE)]
    assert len(funnel.dropouts) + usable == len(records)
    assert sum(reason.patients for reason in funnel.reasons) == len(funnel.dropouts)
    assert all(one.text for one in funnel.dropouts)
    for count in funnel.stages:
        assert count.proliferative + count.not_proliferative + count.unknown == (
            count.total + count.pretraining_only
        )
    if used is not None:
        assert everyone[-1] + len(funnel.not_used) == usable
    assert funnel == make_funnel(records[::-1], used)


def test_classes_have_names() -> None:
    assert [class_of(label) for label in (1, 0, -1)] == ["proliferative", "not proliferative", "unknown"]
