from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from builders import tiny_study
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_client.policy import MOST_STUDIES, Policy, arms_of
from phcc_model.contract.enrolment import StudyCard
from phcc_model.errors import ConfigError, PolicyError, StorageError
from phcc_model.study_file import dump_study

STUDIES = [tiny_study(), tiny_study(seed=1), tiny_study(finetune={"rounds": 3}), tiny_study(name="other")]
TEXTS = {study.digest: dump_study(study) for study in STUDIES}
DIGESTS = list(TEXTS)
FIRST, SECOND = DIGESTS[:2]


@pytest.fixture
def policy(tmp_path: Path) -> Policy:
    return Policy(tmp_path)


def allowed(policy: Policy, digest: str) -> bool:
    try:
        policy.check(TEXTS[digest], digest)
    except PolicyError:
        return False
    return True


def test_nothing_runs_that_nobody_approved(policy: Policy) -> None:
    with pytest.raises(PolicyError, match="has not been approved at this hospital") as refusal:
        policy.check(TEXTS[FIRST], FIRST)
    assert f"phcc-client approve {FIRST[:12]}" in str(refusal.value)
    assert policy.decision(FIRST) == "new"


def test_a_study_that_was_ordered_is_known_before_it_is_approved(policy: Policy) -> None:
    allowed(policy, FIRST)
    (known,) = policy.studies()
    assert (known.name, known.digest, known.standing) == ("tiny", FIRST, "new")
    assert known.study == STUDIES[0]


def test_an_approved_study_runs_until_it_is_withdrawn_from(policy: Policy) -> None:
    policy.decide(FIRST, "approved", "ethics board, 12 May")
    assert policy.check(TEXTS[FIRST], FIRST) == STUDIES[0]
    policy.decide(FIRST, "withdrawn")
    with pytest.raises(PolicyError, match="was withdrawn from"):
        policy.check(TEXTS[FIRST], FIRST)
    policy.decide(FIRST, "approved")
    assert allowed(policy, FIRST)
    assert [d.decision for d in policy.decisions()] == ["approved", "withdrawn", "approved"]
    assert policy.decisions()[0].note == "ethics board, 12 May"


def test_a_decision_is_seen_by_a_policy_that_was_opened_before(tmp_path: Path) -> None:
    early = Policy(tmp_path)
    assert not allowed(early, FIRST)
    Policy(tmp_path).decide(FIRST, "approved")
    assert allowed(early, FIRST)


@settings(max_examples=40, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(DIGESTS), st.sampled_from(["approved", "refused", "withdrawn"])), max_size=8
    )
)
def test_no_sequence_of_decisions_lets_an_unapproved_study_run(steps: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        policy = Policy(Path(folder))
        last: dict[str, str] = {}
        for digest, choice in steps:
            if choice == "withdrawn" and last.get(digest) != "approved":
                with pytest.raises(PolicyError):
                    policy.decide(digest, "withdrawn")
                continue
            policy.decide(digest, choice)
            last[digest] = choice
        for digest in DIGESTS:
            assert allowed(policy, digest) == (last.get(digest) == "approved")


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(DIGESTS), st.sampled_from(DIGESTS))
def test_an_altered_study_under_an_approved_digest_does_not_run(approved: str, sent: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        policy = Policy(Path(folder))
        policy.decide(approved, "approved")
        if approved == sent:
            policy.check(TEXTS[sent], approved)
        else:
            with pytest.raises(PolicyError, match="is not the one that the order names"):
                policy.check(TEXTS[sent], approved)
            with pytest.raises(PolicyError, match="has not been approved"):
                policy.check(TEXTS[sent], sent)


def test_another_path_of_the_data_is_the_same_study(policy: Policy) -> None:
    policy.decide(FIRST, "approved")
    policy.check(dump_study(tiny_study(data={"path": "/elsewhere"})), FIRST)
    assert "/elsewhere" not in next(policy.studies_folder.glob("*.yaml")).read_text()


@pytest.mark.parametrize("damage", ["line", "head", "all", "byte"])
def test_nothing_runs_where_the_decisions_were_touched(policy: Policy, damage: str) -> None:
    for choice in ("approved", "withdrawn", "approved"):
        policy.decide(FIRST, choice)
    file = policy.decisions_file
    content = file.read_bytes()
    if damage == "line":
        file.write_bytes(b"".join(content.splitlines(keepends=True)[:1]))
    elif damage == "head":
        file.with_name(file.name + ".head").unlink()
    elif damage == "all":
        file.unlink()
    else:
        file.write_bytes(content.replace(b"withdrawn", b"approved"))
    with pytest.raises(StorageError, match="the record of decisions does not hold"):
        policy.check(TEXTS[FIRST], FIRST)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "a" * 63, f"{'a' * 60}/../"])
def test_a_digest_that_is_none_never_becomes_a_path(policy: Policy, digest: str) -> None:
    with pytest.raises(PolicyError):
        policy.see(TEXTS[FIRST], digest)
    with pytest.raises((PolicyError, ValueError)):
        policy.decide(digest, "approved")
    assert not list(policy.studies_folder.parent.rglob("*.yaml"))


def test_a_text_that_is_no_study_is_refused(policy: Policy) -> None:
    with pytest.raises(ConfigError):
        policy.check("- no\n- study\n", FIRST)


def test_a_kept_study_that_was_edited_is_found(policy: Policy) -> None:
    policy.see(TEXTS[FIRST])
    file = policy.studies_folder / f"{FIRST}.yaml"
    file.write_text(TEXTS[SECOND], encoding="utf-8")
    with pytest.raises(StorageError, match="was changed after it came in"):
        policy.studies()


def test_a_card_of_the_kit_is_known_and_its_study_joins_it(policy: Policy) -> None:
    policy.see_cards((StudyCard(name="tiny", digest=FIRST, purpose="Find pHCC"),))
    (known,) = policy.studies()
    assert (known.name, known.study, known.purpose) == ("tiny", None, "Find pHCC")
    policy.see(TEXTS[FIRST])
    (known,) = policy.studies()
    assert known.study == STUDIES[0]
    assert known.purpose == "Find pHCC"


def test_studies_are_found_by_name_or_by_a_beginning_that_is_unique(policy: Policy) -> None:
    for text in TEXTS.values():
        policy.see(text)
    assert {study.digest for study in policy.find("tiny")} == set(DIGESTS[:3])
    assert [study.name for study in policy.find("other")] == ["other"]
    assert [study.digest for study in policy.find(FIRST[:12])] == [FIRST]
    with pytest.raises(PolicyError, match="no study of this name or digest"):
        policy.find("nothing")
    with pytest.raises(PolicyError, match="no study of this name or digest"):
        policy.find("")


def test_endless_variants_do_not_fill_the_disk(policy: Policy) -> None:
    policy.studies_folder.mkdir()
    for number in range(MOST_STUDIES):
        (policy.studies_folder / f"{number}.yaml").touch()
    with pytest.raises(PolicyError, match="studies came in already"):
        policy.check(TEXTS[FIRST], FIRST)


ARMS = {
    "full": True,
    "phase:arterial": True,
    "local:H9": True,
    "joint": False,
    "afp": False,
    "phase:*": True,
    "phase:arterial+concat": True,
    "local:H9+uniform": True,
    "full+concat": False,
    "phase:arterial+mean": False,
}


@pytest.mark.parametrize(("arm", "named"), [*ARMS.items(), ("", False), ("phase:", False), ("../x", False)])
def test_an_approval_covers_the_arms_that_the_study_names(policy: Policy, arm: str, named: bool) -> None:
    arms = ["full", "phase:*", "local:*", "phase:*+concat", "local:*+uniform"]
    study = tiny_study(evaluation={"arms": arms})
    policy.decide(study.digest, "approved")
    if named:
        policy.check(dump_study(study), study.digest, arm)
    else:
        with pytest.raises(PolicyError, match="an arm that the approved study does not name"):
            policy.check(dump_study(study), study.digest, arm)


def test_the_arms_of_a_study_are_what_is_run(policy: Policy) -> None:
    study = tiny_study(evaluation={"arms": ["full", "no-pretraining", "phase:*", "phase:*+concat"]})
    arms = arms_of(study)
    phases = ["phase:pre-contrast", "phase:arterial"]
    assert list(arms) == ["full", "no-pretraining", *phases, *(f"{phase}+concat" for phase in phases)]
    assert arms["no-pretraining"].pretrain.rounds == 0
    assert arms["phase:arterial"].data.phases == ("arterial",)
