"""The only owner of the images that stages read: every data set loaded once, its images found by fingerprint."""

from collections.abc import Iterable

from robustcl.bench.data import DataSet, Splits
from robustcl.models.errors import UserError
from robustcl.pretraining.images import Images


class Library:
    """The data sets of a suite. Keys of stages name images by their content alone; here is where it lies."""

    def __init__(self, datasets: Iterable[DataSet] = ()) -> None:
        self.datasets = list(dict.fromkeys(datasets))
        self._splits: dict[DataSet, Splits] = {}
        self._unlabelled: dict[DataSet, Images | None] = {}
        self._parts: dict[tuple[DataSet, str, int], Images] = {}

    def splits(self, data: DataSet) -> Splits:
        """The splits of a data set, which from now on is one of the library's. Errors: as its `load`."""
        if data not in self._splits:
            self._splits[data] = data.load()
        if data not in self.datasets:
            self.datasets.append(data)
        return self._splits[data]

    def stand_in(self, data: DataSet, splits: Splits, unlabelled: Images | None = None) -> None:
        """Take these for a data set that is not at hand, in a plan that nobody will run."""
        self._splits[data], self._unlabelled[data] = splits, unlabelled

    def part(self, data: DataSet, split: str, n: int | None = None) -> Images:
        """A split, or a fixed random part of `n` of its images."""
        images: Images = getattr(self.splits(data), split)
        if n is None:
            return images
        return self._parts.setdefault((data, split, n), images.sample(n))

    def pretraining(self, data: DataSet) -> Images:
        """What encoders are pretrained on: images without labels where a data set asks so, else the training split."""
        if data not in self._unlabelled:
            self._unlabelled[data] = data.unlabelled()
        found = self._unlabelled[data]
        return self.part(data, "train") if found is None else found

    def find(self, fingerprint: str, where: str, n: int | None = None) -> Images:
        """The images of this content, `n` of a split or all. Errors: `UserError` where no data set has them."""
        for data in list(self.datasets):
            for split in Splits._fields:
                if self.part(data, split, n).fingerprint == fingerprint:
                    return self.part(data, split, n)
        for data in list(self.datasets):  # last, as they can be many times the others
            if self.pretraining(data).fingerprint == fingerprint:
                return self.pretraining(data)
        raise UserError(f"{where}: the images have changed since the plan was made; run again")
