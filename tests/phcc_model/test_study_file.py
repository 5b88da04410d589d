"""A study as text: round trip, overrides, and one readable line for whatever is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from phcc_model.config import PHASES, StudyConfig
from phcc_model.errors import ConfigError
from phcc_model.study_file import dump_study, load_study, nearest_key, parse_study, valid_keys

CONFIGS = Path(__file__).parents[2] / "configs"
quick = settings(deadline=None, max_examples=60)

fractions = st.floats(0, 1)
positives = st.floats(1e-12, 1e12)
names = st.text(min_size=1, max_size=20)


@st.composite
def studies(draw: st.DrawFn) -> StudyConfig:
    """Valid studies that differ in every kind of value: text, numbers, choices, lists, nothing."""
    phases = sorted(draw(st.sets(st.sampled_from(PHASES), min_size=1)), key=PHASES.index)
    tree: dict[str, Any] = {
        "name": draw(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)),
        "seed": draw(st.integers(0, 2**63)),
        "data": {
            "path": draw(st.none() | st.text(max_size=40)),
            "label": draw(st.text(max_size=20)),
            "phases": phases,
            "required_phases": draw(st.lists(st.sampled_from(phases), max_size=2)),
            "centres": {
                "mode": draw(st.sampled_from(["by-centre", "iid", "dirichlet", "quantity", "scanner"])),
                "alpha": draw(positives),
                "external": draw(st.lists(names, max_size=3)),
                "leave_out": draw(st.none() | names),
            },
            "phantom": {"afp_effect": draw(st.floats(-1e300, 1e300)), "prevalence": draw(fractions)},
        },
        "model": {
            "size": "custom",
            "depths": draw(st.lists(st.integers(0, 9), min_size=3, max_size=3)),
            "dims": [8, 16, 32],
        },
        "pretrain": {"learning_rate": draw(positives), "bf16": draw(st.booleans())},
        "evaluation": {"arms": draw(st.lists(names, max_size=4))},
    }
    return StudyConfig.model_validate(tree)


@quick
@given(studies())
@example(StudyConfig())
@example(StudyConfig.model_validate({"data": {"path": "1e-3", "label": "null"}, "name": "1e3"}))
def test_what_is_dumped_loads_back_equal(study: StudyConfig) -> None:
    again = parse_study(dump_study(study), where="dumped")
    assert again == study
    assert again.digest == study.digest


@quick
@given(data=st.data(), key=st.sampled_from(sorted(valid_keys())))
def test_a_misspelt_key_is_refused_by_name_with_a_valid_suggestion(data: st.DataObject, key: str) -> None:
    section, _, name = key.rpartition(".")
    at = data.draw(st.integers(0, len(name)))
    letter = data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz_"))
    kind = data.draw(st.sampled_from(["insert", "replace", "delete"]))
    wrong = name[:at] + (letter if kind != "delete" else "") + name[at + (kind != "insert") :]
    path = f"{section}.{wrong}".lstrip(".")
    assume(wrong and path not in set(valid_keys()))
    with pytest.raises(ConfigError) as caught:
        parse_study("{}", where="s.yaml", overrides=[f"{path}=1"])
    line = str(caught.value)
    assert "\n" not in line
    assert f"{path}: unknown key" in line
    offered = re.search(r"did you mean ([\w.]+)\?", line)
    if offered:
        assert offered[1] in set(valid_keys())
    else:
        listed = re.search(r"valid here: ([\w, ]+)\)", line)
        assert listed is not None
        assert {f"{section}.{n}".lstrip(".") for n in listed[1].split(", ")} <= set(valid_keys())


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("finetune.round", "finetune.rounds"),
        ("pretrain.Mask_Ratio", "pretrain.mask_ratio"),
        ("mask_ratio", "pretrain.mask_ratio"),
        ("finetune.mask_ratio", "pretrain.mask_ratio"),
        ("fine_tune", "finetune"),
        ("data.centers.mode", "data.centres.mode"),
        ("data.centres.external_centres", "data.centres.external"),
        ("augmentation.flip", "finetune.augmentation.flip"),
        ("zzzzzz", None),
    ],
)
def test_the_nearest_key_is_the_one_meant(written: str, meant: str | None) -> None:
    assert nearest_key(written) == meant


def test_valid_keys_are_the_schema() -> None:
    keys = list(valid_keys())
    assert len(keys) == len(set(keys))
    assert {"seed", "data.centres.alpha", "model.classifier.fusion", "pretrain.weighting.memory"} <= set(keys)
    flat = set()

    def walk(tree: dict[str, Any], prefix: str) -> None:
        for name, value in tree.items():
            flat.add(prefix + name)
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    # The first phantom's scanners go unsaid, so that its files keep their names.
    walk(StudyConfig.model_validate({"data": {"phantom": {"scanners": "second"}}}).model_dump(), "")
    assert set(keys) == flat


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("finetune: {round: 3}", "s.yaml: finetune.round: unknown key (did you mean finetune.rounds?)."),
        ("", "is not a study: expected keys with values, found nothing"),
        ("- seed", "found a list"),
        ("seed", "found the value 'seed'"),
        ("data:", "data: should be a section of keys, not nothing"),
        ("seed: 1\nseed: 2", "line 2, column 1: the key 'seed' stands twice"),
        ("finetune: {rounds: 1, rounds: 1}", "the key 'rounds' stands twice"),
        ("a: [", "is not valid YAML (line 1"),
        ("a: !!python/object/apply:os.system [true]", "is not valid YAML"),
        ("a: 2024-99-99", "is not valid YAML (month must be in 1..12)"),
        ("[" * 5000, "is not valid YAML"),
        ("? [1]\n: 2", "is not valid YAML"),
        ("1: x", "[1]: Keys should be strings"),
        ("data: {crop: {size: [12, 48]}}", "data.crop.size[2]: a value is missing here"),
        ("data: {crop: {size: [12, 48, 50]}}", "s.yaml: data.crop.size along W is 50"),
        ("model: {kernel: [3, 4, 3]}", "s.yaml: model: kernel must be odd"),
        ("data: {centres: {mode: idd}}", "data.centres.mode: should be 'by-centre', 'iid',"),
        ("finetune: {rounds: 3.5}", "finetune.rounds: should be a valid integer"),
        (
            "finetune: {rounds: 0, patience: -1, foo: 1}",
            "finetune.rounds: should be greater than or equal to 1",
        ),
        ("finetune: {rounds: 0, patience: -1, foo: 1}", ", and 2 more"),
        ("federation: {cap: .nan}", "federation.cap:"),
    ],
)
def test_a_faulty_study_ends_in_one_line(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_study(text, where="s.yaml")
    assert line in str(caught.value)
    assert str(caught.value).startswith("s.yaml: ")
    assert "\n" not in str(caught.value)


@quick
@given(st.text() | st.text(alphabet="abe:-{}[]!&*'\"#|>\n 01.,\t"))
@example("a: &a [*a]")
@example("a: !!bool x")
@example("a: !!timestamp x")
@example("data: {path: " + "x" * 9999 + "\x01}")
def test_no_text_ends_in_anything_but_a_study_or_a_config_error(text: str) -> None:
    try:
        study = parse_study(text, where="s.yaml")
    except ConfigError as error:
        line = str(error)
        assert "\n" not in line
        assert len(line) < 500
    else:
        assert isinstance(study, StudyConfig)


def test_an_alias_bomb_is_refused_in_short() -> None:
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    with pytest.raises(ConfigError) as caught:
        parse_study(bomb + "seed: *a11", where="s.yaml")
    assert len(str(caught.value)) < 500


def test_overrides_are_typed_as_in_yaml_and_a_later_one_wins() -> None:
    study = parse_study(
        "data: {path: here}\nseed: 3",
        where="s.yaml",
        overrides=[
            "finetune.rounds=7",
            "finetune.rounds=3",
            "pretrain.learning_rate=1e-3",
            "data.path=null",
            "data.crop.size=[8, 16, 16]",
            "evaluation.arms=[full, local:centre a]",
            " pretrain.bf16 = true",
            "data.label=a=b",
        ],
    )
    assert study.finetune.rounds == 3
    assert study.pretrain.learning_rate == 1e-3
    assert study.data.path is None
    assert study.data.crop.size == (8, 16, 16)
    assert study.evaluation.arms == ("full", "local:centre a")
    assert study.pretrain.bf16
    assert study.data.label == "a=b"
    assert study.seed == 3


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("finetune.round=3", "s.yaml with --set finetune.round=3: finetune.round: unknown key (did you mean"),
        (
            "finetune.rounds=many",
            "s.yaml with --set finetune.rounds=many: finetune.rounds: should be a valid integer",
        ),
        ("data.crop.size=[1, 2]", "with --set data.crop.size=[1, 2]: data.crop.size[2]: a value is missing"),
        (
            "model={kernel: [2, 2, 2]}",
            "s.yaml with --set model={kernel: [2, 2, 2]}: model: kernel must be odd",
        ),
        ("seed.x=1", "--set seed.x=1: seed is a value, not a section"),
        ("seed", "--set seed: is not of the form key.path=value"),
        ("=3", "is not of the form key.path=value"),
        ("data..path=3", "is not of the form key.path=value"),
        ("seed=[", "--set seed=[: is not valid YAML"),
        ("data={path: a, path: b}", "the key 'path' stands twice"),
        ("a\nb=1", "--set a b=1: a b: unknown key"),
    ],
)
def test_a_faulty_override_names_itself(override: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_study("seed: 1", where="s.yaml", overrides=[override])
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_error_of_the_file_does_not_blame_an_override() -> None:
    with pytest.raises(ConfigError, match=r"^s\.yaml: pretrain\.rounds: "):
        parse_study("pretrain: {rounds: -1}", where="s.yaml", overrides=["finetune.rounds=3", "seed=4"])


def test_a_file_is_read_whatever_editor_wrote_it(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_bytes("\ufeffseed: 5\r\ndata:\r\n  label: Lebertumör\r\n".encode())
    study = load_study(file, ["finetune.rounds=2"])
    assert (study.seed, study.data.label, study.finetune.rounds) == (5, "Lebertumör", 2)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(ConfigError, match=r"none\.yaml: there is no such file\. Check"):
        load_study(missing)
    with pytest.raises(ConfigError, match=r"cannot be read"):
        load_study(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("seed: 1 # ö".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"is not UTF-8 text \(byte 10\)"):
        load_study(latin)


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.name)
def test_every_shipped_study_loads(file: Path) -> None:
    study = load_study(file)
    assert study.name == file.stem
    assert study.data.path is None, "a shipped study names no folder of one machine"
    assert parse_study(dump_study(study), where="dumped") == study


def test_the_three_studies_are_shipped() -> None:
    assert {file.stem for file in CONFIGS.glob("*.yaml")} >= {"demo", "hospital", "adrenal"}
