"""The only owner of the data set `digits`."""

import numpy as np
import torch

from robustcl.bench.data import DataSet, Splits
from robustcl.models.value import value
from robustcl.pretraining.images import Images


@value
class Digits(DataSet):
    """scikit-learn's 1,797 handwritten digits, 8 x 8 grey (UCI, Alpaydin and Kaynak 1998); they come with the package.

    Every fifth image is a test image (360 of them, `index` is the position in the whole set), the others train.
    """

    def read(self) -> Splits:
        from sklearn.datasets import load_digits

        held = load_digits()
        # 17 grey levels, 0 to 16
        pixels = torch.from_numpy(np.rint(held.images * (255 / 16)).astype(np.uint8))[:, None]
        labels, index = torch.from_numpy(held.target), torch.arange(len(held.target))
        whole = Images(pixels, labels, classes=10, index=index, name="digits")
        test = index % 5 == 0
        return Splits(whole.take(~test), whole.take(test))
