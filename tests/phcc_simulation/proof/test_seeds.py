"""``phcc-simulate seeds``: each seed a process; what is finished is skipped, what fails is named."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from phcc_model.errors import ConfigError
from phcc_model.study_file import load_study
from phcc_simulation import precision
from phcc_simulation.cli import main
from phcc_simulation.proof import children, commands
from phcc_simulation.proof.commands import run_seeds, seed_study
from phcc_simulation.proof.schema import Combined

HERE = Path(__file__).parent
MADE = f"""
import json, os, pathlib, shutil, signal, sys, time
sys.path.insert(0, {str(HERE)!r})
from made_seeds import make_seed
words = sys.argv[1:]
out = pathlib.Path(words[words.index("--out") + 1])
seed = int(out.name.removeprefix("seed-"))
with (out.parent / "asked.txt").open("a") as file:
    file.write(json.dumps(words) + "\\n")
event = {{"kind": "plan", "at": 0.0, "arms": [{{"arm": "full", "pretrain": 0, "finetune": 1}}]}}
(out / "progress.jsonl").write_text(json.dumps(event) + "\\n")
if (out.parent / f"fail-{{seed}}").exists():
    print("error: images: the disk is full. Make room.", file=sys.stderr)
    sys.exit(1)
if (out.parent / f"kill-{{seed}}").exists():
    os.kill(os.getpid(), signal.SIGKILL)
if (out.parent / "wait").exists():
    time.sleep(600)
shutil.rmtree(out / "made", ignore_errors=True)
aside = make_seed(out / "made", seed, {{"full": 2.0, "afp": 1.0}}, ["name=made"])
for file in aside.iterdir():
    file.rename(out / file.name)
"""
"""A seed's process that makes up its scores in place of training."""

SET = ["name=made"]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "PROGRAM", MADE)
    monkeypatch.setattr(commands, "drawings", lambda _found, _runs: [])  # test_combine.py looks at pictures


def seeds(out: Path, *seeds: int, arms: tuple[str, ...] = ("full", "afp")) -> None:
    run_seeds("demo", out, seeds, arms, SET, 2, "cpu")


def asked(out: Path) -> int:
    return len((out / "asked.txt").read_text().splitlines())


def test_every_seed_is_run_in_its_folder_and_then_combined(
    made: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds(tmp_path, 0, 3)
    found = Combined.model_validate_json((tmp_path / "combined.json").read_text())
    assert [(one.seed, one.folder) for one in found.seeds] == [(0, "seed-0"), (3, "seed-3")]
    said = capsys.readouterr().out
    assert "seed 0: 1 arm: full" in said
    assert re.search(r"seed [03]: finished; 2 of 2 seeds ended", said)
    words = (tmp_path / "asked.txt").read_text()
    for word in ("--in-memory", "--set=seed=3", "--set=data.phantom.seed=3", "--set=name=made", "--arm=afp"):
        assert f'"{word}"' in words


def test_a_second_start_skips_what_is_finished_and_covers_the_arms(
    made: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seeds(tmp_path, 0)
    before = (tmp_path / "combined.json").read_bytes()
    seeds(tmp_path, 0)
    assert asked(tmp_path) == 1
    assert "seed 0: finished before" in capsys.readouterr().out
    assert (tmp_path / "combined.json").read_bytes() == before
    seeds(tmp_path, 0, arms=("full",))
    assert asked(tmp_path) == 1
    # An arm that is not among its scores is run, and so is another study.
    seeds(tmp_path, 0, arms=("full", "kinetics"))
    assert asked(tmp_path) == 2
    run_seeds("demo", tmp_path, [0], ["full"], [*SET, "finetune.rounds=9"], 1, "cpu")
    assert asked(tmp_path) == 3


def test_where_there_is_no_bf16_a_seed_is_one_of_the_study_in_float32(
    made: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds(tmp_path, 0)
    short = [*SET, "pretrain.bf16=true"]
    monkeypatch.setattr(precision, "has_bf16", lambda device: False)
    run_seeds("demo", tmp_path, [0], ["full"], short, 1, "cpu")
    said = capsys.readouterr().out
    assert "bf16 is not supported by this processor: float32" in said
    assert "seed 0: finished before" in said
    assert asked(tmp_path) == 1
    # Where there is bfloat16 it is another study.
    monkeypatch.setattr(precision, "has_bf16", lambda device: True)
    run_seeds("demo", tmp_path, [0], ["full"], short, 1, "cpu")
    assert asked(tmp_path) == 2


def test_a_seed_that_fails_is_named_and_the_others_go_on(
    made: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fail-1").touch()
    (tmp_path / "kill-2").touch()
    with pytest.raises(SystemExit) as ended:
        seeds(tmp_path, 0, 1, 2)
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "seed 1: images: the disk is full. Make room." in said.err
    assert "seed 2: ended by signal 9" in said.err
    found = Combined.model_validate_json((tmp_path / "combined.json").read_text())
    assert [one.seed for one in found.seeds] == [0]
    assert found.left_out == ("seed-1", "seed-2")
    (tmp_path / "fail-1").unlink()
    (tmp_path / "kill-2").unlink()
    seeds(tmp_path, 0, 1, 2)
    assert asked(tmp_path) == 5


def test_where_all_fail_the_failures_are_said(
    made: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fail-0").touch()
    with pytest.raises(SystemExit) as ended:
        seeds(tmp_path, 0)
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "no finished seed" in said
    assert "the disk is full" in said


def test_a_wrong_arm_is_told_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["seeds", "demo", "--out", str(tmp_path), "--arm", "full", "--arm", "ful"])
    assert ended.value.code == 1
    said = capsys.readouterr()
    assert "there is no arm 'ful' in this study (did you mean full?)" in said.err.replace("\n", " ")
    assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_sigterm_stops_as_an_interrupt_does(tmp_path: Path) -> None:
    def terminate(_seed: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    plan = children.SeedPlan(0, tmp_path / "seed-0", ("--help",))
    with pytest.raises(KeyboardInterrupt):
        children.run_side_by_side([plan], 1, tmp_path, terminate, lambda *_: None, lambda *_: None)
    assert signal.getsignal(signal.SIGTERM) == before
    assert not any("--help" in child.cmdline() for child in psutil.Process().children())


def test_ctrl_c_ends_what_was_started(tmp_path: Path) -> None:
    (tmp_path / "wait").touch()
    program = (
        # As at a terminal, wherever the tests were started from: a job in the background ignores Ctrl-C.
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from phcc_simulation.proof import children; children.PROGRAM = sys.argv.pop(1); "
        "from phcc_simulation.cli import main; main(sys.argv[1:])"
    )
    words = ["seeds", "demo", "--out", str(tmp_path), "--seeds", "0,1", "--side-by-side", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", program, MADE, *words, "--set", SET[0]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    end = time.monotonic() + 60
    while not all((tmp_path / f"seed-{seed}" / "progress.jsonl").exists() for seed in (0, 1)):
        assert time.monotonic() < end
        assert process.poll() is None
        time.sleep(0.1)
    started = psutil.Process(process.pid).children(recursive=True)
    assert len(started) >= 2
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in said
    assert not any(child.is_running() for child in started)


def test_seeds_are_of_data_and_first_weights() -> None:
    study = seed_study("demo", ["finetune.rounds=2"], ["afp"], 7)
    assert (study.seed, study.data.phantom.seed, study.finetune.rounds) == (7, 7, 2)
    assert study.evaluation.arms == ("afp",)
    other = seed_study("adrenal", [], [], 7)
    assert (other.seed, other.data.phantom.seed) == (7, 0)


@pytest.mark.parametrize("key", ["seed", "data.phantom.seed"])
def test_a_seed_is_not_given_twice(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match="given by --seeds"):
        run_seeds("demo", tmp_path, [0], [], [f"{key}=1"], 1, "cpu")


def test_the_commands_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("seeds", "combine"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert f"Example: phcc-simulate {command}" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["seeds", "demo", "--out", "nowhere", "--seeds", "0,x"])
    assert ended.value.code == 2
    assert "list of whole numbers" in capsys.readouterr().err


def test_a_real_study(tmp_path: Path) -> None:
    tiny = {
        "data.phantom.patients": "24",
        "data.phantom.external_patients": "16",
        "data.phantom.training_centres": "2",
        "data.crop.size": "[4, 24, 24]",
        "data.crop.spacing_mm": "[9.0, 3.2, 3.2]",
        "evaluation.bootstrap": "0",
    }
    words = ["seeds", "demo", "--out", str(tmp_path), "--seeds", "1", "--arm", "afp"]
    with pytest.raises(SystemExit) as ended:
        main([*words, *(f"--set={key}={value}" for key, value in tiny.items())])
    assert ended.value.code == 0
    found = Combined.model_validate_json((tmp_path / "combined.json").read_text())
    assert (found.names, found.synthetic) == (("afp",), True)
    outside = found.auc("afp", "external")
    assert outside is not None
    assert outside.n == 16
    assert found.best_possible_auc["three signs"] > 0.8
    assert found.seeds[0].phantom_seed == 1
    assert load_study(tmp_path / "seed-1" / "study.yaml").data.phantom.seed == 1
