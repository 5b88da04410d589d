"""Arms: each differs from the study in what its name says, in nothing else, and shares stage 1 if it can."""

from __future__ import annotations

from typing import Any

import pytest

from phcc_model.arms import arm_names, plan_arm, plan_arms
from phcc_model.config import StudyConfig, leave_unsaid
from phcc_model.errors import ConfigError

SITES = ("A", "B", "C")
STUDY = StudyConfig.model_validate(
    {
        "data": {"required_phases": ["pre-contrast"]},
        "federation": {"algorithm": "fedprox", "required_sites": ["A"]},
    }
)


def flat(study: StudyConfig) -> dict[str, Any]:
    leaves: dict[str, Any] = {}

    def walk(tree: dict[str, Any], prefix: str) -> None:
        for name, value in tree.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")
            else:
                leaves[prefix + name] = value

    walk(study.model_dump(), "")
    return leaves


ALONE = {
    "federation.minimum_sites": 1,
    "federation.required_sites": (),
    "federation.algorithm": "fedavg",
    "federation.encoding": "fp32",
}
SINGLE = {"data.normalisation": "own-liver", "model.classifier.features": ("absolute",)}


@pytest.mark.parametrize(
    ("name", "kind", "sites", "changes"),
    [
        ("full", "federated", SITES, {}),
        ("no-pretraining", "federated", SITES, {"pretrain.rounds": 0}),
        ("uniform", "federated", SITES, {"pretrain.weighting.mode": "uniform"}),
        ("attention", "federated", SITES, {}),
        ("concat", "federated", SITES, {"model.classifier.fusion": "concat"}),
        ("mean", "federated", SITES, {"model.classifier.fusion": "mean"}),
        ("absolute", "federated", SITES, {"model.classifier.features": ("absolute",)}),
        ("difference", "federated", SITES, {"model.classifier.features": ("difference",)}),
        ("relative", "federated", SITES, {"model.classifier.features": ("relative",)}),
        ("shared", "federated", SITES, {}),
        ("joint", "federated", SITES, {"model.phases": "joint"}),
        (
            "phase:arterial",
            "federated",
            SITES,
            {"data.phases": ("arterial",), "data.required_phases": ("arterial",), **SINGLE},
        ),
        ("pooled", "pooled", SITES, ALONE),
        ("local:B", "local", ("B",), ALONE),
        ("pretrained-at:B", "federated", SITES, {}),
        ("finetuned-at:B", "local", ("B",), ALONE),
        ("pretrained-at:B+labels-25", "federated", SITES, {"finetune.label_fraction": 0.25}),
        ("finetuned-at:B+afp", "combined", ("B",), ALONE),
        ("plain", "federated", SITES, {"model.encoder": "plain", "pretrain.rounds": 0}),
        (
            "zones",
            "federated",
            SITES,
            {
                "model.downsample": ((1, 1, 1), (2, 1, 1)),
                "model.classifier.pooling": "gap+lesion+rim+core+spread",
            },
        ),
        ("labels-25", "federated", SITES, {"finetune.label_fraction": 0.25}),
        (
            "no-pretraining+labels-10",
            "federated",
            SITES,
            {"pretrain.rounds": 0, "finetune.label_fraction": 0.1},
        ),
        (
            "rarer-2",
            "federated",
            SITES,
            {
                "pretrain.rounds": STUDY.pretrain.rounds // 2,
                "pretrain.local_epochs": STUDY.pretrain.local_epochs * 2,
                "finetune.rounds": STUDY.finetune.rounds // 2,
                "finetune.local_epochs": STUDY.finetune.local_epochs * 2,
            },
        ),
        ("pooled+no-pretraining", "pooled", SITES, {**ALONE, "pretrain.rounds": 0}),
        ("local:B+concat", "local", ("B",), {**ALONE, "model.classifier.fusion": "concat"}),
        (
            "fedavg+int8",
            "federated",
            SITES,
            {"federation.algorithm": "fedavg", "federation.encoding": "int8"},
        ),
        ("fedema", "federated", SITES, {"federation.algorithm": "fedema"}),
        ("fedbn", "federated", SITES, {"federation.algorithm": "fedbn"}),
        ("scaffold", "federated", SITES, {"federation.algorithm": "scaffold"}),
        ("fedadam", "federated", SITES, {"federation.algorithm": "fedadam"}),
        (
            "fedyogi+labels-50",
            "federated",
            SITES,
            {"federation.algorithm": "fedyogi", "finetune.label_fraction": 0.5},
        ),
        ("afp", "baseline", SITES, {}),
        ("kinetics", "baseline", SITES, {}),
        ("ratio", "baseline", SITES, {}),
        ("regions", "baseline", SITES, {}),
        ("uniform+afp", "combined", SITES, {"pretrain.weighting.mode": "uniform"}),
        ("local:B+afp", "combined", ("B",), ALONE),
    ],
)
def test_an_arm_changes_what_its_name_says_and_nothing_else(
    name: str, kind: str, sites: tuple[str, ...], changes: dict[str, Any]
) -> None:
    plan = plan_arm(name, STUDY, SITES)
    assert (plan.name, plan.kind, plan.sites) == (name, kind, sites)
    before, after = flat(STUDY), flat(plan.study)
    assert {key: after[key] for key in before if after[key] != before[key]} == changes
    assert plan.study.seed == STUDY.seed


def test_every_arm_that_is_named_can_be_planned() -> None:
    names = arm_names(STUDY, SITES)
    assert len(names) == len(set(names))
    assert {
        "full",
        "no-pretraining",
        "uniform",
        "concat",
        "pooled",
        "afp",
        "local:C",
        "phase:delayed",
    } <= set(names)
    assert [plan.name for plan in plan_arms(names, STUDY, SITES)] == list(names)


@pytest.mark.parametrize("name", ["attention", "concat", "mean", "absolute", "difference", "relative"])
def test_stage_1_is_shared_by_arms_that_differ_only_after_it(name: str) -> None:
    assert plan_arm(name, STUDY, SITES).pretrain_key == plan_arm("full", STUDY, SITES).pretrain_key


@pytest.mark.parametrize("part", ["attention", "concat", "mean", "absolute", "difference", "relative"])
def test_phases_as_channels_leave_nothing_to_join(part: str) -> None:
    study = StudyConfig.model_validate({"model": {"phases": "joint"}})
    for name in (part, f"no-pretraining+{part}", f"{part}+joint"):
        with pytest.raises(ConfigError, match=rf"compares nothing.*Write shared\+{part}"):
            plan_arm(name, study, SITES)
    assert part not in arm_names(study, SITES)
    assert plan_arm(f"shared+{part}", study, SITES).study == plan_arm(part, StudyConfig(), SITES).study


def test_the_two_stages_can_be_run_at_different_places() -> None:
    full, alone, first, second = (
        plan_arm(name, STUDY, SITES)
        for name in ("full", "local:B", "pretrained-at:B+labels-25", "finetuned-at:B+labels-25")
    )
    assert first.pretrain_key == alone.pretrain_key != full.pretrain_key == second.pretrain_key
    assert first.stage_one is not None
    assert (first.stage_one.kind, first.stage_one.sites) == (alone.kind, alone.sites)
    assert second.stage_one is not None
    assert (second.stage_one.kind, second.stage_one.sites) == (full.kind, full.sites)
    assert full.stage_one is alone.stage_one is None


def test_stage_1_is_not_shared_where_it_differs() -> None:
    names = [
        "full",
        "uniform",
        "joint",
        "pooled",
        *(f"local:{s}" for s in SITES),
        "phase:arterial",
        "phase:delayed",
    ]
    keys = [plan_arm(name, STUDY, SITES).pretrain_key for name in names]
    assert None not in keys
    assert len(set(keys)) == len(names)
    assert plan_arm("no-pretraining", STUDY, SITES).pretrain_key is None
    assert plan_arm("afp", STUDY, SITES).pretrain_key is None


@pytest.mark.parametrize(
    ("change", "shared"),
    [
        ({"finetune": {"rounds": 3}}, True),
        ({"evaluation": {"arms": ["full"]}}, True),
        ({"name": "other"}, True),
        ({"data": {"path": "/elsewhere"}}, True),
        ({"seed": 1}, False),
        ({"data": {"split": {"test": 0.5}}}, False),
        ({"data": {"centres": {"leave_out": "C"}}}, False),
        ({"model": {"kernel": [3, 3, 3]}}, False),
        ({"pretrain": {"mask_ratio": 0.5}}, False),
        ({"federation": {"encoding": "int8"}}, False),
    ],
)
def test_the_key_of_stage_1_covers_what_it_depends_on(change: dict[str, Any], shared: bool) -> None:
    default, other = StudyConfig(), StudyConfig.model_validate(change)
    keys = {plan_arm("full", study, SITES).pretrain_key for study in (default, other)}
    assert (len(keys) == 1) == shared


def test_the_key_does_not_depend_on_the_order_of_the_sites() -> None:
    assert plan_arm("full", STUDY, SITES).pretrain_key == plan_arm("full", STUDY, SITES[::-1]).pretrain_key
    assert plan_arm("full", STUDY, SITES).pretrain_key != plan_arm("full", STUDY, SITES[:2]).pretrain_key


def test_a_single_phase_keeps_a_normalisation_that_needs_no_other_phase() -> None:
    study = StudyConfig.model_validate({"data": {"normalisation": "z-score"}})
    assert plan_arm("phase:delayed", study, SITES).study.data.normalisation == "z-score"


def test_several_arms_are_planned_once_each_and_stars_written_out() -> None:
    names = ["full", "local:*", "local:B", "phase:*", "full", "local:*+no-pretraining"]
    plans = plan_arms(names, STUDY, SITES)
    assert [plan.name for plan in plans] == [
        "full",
        *("local:A", "local:B", "local:C"),
        *(f"phase:{phase}" for phase in STUDY.data.phases),
        *(f"local:{site}+no-pretraining" for site in SITES),
    ]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("ful", "evaluation.arms: there is no arm 'ful' in this study (did you mean full?)."),
        ("no_pretraining", "(did you mean no-pretraining?)"),
        ("local:D", "(did you mean local:"),
        ("phase:portal", "(did you mean phase:portal-venous?)"),
        ("phase:hepatobiliary", "there is no arm 'phase:hepatobiliary' in this study"),
        ("full+ful", "there is no arm 'ful'"),
        ("full+pooled", "there is no arm 'full+pooled'"),
        ("full+local:A", "there is no arm 'full+local:A'"),
        ("full+pretrained-at:A", "there is no arm 'full+pretrained-at:A'"),
        ("labels-25+finetuned-at:A", "there is no arm 'labels-25+finetuned-at:A'"),
        ("pretrained-at:D", "(did you mean pretrained-at:"),
        ("pretrained-at:A+no-pretraining", "compares nothing: there is no pre-training in it. Leave it out."),
        ("finetuned-at:A+plain", "compares nothing: there is no pre-training in it"),
        ("afp+full", "there is no arm 'afp+full'"),
        ("labels-0", "there is no arm 'labels-0'"),
        ("rarer-1", "there is no arm 'rarer-1'"),
        ("rarer-9", "pretrain.rounds: 10 rounds cannot be made 9 times fewer. Choose a multiple of 9"),
        ("labels-101", "there is no arm 'labels-101'"),
        ("full+", "there is no arm 'full+'"),
        ("???", "Choose among full, no-pretraining, "),
        ("", "there is no arm ''"),
        ("a\nb", r"there is no arm 'a\nb'"),
    ],
)
def test_an_unknown_arm_is_refused_with_the_nearest(name: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_arms(["full", name], STUDY, SITES)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_quorum_that_cannot_be_met_is_refused_before_anything_runs() -> None:
    with pytest.raises(
        ConfigError, match=r"minimum_sites: a round needs 2 sites, but only 1 train\. Lower it to 1"
    ):
        plan_arm("full", STUDY, ["A"])
    with pytest.raises(
        ConfigError, match=r"required_sites: A is not among the training sites\. Choose among B, C"
    ):
        plan_arm("full", STUDY, ["B", "C"])
    assert plan_arm("local:A", STUDY, ["A"]).study.federation.minimum_sites == 1


def test_a_combined_arm_says_whose_network_it_takes_and_trains_none() -> None:
    plan = plan_arm("uniform+afp", STUDY, SITES)
    assert (plan.base, plan.trained, plan.pretrain_key) == ("uniform", False, None)
    assert plan.study == plan_arm("uniform", STUDY, SITES).study
    assert plan_arm("full", STUDY, SITES).base == "full"
    assert not plan_arm("kinetics", STUDY, SITES).trained


def test_the_plain_network_is_never_pretrained() -> None:
    with pytest.raises(ValueError, match="plain cannot be pre-trained"):
        StudyConfig.model_validate({"model": {"encoder": "plain"}})


def test_what_was_added_later_is_in_the_key_of_stage_1_only_where_it_is_said() -> None:
    """So a run begun before there were such settings still finds its pre-training."""
    plain = StudyConfig().model_dump(mode="json")
    leave_unsaid(plain)
    assert not {"server_learning_rate", "server_betas", "server_tau"} & plain["federation"].keys()
    assert not {"mask_block", "round_warmup"} & plain["pretrain"].keys()
    said = StudyConfig.model_validate({"federation": {"server_tau": 0.5}})
    assert plan_arm("full", said, SITES).pretrain_key != plan_arm("full", StudyConfig(), SITES).pretrain_key
    assert said.digest != StudyConfig().digest
