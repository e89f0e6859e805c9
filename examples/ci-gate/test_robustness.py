"""The same gate inside a test suite, with the fixture that robustcl brings along."""

from typing import Any

from load import model

from robustcl.bench.datasets.digits import Digits


def test_robust_accuracy(robust_accuracy: Any) -> None:
    test = Digits().load().test
    images, labels = test.floats(slice(None)), test.labels
    robust_accuracy.check(model(), images, labels, threat="1/10", attacks=["pgd-20"], margin=0.05)
