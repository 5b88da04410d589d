from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phcc_model.cases import CaseSet
from phcc_model.classifier import Classifier
from phcc_model.config import ClassifierSettings, ModelSettings
from phcc_model.errors import CaseError, ConfigError
from phcc_model.explain import heat_maps
from phcc_model.heads import (
    RELATIVE_BOUND,
    RELATIVE_FLOOR,
    CaseNorm,
    Fusion,
    dynamic_features,
    previous_present,
)
from phcc_model.pretrain import SWFCMAE
from phcc_model.training.predict import predict

PHASES = ("pre-contrast", "arterial", "portal-venous", "delayed")
GRID = (2, 8, 8)

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings


presence = st.lists(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), min_size=1, max_size=4)


def tiny_settings(phases: Literal["shared", "joint"] = "shared", **head: Any) -> ModelSettings:
    return ModelSettings(
        size="custom",
        depths=(1, 1),
        dims=(8, 16),
        downsample=((1, 2, 2),),
        kernel=(3, 3, 3),
        phases=phases,
        classifier=ClassifierSettings(**{"width": 16, "heads": 2, **head}),
    )


def tiny_model(phases: Literal["shared", "joint"] = "shared", **head: Any) -> Classifier:
    """A classifier whose weights are large enough for every part of it to matter."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier(tiny_settings(phases, **head), PHASES)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def volumes_of(present_bp: Tensor, seed: int = 1) -> Tensor:
    return torch.randn((*present_bp.shape, *GRID), generator=torch.Generator().manual_seed(seed))


def box(cases: int) -> Tensor:
    lesion = torch.zeros(cases, *GRID)
    lesion[:, :, 2:6, 0:4] = 1.0
    return lesion


MODELS: dict[tuple[str, str], Classifier] = {
    (phases, fusion): tiny_model(phases, fusion=fusion, pooling="gap+lesion")
    for phases in ("shared", "joint")
    for fusion in ("attention", "concat", "mean")
} | {
    ("shared", "layer"): tiny_model("shared", feature_norm="layer"),
    ("shared", "spread"): tiny_model("shared", pooling="gap+lesion+spread"),
    ("shared", "per-phase"): tiny_model("shared", projection="per-phase"),
    ("joint", "per-phase"): tiny_model("joint", projection="per-phase"),
}


@pytest.mark.parametrize("fusion", ["attention", "mean"])
@given(order=st.permutations(range(4)), seed=st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_one_projection_tells_phases_apart_by_their_embedding_alone(
    fusion: str, order: list[int], seed: int
) -> None:
    """Why there is a projection per phase: without it a phase's place has to be learnt from nearly nothing."""
    f_btc = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(seed))
    there_bt = torch.ones(3, 4, dtype=torch.bool)
    for projection in ("common", "per-phase"):
        head = ClassifierSettings.model_validate(
            {"fusion": fusion, "projection": projection, "width": 8, "heads": 2}
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            fuse = Fusion(head, 4, 5).eval()
        with torch.no_grad():
            fuse.phase_embedding.zero_()
            same = torch.allclose(fuse(f_btc, there_bt), fuse(f_btc[:, order], there_bt), atol=1e-4)
        assert same == (projection == "common" or order == [0, 1, 2, 3])


@pytest.mark.parametrize("projection", ["common", "per-phase"])
def test_phases_that_no_training_case_had_are_told(projection: str) -> None:
    model = tiny_model("shared", projection=projection)
    assert model.untaught() == ()  # nothing was trained
    present_bp = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1]]).bool()
    model.train()(volumes_of(present_bp), present_bp, box(3))
    assert model.untaught() == (PHASES[2],)
    joint, layer = tiny_model("joint"), tiny_model("shared", feature_norm="layer")
    for other in (joint, layer):
        other.train()(volumes_of(present_bp), present_bp, box(3))
        assert other.untaught() == ()


@pytest.mark.parametrize("fusion", ["attention", "mean", "concat"])
@settings(deadline=None, max_examples=20)
@given(present=presence)
def test_a_phase_that_no_training_case_had_is_left_out_of_scores(
    fusion: str, present: list[list[bool]]
) -> None:
    model = tiny_model("shared", fusion=fusion, projection="per-phase")
    taught_bp = torch.tensor([[1, 1, 0, 1], [1, 1, 0, 1]]).bool()
    model.train()(volumes_of(taught_bp), taught_bp, box(2))
    present_bp = torch.tensor(present)
    without_bp = present_bp & torch.tensor([1, 1, 0, 1]).bool()
    assert torch.equal(model.counted(present_bp), present_bp)  # in training it is there to be learnt
    counted_bp = model.eval().counted(present_bp)
    alone_b = present_bp[:, 2] & (present_bp.sum(dim=1) == 1)
    assert torch.equal(counted_bp, torch.where(alone_b[:, None], present_bp, without_bp))
    volumes, lesion = volumes_of(present_bp), box(len(present))
    torch.testing.assert_close(model(volumes, present_bp, lesion), model(volumes, counted_bp, lesion))
    explained = heat_maps(model, volumes, present_bp, lesion) if bool(present_bp.any()) else None
    if explained is not None and explained.attention_bp is not None:
        assert not explained.attention_bp[~counted_bp].any()
        has_b = counted_bp.any(dim=1)
        torch.testing.assert_close(explained.attention_bp[has_b].sum(dim=1), torch.ones(int(has_b.sum())))


@settings(deadline=None)
@given(seed=st.integers(0, 999))
def test_the_mean_of_the_differences_is_last_less_first(seed: int) -> None:
    f_btc = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(seed))
    change_btc = dynamic_features(f_btc, torch.ones(2, 4, dtype=torch.bool), ("difference",))
    torch.testing.assert_close(4 * change_btc.mean(dim=1), f_btc[:, -1] - f_btc[:, 0])


@pytest.mark.parametrize(("phases", "fusion"), list(MODELS))
@settings(deadline=None, max_examples=15)
@given(present=presence, filling=st.sampled_from([0.0, 1e4, -3.0, float("nan"), float("inf")]))
def test_what_a_missing_phase_holds_cannot_matter(
    phases: str, fusion: str, present: list[list[bool]], filling: float
) -> None:
    model, present_bp = MODELS[phases, fusion], torch.tensor(present)
    clean = volumes_of(present_bp)
    filled = torch.where(present_bp[:, :, None, None, None], clean, torch.full_like(clean, filling))
    lesion = box(len(present))
    assert torch.equal(model(clean, present_bp, lesion), model(filled, present_bp, lesion))


@pytest.mark.parametrize(("phases", "fusion"), list(MODELS))
def test_a_phase_that_is_there_matters_and_so_does_which_one_it_is(phases: str, fusion: str) -> None:
    model, all_there = MODELS[phases, fusion], torch.ones(1, 4, dtype=torch.bool)
    volumes, lesion = volumes_of(all_there), box(1)
    logit = model(volumes, all_there, lesion)
    for phase in range(4):
        without = all_there.clone()
        without[0, phase] = False
        assert (model(volumes, without, lesion) - logit).abs() > 1e-4
    swapped = volumes[:, [1, 0, 2, 3]]
    assert (model(swapped, all_there, lesion) - logit).abs() > 1e-4


@pytest.mark.parametrize(("phases", "fusion"), list(MODELS))
def test_a_case_scores_the_same_alone_and_in_company(phases: str, fusion: str) -> None:
    model = MODELS[phases, fusion]
    present_bp = torch.tensor([[1, 1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0]]).bool()
    volumes, lesion = volumes_of(present_bp), box(3)
    together = model(volumes, present_bp, lesion)
    alone = [model(volumes[i : i + 1], present_bp[i : i + 1], lesion[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("phases", "fusion"), list(MODELS))
def test_a_case_without_any_phase_has_a_finite_score_and_harms_no_other(phases: str, fusion: str) -> None:
    model = MODELS[phases, fusion]
    present_bp = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    volumes, lesion = volumes_of(present_bp), box(2)
    logit = model(volumes, present_bp, lesion)
    assert logit.isfinite().all()
    alone = model(volumes[:1], present_bp[:1], lesion[:1])
    torch.testing.assert_close(logit[:1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("phases", "fusion"), list(MODELS))
def test_a_batch_without_any_phase_is_finite_like_such_a_case_in_company(phases: str, fusion: str) -> None:
    model = MODELS[phases, fusion]
    present_bp = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]).bool()
    volumes, lesion = volumes_of(present_bp), box(2)
    alone = model(volumes[1:], present_bp[1:], lesion[1:])
    torch.testing.assert_close(alone, model(volumes, present_bp, lesion)[1:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("phases", "fusion"), list(MODELS))
def test_a_case_without_any_phase_is_given_no_score(phases: str, fusion: str) -> None:
    present_np = np.array([[True] * 4, [False] * 4])
    volumes = volumes_of(torch.from_numpy(present_np)).numpy().astype(np.float16)
    cases = CaseSet(
        case=("A-1", "B-1"),
        patient=("A", "B"),
        volumes_npdhw=volumes,
        present_np=present_np,
        lesion_ndhw=box(2).numpy().astype(np.uint8),
        label_n=np.array([0, 1], np.int8),
        afp_n=np.full(2, np.nan, np.float32),
    )
    with pytest.raises(CaseError, match="case B-1: none of the study's phases is there"):
        predict(MODELS[phases, fusion], cases, device=torch.device("cpu"))
    assert predict(MODELS[phases, fusion], cases.take([0]), device=torch.device("cpu")).shape == (1,)


@pytest.mark.parametrize("phases", ["shared", "joint"])
def test_every_parameter_learns(phases: Literal["shared", "joint"]) -> None:
    model = tiny_model(phases, layers=2)
    present_bp = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1]]).bool()
    model(volumes_of(present_bp), present_bp, box(2)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if not (phases == "joint" and "query_key_value" in name):  # attention to one's only token is constant
            assert parameter.grad.abs().sum() > 0, name


@settings(deadline=None, max_examples=60)
@given(present=presence)
def test_previous_present_is_the_last_one_before(present: list[list[bool]]) -> None:
    found = previous_present(torch.tensor(present)).tolist()
    for row, before in zip(present, found, strict=True):
        assert before == [max((s for s in range(t) if row[s]), default=-1) for t in range(len(row))]


def test_dynamic_features_by_hand() -> None:
    f_btc = torch.tensor([[[1.0], [9.0], [3.0], [-1.0]]])
    present_bt = torch.tensor([[True, False, True, True]])
    absolute, difference, relative = dynamic_features(
        f_btc, present_bt, ("absolute", "difference", "relative")
    )[0].T
    assert absolute.tolist() == [1.0, 0.0, 3.0, -1.0]
    assert difference.tolist() == [0.0, 0.0, 2.0, -4.0]
    rate = torch.tensor([0.0, 0.0, 2.0 / (1.0 + RELATIVE_FLOOR), -4.0 / (3.0 + RELATIVE_FLOOR)])
    torch.testing.assert_close(relative, RELATIVE_BOUND * torch.tanh(rate / RELATIVE_BOUND))


@settings(deadline=None, max_examples=30)
@given(present=presence, scale=st.floats(0.0, 1e4))
def test_relative_features_are_bounded_and_differences_end_at_the_last_phase(
    present: list[list[bool]], scale: float
) -> None:
    present_bt = torch.tensor(present)
    f_btc = scale * torch.randn(*present_bt.shape, 3, generator=torch.Generator().manual_seed(0))
    absolute, difference, relative = dynamic_features(
        f_btc, present_bt, ("absolute", "difference", "relative")
    ).chunk(3, dim=-1)
    assert relative.abs().max() <= RELATIVE_BOUND
    for b, row in enumerate(present):
        there = [t for t, is_there in enumerate(row) if is_there]
        whole_change = absolute[b, there[-1]] - absolute[b, there[0]]
        torch.testing.assert_close(difference[b].sum(0), whole_change, rtol=1e-4, atol=1e-4 * (1 + scale))
        assert not difference[b, there[0]].any()


@settings(deadline=None, max_examples=30)
@given(present=presence, scale=st.floats(0.01, 100.0))
def test_case_norm_takes_off_what_the_cases_of_a_phase_share(present: list[list[bool]], scale: float) -> None:
    present_bt = torch.tensor(present)
    f_btc = 50.0 + scale * torch.randn(*present_bt.shape, 3, generator=torch.Generator().manual_seed(0))
    poisoned = torch.where(present_bt[..., None], f_btc, torch.full_like(f_btc, 1e6))
    norm = CaseNorm(4, 3).train()
    normed = norm(poisoned, present_bt)
    assert not normed[~present_bt].any()
    for t in range(4):
        rows = f_btc[present_bt[:, t], t]
        if len(rows) < 2:
            assert norm.mass_t1[t] == 0  # one case says nothing of a spread
            continue
        spread = (rows.var(0, unbiased=False) + CaseNorm.EPSILON).sqrt()
        expected = (rows - rows.mean(0)) / spread
        near = 1e-3 + float(1e-5 / spread.min())  # a mean of 50 is rounded by 4e-6
        torch.testing.assert_close(normed[present_bt[:, t], t], expected, atol=near, rtol=1e-3)
        # In evaluation the running statistics are exact after one batch: there is no start to wear off.
        evaluated = norm.eval()(poisoned, present_bt)[present_bt[:, t], t]
        torch.testing.assert_close(evaluated, expected, atol=near, rtol=1e-3)


def test_states_of_sites_average_to_the_case_norm_of_both() -> None:
    source = torch.Generator().manual_seed(0)
    rows = [1.0 + torch.randn(8, 2, 3, generator=source), 5.0 + torch.randn(8, 2, 3, generator=source)]
    present = [torch.ones(8, 2, dtype=torch.bool), torch.tensor([[True, False]]).expand(8, 2)]
    sites = [CaseNorm(2, 3).train() for _ in range(2)]
    for site, f_btc, present_bt in zip(sites, rows, present, strict=True):
        site(f_btc, present_bt)
    both = CaseNorm(2, 3)
    states = [site.state_dict() for site in sites]
    assert all(array.dtype == torch.float32 for array in states[0].values())
    both.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    mean_tc = both.mean_tc / both.mass_t1
    torch.testing.assert_close(mean_tc[0], (rows[0][:, 0].mean(0) + rows[1][:, 0].mean(0)) / 2)
    torch.testing.assert_close(mean_tc[1], rows[0][:, 1].mean(0))  # the second site never saw this phase


def test_a_batch_that_is_not_finite_leaves_the_running_statistics() -> None:
    norm, present_bt = CaseNorm(1, 2).train(), torch.ones(4, 1, dtype=torch.bool)
    norm(torch.randn(4, 1, 2), present_bt)
    held = {name: array.clone() for name, array in norm.state_dict().items()}
    norm(torch.full((4, 1, 2), float("nan")), present_bt)
    assert all(torch.equal(array, held[name]) for name, array in norm.state_dict().items())


@pytest.mark.parametrize(
    "pooling", ["gap", "lesion", "gap+lesion", "gap+lesion+spread", "gap+lesion+rim+core", "found+spread"]
)
def test_the_lesion_matters_exactly_where_it_is_pooled(pooling: str) -> None:
    model, present_bp = tiny_model(pooling=pooling), torch.ones(1, 4, dtype=torch.bool)
    volumes = volumes_of(present_bp)
    change = model(volumes, present_bp, box(1)) - model(volumes, present_bp, box(1).flip(3))
    assert bool(change.abs() > 1e-4) == (pooling not in ("gap", "found+spread"))


@pytest.mark.parametrize("phases", ["shared", "joint"])
def test_the_pre_trained_encoder_is_taken_over(phases: Literal["shared", "joint"]) -> None:
    model, source = tiny_model(phases), SWFCMAE(tiny_settings(phases), len(PHASES))
    head = {n: p.clone() for n, p in model.state_dict().items() if not n.startswith("encoder.")}
    model.load_encoder(source.state_dict())
    for name, loaded in model.encoder.state_dict().items():
        assert torch.equal(loaded, source.encoder.state_dict()[name]), name
    assert all(torch.equal(model.state_dict()[name], kept) for name, kept in head.items())


@pytest.mark.parametrize("fault", ["shape", "missing", "foreign", "nothing"])
def test_an_encoder_that_does_not_fit_is_refused_whole(fault: str) -> None:
    model = tiny_model()
    state = dict(SWFCMAE(tiny_settings(), len(PHASES)).state_dict())
    name = next(n for n in state if n.startswith("encoder.") and state[n].ndim > 1)
    if fault == "shape":
        state[name] = state[name][..., :1]
    elif fault == "missing":
        del state[name]
    elif fault == "foreign":
        state["encoder.of_another"] = torch.zeros(1)
    else:
        state = {}
    held = {n: p.clone() for n, p in model.state_dict().items()}
    with pytest.raises(ConfigError, match=r"encoder differs in .* arrays.*use the study configuration"):
        model.load_encoder(state)
    assert all(torch.equal(held[n], p) for n, p in model.state_dict().items())


def test_depths_name_every_parameter_and_the_head_is_on_top() -> None:
    model = tiny_model()
    depths = model.parameter_depths()
    assert depths.keys() == dict(model.named_parameters()).keys()
    head = {depth for name, depth in depths.items() if not name.startswith("encoder.")}
    encoder = {depth for name, depth in depths.items() if name.startswith("encoder.")}
    assert head == {model.encoder.layers}
    assert max(encoder) == model.encoder.layers - 1
    assert min(encoder) == 0


def test_a_study_of_one_phase_works() -> None:
    model = Classifier(tiny_settings(), ("arterial",)).eval()
    present_bp = torch.ones(3, 1, dtype=torch.bool)
    assert model(volumes_of(present_bp), present_bp, box(3)).shape == (3,)
