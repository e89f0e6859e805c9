"""A process of a pair that the tests of several devices start: `python -m tests.pretraining.pair RANK WORLD FOLDER`.

It trains every case with the others of its group, runs a suite, and writes what came of it. The last thing is a run in
the middle of which process 1 kills itself.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from robustcl.bench.runner import make, prepare
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.encoder import Encoder
from robustcl.models.errors import LostError, UserError
from robustcl.models.share import Share, processes
from robustcl.models.shared_norm import synchronised
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Batch, Method, Net, Targets, build_net, named
from tests.bench.tiny import Quiet
from tests.finetuned import fitted, is_scheme, scheme
from tests.golden.test_golden import PSEUDO, Precise, settle

N = 24
# One of each family, and what is known to depend on the place of an image in its batch.
FAMILIES = [
    "simclr",
    "acl",
    "advcl",
    "rocl",
    "dynacl",
    "deacl",
    "air/divergence",
    "a_infonce/iphn",
    "supervised/trades",
    "semi-1",
    "autolora/AFF",
]
GROUPED = ["acl", "advcl", "deacl"]
TRAINING = {"epochs": 1, "batch": 12}  # two steps
Result = tuple[list[Any], dict[str, Tensor]]


def method_of(name: str, training: Mapping[str, Any]) -> Method:
    """A method or a scheme, trained so."""
    if is_scheme(name):
        return scheme(name, {"training": training, "selection": ["last"]})
    return named(name, {"training": training})


def images_of(seed: int = 0) -> Images:
    """Smooth images that come as float64."""
    coarse = torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    pixels = nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear", align_corners=False)
    return Precise((255 * pixels).round().to(torch.uint8), torch.arange(N) % 3, classes=3, name="shared")


class Stopped(Exception):  # noqa: N818 (an end, not an error)
    """A run that was stopped."""


def trained(name: str, seed: int = 0, keep: Path | None = None, **training: Any) -> Result:
    """The curve and the weights of a short run in float64."""
    method, images = method_of(name, {**TRAINING, **training}), images_of(seed)
    net = net_of(method)
    run = Run(seed=0, threat=Threat("8/255"), pseudo=PSEUDO, keep=keep)
    history = fit(method, net, images, fitted(method, images, run))
    return history, dict(net.state_dict())


def stopped(keep: Path) -> None:
    """A run of ACL that is stopped after its first epoch."""

    def stop(done: int, total: int) -> None:
        raise Stopped

    method = method_of("acl", {**TRAINING, "epochs": 2})
    run = Run(seed=0, threat=Threat("8/255"), pseudo=PSEUDO, keep=keep, report=stop)
    with suppress(Stopped):
        fit(method, net_of(method), images_of(), run)


def net_of(method: Method) -> Net:
    """A small network of this method in float64, with weights that are whole numbers."""
    encoder = Encoder(Tiny(width=4), (1, 8, 8), routes=method.routes, seed=0)
    given = {role: Encoder(Tiny(width=4), (1, 8, 8), seed=2) for role in method.facts.needs}
    net = build_net(method, encoder, Targets(classes=3, pseudo=PSEUDO), 0, given).double()
    settle(net)
    return net


def batch_of(share: Share) -> Batch:
    """A batch of which this process has a part."""
    images = torch.zeros(share.sizes[share.rank], 1, 8, 8)
    labels = torch.zeros(share.n, dtype=torch.int64)
    return Batch(images=images, labels=labels, threat=None, seed=0, epoch=0, epochs=1, iteration=0, share=share)


CASES: dict[str, Callable[[], Result]] = {
    **{name: (lambda name=name: trained(name)) for name in FAMILIES},  # type: ignore[misc]
    "uneven": lambda: trained("acl", batch=5),  # parts of 3 and 2 images, and a last batch of 4
    "bfloat16": lambda: trained("simclr", precision="bfloat16"),
    "rcs": lambda: trained("acl", epochs=2, coreset={"warmup": 1, "fraction": 0.5, "validation": 8}),
    **{f"{name} in 2 groups": (lambda name=name: trained(name, groups=2)) for name in GROUPED},  # type: ignore[misc]
    "acl in 4 groups": lambda: trained("acl", groups=4),
}
REFUSED: dict[str, Callable[[], Result]] = {
    "whole": lambda: trained("ap_dpe/rotation"),
    "small": lambda: trained("simclr", batch=22, groups=2),
    "groups": lambda: trained("simclr", groups=3),
    "alike": lambda: trained("simclr", seed=processes()[0]),
}


def norm_of(share: Share | None) -> list[Tensor]:
    """A batch norm on 5 images, far from 0: the answer, all gradients, the running statistics."""
    g = torch.Generator().manual_seed(3)
    x = torch.randn(10, 3, 2, 2, generator=g, dtype=torch.float64) + 1000  # two views
    slopes = torch.randn(10, 3, 2, 2, generator=g, dtype=torch.float64)
    norm = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.randn(3, generator=g, dtype=torch.float64))
    x = (x if share is None else share.take(x)).requires_grad_()
    y = norm(x) if share is None else share.gather(synchronised(norm, x, share))
    (slopes * y.tanh()).sum().backward()  # the loss of the whole batch, in every process
    assert x.grad is not None
    if share is not None:
        share.average([norm.weight, norm.bias])
    first = x.grad if share is None else share.gather(x.grad) / share.world
    assert norm.weight.grad is not None
    assert norm.bias.grad is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    held = [y.detach(), first, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var]
    return [*held, norm.num_batches_tracked]


def main(rank: int, world: int, folder: Path) -> None:
    """All of it, in an order that every process takes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=world)
    found = {name: case() for name, case in CASES.items()}
    found["resumed"] = trained("acl", keep=folder / "alone.safetensors", epochs=2)
    stopped(folder / f"shared-{rank}.safetensors")
    torch.save(found, folder / f"found-{rank}.pt")
    torch.save(norm_of(Share(n=5, rank=rank, world=world)), folder / f"norm-{rank}.pt")
    refused = {}
    for name, case in REFUSED.items():
        try:
            case()
        except UserError as error:
            refused[name] = str(error)
    (folder / f"refused-{rank}.json").write_text(json.dumps(refused))
    make(prepare(folder / "tiny.toml", runs=folder / "shared"), Quiet())
    if rank:  # in the middle of a step of the others
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        trained("acl")
    except LostError as error:
        print(error)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
