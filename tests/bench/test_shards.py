"""An attack that several processes share, or several threads: the same bytes, and clean ends when things go wrong."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import robustcl
from robustcl.bench import batches, forks, locks, records, shards
from robustcl.bench.attacks import judges
from robustcl.bench.autoattack.attacks import APGD, Square
from robustcl.bench.batches import Batches
from robustcl.bench.evaluate import Trial, judge
from robustcl.bench.executors import default_workers, shares
from robustcl.bench.judge import Attack, Counted, Judge
from robustcl.bench.pgd import PGD
from robustcl.bench.store import Stage
from robustcl.models.errors import LostError, NumberError, UserError
from robustcl.models.threat import Threat
from robustcl.reports import drawing
from tests.bench.killed import Counting, setting
from tests.bench.tiny import images_for, network, one_line
from tests.test_cli import Call
from tests.test_cli import call as call

FAST = {"apgd-ce": APGD(steps=6, engine="fast"), "replay": APGD(steps=6, engine="replay", batch=4)}


def written(found: pd.DataFrame, folder: Path) -> bytes:
    records.write(folder / "records.parquet", found)
    return (folder / "records.parquet").read_bytes()


# One that draws by image, one that the package draws for by batch, one of somebody else's that draws from the global
# generator, and one with a model of its own; the model draws too.
@pytest.mark.parametrize("name", ["pgd", "square", "wrapped", "transfer"])
@pytest.mark.parametrize("workers", [2, 7])
def test_records_are_the_same_bytes(tmp_path: Path, name: str, workers: int) -> None:
    images, trial = setting(name, None)
    alone = written(judge(Counting(), images, trial), tmp_path)
    assert written(judge(Counting(), images, replace(trial, workers=workers)), tmp_path) == alone


@pytest.mark.parametrize("attack", FAST.values(), ids=FAST)
def test_so_are_those_of_the_fast_engine(tmp_path: Path, attack: Attack) -> None:
    model = network()
    trial = Trial(threat=Threat("1/20"), judges={"fast": [attack]}, batch=4)
    alone = written(judge(model, images_for(model, 22), trial), tmp_path)
    assert written(judge(model, images_for(model, 22), replace(trial, workers=2)), tmp_path) == alone


def test_and_the_adversarial_images(tmp_path: Path) -> None:
    images, trial = setting("pgd", None)
    files = []
    for workers in (1, 2):
        judge(network(), images, replace(trial, workers=workers, save=tmp_path / f"{workers}.npz"))
        files.append((tmp_path / f"{workers}.npz").read_bytes())
    assert files[0] == files[1]


def court(model: nn.Module, attack: Attack) -> Judge:
    images = images_for(model, 18, wrong=0)
    given = (Counted(model), images.floats(slice(None)), images.labels, images.index.tolist())
    return Judge(*given, threat=Threat("1/20"), seed=2, batch=4, classes=10)


def test_threads_with_models_of_their_own_find_the_same(tmp_path: Path) -> None:
    attack, heard = PGD(steps=4, restarts=2), list[int]()
    alone, split = court(network(), attack), court(network(), attack)
    attack.run(alone)
    kept = Batches(tmp_path, {})
    shards.in_threads(attack, split, [torch.device("cpu")] * 3, kept, 1, heard.append)
    kept.restore(split, 1)
    assert all(torch.equal(held, split.held[name]) for name, held in alone.held.items())
    assert sum(heard) == 18


def test_an_error_in_a_thread_stops_the_others(tmp_path: Path) -> None:
    class Wrong(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.full((len(x), 10), torch.nan)

    attack, devices = PGD(steps=4), [torch.device("cpu")] * 2
    with pytest.raises(NumberError, match="not finite"):
        shards.in_threads(attack, court(Wrong(), attack), devices, Batches(tmp_path, {}), 1, lambda count: None)


@pytest.mark.parametrize("name", ["pgd", "square", "wrapped", "transfer"])
def test_processes_that_share_a_folder_share_the_batches(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, trial = setting(name, None)
    alone = written(judge(Counting(), images, trial), tmp_path)
    (tmp_path / "kept").mkdir()
    trial, save = replace(trial, keep=tmp_path / "kept", shared=True), Batches.save

    def saved(desk: Batches, court: Judge, order: int, rows: Tensor) -> None:
        with (tmp_path / "saved").open("a") as file:
            file.write(f"{order} {int(rows[0])} {os.getpid()}\n")
        time.sleep(0.05)
        save(desk, court, order, rows)

    def work(number: int, told: forks.Told) -> None:
        (tmp_path / f"{number}").mkdir()
        while len(list(tmp_path.glob("[0-2]"))) < 3:
            time.sleep(0.01)
        assert written(judge(Counting(), images, trial), tmp_path / f"{number}") == alone

    monkeypatch.setattr(Batches, "save", saved)
    forks.in_forks(work, 3, lambda count: None)
    lines = [line.split() for line in (tmp_path / "saved").read_text().splitlines()]
    assert len({pid for *_, pid in lines}) > 1, "they did share"
    once = [(order, row) for order, row, _ in lines]
    assert len(once) == len(set(once)) == len(list((tmp_path / "kept").glob("*.npz")))


def test_a_batch_that_another_process_leaves_undone_is_attacked_here(tmp_path: Path) -> None:
    images, trial = setting("pgd", None)
    alone, kept = written(judge(network(), images, trial), tmp_path), tmp_path / "kept"
    kept.mkdir()
    waited = list[bool]()

    def work() -> None:
        with locks.claimed(kept / "001-00000004.lock"):
            held.set()
            waited.append(over.wait(1.5))

    held, over = threading.Event(), threading.Event()
    with ThreadPoolExecutor(1) as thread:
        thread.submit(work)
        assert held.wait(60)
        found = written(judge(network(), images, replace(trial, keep=kept, shared=True)), tmp_path)
        over.set()
    assert found == alone
    assert waited == [False], "it was waited for, until it gave up"


def test_what_is_no_batch_may_be_gone_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, trial = setting("pgd", tmp_path)
    alone = written(judge(network(), images, trial), tmp_path)
    monkeypatch.setattr(batches, "read_sealed", Path.unlink)  # another process found it out a moment before
    assert written(judge(network(), images, trial), tmp_path) == alone


def test_an_attack_that_leaves_a_batch_undone_is_found_out(tmp_path: Path) -> None:
    class Lazy(PGD):
        def run(self, judge: Judge) -> None:
            for _ in judge.batches():
                pass

    images, trial = setting("pgd", tmp_path)
    trial = replace(trial, judges={"lazy": [Lazy()]}, shared=True)
    with pytest.raises(RuntimeError, match=r"001-00000000\.npz: the attack left images of this batch unfinished"):
        judge(network(), images, trial)


class Grumbling(nn.Module):
    """A model that answers as it should in its own process, and in a fork does something else after some calls."""

    def __init__(self, wrong: Callable[[Tensor], Tensor], after: int) -> None:
        super().__init__()
        self.model, self.wrong, self.calls, self.home, self.after = network(), wrong, 0, os.getpid(), after

    def forward(self, x: Tensor) -> Tensor:
        self.calls += os.getpid() != self.home
        answer: Tensor = self.wrong(self.model(x)) if self.calls > self.after else self.model(x)
        return answer


def killed(logits: Tensor) -> Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return logits


def test_after_a_process_died_the_rest_is_the_same_bytes(tmp_path: Path) -> None:
    images, trial = setting("pgd", tmp_path / "kept")
    alone = written(judge(network(), images, replace(trial, keep=None)), tmp_path)
    model, trial = Grumbling(killed, after=12), replace(trial, workers=2, label="one model")
    model.model.requires_grad_(False)
    with pytest.raises(LostError) as caught:
        judge(model, images, trial)
    assert one_line(str(caught.value)).startswith("a process that shared the work died, out of memory?; what is")
    assert list((tmp_path / "kept").glob("*.npz")), "some batches were finished"
    assert_no_children()
    model.wrong = lambda logits: logits
    assert written(judge(model, images, replace(trial, workers=3)), tmp_path) == alone


def assert_no_children() -> None:
    with suppress(ChildProcessError):
        pytest.fail(f"left a process: {os.waitpid(-1, os.WNOHANG)}")


def test_errors_of_a_process_are_raised_here(tmp_path: Path) -> None:
    def user(logits: Tensor) -> Tensor:
        raise UserError("model: a mistake")

    def other(logits: Tensor) -> Tensor:
        raise IndexError("somewhere")

    images, trial = setting("pgd", None)
    for wrong, kind, text in (
        (lambda logits: logits * torch.nan, NumberError, "not finite"),
        (user, UserError, "^model: a mistake$"),
        (other, RuntimeError, "(?s)Traceback .* in other.*IndexError: somewhere"),
    ):
        with pytest.raises(kind, match=text):
            judge(Grumbling(wrong, after=1), images, replace(trial, workers=2))
        assert_no_children()


def test_whatever_ends_this_process_ends_its_forks(tmp_path: Path) -> None:
    def wait(number: int, told: forks.Told) -> None:
        (tmp_path / f"{os.getpid()}").touch()
        told(1)
        time.sleep(60)

    def interrupt(count: int) -> None:
        if len(list(tmp_path.iterdir())) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        forks.in_forks(wait, 2, interrupt)
    assert_no_children()
    first = {int(path.name) for path in tmp_path.iterdir()}

    def inner(number: int, told: forks.Told) -> None:
        forks.in_forks(wait, 2, told)

    def kill(count: int) -> None:
        (tmp_path / "outer").touch()
        raise KeyboardInterrupt  # which kills the fork in the middle, with -9

    with pytest.raises(KeyboardInterrupt):
        forks.in_forks(inner, 1, kill)
    found = {int(path.name) for path in tmp_path.glob("[0-9]*")} - first
    assert found
    for _ in range(100):
        if not any(alive(pid) for pid in found):
            return
        time.sleep(0.05)
    pytest.fail("a fork outlived the process that started it")


def alive(pid: int) -> bool:
    """Whether the process still runs; one that nobody has waited for is over."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_progress_counts_every_image_once() -> None:
    images, trial = setting("pgd", None)
    seen: list[tuple[int, int]] = []
    judge(network(), images, replace(trial, workers=2, report=lambda done, total: seen.append((done, total))))
    assert seen == sorted(seen)
    assert seen[-1] == (3 * 18, 3 * 18)


def test_evaluate_takes_workers() -> None:
    model = network()
    images = images_for(model, 12)
    one, two = (
        robustcl.evaluate(
            model,
            images.pixels,
            images.labels,
            threat=Threat("1/20"),
            attacks=["pgd-3"],
            batch_size=4,
            workers=workers,
            checks=False,
        )
        for workers in (1, 2)
    )
    pd.testing.assert_frame_equal(one.records, two.records)


def test_the_command_takes_them_too(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawing, "save", lambda run, folder: [])  # most of the time, and tested elsewhere
    (tmp_path / "net.py").write_text("from tests.bench.tiny import network\n\nmake = lambda: network(size=8)\n")
    words = ("evaluate", "net.py:make", "--data", "digits", "--eps", "1/10", "--images", "24", "--batch", "8")
    found = []
    for workers in ("1", "2"):
        told = call(*words, "--attacks", "pgd-2,square-5", "--workers", workers, "--runs", workers)
        assert told.code == 0, told.err
        found.append([path.read_bytes() for path in Path(workers).glob("evaluate/*/records.parquet")])
    assert found[0] == found[1]
    told = call(*words, "--workers", "2", "--budget", "20s")
    assert told.code == 2
    assert told.err.startswith("robustcl: workers 2: with a budget one batch is judged after another")


def test_what_cannot_be_split_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"^workers 2: with a budget one batch is judged after another"):
        shards.check(2, "cpu", 60.0)
    with pytest.raises(UserError, match=r"^workers 2: on cuda:1, expected at most 0 on cuda, one for each GPU$"):
        shards.check(2, "cuda:1")
    monkeypatch.setattr(forks, "possible", lambda: False)
    with pytest.raises(UserError, match=r"^workers 2: on cpu of this machine processes cannot be forked, expected 1, "):
        shards.check(2, "cpu")
    shards.check(1, "mps")
    bench = judges(["pgd-3", "square-50"], 10)
    assert shards.unsplit(bench, "cpu") == []
    reason = "draws from the one generator of the process, and runs on one device"
    both = [PGD(), Square(queries=5, engine="reference")]
    assert shards.unsplit({"all": both}, "cuda") == [f"square-5 {reason}"]
    reason = "rounds for the whole process, and runs on one device"
    assert shards.unsplit({"all": [APGD(), APGD(precision="tf32", steps=9)]}, "cuda") == [f"apgd-ce-9 {reason}"]


def test_evaluations_take_the_workers_to_spare() -> None:
    def stages(*kinds: str) -> list[Stage]:
        return [Stage(kind=kind, part={"number": number}) for number, kind in enumerate(kinds)]

    assert shares(stages("evaluate"), 4) == [4]
    assert shares(stages("pretrain", "evaluate", "evaluate"), 6) == [1, 3, 2]
    assert shares(stages("pretrain", "finetune"), 6) == [1, 1]
    assert shares(stages("evaluate"), 0) == [1]


def test_every_gpu_has_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    assert default_workers("cuda") == 3
    assert default_workers("cuda:1") == default_workers("mps") == 1
