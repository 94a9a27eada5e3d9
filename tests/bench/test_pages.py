"""README.md and the pages of results say what the JSON says."""

from pathlib import Path

import pytest

from bench.paths import RESULTS
from bench.report import pages, results
from bench.suites.registry import SUITES


def test_the_tables_of_the_tree_are_those_of_its_json(capsys: pytest.CaptureFixture[str]):
    assert pages.main(["--check"]) == 0, capsys.readouterr().err


def test_a_page_has_every_case_and_the_readme_every_target():
    readme = pages.README.read_text()
    for suite in SUITES.values():
        page = pages.page(suite)
        for path in suite.result_paths():
            titles = [case["title"] for case in results.read(path)["cases"].values()]
            assert all(title in page for title in titles)
        assert all(target.text in readme for target in suite.targets)


def test_stale_tables_are_named_and_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    bench = tmp_path / "bench"
    (bench / "results").mkdir(parents=True)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    monkeypatch.setattr(pages, "RESULTS", bench / "results")
    monkeypatch.setattr(pages, "README", bench / "README.md")
    marks = (line for suite in SUITES.values() for line in pages.marks(suite))
    pages.README.write_text("\n".join(marks))
    assert pages.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "bench/README.md differs" in said
    assert "bench/results/load.md differs" in said
    assert pages.main([]) == 0
    assert pages.main(["--check"]) == 0
    assert (bench / "results/load.md").read_text() == (RESULTS / "load.md").read_text()
