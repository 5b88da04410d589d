"""Memory runs out, and the site trains the same all the same; a card without bf16; what people are told of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import CENTRES, evaluate_order, open_sessions, tiny_study, train_order

from phcc_client import devices, machine_notes, service_commands, session, worker
from phcc_client.devices import (
    has_bf16,
    is_out_of_memory,
    must_be_there,
    processor_has_bf16,
    without_bf16,
)
from phcc_client.home import ClientSettings, Home
from phcc_client.machine_notes import KEPT, NOTES, latest, note
from phcc_client.room import Room, most_at_once
from phcc_client.session import Session
from phcc_client.worker import Worker
from phcc_model.build import first_weights
from phcc_model.classifier import Classifier
from phcc_model.contract import keys
from phcc_model.contract.codec import decode_change
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import TrainOrder, TrainReply
from phcc_model.errors import ConfigError, TrainingError
from phcc_model.pretrain import SWFCMAE
from phcc_model.supervised import Status

STUDY = tiny_study(model={"drop_path": 0.3}, pretrain={"rounds": 3})
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
ERRORS = [
    FULL,
    MemoryError(),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you"
    ),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


def open_alma(folder: Path) -> tuple[Session, list[str]]:
    told: list[str] = []
    alma = open_sessions(folder, STUDY, {"Alma": CENTRES["Alma"]})["Alma"]
    return Session(alma.folder, "Alma", alma.runtime, note=told.append), told


def order_of(stage: str, **changes: Any) -> TrainOrder:
    return train_order(STUDY, stage, "Alma", encoding="fp32", **changes)


def after(order: TrainOrder, reply: TrainReply) -> np.ndarray:
    manifest = Manifest.of(first_weights(STUDY, order.stage))
    return order.arrays[keys.FLOAT] + decode_change(reply.arrays, "fp32", manifest).delta


@contextmanager
def room_for(cases: int, error: Exception = FULL) -> Iterator[list[int]]:
    """As on a machine whose memory holds the activations of so many cases; the sizes that were asked of it."""
    asked: list[int] = []

    def full(work: Callable[..., Any]) -> Callable[..., Any]:
        def step(model: Any, volumes: torch.Tensor, *more: Any, **named: Any) -> Any:
            asked.append(len(volumes))
            if len(volumes) > cases:
                raise error
            return work(model, volumes, *more, **named)

        return step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SWFCMAE, "forward", full(SWFCMAE.forward))
        patch.setattr(Classifier, "features", full(Classifier.features))
        yield asked


@pytest.mark.parametrize("stage", keys.STAGES)
def test_out_of_memory_halves_what_is_held_at_once_and_the_round_stays_the_same(
    stage: str, tmp_path: Path
) -> None:
    alma, told = open_alma(tmp_path)
    order = order_of(stage)
    expected = alma.train(order)
    assert told == []
    with room_for(1) as asked:
        reply = alma.train(order)
        assert told == [f"out of memory with 2 cases at once: trained with 1 (full {stage})"]
        # The whole batch, then two at once, then one: each time from the order's weights.
        assert asked[:2] == [4 if stage == keys.PRETRAIN else 5, 2]
        assert set(asked[2:]) == {1}
        asked.clear()
        again = alma.train(order)  # remembered, for this stage only
        assert set(asked) == {1}
        assert len(told) == 1
    wanted = after(order, expected)
    assert np.linalg.norm(after(order, reply) - wanted) < 1e-5 * np.linalg.norm(wanted)
    assert reply.metrics == pytest.approx(expected.metrics, rel=1e-3)
    assert again.arrays[keys.CHANGE].tobytes() == reply.arrays[keys.CHANGE].tobytes()


@pytest.mark.parametrize("stage", keys.STAGES)
def test_out_of_memory_in_an_evaluation_halves_too(stage: str, tmp_path: Path) -> None:
    alma, told = open_alma(tmp_path)
    order = evaluate_order(STUDY, stage, "Alma", "train")
    expected = alma.evaluate(order)
    with room_for(2):
        reply = alma.evaluate(order)
    assert told == [f"out of memory with 4 cases at once: scored with 2 (full {stage})"]
    assert reply.loss == pytest.approx(expected.loss, rel=1e-5)
    assert (reply.positives, reply.negatives) == (expected.positives, expected.negatives)


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_says_that_memory_is_short_is_understood(error: Exception, tmp_path: Path) -> None:
    assert is_out_of_memory(error)
    alma, told = open_alma(tmp_path)
    with room_for(2, error):
        alma.train(order_of(keys.FINETUNE))
    assert told == ["out of memory with 4 cases at once: trained with 2 (full finetune)"]


def test_where_not_even_one_case_fits_the_training_fails_and_says_so(tmp_path: Path) -> None:
    alma, told = open_alma(tmp_path)
    with (
        room_for(0),
        pytest.raises(TrainingError, match=r"full finetune: out of memory with 1 case .*more of it"),
    ):
        alma.train(order_of(keys.FINETUNE))
    assert told == []


def test_another_error_is_no_matter_of_memory(tmp_path: Path) -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(error)
    alma, told = open_alma(tmp_path)
    with room_for(1, error) as asked, pytest.raises(RuntimeError, match="shapes"):
        alma.train(order_of(keys.FINETUNE))
    assert len(asked) == 1
    assert told == []


def test_several_devices_share_the_batch_and_the_room() -> None:
    told: list[str] = []
    order, tried = order_of(keys.PRETRAIN), []

    def work(at_once: int | None) -> str:
        tried.append(at_once)
        if at_once is None:
            raise MemoryError("on cuda:1")
        return "done"

    room = Room(told.append)
    assert room.fit(order, work, 2) == room.fit(order, work, 2) == "done"
    assert tried == [None, 1, 1]
    assert told == [
        "out of memory with 2 cases at once: trained with 1 (full pretrain, on each of 2 devices)"
    ]
    assert [most_at_once(order, ranks) for ranks in (1, 2, 3, 9)] == [4, 2, 2, 1]


def test_what_is_seen_once_more_counts_among_what_is_held_at_once() -> None:
    finder = tiny_study(
        model={"classifier": {"pooling": "found"}}, finetune={"batch_size": 8, "find_moved": 0.25}
    )
    order = train_order(finder, "finetune", "Alma", encoding="fp32")
    assert [most_at_once(order, ranks) for ranks in (1, 2, 3)] == [10, 5, 4]


@pytest.mark.parametrize("stage", keys.STAGES)
def test_bf16_is_used_where_the_device_has_it_and_told_where_not(
    stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alma, told = open_alma(tmp_path)
    plain, short = (
        order_of(stage),
        train_order(
            tiny_study(
                model={"drop_path": 0.3}, pretrain={"rounds": 3, "bf16": True}, finetune={"bf16": True}
            ),
            stage,
            "Alma",
            encoding="fp32",
        ),
    )
    monkeypatch.setattr(session, "has_bf16", lambda device: True)
    float32 = alma.train(plain).arrays[keys.CHANGE].tobytes()
    assert alma.train(short).arrays[keys.CHANGE].tobytes() != float32
    assert told == []
    monkeypatch.setattr(session, "has_bf16", lambda device: False)
    assert alma.train(short).arrays[keys.CHANGE].tobytes() == float32
    assert told == ["bf16 is not supported by this processor: float32"]
    assert without_bf16(torch.device("cuda:1")) == "bf16 is not supported by this card: float32"


def test_a_card_that_only_emulates_bf16_does_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_supported(including_emulation: bool = True) -> bool:
        return including_emulation

    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_supported)
    assert not has_bf16(torch.device("cuda:1"))


@pytest.mark.parametrize(
    ("cpuinfo", "able"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16 amx_bf16 amx_tile\n", True),  # Xeon with AMX
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", True),  # EPYC of the fourth generation
        ("processor\t: 0\nflags\t\t: fpu avx2 fma\nbugs\t\t: avx512_bf16\n", False),  # of the third
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", True),  # Arm
        ("processor\t: 0\nFeatures\t: fp asimd svebf16x\n", False),
        ("flags\t\t: avx512_bf16\n\nflags\t\t: avx2\n", False),  # cores of two kinds
        ("", False),
    ],
)
def test_a_processor_has_bf16_where_linux_says_so(tmp_path: Path, cpuinfo: str, able: bool) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    assert processor_has_bf16(tmp_path / "cpuinfo") == able
    assert not processor_has_bf16(tmp_path / "elsewhere")
    assert has_bf16(torch.device("cpu")) == processor_has_bf16()


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    must_be_there(("cpu",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    must_be_there(("cuda", "cuda:0"))
    with pytest.raises(ConfigError, match=r"cuda:1 is asked for, torch can use 1 GPU here"):
        must_be_there(("cuda:0", "cuda:1"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"can use no GPUs here.*doctor"):
        must_be_there(("cuda",))
    with pytest.raises(ConfigError, match=r"gpu is no device that torch knows"):
        must_be_there(("gpu",))


def test_a_note_is_kept_once_with_its_last_time_and_shown(tmp_path: Path) -> None:
    assert latest(tmp_path) == []
    for text in ("one", "two", "one"):
        note(tmp_path, text)
    assert [line.partition("): ")[2] for line in latest(tmp_path)] == ["two", "one"]
    assert latest(tmp_path, 1)[0].startswith("This machine (20")
    for number in range(2 * KEPT):
        note(tmp_path, f"note {number}")
    assert len((tmp_path / NOTES).read_text(encoding="utf-8").splitlines()) == KEPT
    (tmp_path / NOTES).write_text("damaged", encoding="utf-8")
    assert latest(tmp_path) == []
    note(tmp_path, "after")
    assert json.loads((tmp_path / NOTES).read_text(encoding="utf-8"))["note"] == "after"


def worker_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Worker:
    """A hospital's worker that has agreed to everything."""
    alma, _ = open_alma(folder)
    (folder / "home").mkdir()
    (folder / "home" / "site").symlink_to(alma.folder)
    plain = {"hospital": "Alma", "server": "a:1", "threads": 1, **settings}
    home = Home.make(folder / "home", ClientSettings.model_validate(plain))
    monkeypatch.setattr(worker.Policy, "check", lambda *_: None)
    return Worker(home)


def test_the_worker_writes_down_what_its_machine_could_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = worker_of(tmp_path, monkeypatch)
    digest = ours._spool.offer(order_of(keys.FINETUNE))
    with room_for(2):
        assert ours.work()
    assert isinstance(ours._spool.take_answer(digest), TrainReply)
    assert [line.partition("): ")[2] for line in latest(tmp_path / "home")] == [
        "out of memory with 4 cases at once: trained with 2 (full finetune)"
    ]


def test_several_devices_are_given_to_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker halves for the ranks as it does for itself, and scores on the first device."""
    monkeypatch.setattr(worker, "must_be_there", lambda names: None)
    ours = worker_of(tmp_path, monkeypatch, device=["cuda:0", "cuda:1"])
    order, tried = order_of(keys.FINETUNE), []
    assert ours._ranks is not None
    assert ours._ranks.devices == ("cuda:0", "cuda:1")
    assert str(ours._session.device) == "cuda:0"
    reply = open_alma(tmp_path / "other")[0].train(order)

    def train(digest: str, at_once: int | None, watch: Callable[[], object]) -> TrainReply:
        tried.append((digest, at_once))
        watch()
        if at_once is None:
            raise MemoryError("on cuda:0")
        return reply

    monkeypatch.setattr(ours._ranks, "train", train)
    digest = ours._spool.offer(order)
    assert ours.work()
    assert tried == [(digest, None), (digest, 1)]
    assert ours._spool.take_answer(digest) == dataclasses.replace(reply)
    assert "on each of 2 devices" in latest(tmp_path / "home")[0]


def test_a_missing_device_fails_the_order_and_not_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = worker_of(tmp_path, monkeypatch, device="cuda:7")
    digest = ours._spool.offer(order_of(keys.FINETUNE))
    assert ours.work()
    answer = ours._spool.take_answer(digest)
    assert getattr(answer, "code", None) == "config"
    assert devices.devices_of(ours._home.settings) == ("cuda:7",)
    assert machine_notes.latest(tmp_path / "home") == []


def test_status_shows_the_notes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Home.make(tmp_path, ClientSettings(hospital="Alma", server="a:1"))
    note(tmp_path, "bf16 is not supported by this card: float32")
    monkeypatch.setattr(service_commands, "read_status", lambda _: Status(1, 0.0))
    with pytest.raises(SystemExit):  # it is not connected
        service_commands.status(tmp_path)
    assert "bf16 is not supported by this card: float32" in capsys.readouterr().out
