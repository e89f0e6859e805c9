"""The only owner of the tests of the site: whole, escaped, linked within itself, the same every time."""

import json
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest

from robustcl.models.errors import UserError
from robustcl.models.plugin import find, names
from robustcl.pretraining.method import PACKAGE, Method
from robustcl.reports import citations, drawing
from robustcl.reports.capsule import capsule, duration
from robustcl.reports.curves import HEIGHT, WIDTH, trainings
from robustcl.reports.extremes import address, extremes
from robustcl.reports.filenames import distinct
from robustcl.reports.folder import RunFolder
from robustcl.reports.leaderboard import Row, leaderboard
from robustcl.reports.page import pictures, site
from robustcl.reports.report import Report, report
from tests.reports.site import HOSTILE, Page, thumbnails, varied
from tests.reports.synthetic import JUDGES, answers, cell, write_run
from tests.reports.test_published import suite_of

KEPT = ("CNAME", "encoders/notes.html")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return RunFolder(varied(tmp_path_factory.mktemp("page") / "runs"))


@pytest.fixture(scope="module")
def files(run: RunFolder) -> dict[str, str]:
    return site(run)


@pytest.fixture(scope="module")
def rows(run: RunFolder) -> list[Row]:
    return leaderboard(run, run.tables)


@pytest.fixture(scope="module")
def written(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report in one folder, and a copy in another where files of the user's lie; figures are tested elsewhere."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "out" / "encoders").mkdir(parents=True)
    for name in KEPT:
        (folder / "out" / name).write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "save", lambda run, place: [figure(place)])
        return report(run.root, folder / "report", folder / "out")


def figure(folder: Path) -> Path:
    """A file that is taken for a figure."""
    path = folder / "accuracy-against-eps.svg"
    path.write_text("<svg/>")
    return path


def test_every_name_is_text_and_never_markup(files: dict[str, str]) -> None:
    index = Page(files["index.html"])
    assert HOSTILE in index.texts
    for name, html in files.items():
        if name.endswith(".html"):
            assert "<b>&" not in html
            assert '<b>"x"' not in html
    (own,) = [html for name, html in files.items() if Page(html).texts[:1] and HOSTILE in Page(html).texts[0]]
    assert Page(own).texts.count(HOSTILE) >= 1


def test_every_link_leads_somewhere_inside(written: Report) -> None:
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in written.paths if path.suffix == ".html"}
    del pages[written.folder / "table.html"]
    assert len(pages) == 5
    for path, page in pages.items():
        assert len(page.ids) == len(set(page.ids)), path
        for link in page.links:
            if link.startswith("data:"):
                continue
            file, _, part = unquote(link).partition("#")
            target = (path.parent / file).resolve() if file else path
            assert target.is_file(), f"{path.name} names {link}"
            assert not part or part in Page(target.read_text(encoding="utf-8")).ids, f"{path.name} names {link}"
        assert "http" not in "".join(page.links)
        assert "default-src 'none'" in path.read_text(encoding="utf-8")


def test_the_same_records_are_the_same_bytes(run: RunFolder, files: dict[str, str]) -> None:
    assert site(RunFolder(run.root)) == files


def test_file_names_are_safe_and_never_alike() -> None:
    given = ["a/b", "a b", "A-B", "plain", "..", "", "x" * 300, "naïve", "con.", "-rf"]
    made = distinct(given)
    assert made["plain"] == "plain"
    assert len({name.lower() for name in made.values()}) == len(given)
    for name in made.values():
        assert name == Path(name).name
        assert name.isascii()
        assert 0 < len(name) < 100
        assert name[0] not in ".-"
    assert distinct(["a/b", "a b"])["a/b"] == made["a/b"], "whatever else there is"


def test_ranks_say_where_rows_are_tied(rows: list[Row], files: dict[str, str]) -> None:
    first = [row for row in rows if (row.data, row.scheme) == ("digits", "SLF")]
    assert [row.encoder for row in first] == ["advcl", HOSTILE, "simclr", "random"], "from the best AA on, random last"
    told = {row.encoder: {judge: of.standing for judge, of in row.numbers.items()} for row in first}
    assert told["advcl"]["autoattack"] == told[HOSTILE]["autoattack"] == "tied 1\N{EN DASH}2"
    assert told["simclr"]["autoattack"] == "rank 3"
    assert set(told["random"].values()) == {""}
    assert "tied 1\N{EN DASH}2" in files["index.html"]


def test_rows_say_what_is_held_against_them(rows: list[Row], files: dict[str, str]) -> None:
    held = {(row.data, row.scheme, row.encoder): row for row in rows}
    row = held["digits", "AFF", "advcl"]
    assert (row.reliability, row.external, row.chance) == ("suspect", True, 10.0)
    assert row.why[0].startswith("zero_gradients: half of zero_gradients; try next: help")
    assert not held["digits", "SLF", "advcl"].external
    missing = held["mnist", "AFF", "simclr"]
    assert missing.numbers == {}
    text = Page(files["index.html"]).text
    assert "1 of 11 rows not finished" in text
    assert row.why[0] in text
    assert text.count("external data") == 2


def test_an_unstarted_run_has_a_page_of_what_is_planned(tmp_path: Path) -> None:
    run = RunFolder(write_run(tmp_path, [(cell("advcl", "SLF"), None)]))
    text = Page(site(run)["index.html"]).text
    assert "1 of 1 rows not finished" in text
    assert "RA (PGD-20)" in text
    assert "fan2021advcl" in text


def test_a_capsule_says_where_an_encoder_comes_from(run: RunFolder, files: dict[str, str]) -> None:
    found = capsule(run, "advcl")
    assert [step.label for step in found.steps] == ["pretrain advcl", "finetune advcl", "evaluate advcl"]
    step = found.steps[0]
    assert (step.seconds, step.memory, step.device, step.seed) == ("1.5 min", "300 MiB", "cpu", "3")
    assert step.commit == "0123456789, with changes"
    assert found.software == {"robustcl": "0.1.0", "python": "3.11", "system": "Linux", "torch": "2.0"}
    assert found.hardware == {"machine": "x86_64", "processor": "Some CPU", "cores": "2"}
    assert found.weights == ["pretrain/aa/encoder.safetensors"]
    assert found.command == "robustcl run quickstart"
    assert capsule(run, "simclr").steps == []
    text = Page(files["encoders/advcl.html"]).text
    assert "0123456789, with changes" in text
    assert "machine x86_64; processor Some CPU; cores 2" in text
    assert "Only the records of this run were kept" in Page(files["encoders/simclr.html"]).text


def test_a_suite_of_ones_own_is_named_as_a_file(tmp_path: Path) -> None:
    write_run(tmp_path, [(cell("advcl", "SLF"), None)])
    for suite, command in (("mine", "robustcl run mine.toml"), ("evaluate", "")):
        (tmp_path / "suite.json").write_text((tmp_path / "suite.json").read_text().replace("quickstart", suite, 1))
        assert capsule(RunFolder(tmp_path), "advcl").command == command
        (tmp_path / "suite.json").write_text((tmp_path / "suite.json").read_text().replace(suite, "quickstart", 1))


@pytest.mark.parametrize(("seconds", "told"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (90, "1.5 min"), (9000, "2.5 h")])
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_curves_are_lines_by_term(run: RunFolder) -> None:
    pretrain, finetune = trainings(run, "advcl")
    assert (pretrain.label, finetune.label) == ("pretrain advcl", "finetune advcl")
    assert [term.name for term in pretrain.terms] == ["loss", "contrast", "pseudo"]
    loss = pretrain.terms[0]
    assert (loss.low, loss.high, loss.last, loss.epochs) == (2, 5, 2, 3)
    assert loss.lines == [f"0.0,0.0 {WIDTH / 2:.1f},{HEIGHT * 2 / 3:.1f} {WIDTH:.1f},{HEIGHT:.1f}"]
    assert trainings(run, "simclr") == []


def test_hardest_break_first_and_easiest_keep_the_largest_margin() -> None:
    rows = [
        # image, judge, right, margin, step
        (1, "clean", True, 3.0, -1), (1, "pgd-20", False, -0.1, 1),
        (2, "clean", True, 3.0, -1), (2, "pgd-20", False, -0.9, 1),
        (3, "clean", True, 3.0, -1), (3, "pgd-20", False, -5.0, 7),
        (4, "clean", False, -9.0, -1),
        (5, "clean", True, 3.0, -1), (5, "pgd-20", True, 0.5, -1),
        (6, "clean", True, 9.0, -1), (6, "pgd-20", True, 0.7, -1),
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["image", "judge", "right", "margin", "step"]).assign(label=1, answer=0)
    found = extremes(frame)
    assert found is not None
    assert found.judge == "RA (PGD-20)"
    assert [one.image for one in found.hardest] == [2, 1, 3], "and none that is wrong without an attack"
    assert [one.image for one in found.easiest] == [6, 5]
    assert extremes(frame[frame["judge"] == "clean"]) is None


def test_images_are_shown_where_their_pixels_were_kept(tmp_path: Path) -> None:
    records = answers(80, 60, {"pgd-20": 30, "autoattack": 20}, JUDGES)
    run = RunFolder(write_run(tmp_path, [(cell("advcl", "SLF"), records)]))
    page = Page(site(run)["encoders/advcl.html"])
    assert "img" not in page.tags
    assert "#30" in page.texts
    thumbnails(tmp_path, "digits", 40)
    run = RunFolder(tmp_path)
    page = Page(site(run)["encoders/advcl.html"])
    pixels = run.probes("thumbnails")[0].arrays["pixels"]
    assert address(pixels[30]) in page.links
    assert "among 40 images whose pixels were kept" in page.text
    assert address(pixels[30]) != address(pixels[31])
    assert address(pixels[0][:1]).startswith("data:image/png;base64,")


def test_exactly_what_is_shown_is_cited(run: RunFolder, files: dict[str, str]) -> None:
    attacks = {"madry2018pgd", "croce2020reliable", "croce2020minimally", "andriushchenko2020square"}
    assert set(citations.keys(run, "random")) == attacks
    assert set(citations.keys(run, "simclr")) == {*attacks, "chen2020simclr"}
    trained = {"fan2021advcl", "zhang2019trades"}
    assert set(citations.keys(run, "advcl")) == {*attacks, "chen2020simclr", *trained}
    assert list(citations.entries()).index("chen2020simclr") == 0
    assert files["references.bib"] == citations.bibtex(citations.keys(run))
    assert files["references.bib"].count("@inproceedings") == 7
    assert "Fast Adaptive Boundary" in Page(files["index.html"]).text


def test_cite_is_what_the_method_says_and_is_in_the_library() -> None:
    known = citations.entries()
    for name in names(PACKAGE):
        assert citations.cite(citations.METHODS, name) == find(PACKAGE, "method", name, Method, "test").cite
        assert citations.cite(citations.METHODS, name) in known
    for name in names(citations.SCHEMES):
        assert citations.cite(citations.SCHEMES, name) in known
    assert citations.cite(citations.METHODS, "nothing") is None
    assert all(entry.startswith("@") and entry.endswith("}") for entry in known.values())


@pytest.mark.parametrize(
    ("judges", "wanted"),
    [
        ({"fgsm": ["fgsm"]}, {"goodfellow2015explaining"}),
        ({"pgd-margin-20": ["pgd-margin-20"]}, {"carlini2017towards"}),
        ({"corruptions": ["fog-1", "fog-5"]}, {"hendrycks2019benchmarking"}),
        ({"mine": ["mine"]}, set()),
    ],
)
def test_attacks_are_cited(tmp_path: Path, judges: dict[str, list[str]], wanted: set[str]) -> None:
    run = RunFolder(write_run(tmp_path, [(cell("x", "as given", method="Net", judges=judges), None)]))
    assert set(citations.keys(run)) == wanted


def test_published_numbers_stand_beside_with_their_sources(tmp_path: Path) -> None:
    place = {"data": "cifar10", "eps": "8/255"}
    cells = [cell("advcl", "SLF") | place, cell("rocl", "SLF") | place]
    rows = answers(400, 320, {"pgd-20": 200, "autoattack": 100}, JUDGES)
    write_run(tmp_path, [(one, rows) for one in cells])
    suite = json.loads((tmp_path / "suite.json").read_text()) | suite_of()
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    run = RunFolder(tmp_path)
    made = site(run)
    page = Page(made["encoders/advcl.html"])
    assert "advcl:T1 (ext, oracle_test)" in page.texts
    assert "50.45" in page.texts
    assert "42.57\N{NOT EQUAL TO}" in page.texts, "which is outside the interval of 25 %"
    assert "robustssl:C10-C10-SLF (ext)" in page.texts
    assert any(text.startswith("advcl:T1: AdvCL paper") for text in page.texts)
    other = Page(made["encoders/rocl.html"])
    assert "50.45" not in other.texts
    assert not any(text.startswith("advcl:T5: ") for text in other.texts), "no source of another encoder"
    assert "fan2021advcl" in citations.keys(run, "rocl"), "whose table is quoted"


def test_figures_are_shown_with_their_files(tmp_path: Path) -> None:
    for kind in ("png", "svg", "csv"):
        (tmp_path / f"accuracy-against-eps-SLF.{kind}").write_text("<svg/>")
    paths = [tmp_path / f"accuracy-against-eps-SLF.{kind}" for kind in ("png", "svg", "csv")]
    (shown,) = pictures([*paths, tmp_path / "table.csv"])
    assert shown.title == "Accuracy against eps SLF"
    assert shown.about.startswith("Accuracy against eps for every encoder")
    assert shown.files == [path.name for path in paths]
    assert shown.address == "data:image/svg+xml;base64,PHN2Zy8+"


def test_a_copy_elsewhere_keeps_what_is_there(written: Report) -> None:
    out = written.folder.parent / "out"
    assert written.page == out / "index.html"
    assert str(written).splitlines()[-1] == f"open {out / 'index.html'}"
    names = {path.relative_to(written.folder).as_posix() for path in written.paths}
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == {*names, *KEPT}
    assert all((out / name).read_text() == "mine" for name in KEPT)
    assert all((out / name).read_bytes() == (written.folder / name).read_bytes() for name in names)


def test_a_page_never_takes_the_place_of_a_file(run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=r"out: cannot be written \(.*\), expected a writable folder$"):
        report(run.root, tmp_path / "report", tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"
    assert list((tmp_path / "report").iterdir()) == []


def test_settings_are_those_of_the_suite(tmp_path: Path) -> None:
    write_run(tmp_path, [(cell("advcl", "SLF"), None)])
    suite = json.loads((tmp_path / "suite.json").read_text())
    suite["resolved"] = {"points": [{"point": "", "pretrain": {"advcl": {"method": "advcl", "weight": 0.2}}}]}
    (tmp_path / "suite.json").write_text(json.dumps(suite))
    assert json.loads(capsule(RunFolder(tmp_path), "advcl").settings)["advcl"]["weight"] == 0.2
    assert capsule(RunFolder(tmp_path), "random").settings == ""
