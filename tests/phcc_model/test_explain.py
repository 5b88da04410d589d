"""Heat maps against a gradient worked out apart, what is missing left out, the model left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import merged, tiny_study
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from phcc_model.build import build_classifier
from phcc_model.classifier import Classifier
from phcc_model.errors import CaseError, ConfigError, TrainingError
from phcc_model.explain import CamResult, heat_maps

FUSIONS = ("attention", "concat", "mean")
SIZE = (4, 16, 16)


def model_of(classifier: dict[str, Any] | None = None, **model: Any) -> Classifier:
    """A classifier for two phases whose weights are larger than at the start, so that it tells cases apart."""
    study = tiny_study(model=merged({"classifier": classifier or {}}, model))
    built = build_classifier(study)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for weight in built.parameters():
            weight.data += 0.2 * torch.randn_like(weight)
    return built


def cases(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Volumes, presence (the second case lacks its first phase), lesions."""
    source = torch.Generator().manual_seed(2)
    volumes = torch.randn(count, 2, *SIZE, generator=source)
    present = torch.ones(count, 2, dtype=torch.bool)
    present[1:2, 0] = False
    lesion = torch.zeros(count, *SIZE)
    lesion[:, 1:3, 4:12, 4:12] = 1
    return volumes, present, lesion


@pytest.mark.parametrize("phases", ["shared", "joint"])
@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pooling", ["gap", "gap+lesion+spread"])
def test_maps_lie_on_the_input_between_zero_and_one_with_the_score_of_the_model(
    phases: str, fusion: str, pooling: str
) -> None:
    model = model_of({"fusion": fusion, "pooling": pooling}, phases=phases)
    volumes, present, lesion = cases()
    found = heat_maps(model, volumes, present, lesion)
    assert found.maps_bpdhw.shape == volumes.shape
    assert float(found.maps_bpdhw.min()) >= 0
    assert set(found.maps_bpdhw.flatten(1).amax(dim=1).tolist()) <= {0.0, 1.0}
    assert not found.maps_bpdhw[1, 0].any()
    torch.testing.assert_close(found.logit_b, model.eval()(volumes, present, lesion).detach())
    assert (found.attention_bp is None) == (phases == "joint" or fusion != "attention")


@pytest.mark.parametrize("centred", [False, True])
def test_the_map_is_selvaraju_s_formula(centred: bool) -> None:
    # By hand: with `gap` the logit's slope by the mean of channel c is known from finite differences.
    model = model_of({"fusion": "mean", "pooling": "gap"}).eval()
    volumes, _, lesion = cases(1)
    present = torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        kept = model.draw_paths(present)
        pooled_btc = model.features(volumes, present, lesion, kept)[0].double()
        maps_ncdhw = model.encoder(volumes[0, :, None])
        model.double()
        step = 1e-6
        slope_tc = torch.empty(2, pooled_btc.shape[2], dtype=torch.float64)
        for t in range(2):
            for c in range(pooled_btc.shape[2]):
                up, down = pooled_btc.clone(), pooled_btc.clone()
                up[0, t, c] += step
                down[0, t, c] -= step
                slope_tc[t, c] = (model.score(up, present) - model.score(down, present))[0] / (2 * step)
        model.float()
    if centred:
        maps_ncdhw = maps_ncdhw - maps_ncdhw.mean(dim=(2, 3, 4), keepdim=True)
    cam_pdhw = torch.einsum("pc,pcdhw->pdhw", slope_tc.float(), maps_ncdhw).relu()
    fine = F.interpolate(cam_pdhw[None], SIZE, mode="trilinear")[0]
    found = heat_maps(model, volumes, present, lesion, centred=centred).maps_bpdhw[0]
    torch.testing.assert_close(found, fine / fine.max(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("phases", ["shared", "joint"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_missing_phase_changes_nothing_whatever_stands_there(phases: str, fusion: str) -> None:
    model = model_of({"fusion": fusion}, phases=phases)
    volumes, present, lesion = cases()
    before = heat_maps(model, volumes, present, lesion)
    volumes[1, 0] = float("nan")
    after = heat_maps(model, volumes, present, lesion)
    assert torch.equal(before.maps_bpdhw, after.maps_bpdhw)
    assert torch.equal(before.logit_b, after.logit_b)


@pytest.mark.parametrize("stage", [0, 1, -1])
@pytest.mark.parametrize("method", ["grad-cam", "hires-cam", "layer-cam"])
def test_a_case_s_map_is_its_own_and_the_same_each_time(method: Any, stage: int) -> None:
    model = model_of()
    volumes, present, lesion = cases()
    together = heat_maps(model, volumes, present, lesion, method=method, stage=stage)
    again = heat_maps(model, volumes, present, lesion, method=method, stage=stage)
    assert torch.equal(together.maps_bpdhw, again.maps_bpdhw)
    for i in range(len(volumes)):
        alone = heat_maps(model, volumes[[i]], present[[i]], lesion[[i]], method=method, stage=stage)
        torch.testing.assert_close(alone.maps_bpdhw[0], together.maps_bpdhw[i], atol=1e-3, rtol=1e-3)


def test_what_speaks_for_one_side_does_not_speak_for_the_other() -> None:
    model = model_of()
    volumes, present, lesion = cases()
    how: dict[str, Any] = {"method": "hires-cam", "stage": 0}
    up = heat_maps(model, volumes, present, lesion, toward="positive", **how).maps_bpdhw
    down = heat_maps(model, volumes, present, lesion, toward="negative", **how).maps_bpdhw
    assert up.any()
    assert down.any()
    # Each cell speaks for one side only; the maps meet at most where they are resampled.
    assert float(torch.corrcoef(torch.stack([up.flatten(), down.flatten()]))[0, 1]) < -0.1


def test_the_model_is_left_as_it_was() -> None:
    model = model_of().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        heat_maps(model, *cases())
    assert model.training
    assert all(part.training for part in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.grad is None and weight.requires_grad for weight in model.parameters())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_no_lesion_is_no_error_and_a_case_without_any_phase_has_an_empty_map() -> None:
    model = model_of({"pooling": "gap+lesion"})
    volumes, present, _ = cases()
    assert torch.isfinite(heat_maps(model, volumes, present).maps_bpdhw).all()
    present[2] = False
    found = heat_maps(model, volumes, present)
    assert not found.maps_bpdhw[2].any()
    assert not attention(found)[2].any()
    assert found.maps_bpdhw[0].any()
    with pytest.raises(CaseError, match="none of the phases"):
        heat_maps(model, volumes, torch.zeros_like(present))


def test_the_usual_method_is_grad_cam_for_the_plain_mean_and_hires_cam_where_the_lesion_is_pooled() -> None:
    volumes, present, lesion = cases()
    for pooling, method, centred in (("gap", "grad-cam", True), ("gap+lesion+spread", "hires-cam", False)):
        model = model_of({"pooling": pooling})
        usual = heat_maps(model, volumes, present, lesion).maps_bpdhw
        named = heat_maps(model, volumes, present, lesion, method=method, centred=centred)  # type: ignore[arg-type]
        assert torch.equal(usual, named.maps_bpdhw)


def test_for_the_plain_mean_hires_cam_is_grad_cam_and_elsewhere_it_is_not() -> None:
    volumes, present, lesion = cases()
    for pooling, same in (("gap", True), ("gap+lesion+spread", False)):
        model = model_of({"pooling": pooling})
        maps = [
            heat_maps(model, volumes, present, lesion, method=how, centred=False).maps_bpdhw  # type: ignore[arg-type]
            for how in ("grad-cam", "hires-cam")
        ]
        assert maps[1].any()
        assert torch.allclose(*maps, atol=1e-4) == same


def test_what_cannot_be_explained_is_said() -> None:
    model = model_of()
    volumes, present, lesion = cases()
    with pytest.raises(ConfigError, match=r"no heat map of the kind 'cam'.*grad-cam"):
        heat_maps(model, volumes, present, lesion, method="cam")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"no stage 2.*0 to 1"):
        heat_maps(model, volumes, present, lesion, stage=2)
    volumes[0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(TrainingError, match="not finite"):
        heat_maps(model, volumes, present, lesion)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from([[True, True], [True, False], [False, True]]))
def test_attention_is_shared_out_among_the_phases_that_are_there(seed: int, there: list[bool]) -> None:
    model = model_of({"layers": 2})
    volumes = torch.randn(1, 2, *SIZE, generator=torch.Generator().manual_seed(seed))
    shares = attention(heat_maps(model, volumes, torch.tensor([there])))[0]
    assert float(shares.sum()) == pytest.approx(1.0, abs=1e-5)
    assert all(
        float(share) > 0 if is_there else share == 0 for share, is_there in zip(shares, there, strict=True)
    )


def test_a_query_that_asks_for_nothing_attends_to_all_alike_and_one_that_asks_is_heard() -> None:
    model = model_of({"heads": 1})
    layer: Any = model.fusion.layers[0]
    volumes, _, lesion = cases(1)
    present = torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        layer.query_key_value.weight.zero_()
        layer.query_key_value.bias.zero_()
    torch.testing.assert_close(attention(heat_maps(model, volumes, present, lesion)), torch.full((1, 2), 0.5))
    # Keys along the difference of the two tokens: the second one takes all attention. Half of every token's
    # share is its residual path's: 0.5 * (1, 1) / 2 + 0.5 * (0, 1).
    seen: list[Tensor] = []
    handle = layer.norm.register_forward_hook(lambda _m, _i, out: seen.append(out.detach()))
    heat_maps(model, volumes, present, lesion)
    handle.remove()
    width = seen[0].shape[-1]
    with torch.no_grad():
        layer.query_key_value.bias[0] = 100.0
        layer.query_key_value.weight[width] = 100.0 * (seen[0][0, 1] - seen[0][0, 0])
    torch.testing.assert_close(
        attention(heat_maps(model, volumes, present, lesion)), torch.tensor([[0.25, 0.75]]), atol=1e-3, rtol=0
    )


def attention(found: CamResult) -> Tensor:
    assert found.attention_bp is not None
    return found.attention_bp
