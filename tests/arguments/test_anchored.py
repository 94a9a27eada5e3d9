"""A path that is kept for later leads to the place that it led to at the call."""

import os
from pathlib import Path

import pytest

from fastio.arguments.anchored import anchored, is_homeless


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("text", ["m", "a/m", "./m", "a//m", "~", "a~b"])
def test_a_relative_path_begins_at_the_working_directory(inside: Path, text: str) -> None:
    assert Path(anchored(text)) == inside / text


@pytest.mark.parametrize("text", ["/", "/m", "/a/./m", "//a/m"])
def test_an_absolute_path_stays(text: str) -> None:
    assert anchored(text) == text


@pytest.mark.parametrize("text", ["", "a\0b", "../a\0b"])
def test_impossible_paths_stay_unchanged(text: str) -> None:
    assert anchored(text) == text


def test_symlinks_stay(inside: Path) -> None:
    (inside / "other").mkdir()
    (inside / "link").symlink_to("other")
    assert anchored("link/m") == str(inside / "link" / "m")


@pytest.mark.parametrize("is_absolute", [True, False])
def test_the_parent_of_a_symlink_is_that_of_the_folder_it_leads_to(
    inside: Path, is_absolute: bool
) -> None:
    (inside / "far" / "away").mkdir(parents=True)
    (inside / "link").symlink_to("far/away")
    (inside / "far" / "m").touch()
    text = "link/../m"
    found = anchored(str(inside / text) if is_absolute else text)
    assert found == str(inside / "far" / "m")
    assert os.path.samefile(found, text)


def test_a_removed_working_directory_leaves_the_path_as_it_is(inside: Path) -> None:
    gone = inside / "gone"
    gone.mkdir()
    os.chdir(gone)
    assert not is_homeless()
    gone.rmdir()
    assert is_homeless()
    assert anchored("m") == "m"
    assert anchored("/m") == "/m"


def test_a_path_stays_relative_where_its_absolute_one_leads_elsewhere(
    inside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process with another root folder, simulated."""
    (inside / "other").mkdir()
    for elsewhere in (str(inside / "other"), str(inside / "nowhere")):
        monkeypatch.setattr(os, "getcwd", lambda elsewhere=elsewhere: elsewhere)
        assert anchored("m") == "m"
