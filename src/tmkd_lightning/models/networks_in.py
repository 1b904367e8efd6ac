"""Finds a network's weights in the content of a file: in which part of it, and behind which prefix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from tmkd_lightning.utils.state_dict import uncompiled

_DEEPEST = 8  # mappings and lists within each other


@dataclass(frozen=True)
class _Candidate:
    """What stands behind one prefix in one part of a file.

    Args:
        part: names of the mappings that lead to it.
        prefix: what stands before the network's names.
        tensors: all of that part by name.
        names: how many of the network's names are there.
        weights: how many of its parameters are there, in the right shape.
    """

    part: tuple[str, ...]
    prefix: str
    tensors: dict[str, Tensor]
    names: int
    weights: int

    @property
    def place(self) -> str:
        """Part and prefix, as `key` may name it."""
        return ".".join([*self.part, *([self.prefix.rstrip(".")] if self.prefix else [])])

    def is_under(self, key: str) -> bool:
        """Whether a key names it, or a part of the file that it stands in."""
        key = key.rstrip(".")
        return key == self.prefix.rstrip(".") or f"{self.place}.".startswith(f"{key}.")

    def equals(self, other: _Candidate, wanted: Mapping[str, Tensor]) -> bool:
        """Whether both hold the same values for a network."""
        pairs = [(self.tensors.get(self.prefix + name), other.tensors.get(other.prefix + name)) for name in wanted]
        return all(one is two or (one is not None and two is not None and one.equal(two)) for one, two in pairs)


def find_network(content: Any, wanted: Mapping[str, Tensor], path: Path, key: str | None) -> dict[str, Tensor]:
    """Picks the tensors under the prefix that covers most of the wanted names, and removes it.

    Args:
        content: of a file: mappings, at any depth, of names to tensors.
        wanted: the network's state dict, with parameters as such.
        path: of the file, for messages.
        key: part of the file, or prefix in it, that is meant; None where there is but one.

    Returns:
        Tensors by the names that the network has for them, where they fit.

    Raises:
        ValueError: no tensors, none under `key`, or several networks that fit.
    """
    parts = dict(_parts(content, (), set()))
    if not parts:
        raise ValueError(f"{path} holds no tensors by name: neither a state dict nor a checkpoint with one")
    candidates = [one for part, tensors in parts.items() for one in _candidates(part, tensors, wanted)]
    if key is not None:
        candidates = [one for one in candidates if one.is_under(key)]
        if not candidates:
            known = sorted({".".join(part) for part in parts} - {""})
            raise ValueError(f"{path} holds no weights under {key!r}" + f": its parts are {known}" * bool(known))
    best = max(candidates, key=lambda one: (one.names, one.weights))
    rivals = _rivals(best, candidates, wanted)
    if len(rivals) > 1:
        one_part = len({one.part for one in rivals}) == 1
        raise ValueError(
            f"{path} holds several networks that fit, under {[one.prefix if one_part else one.place for one in rivals]}"
            ": name the one that is meant, load_weights(..., key=...) or TMKDModule(teacher_key=...), or save it alone"
        )
    nameless = [] if key is not None else _nameless_copies(best, parts, wanted)
    if nameless:
        raise ValueError(
            f"{path} holds weights that fit under {best.place!r}, and others of the same shapes under {nameless}, an "
            f"average perhaps: say key={best.place!r} if the former are meant, or save the network that is meant alone"
        )
    return _without_prefix(best, wanted)


def _nameless_copies(
    best: _Candidate, parts: Mapping[tuple[str, ...], dict[str, Tensor]], wanted: Mapping[str, Tensor]
) -> list[str]:
    """Where other weights of the same shapes stand in the same order, under names that are not the network's."""
    weights = [name for name in wanted if _trains(wanted[name])]
    whole = [name for name in wanted if wanted[name].ndim]  # with the statistics of norms, without their counters
    found = []
    for part, tensors in parts.items():
        groups: dict[str, list[tuple[str, Tensor]]] = {}
        for name, value in tensors.items():
            if value.ndim:  # an average has counters of its own too
                groups.setdefault(name.partition(".")[0] if "." in name else "", []).append((name, value))
        for group, members in groups.items():
            if any(_are_copies(members, names, best, wanted) for names in (weights, whole)):
                found.append(".".join([*part, *([group] if group else [])]))
    return found


def _are_copies(
    members: list[tuple[str, Tensor]], names: list[str], best: _Candidate, wanted: Mapping[str, Tensor]
) -> bool:
    if len(names) < 2 or [value.shape for _, value in members] != [wanted[name].shape for name in names]:
        return False
    if all(f".{name}".endswith(f".{one}") for (name, _), one in zip(members, names, strict=True)):
        return False  # these are the network's own names, which are looked for elsewhere
    own = [best.tensors.get(best.prefix + name) for name in names]
    return not all(one is not None and one.equal(value) for one, (_, value) in zip(own, members, strict=True))


def _parts(content: Any, part: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Every mapping that holds tensors by name; what stands in several places is looked into once."""
    if isinstance(content, (list, tuple)):
        content = dict(enumerate(content))
    if not isinstance(content, Mapping) or len(part) > _DEEPEST:
        return
    named = {str(name): value for name, value in content.items()}
    tensors = {name: value for name, value in named.items() if isinstance(value, Tensor)}
    bare = {uncompiled(name): name for name in tensors}
    if len(bare) == len(tensors):  # else the same network stands there twice, compiled and not
        tensors = {short: tensors[name] for short, name in bare.items()}
    if tensors:
        yield part, tensors
    if id(content) not in seen:
        seen.add(id(content))
        for name, value in named.items():
            yield from _parts(value, (*part, name), seen)


def _candidates(part: tuple[str, ...], tensors: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> list[_Candidate]:
    prefixes = {""}
    for name in tensors:
        starts = [0, *(index + 1 for index, letter in enumerate(name) if letter == ".")]
        prefixes |= {name[:start] for start in starts if name[start:] in wanted}
    found = []
    for prefix in sorted(prefixes):
        here = {name: tensors[prefix + name] for name in wanted if prefix + name in tensors}
        weights = sum(value.shape == wanted[name].shape for name, value in here.items() if _trains(wanted[name]))
        found.append(_Candidate(part, prefix, tensors, len(here), weights))
    return found


def _rivals(best: _Candidate, candidates: list[_Candidate], wanted: Mapping[str, Tensor]) -> list[_Candidate]:
    """All that could be meant; an average may lack the statistics of BatchNorm, and is one all the same."""
    if best.names < len(wanted):
        return [best]
    trained = [name for name in wanted if _trains(wanted[name])] or list(wanted)
    rivals = [
        one
        for one in candidates
        if one.weights >= best.weights and all(one.prefix + name in one.tensors for name in trained)
    ]
    different: list[_Candidate] = []
    for one in rivals:
        if not any(one.equals(other, wanted) for other in different):
            different.append(one)
    return different


def _trains(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def _without_prefix(found: _Candidate, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    prefix = found.prefix
    tensors = {name.removeprefix(prefix): value for name, value in found.tensors.items() if name.startswith(prefix)}
    if prefix or not wanted.keys() <= tensors.keys():
        return tensors
    own = {name.split(".")[0] for name in wanted}  # without a prefix, other parts may stand beside the network's
    return {name: value for name, value in tensors.items() if name.split(".")[0] in own}
