"""The only owner of the test that nothing counted grew: passes, kernels, waits of the host, FLOPs of a step."""

import pytest
import torch

from benchmarks import counted

TORCH = "2.13.0"  # another version launches other kernels for the same operations


def test_a_tally_counts_kernels_waits_and_flops() -> None:
    x = torch.rand(4, 5)
    with counted.Tally() as tally:
        x.view(2, 10)
        product = x @ torch.ones(5, 3)
        float(product.sum())
        product[product > 0]
    assert tally.flops == 2 * 4 * 5 * 3
    assert tally.waits == 2
    assert tally.kernels == 6  # ones, @, sum, its number, > and the index


def test_passes_are_booked_as_the_network_counts_them() -> None:
    x, y = counted.right(20)
    before = counted.Fixed.passes
    booked = sum(int(counted.judged(attack, x, y, "1/16").passes.sum()) for attack in counted.short_standard("fast"))
    seen = counted.Fixed.passes - before
    assert booked == pytest.approx(seen, rel=0.02)


def test_a_count_above_its_bound_is_told() -> None:
    bound = {"passes of a": 1000.0, "kernels of b": 7.0}
    assert counted.worse({"passes of a": 1010, "kernels of b": 7}, bound) == []
    assert counted.worse({"kernels of b": 8, "waits of c": 1}, bound) == [
        "kernels of b: 8, expected at most 7",
        "waits of c: 1, expected a bound in counted.json",
    ]


@pytest.mark.skipif(torch.__version__.partition("+")[0] != TORCH, reason=f"the bounds are of torch {TORCH}")
def test_nothing_counted_grew() -> None:
    found, bound = counted.counts(), counted.bounds()
    assert counted.worse(found, bound) == [], "make it cheaper again, or python -m benchmarks.counted --regenerate"
    assert found.keys() == bound.keys()


@pytest.mark.parametrize("eps", ["1/16", "1/4"])
def test_the_bounds_say_that_our_engine_asks_less_than_the_package(eps: str) -> None:
    bound = counted.bounds()
    ours, theirs = (bound[f"passes of AutoAttack at {eps}, {engine}"] for engine in ("replay", "reference"))
    assert ours <= 0.9 * theirs
