"""The command line: exit codes, one clean line for every mistake, and what stays on disk."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import robustcl
from robustcl import cli
from robustcl.bench.data import datasets
from robustcl.pretraining.method import every, named
from tests.bench.test_imports import save_images
from tests.bench.tiny import visible, write_suite
from tests.models.official import Net, alive, under
from tests.reports.synthetic import JUDGES, answers, cell, write_run

ROOT = Path(__file__).resolve().parent.parent


class Told:
    """What one call came to."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def line(self) -> str:
        """The only line on the standard error."""
        assert self.err.endswith("\n")
        (line,) = self.err.splitlines()
        assert line.startswith("robustcl: ")
        return line


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Call":
    return Call(monkeypatch, capsys)


class Call:
    """The command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *words: str | Path) -> Told:
        self.monkeypatch.setattr(sys, "argv", ["robustcl", *map(str, words)])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else -1
        return Told(code, *self.capsys.readouterr())


def test_version_help_and_nothing(call: Call) -> None:
    told = call("--version")
    assert (told.code, told.out) == (0, f"robustcl {robustcl.__version__}\n")
    told = call("--help")
    assert told.code == 0
    assert all(command in told.out for command in ("run", "ls", "report", "fetch", "check", "bless"))
    assert "..." not in told.out.partition("Commands:")[2], "a command's first sentence does not fit"
    nothing = call()
    assert (nothing.code, nothing.err.strip()) == (2, told.out.strip())
    told = call("run", "--help")
    assert all(word in told.out for word in ("--dry-run", "--set", "--runs", "--device", "--offline", "--workers"))


@pytest.mark.parametrize(
    ("kind", "holds"),
    [
        ("methods", "advcl"),
        ("schemes", "SLF"),
        ("architectures", "tiny"),
        ("attacks", "pgd-<steps>"),
        ("data", "digits"),
        ("data", "tiny_imagenet"),
        ("suites", "quickstart"),
    ],
)
def test_ls(call: Call, kind: str, holds: str) -> None:
    told = call("ls", kind)
    assert told.code == 0
    assert told.out.splitlines()[0] == kind
    assert any(line.startswith(f"  {holds}") for line in told.out.splitlines())
    if kind != "methods":  # whose facts are shown by themselves alone
        assert told.out.strip() in call("ls").out


def test_ls_data_has_a_line_for_each(call: Call) -> None:
    lines = call("ls", "data").out.splitlines()[1:]
    assert [line.split()[0] for line in lines] == list(datasets())
    assert all(len(line.split()) > 4 for line in lines)


def test_fetch_refuses_in_one_line(call: Call, tmp_path: Path) -> None:
    told = call("fetch", "svhn", tmp_path, "--offline")
    assert (told.code, told.out) == (2, "")
    assert told.line.startswith("robustcl: fetch svhn: asked for with --offline")
    told = call("fetch", "svnh", tmp_path)
    assert told.code == 2
    assert told.line.endswith("did you mean 'svhn'?")
    assert not list(tmp_path.iterdir())


def cells(lines: list[str]) -> dict[str, list[str]]:
    """The rows of a table whose first line names the columns; they begin where those do."""
    starts = [at.start() for at in re.finditer(r"(?<=  )\S", lines[0])]
    rows = [[line[a:b].strip() for a, b in zip(starts, [*starts[1:], None], strict=True)] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_ls_methods_says_what_each_is(call: Call) -> None:
    (title, *facts), (_, *attacks), (_, *papers) = (
        block.splitlines() for block in call("ls", "methods").out.split("\n\n")[:3]
    )
    assert title == "methods"
    rows, climbed, cited = cells(facts), cells(attacks), cells(papers)
    assert rows["method"] == ["units", "labels", "needs", "routes"]
    assert climbed["method"] == ["perturbs", "maximises"]
    assert list(rows)[1:] == list(climbed)[1:] == every()
    assert rows["simclr"] == ["6", "none", "-", "*normal"]
    assert rows["acl/A2S"] == ["17", "none", "-", "normal, *pgd"]
    assert rows["acl/A2A"][3] == "*pgd"
    assert rows["dynacl"][3] == "normal, *pgd, momentum copy"
    assert rows["dynacl/trained"][3] == "normal, *pgd"
    assert rows["deacl"][1:3] == ["none", "teacher"]
    assert rows["lp_aff"][1:3] == ["pseudo", "start"]
    assert rows["supervised"][1] == "labels"
    assert climbed["simclr"] == ["-", "-"]
    for case in every():
        said = named(case).facts
        assert climbed[case] == [said.perturbs or "-", said.maximises or "-"]
    assert list(cited)[1:] == [case for case in every() if "/" not in case]
    assert cited["advcl"] == ["Fan et al., NeurIPS 2021", "fan2021advcl"]


def test_ls_methods_is_readable(call: Call) -> None:
    told = call("ls", "methods").out.splitlines()
    assert max(map(len, told)) <= 100
    assert all(line == line.rstrip() for line in told)
    assert 'method = "acl", arm = "A2S"' in told[-4]
    assert "a forward is 1, an input gradient 1, a full backward 2; SimCLR is 6" in told[-2]
    assert told[-1].startswith("*: ")


def test_ls_of_everything_has_methods_in_short(call: Call) -> None:
    block = call("ls").out.split("\n\n")[0].splitlines()
    assert block[0] == "methods"
    assert [line.split()[0] for line in block[1:]] == [case for case in every() if "/" not in case]
    assert "  advcl       Fan et al., NeurIPS 2021" in block


BAD = [
    (["quickstrt"], "did you mean 'quickstart'?"),
    (["none.toml"], "none.toml: no such file"),
    (["SUITE", "--set", "judge.imagse=3"], "unknown key 'imagse', expected one of"),
    (["SUITE", "--set", "judge.imagse=3"], "did you mean 'images'?"),
    (["SUITE", "--set", "threat.eps=0.0314"], "did you mean '8/255'?"),
    (["SUITE", "--set", 'threat.eps="0.0314"'], "did you mean '8/255'?"),
    (["SUITE", "--set", 'judge.sweep.eps=["0.0314"]'], "did you mean '8/255'?"),
    (["SUITE", "--set", "judge.images=9999"], "expected at most the 360 test images"),
    (["SUITE", "--set", 'judge.judges=["pgd20"]'], "did you mean 'pgd-20'?"),
    (["SUITE", "--set", 'pretrain.at.method="simclrr"'], "did you mean 'simclr'?"),
    (["SUITE", "--set", "data.name=digit"], "did you mean 'digits'?"),
    (["SUITE", "--set", 'data={name="npz", path="gone.npz"}'], "gone.npz: no such file"),
    (["SUITE", "--set", "judge"], "expected path.to.key=value"),
    (["SUITE", "--device", "abacus"], "--device abacus: not available"),
    (["SUITE", "--workers", "0"], "--workers"),
    (["SUITE", "--wrong"], "--wrong"),
]


@pytest.mark.parametrize(("words", "says"), BAD)
def test_mistakes_are_one_line_and_leave_nothing(call: Call, tmp_path: Path, words: list[str], says: str) -> None:
    suite = write_suite(tmp_path)
    told = call("run", *(str(suite) if word == "SUITE" else word for word in words), "--runs", tmp_path / "runs")
    assert told.code == 2
    assert says in told.line
    assert not (tmp_path / "runs").exists()


def test_unknown_kind_and_command(call: Call) -> None:
    told = call("ls", "method")
    assert told.code == 2
    assert told.line.endswith("did you mean 'methods'?")
    told = call("rum")
    assert told.code == 2
    assert "rum" in told.line


def test_runs_that_cannot_be_used(call: Call, tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    told = call("run", suite, "--runs", tmp_path / "file")
    assert told.code == 2
    assert "cannot be written" in told.line
    told = call("report", tmp_path / "none")
    assert told.code == 2
    assert "none" in told.line


def test_dry_run_writes_nothing(call: Call, tmp_path: Path) -> None:
    told = call("run", write_suite(tmp_path), "--runs", tmp_path / "runs", "--dry-run")
    assert told.code == 0
    assert "2 cells, 7 stages, 7 to make" in told.out
    assert "pretrain at" in told.out
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_run_report_and_another_suite_in_its_folder(call: Call, tmp_path: Path) -> None:
    suite, runs = write_suite(tmp_path), tmp_path / "runs"
    first = call("run", suite, "--runs", runs, "--workers", "1")
    assert first.code == 0
    assert "[  7/7]" in first.err
    assert "random" in first.out
    assert first.out.splitlines()[-2].startswith(f"{runs / 'report'}: table, ")
    assert first.out.splitlines()[-1] == f"open {runs / 'report' / 'index.html'}"
    again = call("run", suite, "--runs", runs)
    assert (again.code, again.out, again.err) == (0, first.out, "")
    assert "0 to make" in call("run", suite, "--runs", runs, "--dry-run").out
    assert call("report", runs).out == first.out
    before = visible(runs)
    told = call("run", write_suite(tmp_path, "other"), "--runs", runs)
    assert told.code == 2
    assert "written by suite 'tiny', expected 'other'" in told.line
    assert visible(runs) == before


def test_a_run_says_how_even_its_clusters_are(call: Call, tmp_path: Path) -> None:
    more = "\n[labels.groups]\nencoder = 'at'\nk = [4]\n[pretrain.pp]\nmethod = 'lp_aff'\nstart = 'at'\n"
    more += "labels = 'groups'\nweak = 'digits-weak'\nascent = { steps = 1 }\ntraining = { epochs = 1, batch = 512 }\n"
    told = call("run", write_suite(tmp_path, more=more), "--runs", tmp_path / "runs", "--workers", "1")
    (line,) = [line for line in told.err.splitlines() if "K = 4" in line]
    assert re.fullmatch(r" +labels groups: K = 4: \d+ to \d+ images in a cluster, entropy [\d.]+ of 2\.0 bits", line)


def test_nan_in_the_loss_ends_with_four(call: Call, tmp_path: Path) -> None:
    rate = ["--set", "pretrain.at.training.optimiser.lr=1e30", "--set", "pretrain.at.training.epochs=2"]
    told = call("run", write_suite(tmp_path), "--runs", tmp_path / "runs", "--workers", "1", *rate)
    assert told.code == 4
    last = told.err.splitlines()[-1]
    assert last.startswith("robustcl: pretrain at: the loss is not finite in epoch 1, step ")
    assert "Traceback" not in told.err


def test_ctrl_c_keeps_what_is_finished(call: Call, tmp_path: Path) -> None:
    suite, runs = write_suite(tmp_path), tmp_path / "runs"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "robustcl", "run", str(suite), "--runs", str(runs), "--workers", "2"]
    with subprocess.Popen(
        command,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run in the background of a shell, their children would begin with the signal ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        until = time.monotonic() + 60
        while not list(runs.glob("pretrain/[!.]*")) and running.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=60)[1]
    assert running.returncode == 130, said
    assert said.splitlines()[-1].startswith("robustcl: interrupted; what is finished stays")
    assert "Traceback" not in said
    kept = {path: path.stat().st_mtime_ns for path in runs.glob("pretrain/[!.]*/*")}
    assert kept
    assert len(list(runs.glob("*/[!.]*/stage.json"))) < 7
    assert call("run", suite, "--runs", runs, "--workers", "1").code == 0
    assert len(list(runs.glob("*/[!.]*/stage.json"))) == 7
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_layouts_are_listed_with_their_rules(call: Call) -> None:
    lines = dict(line.split(maxsplit=1) for line in call("ls", "layouts").out.splitlines()[1:])
    assert lines["advcl"] == "routes normal, pgd, pgd_ce; 3x3 stem padded by 1; raw images"
    assert lines["deacl"] == "routes normal; 3x3 stem padded by 2; images normalised by what the file holds"


def test_evaluate_an_encoder_of_another_project(call: Call, tmp_path: Path) -> None:
    data = save_images(tmp_path / "patterns.npz")
    torch.save(under("", alive(Net())), tmp_path / "theirs.pth")  # plain names and a small stem: of several projects
    words: tuple[str | Path, ...] = ("evaluate", tmp_path / "theirs.pth", "--data", f"npz:{data}", "--eps", "8/255")
    more = (*words, "--scheme", "SLF", "--dry-run", "--runs", tmp_path / "runs")
    told = call(*more)
    assert told.code == 2
    assert "fits advcl, a_infonce, torchvision, timm, solo_learn, which differ" in told.line
    told = call(*more, "--layout", "solo_learn")
    assert told.code == 0
    assert "import theirs" in told.out
    assert "unknown route 'pdg'" in call(*more, "--layout", "acl", "--route", "pdg").line
    assert "--layout: of an encoder to finetune, expected --scheme" in call(*words, "--layout", "acl").line
    assert not (tmp_path / "runs").exists()


def test_report_writes_a_copy_and_cards_where_they_are_asked_for(call: Call, tmp_path: Path) -> None:
    rows = answers(10, 8, {"pgd-20": 5, "autoattack": 4}, JUDGES)
    runs = write_run(tmp_path / "runs", [(cell("advcl", "SLF"), rows)])
    told = call("report", runs, "--page", tmp_path / "out", "--cards", tmp_path / "cards")
    assert told.code == 0
    assert told.out.splitlines()[-1] == f"open {tmp_path / 'out' / 'index.html'}"
    for made in ("out/encoders/advcl.html", "runs/report/index.html", "cards/advcl/README.md"):
        assert (tmp_path / made).is_file(), made
    (tmp_path / "file").write_text("mine")
    told = call("report", runs, "--page", tmp_path / "file")
    assert told.code == 2
    assert told.line.endswith("cannot be written (File exists), expected a writable folder")
    assert (tmp_path / "file").read_text() == "mine"
