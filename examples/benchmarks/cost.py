"""What a step costs on paper, and how far the paper is from the clock.

    python examples/benchmarks/cost.py --pair wrn --batch_size 32
    python examples/benchmarks/cost.py --pair resnet --batch_size 8 --size 448

Runs each part of a TMKD step once and counts, operation by operation, its multiplications and additions (FLOP, of
convolutions and matrix products), the bytes that its operands hold, and the operations themselves, each a kernel on a
GPU. An operation is then given the longer of FLOP / peak and bytes / bandwidth, both measured beforehand on the same
machine, and the sum is set beside the least time that the part took in a few rounds. Says too what DDP would send in a
step. Writes runs/cost.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from common import PAIRS, PAPERS_METHODS, TMKD, make_method, now, report, sgd
from step import CLASSES
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tmkd_lightning import Output, TMKDModule
from tmkd_lightning.text import HashingTextEncoder

ROUNDS = 8
FREE = {"view", "t", "transpose", "expand", "slice", "select", "permute", "detach", "unsqueeze", "split", "alias"}


class Roofline(TorchDispatchMode):
    """Adds up what the operations below it do, and what they would take at the machine's best."""

    def __init__(self, peak: float, bandwidth: float) -> None:
        super().__init__()
        self.peak, self.bandwidth = peak, bandwidth
        self.flop = self.bytes = self.operations = self.seconds = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ in FREE:
            return result  # another look at the same memory
        counter = flop_registry.get(function.overloadpacket)
        flop = counter(*args, **(kwargs or {}), out_val=result) if counter else 0
        moved = sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, Tensor))
        self.flop += flop
        self.bytes += moved
        self.operations += 1
        self.seconds += max(flop / self.peak, moved / self.bandwidth)
        return result


def best(call: Callable[[], object]) -> float:
    """Seconds of the fastest of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = now()
        call()
        times.append(now() - start)
    return min(times[1:])


def machine(device: str) -> tuple[float, float]:
    """FLOP/s of a matrix product, and bytes/s of an addition, both larger than any cache."""
    square = torch.rand(2048, 2048, device=device)
    long = torch.rand(2**25, device=device)
    out = torch.empty_like(long)
    flops, bandwidth = (
        2 * 2048**3 / best(lambda: square @ square),
        3 * long.nbytes / best(lambda: torch.add(long, long, out=out)),
    )
    return flops, bandwidth


def parts(pair: str, size: int, batch_size: int, device: str) -> dict[str, Callable[[], object]]:
    """Each part of a step by itself, on what the part before it gives."""
    make_teacher, make_student, _ = PAIRS[pair]
    module = TMKDModule(make_teacher(num_classes=CLASSES), make_student(num_classes=CLASSES), **TMKD).to(device)
    for extractor in (module.extractor, module.teacher.extractor):
        extractor.network.to(memory_format=torch.channels_last)
        extractor.keep_map = True
    vectors = HashingTextEncoder().encode([f"class {index}" for index in range(CLASSES)]).to(device)
    module.prompt_bank.fill(vectors.expand(3, -1, -1), vectors)
    image = torch.rand(batch_size, 3, size, size, device=device)
    label = torch.randint(CLASSES, (batch_size,), device=device)
    optimizer = sgd(module.extractor.parameters())
    seen = module.views(image).flatten(0, 1)
    with torch.no_grad():
        student = module.extractor(image)
        teacher = module.teacher.frozen(seen[:batch_size])

    def train_student() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(module.extractor(image).logits, label).backward()
        optimizer.step()

    def fresh() -> Output:
        return student.map(lambda part: part.detach().requires_grad_())

    calls: dict[str, Callable[[], object]] = {f"view {view.name}": _bind(view, image) for view in module.views.views}
    calls["teacher, a view"] = _bind(module.teacher, seen[:batch_size])
    calls["student, trained"] = train_student
    for name in PAPERS_METHODS:
        distiller = make_method(name).to(device)
        calls[f"loss of {name}"] = lambda d=distiller: sum(d(fresh(), teacher, label).values()).backward()
    calls["loss feature + logit"] = lambda: sum(module.distiller(fresh(), teacher, label).values()).backward()
    calls["fusion weights"] = lambda: module.teacher.view_weights(label).sum().backward()
    calls["text contrast"] = lambda: sum(
        module.text_alignment(fresh().embedding, module.prompt_bank.anchors, label).values()
    ).backward()
    return calls


def _bind(function: Callable[..., object], image: Tensor) -> Callable[[], object]:
    return lambda: function(image)


def measure(pair: str, size: int, batch_size: int) -> list[dict[str, Any]]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peak, bandwidth = machine(device)
    print(f"{pair}, {batch_size} images of {size} px: {peak / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s at best\n")
    rows = []
    for name, call in parts(pair, size, batch_size, device).items():
        call()
        with Roofline(peak, bandwidth) as paper:
            call()
        rows.append(
            {
                "part": name,
                "GFLOP": paper.flop / 1e9,
                "MB": paper.bytes / 1e6,
                "operations": int(paper.operations),
                "paper ms": 1e3 * paper.seconds,
                "clock ms": 1e3 * best(call),
            }
        )
    return rows


def traffic(pair: str) -> None:
    """What DDP sends: gradients of what trains, and BatchNorm's statistics of the student; nothing of the teacher."""
    make_teacher, make_student, _ = PAIRS[pair]
    module = TMKDModule(make_teacher(num_classes=CLASSES), make_student(num_classes=CLASSES), **TMKD)
    ignored = set(module._ddp_params_and_buffers_to_ignore)
    trained = sum(p.nbytes for name, p in module.named_parameters() if p.requires_grad and name not in ignored)
    buffers = sum(b.nbytes for name, b in module.named_buffers() if name not in ignored)
    left_out = sum(t.nbytes for t in [*module.teacher.parameters(), *module.teacher.buffers()])
    print(
        f"\nDDP on N devices: {trained / 1e6:.1f} MB of gradients, of which each sends 2 (N - 1) / N; "
        f"{buffers / 1e6:.2f} MB of buffers, which the first sends; the teacher's {left_out / 1e6:.1f} MB stay"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--pair", choices=PAIRS, default="wrn")
    parser.add_argument("--size", type=int, help="side of the images in pixels; by default the pair's own")
    parser.add_argument("--batch_size", type=int, default=32)
    options = parser.parse_args()
    rows = measure(options.pair, options.size or PAIRS[options.pair][2], options.batch_size)
    report("cost", rows)
    traffic(options.pair)


if __name__ == "__main__":
    main()
