"""The shipped study of all arms: the demo's patients and sizes, and every rival that the method names."""

from __future__ import annotations

from phcc_model.arms import AT_CENTRE, plan_arms
from phcc_model.build import build_classifier, load_state, state_of
from phcc_model.shipped import find_study
from phcc_model.study_file import load_study

CENTRES = ("C1", "C2", "C3")


def test_it_is_the_demo_but_for_its_arms() -> None:
    demo, arms = (load_study(find_study(name)) for name in ("demo", "arms"))
    same: dict[str, object] = {"name": "", "evaluation": demo.evaluation}
    assert demo.model_copy(update=same) == arms.model_copy(update=same)


def test_every_arm_of_the_method_is_planned() -> None:
    study = load_study(find_study("arms"))
    names = [plan.name for plan in plan_arms(study.evaluation.arms, study, CENTRES)]
    assert names[0] == "full"  # which the others are compared with
    method = ["no-pretraining", "uniform", "shared", "shared+concat", "afp", "full+afp", "pooled"]
    method += [f"phase:{phase}" for phase in study.data.phases]
    method += [f"{what}:{centre}" for what in AT_CENTRE for centre in CENTRES]
    assert set(method) <= set(names)
    assert len(names) == len(set(names))


def test_a_centre_can_be_left_out() -> None:
    study = load_study(find_study("arms"), ["data.centres.leave_out=C1"])
    assert study.data.centres.leave_out == "C1"
    names = [plan.name for plan in plan_arms(study.evaluation.arms, study, CENTRES[1:])]
    assert "local:C1" not in names
    assert "local:C2" in names


def test_the_weights_of_every_network_travel() -> None:
    study = load_study(find_study("arms"))
    for plan in plan_arms(study.evaluation.arms, study, CENTRES):
        if plan.trained:
            weights = state_of(build_classifier(plan.study))
            load_state(build_classifier(plan.study), weights)
            assert all(array.dtype == "float32" for array in weights.values()), plan.name
