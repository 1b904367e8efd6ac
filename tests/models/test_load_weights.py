"""Weights from files: found behind any prefix, never taken from the wrong network, and read without running code."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from helpers.fake_datasets import Trap
from tmkd_lightning.models import load_weights


def network(width: int = 4, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 2))


def saved(seed: int = 1) -> dict[str, Tensor]:
    """Weights and statistics unlike those of a fresh network."""
    state = network(seed=seed).state_dict()
    state["1.running_mean"] += 0.5
    state["1.num_batches_tracked"] += 7
    return state


RAW, AVERAGE = saved(1), saved(2)
WEIGHTS = {key: value for key, value in AVERAGE.items() if key in dict(network().named_parameters())}


def behind(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


def of_classes(count: int, width: int = 4) -> dict[str, Tensor]:
    """The weights of `saved`, with a head for other classes or of another width."""
    return {**saved(), "3.weight": torch.ones(count, width), "3.bias": torch.ones(count)}


def assert_loaded(target: nn.Module, expected: dict[str, Tensor]) -> None:
    state = target.state_dict()
    assert state.keys() == expected.keys()
    assert all(value.equal(expected[key]) for key, value in state.items())


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., nn.Module]:
    """Saves some content, loads it into a network, which is left as it was if that fails, and returns the network."""

    def run(content: object, target: nn.Module | None = None, **options: Any) -> nn.Module:
        torch.save(content, tmp_path / "last.ckpt")
        target = network() if target is None else target
        before = copy.deepcopy(target.state_dict())
        try:
            load_weights(target, tmp_path / "last.ckpt", **options)
        except ValueError:
            assert_loaded(target, before)
            raise
        return target

    return run


def lightning(prefix: str) -> dict[str, Any]:
    others = {"val_metrics.top1.tp": torch.zeros(2), "weight_net.hidden.weight": torch.ones(3, 3)}
    state = {**behind(prefix, RAW), **others}
    return {"epoch": 3, "state_dict": state, "optimizer_states": [{"lr": 0.1}], "hyper_parameters": {"a": 1}}


FOUND: dict[str, Any] = {
    "plain": RAW,
    **{f"behind {prefix}": lightning(prefix) for prefix in ("model.", "student.", "extractor.network.", "")},
    "state_dict": {"state_dict": RAW, "epoch": 3, "args": {"lr": 0.1}},
    "model": {"model": RAW, "epoch": 3, "args": {"lr": 0.1}},
    "beside a part of the same names": {  # `head.` fits two keys of the network, `net.` fits all
        "state_dict": {**behind("net.", RAW), "head.3.weight": torch.zeros(2, 4), "head.3.bias": torch.zeros(2)}
    },
    "beside a network of another size": {"model": network(width=5).state_dict(), "small": RAW},
    "twice": {"model": RAW, "model_ema": behind("module.", copy.deepcopy(RAW))},
    "twice, as one object": {"model": RAW, "model_ema": behind("module.", RAW)},
    "compiled": behind("_orig_mod.", RAW),
    "a compiled layer": {key.replace("1.", "1._orig_mod."): value for key, value in RAW.items()},
    "both": {f"_orig_mod.{key.replace('1.', '1._orig_mod.')}": value for key, value in RAW.items()},
    "compiled in DDP": behind("module._orig_mod.", RAW),
    "compiled around DDP": behind("_orig_mod.module.", RAW),
}


@pytest.mark.parametrize("place", FOUND)
def test_the_network_is_found(load, place: str) -> None:
    """Training mode and gradients stay."""
    target = network().train()
    parameters = list(target.parameters())
    assert_loaded(load(FOUND[place], target), RAW)
    assert target.training
    assert all(one is other and one.requires_grad for one, other in zip(parameters, target.parameters(), strict=True))


@pytest.mark.parametrize(
    ("state", "parts"),
    [
        ({}, ["holds no tensors by name"]),
        ({"state_dict": {}, "epoch": 3, 0: 1}, ["holds no tensors by name"]),
        (torch.ones(3), ["holds no tensors by name"]),
        (network(width=5).state_dict(), ["other shapes", "0.weight is (5, 3, 3, 3) instead of (4, 3, 3, 3)"]),
        ({"conv.weight": torch.ones(2), "3.bias": torch.ones(2)}, ["missing keys: 0.weight", "unknown keys: conv.wei"]),
        ({key: value for key, value in saved().items() if key != "3.bias"}, ["missing keys: 3.bias"]),
        ({**saved(), "3.more": torch.ones(2, 2)}, ["unknown keys: 3.more"]),
        # long lists are cut
        ({"other.weight": torch.ones(1)}, ["keys: 0.weight, 0.bias, 1.weight, 1.bias, 1.running_mean and 4 more"]),
    ],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_another_architecture(load, state: object, parts: list[str], prefix: str) -> None:
    with pytest.raises(ValueError, match=r"last\.ckpt (does not fit Sequential|holds no)") as caught:
        load({"state_dict": behind(prefix, state)} if "tensors" not in parts[0] else state)
    for part in parts:
        assert part in str(caught.value)  # the names are the network's own, without the prefix


def test_malicious_files_are_refused(load, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "hacked")
    inside = {"state_dict": {**saved(), "payload": trap}}
    for content in ({"state_dict": saved(), "callbacks": trap}, inside, trap):
        with pytest.raises(ValueError, match="not a checkpoint that can be read safely"):
            load(content)
        assert not trap.path.exists()


class Mine:
    """A class of somebody's own."""


def written(content: object, old: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


NOT_OURS = "it is empty, cut off, or not a file of torch.save"


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("content", "cause"),
    [
        *((content, NOT_OURS) for content in (b"", b"hello\nworld\n", bytes(5000), pickle.dumps({"a": Mine()}))),
        (written({"a": torch.ones(1000)})[:2000], NOT_OURS),
        (written({"a": torch.ones(1000)})[:-50], NOT_OURS),
        (written({"a": torch.ones(1000)}, old=True)[:2000], NOT_OURS),
        (written({"a": Mine()}), "it would run code, test_load_weights.Mine"),
        (written({"a": Mine}, old=True), "it would run code, test_load_weights.Mine"),
    ],
    ids=range(9),
)
def test_what_is_wrong_with_a_file_is_said_without_bad_advice(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "last.ckpt"
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at {path}"):
        load_weights(network(), path)
    path.write_bytes(content)
    message = rf"{path} is not a checkpoint that can be read safely \(weights_only=True\): {cause}$"
    with pytest.raises(ValueError, match=message):
        load_weights(network(), path)


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ({"state_dict": RAW, "state_dict_ema": AVERAGE}, ["state_dict", "state_dict_ema"]),  # timm
        ({"model": RAW, "model_ema": {**behind("module.", AVERAGE), "n": torch.ones(())}}, None),  # torchvision
        ({"state_dict": RAW, "teacher_ema": AVERAGE}, ["state_dict", "teacher_ema"]),
        ({"student": behind("module.", RAW), "teacher": AVERAGE}, ["student.module", "teacher"]),  # DINO
        ({"model": RAW, "ema": {"decay": 0.9, "shadow": WEIGHTS}}, ["model", "ema.shadow"]),  # without statistics
        ({"state_dict": behind("net.", AVERAGE), "current_model_state": behind("net.", RAW)}, None),  # WeightAveraging
        (
            {"state_dict": RAW, "callbacks": {"StochasticWeightAveraging": {"average_model_state": AVERAGE}}},
            ["state_dict", "callbacks.StochasticWeightAveraging.average_model_state"],
        ),
        ({**RAW, "ema": AVERAGE}, ["", "ema"]),
        ({"model": RAW, "model_ema": {**RAW, "1.running_mean": RAW["1.running_mean"] + 1}}, None),
        ({"model": RAW, "model_ema": {key: value.double() for key, value in RAW.items()}}, None),
        ({"model": of_classes(5), "model_ema": {**of_classes(5), "0.bias": torch.ones(4)}}, ["model", "model_ema"]),
        ({"state_dict": {**behind("net.", RAW), **behind("teacher_ema.", AVERAGE)}}, ["net.", "teacher_ema."]),
    ],
)
def test_raw_and_averaged_weights_are_both_named(load, content: dict, places: list[str] | None) -> None:
    with pytest.raises(ValueError, match=r"ckpt holds several networks that fit, under \[.*key=\.\.\.") as caught:
        load({"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, **content})
    assert places is None or f"under {places}:" in str(caught.value)


def test_a_key_chooses(load) -> None:
    content = {
        "model": RAW,
        "model_ema": behind("module.", AVERAGE),
        "inner": {"deep": behind("_orig_mod.module.", RAW)},
    }
    for key in ("model", "inner.deep", "inner"):
        assert_loaded(load(content, key=key), RAW)
    for key in ("model_ema", "model_ema.module"):
        assert_loaded(load(content, key=key), AVERAGE)
    with pytest.raises(ValueError, match=r"no weights under 'model_e': its parts are \[.*'model', 'model_ema'\]"):
        load(content, key="model_e")
    both = {"state_dict": {**behind("ema.", AVERAGE), **behind("model.", RAW)}}
    for inside in ("ema", "ema.", "state_dict.ema"):
        assert_loaded(load(both, key=inside), AVERAGE)


@pytest.mark.parametrize(
    "hide",
    [
        lambda raw, average: {"model": raw, "emas": [{"decay": 0.9, "model": average}]},
        lambda raw, average: {"model": raw, "ema": {0.999: average}},
        lambda raw, average: {"a": {"b": {"c": {"d": {"e": {"f": average}}}}}, "model": raw},
        lambda raw, average: {"model": raw, "ema": {"shadow_params": list(average.values())}},
        lambda raw, average: {"state_dict": raw, "shadow_params": [average["weight"], average["bias"]]},
        lambda raw, average: {"state_dict": raw | {f"model_ema.{key}x": value for key, value in average.items()}},
        lambda raw, average: behind("student.", raw) | behind("teacher.", average),
        lambda raw, average: raw | behind("_orig_mod.", average),
    ],
)
def test_no_average_is_overlooked(load, hide) -> None:
    """However deep it stands, in a list, under numbers, or under names that are not the network's."""
    raw, average = nn.Linear(3, 2), nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"holds several networks that fit|of the same shapes under"):
        load(hide(raw.state_dict(), average.state_dict()), nn.Linear(3, 2))
    assert load(hide(raw.state_dict(), raw.state_dict()), nn.Linear(3, 2)).weight.equal(raw.weight)


@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_into_a_compiled_network(load, prefix: str) -> None:
    whole, part = torch.compile(network()), network()
    part[0] = torch.compile(part[0])
    for target in (whole, part):
        load(behind(prefix, RAW), target)
    assert_loaded(whole._orig_mod, RAW)
    assert part.state_dict()["0._orig_mod.weight"].equal(RAW["0.weight"])
    with pytest.warns(UserWarning, match="last.ckpt has 5 classes"):
        load(of_classes(5), whole)


def test_safetensors(tmp_path: Path) -> None:
    path, target = tmp_path / "a.safetensors", network()
    save_file(behind("model.", RAW), path)
    load_weights(target, str(path))
    assert_loaded(target, RAW)
    for content in (b"", b"hello", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.safetensors is not a safetensors file, or is damaged"):
            load_weights(target, path)


def test_a_head_for_other_classes_is_left_out(load) -> None:
    """The last linear layer alone is one."""
    fresh = {key: value for key, value in network().state_dict().items() if key.startswith("3.")}
    for prefix in ("", "student."):
        for count in (1, 5):
            with pytest.warns(UserWarning, match=f"ckpt has {count} classes and Sequential 2: all .* but the head '3'"):
                target = load({"state_dict": behind(prefix, of_classes(count))})
            assert_loaded(target, {**saved(), **fresh})
    for state, part in (  # other classes excuse nothing else
        (of_classes(5, width=3), r"3\.weight is \(5, 3\) instead of \(2, 4\)"),
        ({**of_classes(5), "0.bias": torch.ones(9)}, r"other shapes: 0\.bias is \(9,\)"),
        ({**of_classes(5), "3.more": torch.ones(9)}, r"unknown keys: 3\.more"),
        ({**of_classes(5), "3.bias": torch.ones(6)}, r"3\.bias is \(6,\) instead of \(2,\)"),
        ({key: value for key, value in of_classes(5).items() if key != "3.bias"}, r"missing keys: 3\.bias"),
    ):
        with pytest.raises(ValueError, match=part):
            load(state)
    target = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    with pytest.warns(UserWarning, match="the head '1'"):
        load(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 7)).state_dict(), target)
    with pytest.raises(ValueError, match=r"0\.weight is \(5, 2\)"):
        load(nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 2)).state_dict(), target)
    with pytest.raises(ValueError, match=r"weight is \(5, 4\)"):  # all head: nothing would be read
        load(nn.Linear(4, 5).state_dict(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"other shapes: 3\.weight is \(5, 4\) instead of \(2, 4\)"):  # a teacher's
        load(of_classes(5), replace_head=False)
