"""Downloads: only when asked, with their checksums, one clean line for everything that goes wrong."""

import dataclasses
import gzip
import io
import shutil
import tarfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from robustcl.bench import fetch as fetching
from robustcl.bench.data import datasets, read_dataset
from robustcl.bench.datasets import mnist, tiny_imagenet
from robustcl.bench.fetch import fetch, sources
from robustcl.bench.official import Official
from robustcl.models.errors import UserError
from robustcl.models.vision import torchvision
from tests.bench import official
from tests.bench.tiny import one_line

# torchvision unpacks without saying how; the archives are the official ones by then.
pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")


class Answer(io.BytesIO):
    """What a host answers."""

    def __init__(self, url: str, content: bytes) -> None:
        super().__init__(content)
        self.url, self.length = url, len(content)


class Network:
    """A network in this process: what lies at which address, and what was asked for."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}
        self.asked: list[str] = []

    def __call__(self, request: Any, *more: Any, **words: Any) -> Answer:
        url = request.full_url
        self.asked.append(url)
        if url not in self.held:
            raise urllib.error.URLError("no such host")
        return Answer(url, self.held[url])


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    made = Network()
    monkeypatch.setattr(urllib.request, "urlopen", made)
    return made


@pytest.fixture
def served(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Small files in the official formats at the official addresses, with their checksums."""
    kinds, there = torchvision().datasets, tmp_path / "there"
    for kind, name in ((kinds.CIFAR10, "cifar10"), (kinds.CIFAR100, "cifar100"), (kinds.STL10, "stl10")):
        folder = official.WRITERS[name](there / name, monkeypatch)
        content = packed(folder, "w:gz")
        network.held[kind.url] = content
        monkeypatch.setattr(kind, "tgz_md5", official.md5(content))
    official.svhn(there / "svhn", monkeypatch)
    for url, file, _ in kinds.SVHN.split_list.values():
        if (there / "svhn" / file).exists():
            network.held[url] = (there / "svhn" / file).read_bytes()
    official.idx(there / "mnist", monkeypatch, packed=False)
    resources = []
    for name in mnist.CHECKSUMS:
        content = gzip.compress((there / "mnist" / name).read_bytes())
        network.held[f"{kinds.MNIST.mirrors[1]}{name}.gz"] = content  # the first mirror is down
        resources.append((f"{name}.gz", official.md5(content)))
    monkeypatch.setattr(kinds.MNIST, "resources", resources)
    file = shutil.make_archive(str(tmp_path / "tiny"), "zip", official.tiny_imagenet(there / "tiny"))
    archive = dataclasses.replace(tiny_imagenet.ARCHIVE, md5=official.md5(Path(file).read_bytes()))
    network.held[archive.url] = Path(file).read_bytes()
    monkeypatch.setattr(tiny_imagenet, "ARCHIVE", archive)
    return network


def packed(folder: Path, mode: Any) -> bytes:
    """A tar of what is in a folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name)
    return buffer.getvalue()


@pytest.mark.parametrize("name", [name for name, kind in datasets().items() if issubclass(kind, Official)])
def test_what_is_fetched_is_read(served: Network, tmp_path: Path, name: str) -> None:
    here = tmp_path / "here"
    assert fetch(name, here) == f'[data]\nname = "{name}"\npath = "{here}"'
    asked = list(served.asked)
    assert asked
    train, test = read_dataset({"name": name, "path": str(here)}, "data").load()
    assert len(train) > len(test) > 0
    fetch(name, here)
    assert served.asked == asked, "what is there and right is not asked for again"


def test_corruptions_are_fetched(network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there" / "CIFAR-10-C").mkdir(parents=True)
    (tmp_path / "there" / "CIFAR-10-C" / "fog.npy").write_bytes(b"fog")
    content = packed(tmp_path / "there", "w")
    archive = dataclasses.replace(fetching.ARCHIVES["cifar10-c"], md5=official.md5(content))
    monkeypatch.setitem(fetching.ARCHIVES, "cifar10-c", archive)
    network.held[archive.url] = content
    assert fetch("cifar10-c", tmp_path / "here") == f'[judge]\ncorruptions = "{tmp_path / "here" / "CIFAR-10-C"}"'
    assert (tmp_path / "here" / "CIFAR-10-C" / "fog.npy").read_bytes() == b"fog"


def test_another_file_than_the_official_is_refused(served: Network, tmp_path: Path) -> None:
    for url in served.held:
        served.held[url] += b"more"
    for name in set(sources()) - set(fetching.ARCHIVES):
        with pytest.raises(UserError) as caught:
            fetch(name, tmp_path / "here")
        said = one_line(caught.value)
        assert said.startswith(f"fetch {name}: ")
        assert "corrupted" in said
    assert not [path for path in (tmp_path / "here").rglob("*") if path.is_dir() and path.name not in ("MNIST", "raw")]


@pytest.mark.parametrize("name", sources())
def test_no_network_is_one_line(network: Network, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError) as caught:
        fetch(name, tmp_path / "here")
    said = one_line(caught.value)
    assert said.startswith(f"fetch {name}: ")
    assert "no such host" in said
    assert network.asked


def test_offline_and_unknown_names_ask_nobody(network: Network, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="fetch svhn: asked for with --offline"):
        fetch("svhn", tmp_path, offline=True)
    for name, hint in (("cifar_10", "; did you mean 'cifar10'?"), ("digits", "")):
        with pytest.raises(UserError) as caught:
            fetch(name, tmp_path)
        assert one_line(caught.value).startswith(
            f"fetch: unknown data set '{name}', expected one of cifar10, cifar10-c"
        )
        assert str(caught.value).endswith(hint)
    assert not network.asked


@pytest.mark.parametrize("name", [name for name in datasets() if name != "digits"])
def test_reading_never_downloads(network: Network, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError):
        read_dataset({"name": name, "path": str(tmp_path / "nowhere")}, "data").load()
    assert not network.asked
