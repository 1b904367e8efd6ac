"""Weights from files: found whatever stands before their names, and never at the price of running code."""

import copy
import io
import pickle
from pathlib import Path

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


def assert_loaded(target: nn.Module, expected: dict[str, Tensor]) -> None:
    state = target.state_dict()
    assert state.keys() == expected.keys()
    assert all(value.equal(expected[key]) for key, value in state.items())


def test_plain_state_dict(tmp_path: Path) -> None:
    torch.save(saved(), tmp_path / "weights.pt")
    target = network()
    load_weights(target, str(tmp_path / "weights.pt"))
    assert_loaded(target, saved())


@pytest.mark.parametrize(
    "prefix", ["model.", "student.", "network.", "module.", "extractor.network.", "_orig_mod.", ""]
)
def test_lightning_checkpoint(tmp_path: Path, prefix: str) -> None:
    state = {prefix + key: value for key, value in saved().items()}
    state |= {"val_metrics.top1.tp": torch.zeros(2), "weight_net.hidden.weight": torch.ones(3, 3)}
    checkpoint = {"epoch": 3, "state_dict": state, "optimizer_states": [{"lr": 0.1}], "hyper_parameters": {"a": 1}}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    target = network()
    load_weights(target, tmp_path / "last.ckpt")
    assert_loaded(target, saved())


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_checkpoints_of_others(tmp_path: Path, key: str) -> None:
    torch.save({key: saved(), "epoch": 3, "args": {"lr": 0.1}}, tmp_path / "weights.pth")
    target = network()
    load_weights(target, tmp_path / "weights.pth")
    assert_loaded(target, saved())


def test_a_smaller_part_of_the_same_layout_is_not_taken(tmp_path: Path) -> None:
    """`head.` fits two keys of the network, `net.` fits all."""
    state = {f"net.{key}": value for key, value in saved().items()}
    state |= {"head.3.weight": torch.zeros(2, 4), "head.3.bias": torch.zeros(2)}
    torch.save({"state_dict": state}, tmp_path / "last.ckpt")
    target = network()
    load_weights(target, tmp_path / "last.ckpt")
    assert_loaded(target, saved())


def test_training_mode_and_gradients_stay(tmp_path: Path) -> None:
    torch.save(saved(), tmp_path / "weights.pt")
    target = network().train()
    parameters = list(target.parameters())
    load_weights(target, tmp_path / "weights.pt")
    assert target.training
    assert all(one is other and one.requires_grad for one, other in zip(parameters, target.parameters(), strict=True))


@pytest.mark.parametrize(
    ("state", "parts"),
    [
        (network(width=5).state_dict(), ["other shapes", "0.weight is (5, 3, 3, 3) instead of (4, 3, 3, 3)"]),
        ({"conv.weight": torch.ones(2), "3.bias": torch.ones(2)}, ["missing keys: 0.weight", "unknown keys: conv.wei"]),
        ({key: value for key, value in saved().items() if key != "3.bias"}, ["missing keys: 3.bias"]),
    ],
    ids=["width", "names", "a key less"],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_another_architecture(tmp_path: Path, state: dict[str, Tensor], parts: list[str], prefix: str) -> None:
    torch.save({"state_dict": {prefix + key: value for key, value in state.items()}}, tmp_path / "last.ckpt")
    target = network()
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(ValueError, match=r"last\.ckpt does not fit Sequential") as caught:
        load_weights(target, tmp_path / "last.ckpt")
    for part in parts:
        assert part in str(caught.value)  # the names are the network's own, without the prefix
    assert_loaded(target, before)


def test_long_lists_are_cut(tmp_path: Path) -> None:
    torch.save({"other.weight": torch.ones(1)}, tmp_path / "weights.pt")
    with pytest.raises(
        ValueError, match=r"missing keys: 0.weight, 0.bias, 1.weight, 1.bias, 1.running_mean and 4 more"
    ):
        load_weights(network(), tmp_path / "weights.pt")


@pytest.mark.parametrize("place", ["beside", "inside", "alone"])
def test_malicious_files_are_refused(tmp_path: Path, place: str) -> None:
    hacked = tmp_path / "hacked"
    content = {
        "beside": {"state_dict": saved(), "callbacks": Trap(hacked)},
        "inside": {"state_dict": {**saved(), "payload": Trap(hacked)}},
        "alone": Trap(hacked),
    }[place]
    torch.save(content, tmp_path / "last.ckpt")
    target = network()
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(ValueError, match="not a checkpoint that can be read safely"):
        load_weights(target, tmp_path / "last.ckpt")
    assert not hacked.exists()
    assert_loaded(target, before)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no checkpoint at {tmp_path / 'last.ckpt'}"):
        load_weights(network(), tmp_path / "last.ckpt")


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.99])
def test_truncated_file(tmp_path: Path, part: float) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": saved()}, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(ValueError, match=r"last\.ckpt is not a checkpoint that can be read safely"):
        load_weights(network(), path)


@pytest.mark.parametrize("content", [None, {}, {"epoch": 3}, {"state_dict": {}}])
def test_nothing_in_it(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt holds no tensors by name"):
        load_weights(network(), tmp_path / "last.ckpt")


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_larger_network_of_the_same_names_is_another_architecture(tmp_path: Path, prefix: str) -> None:
    larger = {**saved(), "3.more": torch.ones(2, 2)}
    torch.save({"state_dict": {prefix + key: value for key, value in larger.items()}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"unknown keys: 3\.more"):
        load_weights(network(), tmp_path / "last.ckpt")


def test_of_student_and_teacher_it_must_be_said_which_is_meant(tmp_path: Path) -> None:
    """A mean teacher is what its authors publish the accuracy of."""
    both = {f"student.{key}": value for key, value in saved().items()}
    both |= {f"a_teacher.{key}": torch.zeros_like(value) for key, value in saved().items()}
    torch.save({"state_dict": both}, tmp_path / "last.ckpt")
    target = network()
    with pytest.raises(ValueError, match="several networks that fit"):
        load_weights(target, tmp_path / "last.ckpt")
    load_weights(target, tmp_path / "last.ckpt", key="student")
    assert_loaded(target, saved())


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), 3, "abc", {0: 1}])
def test_what_is_no_dict_of_names(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="holds no tensors by name"):
        load_weights(network(), tmp_path / "last.ckpt")


def test_what_is_no_checkpoint_at_all(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"hello world")
    with pytest.raises(ValueError, match="not a checkpoint that can be read safely"):
        load_weights(network(), tmp_path / "last.ckpt")


class Mine:
    """A class of somebody's own."""


def written(content: object, old: bool = False) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=not old)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "it is empty"),
        (b"hello\nworld\n", "it is damaged, or not a checkpoint"),
        (b"class,probability\ncat,1\n", "it is damaged, or not a checkpoint"),
        (b'{"a": 1}', "it is damaged, or not a checkpoint"),
        (bytes(5000), "it is damaged, or not a checkpoint"),
        (written({"a": torch.ones(1000)})[:2000], "it is damaged or cut off"),
        (written({"a": torch.ones(1000)})[:-50], "it is damaged or cut off"),
        (
            written({"a": torch.ones(1000)}, old=True)[:2000],
            "it is damaged, or holds more than tensors and plain types",
        ),
        (written({"a": Mine()}), "it would run code, test_load_weights.Mine"),
        (written({"a": Mine}, old=True), "it would run code, test_load_weights.Mine"),
        (pickle.dumps({"a": Mine()}), "it is a pickle, which could run code, and not one of torch.save"),
    ],
    ids=["empty", "text", "csv", "json", "zeros", "begin", "all but the end", "begin of old", "ours", "old", "pickle"],
)
def test_what_is_wrong_with_a_file_is_said_without_bad_advice(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "last.ckpt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="read safely") as caught:
        load_weights(network(), path)
    assert str(caught.value) == f"{path} is not a checkpoint that can be read safely (weights_only=True): {cause}"


def test_two_networks_that_fit_are_named(tmp_path: Path) -> None:
    both = {f"{who}.{key}": value for seed, who in enumerate(("ema", "model")) for key, value in saved(seed).items()}
    torch.save({"state_dict": both}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"several networks that fit, under \['ema\.', 'model\.'\]"):
        load_weights(network(), tmp_path / "last.ckpt")
    for key in ("ema", "ema.", "state_dict.ema"):
        target = network(seed=9)
        load_weights(target, tmp_path / "last.ckpt", key=key)
        assert_loaded(target, saved(0))


RAW, AVERAGE = saved(1), saved(2)
WEIGHTS = {key: value for key, value in AVERAGE.items() if key in dict(network().named_parameters())}


def behind(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    ("content", "places"),
    [
        ({"state_dict": RAW, "state_dict_ema": AVERAGE}, ["state_dict", "state_dict_ema"]),  # timm
        (
            {"model": RAW, "model_ema": {**behind("module.", AVERAGE), "n_averaged": torch.ones(())}},
            None,
        ),  # torchvision
        ({"state_dict": RAW, "teacher_ema": AVERAGE}, ["state_dict", "teacher_ema"]),
        ({"student": behind("module.", RAW), "teacher": AVERAGE}, ["student.module", "teacher"]),  # DINO
        ({"model": RAW, "ema": {"decay": 0.9, "shadow": WEIGHTS}}, ["model", "ema.shadow"]),  # without statistics
        ({"state_dict": behind("net.", AVERAGE), "current_model_state": behind("net.", RAW)}, None),  # WeightAveraging
        (
            {"state_dict": RAW, "callbacks": {"StochasticWeightAveraging": {"average_model_state": AVERAGE}}},
            ["state_dict", "callbacks.StochasticWeightAveraging.average_model_state"],
        ),
        ({**RAW, "ema": AVERAGE}, ["", "ema"]),
        ({"state_dict": {**behind("net.", RAW), **behind("teacher_ema.", AVERAGE)}}, ["net.", "teacher_ema."]),
    ],
)
def test_raw_and_averaged_weights_are_both_named(tmp_path: Path, content: dict, places: list[str] | None) -> None:
    torch.save({"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, **content}, tmp_path / "a.pth")
    target = network()
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(ValueError, match=r"a\.pth holds several networks that fit, under \[.*key=\.\.\.") as caught:
        load_weights(target, tmp_path / "a.pth")
    assert places is None or f"under {places}:" in str(caught.value)
    assert_loaded(target, before)


@pytest.mark.parametrize(
    ("key", "expected"),
    [("model", RAW), ("model_ema", AVERAGE), ("model_ema.module", AVERAGE), ("inner.deep", RAW), ("inner", RAW)],
)
def test_a_key_chooses(tmp_path: Path, key: str, expected: dict[str, Tensor]) -> None:
    inner = {"deep": behind("_orig_mod.module.", RAW)}
    torch.save({"model": RAW, "model_ema": behind("module.", AVERAGE), "inner": inner}, tmp_path / "a.pth")
    target = network()
    load_weights(target, tmp_path / "a.pth", key=key)
    assert_loaded(target, expected)


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    torch.save({"model": RAW, "model_ema": AVERAGE}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"no weights under 'model_e': its parts are \['model', 'model_ema'\]"):
        load_weights(network(), tmp_path / "a.pth", key="model_e")


@pytest.mark.parametrize("average", [copy.deepcopy(RAW), RAW], ids=["equal", "one object"])
def test_the_same_weights_twice_are_no_question(tmp_path: Path, average: dict[str, Tensor]) -> None:
    torch.save({"model": RAW, "model_ema": behind("module.", average)}, tmp_path / "a.pth")
    target = network()
    load_weights(target, tmp_path / "a.pth")
    assert_loaded(target, RAW)


def test_an_average_that_differs_in_its_statistics_alone_is_another(tmp_path: Path) -> None:
    average = {**RAW, "1.running_mean": RAW["1.running_mean"] + 1}
    torch.save({"model": RAW, "model_ema": average}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="several networks that fit"):
        load_weights(network(), tmp_path / "a.pth")


def test_raw_and_averaged_weights_of_other_classes(tmp_path: Path) -> None:
    heads = [
        {
            key: value[:1].repeat(5, *[1] * (value.ndim - 1)) if key in ("3.weight", "3.bias") else value
            for key, value in state.items()
        }
        for state in (RAW, AVERAGE)
    ]
    torch.save({"model": heads[0], "model_ema": heads[1]}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"under \['model', 'model_ema'\]"):
        load_weights(network(), tmp_path / "a.pth")


def test_a_network_of_another_size_is_no_rival(tmp_path: Path) -> None:
    torch.save({"model": network(width=5).state_dict(), "small": RAW}, tmp_path / "a.pth")
    target = network()
    load_weights(target, tmp_path / "a.pth")
    assert_loaded(target, RAW)


# Compiled networks


PREFIXES = {
    "whole": lambda key: f"_orig_mod.{key}",
    "a layer": lambda key: key.replace("1.", "1._orig_mod."),
    "both": lambda key: f"_orig_mod.{key.replace('1.', '1._orig_mod.')}",
    "in DDP": lambda key: f"module._orig_mod.{key}",
    "around DDP": lambda key: f"_orig_mod.module.{key}",
}


@pytest.mark.parametrize("place", PREFIXES)
def test_what_a_compiler_put_before_the_names_is_taken_off(tmp_path: Path, place: str) -> None:
    torch.save({PREFIXES[place](key): value for key, value in RAW.items()}, tmp_path / "a.pth")
    target = network()
    load_weights(target, tmp_path / "a.pth")
    assert_loaded(target, RAW)


@pytest.mark.parametrize("compiled_file", [False, True])
def test_into_a_compiled_network(tmp_path: Path, compiled_file: bool) -> None:
    torch.save(behind("_orig_mod." if compiled_file else "", RAW), tmp_path / "a.pth")
    whole, part = torch.compile(network()), network()
    part[0] = torch.compile(part[0])
    for target in (whole, part):
        load_weights(target, tmp_path / "a.pth")
    assert_loaded(whole._orig_mod, RAW)
    assert part.state_dict()["0._orig_mod.weight"].equal(RAW["0.weight"])
    torch.save(of_classes(5), tmp_path / "b.pth")
    with pytest.warns(UserWarning, match="b.pth has 5 classes"):
        load_weights(whole, tmp_path / "b.pth")


# Safetensors


def test_safetensors(tmp_path: Path) -> None:
    save_file(behind("model.", RAW), tmp_path / "a.safetensors")
    target = network()
    load_weights(target, tmp_path / "a.safetensors")
    assert_loaded(target, RAW)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100)])
def test_damaged_safetensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.safetensors is not a safetensors file, or is damaged"):
        load_weights(network(), tmp_path / "a.safetensors")


def of_classes(count: int, width: int = 4) -> dict[str, Tensor]:
    """The weights of `saved`, with a head for other classes or of another width."""
    return {**saved(), "3.weight": torch.ones(count, width), "3.bias": torch.ones(count)}


@pytest.mark.parametrize("prefix", ["", "student."])
@pytest.mark.parametrize("count", [1, 5])
def test_a_head_for_other_classes_is_left_out(tmp_path: Path, prefix: str, count: int) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {prefix + key: value for key, value in of_classes(count).items()}}, path)
    target = network()
    fresh = {key: value.clone() for key, value in target.state_dict().items() if key.startswith("3.")}
    with pytest.warns(UserWarning, match=f"{path} has {count} classes and Sequential 2: all .* but the head '3'"):
        load_weights(target, path)
    assert_loaded(target, {**saved(), **fresh})


@pytest.mark.parametrize(
    ("state", "part"),
    [
        (of_classes(5, width=3), r"3\.weight is \(5, 3\) instead of \(2, 4\)"),
        ({**of_classes(5), "0.bias": torch.ones(9)}, r"other shapes: 0\.bias is \(9,\)"),
        ({**of_classes(5), "3.more": torch.ones(9)}, r"unknown keys: 3\.more"),
        ({**of_classes(5), "3.bias": torch.ones(6)}, r"3\.bias is \(6,\) instead of \(2,\)"),
        ({key: value for key, value in of_classes(5).items() if key != "3.bias"}, r"missing keys: 3\.bias"),
    ],
    ids=["width", "another layer", "a key more", "ragged", "a key less"],
)
@pytest.mark.filterwarnings("error")
def test_other_classes_excuse_nothing_else(tmp_path: Path, state: dict[str, Tensor], part: str) -> None:
    torch.save(state, tmp_path / "weights.pt")
    target = network()
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(ValueError, match=part):
        load_weights(target, tmp_path / "weights.pt")
    assert_loaded(target, before)


def test_a_teachers_head_must_fit(tmp_path: Path) -> None:
    torch.save(of_classes(5), tmp_path / "weights.pt")
    target = network()
    before = copy.deepcopy(target.state_dict())
    with pytest.raises(ValueError, match=r"other shapes: 3\.weight is \(5, 4\) instead of \(2, 4\)"):
        load_weights(target, tmp_path / "weights.pt", replace_head=False)
    assert_loaded(target, before)


@pytest.mark.filterwarnings("error")
def test_a_head_that_fits_is_loaded_in_silence(tmp_path: Path) -> None:
    torch.save(saved(), tmp_path / "weights.pt")
    target = network()
    load_weights(target, tmp_path / "weights.pt")
    assert_loaded(target, saved())


def test_only_the_last_linear_layer_is_a_head(tmp_path: Path) -> None:
    target = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    torch.save(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 7)).state_dict(), tmp_path / "head.pt")
    torch.save(nn.Sequential(nn.Linear(2, 5), nn.Linear(5, 2)).state_dict(), tmp_path / "hidden.pt")
    with pytest.warns(UserWarning, match="the head '1'"):
        load_weights(target, tmp_path / "head.pt")
    with pytest.raises(ValueError, match=r"0\.weight is \(5, 2\)"):
        load_weights(target, tmp_path / "hidden.pt")


def test_a_network_that_is_all_head_is_not_left_as_it_was(tmp_path: Path) -> None:
    torch.save(nn.Linear(4, 5).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weight is \(5, 4\)"):
        load_weights(nn.Linear(4, 2), tmp_path / "weights.pt")


@pytest.mark.parametrize(
    "hide",
    [
        lambda raw, average: {"model": raw, "emas": [{"decay": 0.9, "model": average}]},
        lambda raw, average: {"model": raw, "ema": {0.999: average}},
        lambda raw, average: {"a": {"b": {"c": {"d": {"e": {"f": average}}}}}, "model": raw},
        lambda raw, average: {"model": raw, "ema": {"shadow_params": list(average.values())}},
        lambda raw, average: {"state_dict": raw, "shadow_params": [average["weight"], average["bias"]]},
        lambda raw, average: {"state_dict": raw | {f"model_ema.{key}x": value for key, value in average.items()}},
        lambda raw, average: {
            **{f"student.{k}": v for k, v in raw.items()},
            **{f"teacher.{k}": v for k, v in average.items()},
        },
        lambda raw, average: {**raw, **{f"_orig_mod.{key}": value for key, value in average.items()}},
    ],
)
def test_no_average_is_overlooked(tmp_path, hide) -> None:
    """However deep it stands, in a list, under numbers, or under names that are not the network's."""
    raw, average = nn.Linear(3, 2), nn.Linear(3, 2)
    torch.save(hide(raw.state_dict(), average.state_dict()), tmp_path / "two.pt")
    with pytest.raises(ValueError, match=r"holds several networks that fit|of the same shapes under"):
        load_weights(nn.Linear(3, 2), tmp_path / "two.pt")
    torch.save(hide(raw.state_dict(), raw.state_dict()), tmp_path / "one.pt")
    network = nn.Linear(3, 2)
    load_weights(network, tmp_path / "one.pt")
    assert network.weight.equal(raw.weight)
