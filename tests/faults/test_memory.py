"""Memory that ends: a judge halves its batch and finds the same; what cannot be halved is one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustcl.bench import shards
from robustcl.bench.attacks import Attack, Engine, Wrapped, judges
from robustcl.bench.batches import Batches
from robustcl.bench.corruptions import corrupted
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.judge import Counted, Judge
from robustcl.bench.reliability import check
from robustcl.models.errors import UserError
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run, fit
from robustcl.pretraining.method import Targets, build_net, read_method
from tests.bench.killed import ATTACKS, setting, wrapped
from tests.bench.tiny import images_for, network, one_line

ENDS: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 80 GiB"),
    "cpu": lambda: RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9"),
    "python": MemoryError,
}


class Exact(nn.Module):
    """`network`, with sums in place of products of matrices, which round by the size of the batch."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.layers = network(size=size)

    def forward(self, x: Tensor) -> Tensor:
        held: Any = self.layers
        hidden = ((x.flatten(1)[:, None] * held[1].weight).sum(2) + held[1].bias).relu()
        logits: Tensor = (hidden[:, None] * held[3].weight).sum(2)
        return logits


class Cramped(nn.Module):
    """A model with room for so many images at once, `backward` for so many gradients; None is any number."""

    def __init__(self, room: int | None, backward: int | None = None, end: str = "cuda") -> None:
        super().__init__()
        self.model, self.room, self.behind, self.end = Exact(), room, backward, end

    def forward(self, x: Tensor) -> Tensor:
        if self.room is not None and len(x) > self.room:
            raise ENDS[self.end]()
        answer: Tensor = self.model(x)
        if self.behind is not None and len(x) > self.behind and answer.requires_grad:
            answer.register_hook(self._end)
        return answer

    def _end(self, gradient: Tensor) -> None:
        raise ENDS[self.end]()


SLOW = ("pgd-targeted", "apgd-dlr", "apgd-t", "fab", "transfer")  # each much like one that is in the gate
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in ATTACKS]


@pytest.mark.parametrize("name", NAMES)
def test_an_attack_that_runs_out_of_memory_finds_the_same_on_halves(name: str) -> None:
    images, trial = setting(name, None)
    whole = judge(Cramped(None), images, replace(trial, batch=18))
    assert judge(Cramped(9, backward=5), images, replace(trial, batch=18)).equals(whole)


@pytest.mark.parametrize("end", ENDS)
def test_every_word_for_it_is_known(end: str) -> None:
    images, trial = setting("pgd", None)
    few, trial = images.take(slice(0, 8)), replace(trial, judges={"pgd": [ATTACKS["pgd"]]}, batch=8)
    found = judge(Cramped(4, 2, end), few, trial)
    assert found.equals(judge(Cramped(None), few, trial))


@pytest.mark.slow
def test_the_checks_find_the_same_and_count_the_same_passes() -> None:
    images, trial = setting("pgd", None)
    found = judge(Cramped(None), images, trial)
    assert check(Cramped(9, 5), images, trial, found) == check(Cramped(None), images, trial, found)


def test_memory_that_ends_once_in_the_middle_of_a_batch_leaves_nothing_of_it() -> None:
    """A step of the attack has moved, and answers were confirmed: all of it is forgotten."""
    images, trial = setting("pgd-targeted", None)
    whole = judge(Cramped(None), images, trial)

    class Once(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.model = Exact()

        def forward(self, x: Tensor) -> Tensor:
            Once.calls += 1
            if Once.calls == 60:
                raise ENDS["cpu"]()
            answer: Tensor = self.model(x)
            return answer

    assert judge(Once(), images, trial).equals(whole)
    assert Once.calls > 60


def test_forks_and_threads_halve_each_their_own_batches(tmp_path: Path) -> None:
    images, trial = setting("pgd", None)
    trial = replace(trial, judges={"pgd": trial.judges["first"]})
    assert judge(Cramped(2), images, replace(trial, workers=2)).equals(judge(Cramped(None), images, trial))
    held = []
    for room in (None, 3):
        floats, labels = images.floats(slice(2, None)), images.labels[2:]
        index = images.index[2:].tolist()
        court = Judge(Counted(Cramped(room)), floats, labels, index, threat=trial.threat, seed=2, batch=4, classes=10)
        kept, devices = Batches(tmp_path / str(room), {}), [torch.device("cpu")] * 2
        shards.in_threads(ATTACKS["pgd"], court, devices, kept, 1, lambda count: None)
        kept.restore(court, 1)
        assert court.done.all()
        held.append(court.held)
    assert all(torch.equal(held[0][name], held[1][name]) for name in held[0])


def test_a_restart_goes_on_from_halves(tmp_path: Path) -> None:
    images, trial = setting("pgd", tmp_path)
    trial = replace(trial, judges={"pgd": trial.judges["first"]})
    first = judge(Cramped(3), images, trial)
    for path in sorted(tmp_path.glob("*.npz"))[::2]:  # half of the halves are lost
        path.unlink()
    assert judge(Cramped(None), images, trial).equals(first)
    assert first.equals(judge(Cramped(None), images, replace(trial, keep=None)))


REFERENCE = judges(["apgd-ce"], 10, Engine(name="reference"))["apgd-ce"]


@pytest.mark.parametrize("attack", [Wrapped(function=wrapped), *REFERENCE])
def test_what_draws_per_batch_says_to_choose_a_smaller_one(attack: Attack) -> None:
    images, model = images_for(network(), 12), Cramped(4)
    with pytest.raises(UserError, match=r"draws hangs on the batch.*smaller --batch") as caught:
        judge(model, images, Trial(threat=Threat("1/20"), judges={"one": [attack]}, batch=8))
    assert one_line(caught.value).startswith(f"attack {attack.name}: out of memory on ")


def test_memory_that_ends_on_one_image_is_one_line() -> None:
    images, trial = setting("pgd", None)
    for model, where in ((Cramped(0), "model"), (Cramped(None, backward=0), "attack pgd-1")):
        with pytest.raises(UserError, match="out of memory on a single image") as caught:
            judge(model, images, trial)
        assert one_line(caught.value).startswith(f"{where}: ")


def test_what_only_sounds_alike_is_no_such_end() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        judge(Broken(), images_for(network()), Trial(threat=Threat("1/20"), judges={}))


def test_corruptions_are_judged_on_halves(tmp_path: Path) -> None:
    import numpy as np

    g = np.random.default_rng(0)
    np.save(tmp_path / "fog.npy", g.integers(0, 256, (60, 4, 4, 1), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.tile(np.arange(12) % 10, 5))
    pixels = torch.from_numpy(g.random((12, 1, 4, 4), dtype=np.float32))
    images = Images(pixels, torch.arange(12) % 10, classes=10, name="random")
    files = {name: tmp_path / f"{name}.npy" for name in ("labels", "fog")}
    assert corrupted(Cramped(2), images, files, [1]).equals(corrupted(Cramped(None), images, files, [1]))


def test_training_says_what_to_do_and_is_not_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    from robustcl.models.architecture import read_architecture
    from robustcl.models.encoder import Encoder

    table: dict[str, Any] = {
        "method": "supervised",
        "training": {"epochs": 1, "batch": 16},
        "weak": "digits-weak",
        "objective": "clean",
    }
    method = read_method(table, "pretrain")
    pixels = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    images = Images(pixels, torch.arange(16) % 2, classes=2, name="random")
    architecture = read_architecture({"name": "tiny", "width": 4, "blocks": [1]}, "encoder")
    net = build_net(method, Encoder(architecture, images.shape, routes=method.routes, seed=0), Targets(classes=2), 0)

    def end(*_: object) -> Any:
        raise ENDS["cuda"]()

    monkeypatch.setattr("robustcl.pretraining.loop.step", end)
    with pytest.raises(UserError, match=r"a batch of 16 images, or a smaller training\.batch") as caught:
        fit(method, net, images, Run(seed=0, where="pretrain at"))
    assert one_line(caught.value).startswith("pretrain at: out of memory (CUDA out of memory. Tried")
