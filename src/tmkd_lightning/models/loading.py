"""Loads a network's weights from files of ours and of others, read without running what is in them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from tmkd_lightning.feature_extraction.extractor import Extractor, last_linear
from tmkd_lightning.feature_extraction.image_size import IMAGE_SIZE, check_image_size, in_words
from tmkd_lightning.feature_extraction.normalization import GIVEN, Triple
from tmkd_lightning.models.remote_files import local_file
from tmkd_lightning.utils.checkpoint_reading import read_checkpoint, read_metadata
from tmkd_lightning.utils.images import channel_statistics
from tmkd_lightning.utils.state_dict import describe_mismatch, uncompiled
from tmkd_lightning.utils.validation import is_number


def load_weights(
    network: nn.Module | Extractor, path: str | Path, *, replace_head: bool = True, key: str | None = None
) -> None:
    """Loads a network's weights from a checkpoint of ours, any Lightning checkpoint, or a plain state dict.

    In a checkpoint with more in it, the network is found by its keys, whatever stands before them. A file of ours holds
    the mean and std that the network was trained with: it has them as ``image_mean`` and ``image_std`` from then on,
    and an Extractor around it normalises with them unless it was given others.

    Args:
        network: where the weights go, or an Extractor around it; unchanged if they do not fit.
        path: file that ``torch.save`` wrote, or a ``.safetensors`` file; also on a server, as in `local_file`.
        replace_head: whether a head for another number of classes stays as it is, with a warning; else it is an error.
        key: part of the file, such as ``state_dict_ema``, needed if several fit; parts within parts are joined by dots.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "weights.pt"
        >>> torch.save({"state_dict": {"model.weight": torch.ones(1, 2), "model.bias": torch.ones(1)}}, path)
        >>> network = nn.Linear(2, 1)
        >>> load_weights(network, path)
        >>> network.weight.tolist()
        [[1.0, 1.0]]
    """
    path = local_file(path)
    extractor = network if isinstance(network, Extractor) else None
    network = network if extractor is None else extractor.network
    state = network.state_dict(keep_vars=True)
    own = {uncompiled(name): name for name in state}  # a compiled network has longer names
    content = read_checkpoint(path)
    found = find_network(content, {short: state[name] for short, name in own.items()}, path, key)
    found = {own.get(name, name): value for name, value in found.items()}
    head = mismatched_head(network, found, None if extractor is None else extractor.head_name) if replace_head else {}
    fitting = {**found, **head}
    problems = describe_mismatch(fitting, state)
    if problems:
        raise ValueError(f"{path} does not fit {type(network).__name__}: " + "; ".join(problems))
    network.load_state_dict({name: fitting[name] for name in state})
    statistics = read_statistics(path, content)
    if extractor is not None:
        adopt_preprocessing(extractor, path, content)
    elif statistics is not None:
        network.image_mean, network.image_std = statistics  # type: ignore[assignment]
    if head:
        name = next(iter(head))
        rank_zero_warn(
            f"{path} has {len(found[name])} classes and {type(network).__name__} {len(head[name])}: all was loaded but "
            f"the head {name.rpartition('.')[0]!r}, which stays as it is"
        )


def read_statistics(path: str | Path, content: Any = None) -> tuple[Triple, Triple] | None:
    """Mean and std in a checkpoint or an export of ours, None where it has none; `content` if it is read already."""
    path = Path(path).expanduser()
    if path.suffix == ".safetensors":
        metadata = read_metadata(path)
        parts: list[Any] = [metadata.get(name) for name in ("mean", "std")]
    else:
        content = read_checkpoint(path, tensors=False) if content is None else content
        state = content.get("state_dict") if isinstance(content, Mapping) else None
        found = [state.get(f"extractor.{name}") if isinstance(state, Mapping) else None for name in ("mean", "std")]
        parts = [part.flatten().tolist() if isinstance(part, Tensor) else None for part in found]
    if not all(isinstance(part, list) and len(part) == 3 and all(map(is_number, part)) for part in parts):
        return None
    mean, std = (tuple(float(f"{value:.7g}") for value in part) for part in parts)  # as it was written before float32
    return mean, std


def adopt_preprocessing(extractor: Extractor, path: str | Path, content: Any = None) -> None:
    """Resizes and normalises images as for the network of a file; `content` if it is read already."""
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        content = read_checkpoint(path, tensors=False) if content is None else content
        size = content.get(IMAGE_SIZE) if isinstance(content, Mapping) else None
        if size is not None and extractor.image_size != (size := check_image_size(size)):
            message = f"{path} was trained on images resized to {in_words(size)} for it"
            if extractor.image_size is None:
                extractor.image_size = size
                rank_zero_info(f"{message}, and so are those of {extractor.name} from now on")
            else:
                rank_zero_warn(f"{message}, but the Extractor of {extractor.name} was given another image_size")
    statistics = read_statistics(path, content)
    if statistics is not None:
        _adopt_statistics(extractor, statistics, path)


def _adopt_statistics(extractor: Extractor, statistics: tuple[Triple, Triple], path: str | Path) -> None:
    """Normalises as the network of a file was trained; warns instead where the user gave other statistics."""
    mean, std = channel_statistics(*statistics)
    if torch.allclose(extractor.mean.float().cpu(), mean) and torch.allclose(extractor.std.float().cpu(), std):
        return
    message = f"{path} was trained on images normalised with mean {statistics[0]} and std {statistics[1]}"
    if extractor.statistics_source == GIVEN:
        rank_zero_warn(f"{message}, but the Extractor of {extractor.name} was given others: are they right?")
        return
    extractor.set_statistics(*statistics, source="from its checkpoint")
    rank_zero_info(f"{message}, and so are those of {extractor.name} from now on")


def head_keys(network: nn.Module, name: str | None = None) -> list[str]:
    """Keys of a head's weight and bias in the network's state dict, by default those of the last linear layer."""
    name = last_linear(network) if name is None else name
    if name is None:
        return []
    parameters = {id(parameter) for parameter in network.get_submodule(name).parameters()}
    return [key for key, value in network.state_dict(keep_vars=True).items() if id(value) in parameters]


def mismatched_head(network: nn.Module, tensors: Mapping[str, Tensor], name: str | None = None) -> dict[str, Tensor]:
    """The network's own head, if that among `tensors` differs in nothing but its number of classes; else nothing."""
    own = network.state_dict()
    head = {key: own[key] for key in head_keys(network, name)}
    if len(head) == len(own) or not head.keys() <= tensors.keys():
        return {}
    rows = {(tensors[key].shape[:1], value.shape[:1]) for key, value in head.items()}
    same_width = all(tensors[key].shape[1:] == value.shape[1:] for key, value in head.items())
    return head if same_width and len(rows) == 1 and all(given != mine for given, mine in rows) else {}


class _Candidate(NamedTuple):
    """What stands behind one prefix in one part of a file; `key` may name the part, the prefix or both."""

    part: str
    prefix: str
    place: str  # part and prefix
    tensors: dict[str, Tensor]  # all of the part
    matches: dict[str, Tensor]  # those that the network has names for, by these
    weights: int  # of the network's parameters, found in the right shape


def find_network(content: Any, expected: Mapping[str, Tensor], path: Path, key: str | None) -> dict[str, Tensor]:
    """Tensors of a file, at any depth, under the prefix that covers most of the expected names, without that prefix."""
    parts = list(_parts(content, "", 0, set()))
    if not parts:
        raise ValueError(f"{path} holds no tensors by name: neither a state dict nor a checkpoint with one")
    candidates = [one for part, tensors in parts for one in _candidates(part, tensors, expected)]
    if key is not None:
        key = key.rstrip(".")
        candidates = [one for one in candidates if key == one.prefix[:-1] or f"{one.place}.".startswith(f"{key}.")]
        if not candidates:
            known = sorted({part for part, _ in parts} - {""})
            raise ValueError(f"{path} holds no weights under {key!r}: its parts are {known}")
    best = max(candidates, key=lambda one: (len(one.matches), one.weights))
    rivals = _rivals(best, candidates, expected)
    if len(rivals) > 1:
        one_part = len({one.part for one in rivals}) == 1
        raise ValueError(
            f"{path} holds several networks that fit, under {[one.prefix if one_part else one.place for one in rivals]}"
            ": name the one that is meant, load_weights(..., key=...) or TMKDModule(teacher_key=...), or save it alone"
        )
    unnamed = _unnamed_copies(best, parts, expected) if key is None else []
    if unnamed:
        raise ValueError(
            f"{path} holds weights that fit under {best.place!r}, and others of the same shapes under {unnamed}, an "
            f"average perhaps: say key={best.place!r} if the former are meant, or save the network that is meant alone"
        )
    prefix = best.prefix
    found = {name.removeprefix(prefix): value for name, value in best.tensors.items() if name.startswith(prefix)}
    if prefix or len(best.matches) < len(expected):
        return found
    children = {name.split(".")[0] for name in expected}  # without a prefix, other parts may stand beside the network's
    return {name: value for name, value in found.items() if name.split(".")[0] in children}


def _parts(content: Any, part: str, depth: int, seen: set[int]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every mapping that holds tensors by name; what stands in several places is entered once."""
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping) or depth > 8:  # mappings and lists within each other
        return
    named = {str(name): value for name, value in content.items()}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    bare = {uncompiled(name): value for name, value in tensors.items()}
    if tensors:  # the same network may stand there twice, compiled and not
        yield part, bare if len(bare) == len(tensors) else tensors
    if id(content) not in seen:
        seen.add(id(content))
        for name, value in named.items():
            yield from _parts(value, _join(part, name), depth + 1, seen)


def _candidates(part: str, tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> list[_Candidate]:
    prefixes = {""}
    for name in tensors:
        starts = [0, *(index + 1 for index, letter in enumerate(name) if letter == ".")]
        prefixes |= {name[:start] for start in starts if name[start:] in expected}
    found = []
    for prefix in sorted(prefixes):
        matches = {name: tensors[prefix + name] for name in expected if prefix + name in tensors}
        weights = sum(matches[name].shape == expected[name].shape for name in _trained(expected) if name in matches)
        found.append(_Candidate(part, prefix, _join(part, prefix), tensors, matches, weights))
    return found


def _rivals(best: _Candidate, candidates: list[_Candidate], expected: Mapping[str, Tensor]) -> list[_Candidate]:
    """All different networks that could be meant; an average may lack the statistics of BatchNorm."""
    if len(best.matches) < len(expected):
        return [best]
    trained = _trained(expected) or list(expected)
    different: list[_Candidate] = []
    for one in candidates:
        fits = one.weights >= best.weights and all(name in one.matches for name in trained)
        if fits and not any(_same(one.matches, other.matches) for other in different):
            different.append(one)
    return different


def _unnamed_copies(
    best: _Candidate, parts: list[tuple[str, dict[str, Tensor]]], expected: Mapping[str, Tensor]
) -> list[str]:
    """Places of other weights of the same shapes, in the same order, under names that are not the network's."""
    orders = [_trained(expected), [name for name in expected if expected[name].ndim]]  # without and with statistics
    places = []
    for part, tensors in parts:
        groups: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for name, value in tensors.items():
            if value.ndim:  # counters aside: an average has its own
                groups[name.partition(".")[0] if "." in name else ""][name] = value
        for group, members in groups.items():
            if any(_are_copies(members, names, best, expected) for names in orders):
                places.append(_join(part, group))
    return places


def _are_copies(members: dict[str, Tensor], names: list[str], best: _Candidate, expected: Mapping[str, Tensor]) -> bool:
    if len(names) < 2 or [value.shape for value in members.values()] != [expected[name].shape for name in names]:
        return False
    if all(f".{member}".endswith(f".{name}") for member, name in zip(members, names, strict=True)):
        return False  # these are the network's own names, which are found elsewhere
    own = {name: value for name, value in best.matches.items() if name in names}
    return not _same(own, dict(zip(names, members.values(), strict=True)))


def _trained(expected: Mapping[str, Tensor]) -> list[str]:
    return [name for name, value in expected.items() if isinstance(value, nn.Parameter)]


def _same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    pairs = [(value, other[name]) for name, value in one.items() if name in other]
    same = all(a is b or (a.dtype == b.dtype and a.equal(b)) for a, b in pairs)
    return same and len(pairs) == len(one) == len(other)


def _join(part: str, name: str) -> str:
    return ".".join(filter(None, [part, name.rstrip(".")]))
