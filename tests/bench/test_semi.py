"""Semi-supervised finetuning: the loss written out, the labels of the attack, and labels that nobody may read."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from robustcl.bench.finetuning import Start, answers, finetune
from robustcl.bench.schemes.semi import Semi
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.checkpoint import fingerprint
from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError
from robustcl.models.heads import linear
from robustcl.models.threat import Threat
from robustcl.pretraining.coreset import Coreset
from robustcl.pretraining.images import Images
from robustcl.pretraining.loop import Run
from robustcl.pretraining.method import Batch, Net, Targets, Training, build_net
from robustcl.pretraining.partial import Partial, some
from robustcl.pretraining.views import recipe

SCHEME = Semi(weak=recipe("none"), training=Training(epochs=1, batch=10), share=0.2, validation=5)
THREAT = Threat("8/255")


def images(n: int = 50) -> Images:
    pixels = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(n) % 3, classes=3, name="random")


@pytest.fixture
def net() -> Net:
    made = build_net(SCHEME, Encoder(Tiny(width=4), (1, 8, 8)), Targets(classes=3), seed=0)
    with torch.no_grad():
        made.heads["classes"].weight.copy_(torch.linspace(-1, 1, 24).view(3, 8))  # type: ignore[operator]
    return made.eval()


def batch() -> Batch:
    data, g = images(8), torch.Generator().manual_seed(2)
    known = torch.tensor([True, False, False, True, False, False, False, False])
    partial = Partial(known=known, logits=torch.randn(8, 3, generator=g))
    return Batch(
        images=data.pixels, labels=data.labels, threat=THREAT, seed=0, epoch=0, epochs=1, iteration=0, partial=partial
    )


@pytest.mark.parametrize(("a", "t"), [(0.5, 1.0), (0.2, 3.0)])
def test_the_loss_is_the_formula(net: Net, a: float, t: float) -> None:
    step, scheme = batch(), replace(SCHEME, soft=a, temperature=t)
    g = torch.Generator().manual_seed(3)
    views = {name: torch.rand(8, 1, 8, 8, generator=g) for name in ("clean", "adversarial")}
    clean, attacked = (net(views[name], "classes") for name in ("clean", "adversarial"))
    q, total = (step.some.logits / t).softmax(1), torch.zeros(())
    for i in range(8):
        soft = -(q[i] * (attacked[i] / t).log_softmax(0)).sum()
        if step.some.known[i]:
            total = total - (1 - a) * attacked[i].log_softmax(0)[step.labels[i]] + a * t**2 * soft
        else:
            total = total + t**2 * soft
        p = clean[i].softmax(0)
        total = total + 6 * (p * (p.log() - attacked[i].log_softmax(0))).sum()
    found = scheme.loss(net, views, step)
    assert sum(found.values()).item() == pytest.approx(total.item() / 8, rel=1e-5)  # type: ignore[union-attr]


def test_the_attack_climbs_on_labels_where_they_are_known_and_on_answers_elsewhere(net: Net) -> None:
    step = batch()
    found = SCHEME.adversary(net, SCHEME.views(step), step)["adversarial"]
    labels = torch.where(step.some.known, step.labels, step.some.logits.argmax(1))
    assert not torch.equal(labels, step.labels)

    def objective(x: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(net(x, "classes"), labels)

    assert torch.equal(found, SCHEME.ascent(objective, step.images, THREAT, net, step.draws("adversary")))
    poisoned = replace(step, labels=torch.where(step.some.known, step.labels, (step.labels + 1) % 3))
    again = SCHEME.adversary(net, SCHEME.views(poisoned), poisoned)
    assert torch.equal(again["adversarial"], found)
    one, two = (SCHEME.loss(net, again, s) for s in (step, poisoned))
    assert all(torch.equal(one[name], two[name]) for name in one)


def labeller() -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Classifier(Encoder(Tiny(width=4), (1, 8, 8), seed=5), linear(8, 3)).train()


def trained(data: Images) -> str:
    done = finetune(
        SCHEME,
        Start(encoder=Encoder(Tiny(width=4), (1, 8, 8)), labeller=labeller()),
        data,
        Run(seed=0, threat=THREAT),
    )
    return fingerprint(done.classifiers["best_val"])


def test_labels_that_are_not_known_are_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = images()
    rest, held = data.hold_out(SCHEME.validation)
    known = some(rest, SCHEME.share)
    # Who draws a sample by class reads the classes; nothing may read them after that.
    monkeypatch.setattr("robustcl.bench.finetuning.some", lambda images, share: known)
    kept = set(rest.index[known].tolist()) | set(held.index.tolist())
    poison = torch.tensor([row not in kept for row in range(50)])
    assert poison.sum() == 40 - known.sum()
    poisoned = Images(data.pixels, (data.labels + poison) % 3, classes=3, index=data.index, name="poisoned")
    assert trained(data) == trained(poisoned)
    labels = torch.where(poison, data.labels, (data.labels + 1) % 3)
    assert trained(Images(data.pixels, labels, classes=3, index=data.index, name="other")) != trained(data)


def test_answers_are_of_the_images_as_they_are_in_eval_mode() -> None:
    model, data = labeller(), images(20)
    found = answers(model, data)
    assert not model.training
    single = torch.cat([labeller().eval()(data.floats(slice(row, row + 1))) for row in range(20)])
    assert torch.allclose(found, single, atol=1e-5)


def test_a_coreset_is_refused() -> None:
    scheme = replace(SCHEME, training=replace(SCHEME.training, coreset=Coreset()))
    start = Start(encoder=Encoder(Tiny(width=4), (1, 8, 8)), labeller=labeller())
    with pytest.raises(UserError, match="fit: rcs where only some images have labels, expected no coreset"):
        finetune(scheme, start, images(), Run(seed=0, threat=THREAT))
