"""`judge`: the records, what it refuses, what it leaves as it was, and restarts."""

import contextlib
import dataclasses
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from robustcl.bench import records
from robustcl.bench.attacks import judges
from robustcl.bench.autoattack.attacks import APGD, FAB, Square
from robustcl.bench.evaluate import Trial, count_classes, judge
from robustcl.bench.judge import Attack
from robustcl.bench.pgd import PGD
from robustcl.models.errors import NumberError, UserError
from robustcl.models.threat import Threat
from robustcl.pretraining.images import Images
from tests.bench.tiny import images_for, network, one_line

THREAT = Threat("1/20")


def trial(keep: Path | None = None, names: Any = ("pgd-3", "pgd-8"), **more: Any) -> Trial:
    return Trial(threat=THREAT, judges=judges(names, 10), batch=4, keep=keep, **more)


class Counting(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0
        self.answer: Callable[[Any, int], Any] = lambda logits, calls: logits

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        answer: Tensor = self.answer(self.model(x), self.calls)
        return answer


def test_schema_and_order(tmp_path: Path) -> None:
    model = network()
    found = judge(model, images_for(model), trial(names=("pgd-8", "apgd-ce")))
    assert list(found) == records.SCHEMA.names
    assert found["image"].is_monotonic_increasing
    assert sorted(set(found["image"])) == [3 + 5 * i for i in range(12)]
    for image, rows in found.groupby("image"):
        wrong = image in (3, 8)
        assert rows["judge"].tolist() == (["clean"] if wrong else ["clean", "pgd-8", "apgd-ce"])
    assert (found["right"] == (found["answer"] == found["label"])).all()
    assert (found["step"].ge(0) == (~found["right"] & (found["judge"] != "clean"))).all()
    assert (found.loc[~found["right"], "margin"] <= 0).all()
    assert (found.loc[found["right"], "margin"] >= 0).all()
    records.write(tmp_path / "records.parquet", found)
    table = pq.read_table(tmp_path / "records.parquet")
    assert table.schema.equals(records.SCHEMA)
    assert table.schema.metadata[b"robustcl.records"] == b"1"
    back = table.to_pandas()
    assert back["right"].tolist() == found["right"].tolist()
    assert back["attack"].tolist() == found["attack"].tolist()


def test_a_judge_skips_what_it_broke_but_not_what_another_judge_broke() -> None:
    model = network()
    images = images_for(model, 30)
    few, many = judges(["pgd-20"], 10)["pgd-20"][0], judges(["apgd-ce"], 10)["apgd-ce"][0]
    both = {"both": [few, many], "second": [many]}
    found = judge(model, images, Trial(threat=THREAT, judges=both))
    lost = set(found.query("judge == 'both' and attack == 'pgd-20' and not right")["image"])
    assert lost
    assert not lost & set(found.query("judge == 'both' and attack == 'apgd-ce'")["image"])
    assert lost <= set(found.query("judge == 'second'")["image"])


def test_progress_ends_at_its_total() -> None:
    model = network()
    said: list[tuple[int, int]] = []
    judge(model, images_for(model), trial(report=lambda done, total: said.append((done, total))))
    assert said[-1] == (24, 24)
    assert [done for done, _ in said] == sorted(done for done, _ in said)


@pytest.mark.parametrize(("when", "where"), [(1, "3"), (6, "13 under attack")])
def test_nan_logits_are_a_number_error(when: int, where: str) -> None:
    model = Counting(network())
    images = images_for(model.model)
    model.answer = lambda logits, calls: logits * float("nan") if calls >= when else logits
    with pytest.raises(NumberError) as caught:
        judge(model, images, trial())
    assert one_line(str(caught.value)) == f"model: the answer to image {where} is not finite"


@pytest.mark.parametrize(
    ("answer", "shape"),
    [
        (lambda z, _: z[:, :7], "(4, 7)"),
        (lambda z, _: z[:2], "(2, 10)"),
        (lambda z, _: z.argmax(1), "(4,)"),
        (lambda z, _: (z, z), "tuple"),
    ],
)
def test_logits_of_another_shape_are_refused(answer: Any, shape: str) -> None:
    model = Counting(network())
    images = images_for(model.model)
    model.answer = answer
    with pytest.raises((UserError, TypeError, AttributeError)) as caught:
        judge(model, images, trial())
    assert isinstance(caught.value, UserError)
    assert f"answers of shape {shape}, expected logits of shape (4, 10)" in one_line(caught.value)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_only_float32_models_are_judged(kind: torch.dtype) -> None:
    model = network()
    images = images_for(model)
    with pytest.raises(UserError) as caught:
        judge(model.to(kind), images, trial())
    assert f"parameters of type {kind}, expected float32" in one_line(caught.value)


def mixed() -> nn.Sequential:
    model = network()
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), *model)
    model.train()
    model[0].eval()
    model[3].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize("fails", [False, True])
def test_modes_flags_and_statistics_come_back(fails: bool) -> None:
    model = mixed()
    images = images_for(network())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    flags = [p.requires_grad for p in model.parameters()]
    assert len(set(modes)) == len(set(flags)) == 2

    def broken(m: nn.Module, x: Tensor, y: Tensor, threat: Threat, g: torch.Generator) -> Tensor:
        assert not any(module.training for module in model.modules())
        m.train()
        raise RuntimeError("planned")

    if fails:
        with pytest.raises(RuntimeError, match="planned"):
            judge(model, images, trial(names=(broken,)))
    else:
        judge(model, images, trial())
    assert [module.training for module in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_a_restart_gives_the_same_records_and_asks_less(tmp_path: Path) -> None:
    whole = Counting(network())
    images = images_for(whole.model, 20)
    expected = judge(whole, images, trial())

    stopped = Counting(network())
    half = whole.calls // 2

    def stop(logits: Tensor, calls: int) -> Tensor:
        if calls == half:
            raise KeyboardInterrupt
        return logits

    stopped.answer = stop
    with pytest.raises(KeyboardInterrupt):
        judge(stopped, images, trial(tmp_path))
    kept = sorted(path.name for path in tmp_path.glob("*.npz"))
    assert kept
    again = Counting(network())
    pd.testing.assert_frame_equal(judge(again, images, trial(tmp_path)), expected)
    assert again.calls < whole.calls
    third = Counting(network())
    pd.testing.assert_frame_equal(judge(third, images, trial(tmp_path)), expected)
    assert third.calls == 5, "the clean answers alone are asked again"


def test_batches_of_other_weights_data_or_protocol_are_refused(tmp_path: Path) -> None:
    model = network()
    images = images_for(model)
    judge(model, images, trial(tmp_path))
    moved = dataclasses.replace(trial(tmp_path), threat=Threat("1/10"))
    others: list[tuple[nn.Module, Images, Trial, str]] = [
        (network(seed=1), images, trial(tmp_path), r"weights \(\w{16} then, \w{16} now\)"),
        (model, images.take(slice(0, 11)), trial(tmp_path), r"images \(\w{16} then, \w{16} now\)"),
        (model, images, moved, r"threat \(linf 1/20 then, linf 1/10 now\)"),
        (
            model,
            images,
            trial(tmp_path, names=("pgd-3",)),
            r"attacks \(pgd-3: pgd-3 \[\w{16}\], pgd-8: .* then, .* now\)",
        ),
        (model, images, trial(tmp_path, seed=1), r"seed \(0 then, 1 now\)"),
        (model, images, dataclasses.replace(trial(tmp_path), batch=5), r"batch \(4 then, 5 now\)"),
    ]
    for held, shown, given, differs in others:
        with pytest.raises(UserError) as caught:
            judge(held, shown, given)
        text = one_line(caught.value)
        assert re.fullmatch(rf".*: holds batches of other {differs}; remove it to start anew", text), text
    with pytest.raises(UserError, match=r"other weights .* now\), seed \(0 then, 1 now\); remove"):
        judge(network(seed=1), images, trial(tmp_path, seed=1))
    (tmp_path / "protocol.json").write_text("{")
    with pytest.raises(UserError, match=r"protocol\.json is damaged; remove the folder to start anew"):
        judge(model, images, trial(tmp_path))


def test_a_model_that_nothing_tells_apart_needs_a_label_to_be_kept(tmp_path: Path) -> None:
    model = network()
    images = images_for(model)
    for bare in (lambda x: model(x), nn.Identity()):
        with pytest.raises(UserError, match=r"kept apart by nothing, expected Trial\(label="):
            judge(bare, images, trial(tmp_path / "none"))
    judge(lambda x: model(x), images, trial(tmp_path / "kept", label="ours"))
    with pytest.raises(UserError, match=r"weights \(ours then, theirs now\)"):
        judge(lambda x: model(x), images, trial(tmp_path / "kept", label="theirs"))


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_a_damaged_batch_is_attacked_again(tmp_path: Path, damage: str) -> None:
    model = Counting(network())
    images = images_for(model.model, 20)
    expected = judge(model, images, trial(tmp_path))
    path = sorted(tmp_path.glob("*.npz"))[1]
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[content.index(b"margin.npy") + 165] ^= 0xFF
    path.write_bytes({"truncated": bytes(content[:100]), "empty": b"", "flipped": bytes(content)}[damage])
    counted = Counting(network())
    pd.testing.assert_frame_equal(judge(counted, images, trial(tmp_path)), expected)
    assert counted.calls > 5, "the damaged batch was attacked again"


def test_worst_is_at_most_every_judge() -> None:
    import robustcl

    model = network()
    images = images_for(model, 40)
    done = robustcl.evaluate(
        model, images.pixels, images.labels, threat=THREAT, attacks=["pgd-1", "pgd-10", "apgd-ce"], index=images.index
    )
    for name, right in done.robust.items():
        assert not (done.worst & ~right).any(), name
        assert not (right & ~done.clean).any(), name
    both = done.robust["pgd-1"] & done.robust["pgd-10"] & done.robust["apgd-ce"] & done.clean
    assert done.worst.tolist() == both.tolist()
    assert 0 < done.worst.sum() < done.clean.sum()


def outsider(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, g: torch.Generator) -> Tensor:
    return x + 0.3 * torch.arange(len(x)).view(-1, 1, 1, 1) / len(x)


def test_how_far_proposals_left_the_ball_is_watched_and_survives_a_restart(tmp_path: Path) -> None:
    """Normalised inputs, a wrong eps: an attack whose images lie far outside means something else than the threat."""
    model = network()
    images = images_for(model, 20)
    seen: list[tuple[str, str, list[float]]] = []
    bench = {**judges(["pgd-3"], 10), "theirs": judges([outsider], 10)["outsider"]}
    given = Trial(
        threat=THREAT,
        judges=bench,
        batch=4,
        keep=tmp_path,
        watch=lambda name, attack, court: seen.append((name, attack.name, court.outside.tolist())),
    )
    judge(model, images, given)
    judge(model, images, given)
    assert seen[:2] == seen[2:], "a restart knows it too"
    (first, second), expected = seen[:2], [max(0.3 * k / 4 - 0.05, 0) for k in range(4)]
    assert first[:2] == ("pgd-3", "pgd-3")
    assert max(first[2]) < 1e-6
    assert second[:2] == ("theirs", "outsider")
    assert second[2][:4] == pytest.approx(expected, abs=1e-6)


def keyed(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, g: torch.Generator) -> Tensor:
    return x + 0.1 * (torch.rand(x.shape, generator=g) - 0.5) + 0.1 * (torch.rand_like(x) - 0.5)


def test_a_plain_callable_draws_the_same_after_a_restart(tmp_path: Path) -> None:
    model = network()
    images = images_for(model, 20)
    whole = judge(model, images, trial(names=(keyed,)))
    kept = trial(tmp_path, names=(keyed,))
    judge(model, images, kept)
    sorted(tmp_path.glob("*.npz"))[2].unlink()
    pd.testing.assert_frame_equal(judge(model, images, kept), whole)


@pytest.mark.parametrize(
    "name", ["pgd-3", "pgd-margin-3", "pgd-targeted-2", "apgd-ce-3", "apgd-t-3", "fab-2", "fab-t-2"]
)
def test_a_model_without_gradients_is_judged_all_the_same(name: str) -> None:
    """Rounding to bytes, or no_grad inside: gradient attacks find nothing, and the checks say why."""
    model = network()
    images = images_for(model)
    for blind in (lambda x: model(x).detach(), lambda x: model((255 * x).long() / 255)):
        found = judge(blind, images, trial(names=(name,)))
        assert set(found["judge"]) == {"clean", name}


def test_what_is_no_number_proposes_nothing() -> None:
    """A model that rounds to integers makes a finite answer of NaN: no image may be broken by it."""
    model = network()
    images = images_for(model)

    def nothing(model: Any, x: Tensor, y: Tensor, threat: Any, source: Any) -> Tensor:
        return x * float("nan")

    found = judge(lambda x: model(x.nan_to_num(1.0)), images, trial(names=(nothing,)))
    assert found.query("judge == 'nothing'")["right"].all()
    assert (found["distance"] == 0).all()


def test_a_model_that_counts_its_answers_is_left_as_it_was() -> None:
    class Counts(nn.Module):
        asked: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.inner = network()
            self.register_buffer("asked", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.asked += 1
            answer: Tensor = self.inner(x)
            return answer

    model = Counts()
    judge(model, images_for(model.inner), trial())
    assert float(model.asked) == 0


def test_kept_batches_are_of_images_and_not_of_places(tmp_path: Path) -> None:
    """A model that is right on other images when it goes on must not hand their verdicts to their neighbours."""
    model = network()
    images, wrong = images_for(model), [False]

    def moody(x: Tensor) -> Tensor:
        """The first image that is right is wrong the second time."""
        logits: Tensor = model(x)
        first = (x - images.pixels[2]).abs().flatten(1).amax(1) < 1e-6
        return torch.where(first[:, None] & wrong[0], -logits, logits)

    kept = trial(keep=tmp_path, label="moody")
    judge(moody, images, kept)
    wrong[0] = True
    again = judge(moody, images, kept)
    pd.testing.assert_frame_equal(again, judge(moody, images, dataclasses.replace(kept, keep=None)))


def test_a_model_that_writes_into_its_images_is_refused() -> None:
    model = network()
    images = images_for(model)
    before = images.pixels.clone()
    for ask in (lambda m: judge(m, images, trial()), lambda m: count_classes(m, images.pixels)):
        with pytest.raises(UserError, match="writes into its images") as caught:
            ask(lambda x: model(x.sub_(0.5)))
        one_line(caught.value)
    assert torch.equal(images.pixels, before)


@pytest.mark.parametrize("name", ["pgd-3", "apgd-ce"])
def test_a_scripted_module_is_judged_like_any_other(name: str) -> None:
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(model)
    images = images_for(model)
    found, expected = (judge(each, images, trial(names=(name,))) for each in (scripted, model))
    pd.testing.assert_frame_equal(found, expected)


@pytest.mark.parametrize("attack", [PGD(), APGD(steps=20), FAB(steps=20), FAB(targeted=False, steps=20)])
def test_a_gradient_that_is_no_number_is_no_direction(attack: Attack) -> None:
    """The root of a pixel that is 0 has no gradient; those of the other pixels still break the image."""
    model = network()
    images = images_for(model, wrong=0)
    images.pixels[:, :, 0, 0] = 0
    with torch.no_grad():
        images.labels = model(images.pixels).argmax(1)
    found = judge(lambda x: model(x.sqrt() ** 2), images, Trial(threat=Threat("1/2"), judges={"it": [attack]}))
    assert not found.query("judge == 'it'")["right"].any()


def test_square_says_where_the_model_answers_no_number() -> None:
    """It does so where the first pixel went up, as in half of the first points; that image has no verdict."""
    model = network()
    images = images_for(model, wrong=0)
    images.pixels[:, :, 0, 0] = 0.5
    with torch.no_grad():
        images.labels = model(images.pixels).argmax(1)

    def torn(x: Tensor) -> Tensor:
        return torch.where(x[:, :, 0, 0] > 0.6, torch.nan, model(x))

    with pytest.raises(NumberError, match=r"model: the answer to image \d+ under attack is not finite"):
        judge(torn, images, Trial(threat=Threat("1/2"), judges={"it": [Square(queries=300)]}))


class Looks(nn.Module):
    """A model that notes how torch multiplies while it answers, and how far a product of its own is off."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.seen, self.off = network(), set[tuple[Any, ...]](), 0.0

    def forward(self, x: Tensor) -> Tensor:
        cuda = torch.backends.cuda.matmul.allow_tf32
        self.seen.add((torch.backends.cudnn.allow_tf32, cuda, torch.get_float32_matmul_precision()))
        a, b = torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0))
        self.off = max(self.off, float((a.double() @ b.double() - a @ b).abs().max()))
        answer: Tensor = self.net(x)
        return answer


def flags() -> list[Any]:
    """How torch multiplies: in the older terms, where it says so, and in the newer."""
    backends: Any = torch.backends
    found = [backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision]
    found += [backends.mkldnn.matmul.fp32_precision, backends.mkldnn.conv.fp32_precision]
    with contextlib.suppress(RuntimeError):
        found += [torch.get_float32_matmul_precision()]
    return found


@pytest.fixture
def flags_after() -> Iterator[None]:
    """torch's own flags come back."""
    yield
    backends: Any = torch.backends
    backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for place in (backends.cudnn, backends.mkldnn):
        place.conv.fp32_precision = place.rnn.fp32_precision = "none"
    backends.cudnn.allow_tf32 = True


def _everywhere() -> None:
    torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]


def _on_cuda() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def _in_old_terms(precision: str) -> Callable[[], None]:
    return lambda: torch.set_float32_matmul_precision(precision)


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch before 2.9")
@pytest.mark.parametrize("asked", [lambda: None, _in_old_terms("high"), _in_old_terms("medium"), _everywhere, _on_cuda])
@pytest.mark.usefixtures("flags_after")
def test_float32_is_strict_while_judging_and_as_it_was_after(asked: Callable[[], None]) -> None:
    """However torch was asked to round: a CPU multiplies in bfloat16 at `medium`."""
    asked()
    before, model = flags(), Looks()
    judge(model, images_for(network()), Trial(threat=Threat("1/10"), judges=judges(["pgd-2"], 10)))
    assert model.seen == {(False, False, "highest")}
    assert model.off < 1e-4
    assert flags()[: len(before)] == before
