"""Tests of weights on disk: what comes back is what was written, and what does not match is refused in one line."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from robustcl.models import checkpoint
from robustcl.models.architectures.resnet import ResNet
from robustcl.models.architectures.tiny import Tiny
from robustcl.models.classifier import Classifier
from robustcl.models.encoder import Encoder
from robustcl.models.errors import UserError


def trained(seed: int = 0) -> Encoder:
    encoder = Encoder(Tiny(width=4), (1, 8, 8), routes=("normal", "pgd"), mean=(0.2,), std=(0.5,), seed=seed)
    for route in encoder.routes:
        encoder(torch.rand(4, 1, 8, 8), route)
    return encoder.eval()


def refused(path: Path, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        checkpoint.load_encoder(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def write(path: Path, encoder: Encoder, tensors: dict[str, Tensor]) -> None:
    checkpoint.write(path, "encoder", {**encoder.description(), "deploy": "pgd"}, tensors)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "encoder.safetensors"


def test_an_encoder_round_trips_by_route(path: Path) -> None:
    encoder, x = trained(), torch.rand(3, 1, 8, 8)
    checkpoint.save_encoder(path, encoder, "pgd")
    deployed, other = checkpoint.load_encoder(path), checkpoint.load_encoder(path, "normal")
    assert (deployed.routes, other.routes) == (("pgd",), ("normal",))
    assert not deployed.training
    assert torch.equal(deployed(x), encoder(x, "pgd"))
    assert torch.equal(other(x), encoder(x, "normal"))
    whole = checkpoint.load_encoder(path, "all")
    assert whole.routes == encoder.routes
    assert checkpoint.fingerprint(whole) == checkpoint.fingerprint(encoder) != checkpoint.fingerprint(trained(1))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_unknown_route_is_one_line(path: Path) -> None:
    checkpoint.save_encoder(path, trained(), "pgd")
    with pytest.raises(UserError, match=r"unknown route 'nromal'.*did you mean 'normal'"):
        checkpoint.load_encoder(path, "nromal")


def test_a_classifier_round_trips(path: Path) -> None:
    encoder = trained().keep("pgd")
    classifier = Classifier(encoder, nn.Linear(encoder.width, 5)).eval()
    checkpoint.save_classifier(path, classifier)
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(checkpoint.load_classifier(path)(x), classifier(x))


def test_the_header_keeps_the_padding_of_the_stem(path: Path) -> None:
    narrow, wide = (Encoder(ResNet(width=2, stem=stem), (3, 32, 32)).eval() for stem in ("3x3", "3x3-pad2"))
    wide.load_state_dict(narrow.state_dict())  # weights of the one fit the other and are not right in it
    x = torch.rand(2, 3, 32, 32)
    assert not torch.allclose(narrow(x), wide(x))
    checkpoint.save_encoder(path, wide, "normal")
    assert checkpoint.read(path).description["architecture"]["stem"] == "3x3-pad2"
    assert torch.equal(checkpoint.load_encoder(path)(x), wide(x))


def test_a_missing_file_is_one_line(path: Path) -> None:
    refused(path, "no such file, expected a checkpoint")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_one_line(path: Path, share: float) -> None:
    checkpoint.save_encoder(path, trained(), "pgd")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    refused(path, "truncated or not a safetensors file")


def test_a_foreign_file_is_one_line(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 something of torch.save's")
    refused(path, "truncated or not a safetensors file")
    save_file(trained().state_dict(), path)
    refused(path, "a foreign safetensors file")


def test_a_later_schema_is_one_line(path: Path) -> None:
    header = {"robustcl": json.dumps({"schema": 99, "kind": "encoder", "description": {}})}
    save_file(trained().state_dict(), path, metadata=header)
    refused(path, "schema 99, expected 1")


def test_the_wrong_kind_is_one_line(path: Path) -> None:
    checkpoint.save_encoder(path, trained(), "pgd")
    with pytest.raises(UserError, match="holds an encoder, expected a classifier"):
        checkpoint.load_classifier(path)
    encoder = trained().keep("pgd")
    checkpoint.save_classifier(path, Classifier(encoder, nn.Linear(encoder.width, 5)))
    refused(path, "holds a classifier, expected an encoder")


def test_a_missing_tensor_is_reported(path: Path) -> None:
    encoder = trained()
    tensors = dict(encoder.state_dict())
    del tensors["body.stem.0.weight"]
    write(path, encoder, tensors)
    count = len(encoder.state_dict())
    refused(path, rf"matched {count - 1}/{count} tensors, .*1 missing \(first: body\.stem\.0\.weight\)")


def test_a_tensor_left_over_is_reported(path: Path) -> None:
    encoder = trained()
    write(path, encoder, {**encoder.state_dict(), "fc.weight": torch.ones(2)})
    refused(path, r"expected all of them and no other; 1 left over \(first: fc\.weight\)")


def test_a_tensor_of_another_shape_is_reported(path: Path) -> None:
    encoder = trained()
    write(path, encoder, {**encoder.state_dict(), "body.stem.0.weight": torch.ones(4, 1, 5, 5)})
    refused(path, r"1 of another shape \(first: body\.stem\.0\.weight\)")


def test_what_does_not_match_loads_nothing() -> None:
    encoder = trained()
    before = checkpoint.fingerprint(encoder)
    tensors = {name: torch.zeros_like(tensor) for name, tensor in encoder.state_dict().items()}
    with pytest.raises(UserError, match="left over"):
        checkpoint.match(encoder, {**tensors, "more": torch.ones(1)}, "here")
    assert checkpoint.fingerprint(encoder) == before


def test_a_write_that_fails_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint.save_encoder(path, trained(), "pgd")
    before = load_file(path)

    def full(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoint.save_encoder(path, trained(1), "pgd")
    assert all(torch.equal(tensor, before[name]) for name, tensor in load_file(path).items())
