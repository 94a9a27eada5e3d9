"""The pages are true: their links lead somewhere, their code compiles, their lists are whole."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import fastio
from fastio.arguments.variables import variable_of
from fastio.formats import known

_ROOT = Path(__file__).parents[1]
_README = _ROOT / "README.md"
_PAGES = [_README, *sorted((_ROOT / "docs").glob("*.md"))]
_README_WORDS_MAX = 700


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", _text(page))
    missing = [
        link
        for link in links
        if not link.startswith("https://") and not (page.parent / link).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_example_compiles(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", _text(page), re.DOTALL):
        compile(block, str(page), "exec")


def test_every_page_is_linked_from_the_readme() -> None:
    linked = set(re.findall(r"\]\((docs/[^)]+)\)", _text(_README)))
    assert linked == {f"docs/{page.name}" for page in _PAGES[1:]}


def test_the_readme_is_short() -> None:
    assert len(_text(_README).split()) <= _README_WORDS_MAX


def test_every_option_is_on_its_page_with_its_variable() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \|", _text(_ROOT / "docs/options.md"), re.MULTILINE)
    expected = [(each.name, variable_of(each.name)) for each in fields(fastio.Options)]
    assert sorted(rows) == sorted(expected)


def test_every_error_is_on_its_page() -> None:
    page = _text(_ROOT / "docs/errors.md")
    errors = {
        name
        for name, value in vars(fastio).items()
        if isinstance(value, type) and issubclass(value, fastio.FastioError)
    }
    assert errors - set(re.findall(r"\w+Error", page)) == set()


def test_every_format_that_is_loaded_is_on_its_page_with_its_endings() -> None:
    page = _text(_ROOT / "docs/formats.md")
    rows = re.findall(r"^\| ([\w .]+) \| ((?:`\.\w+` ?)*)\|", page, re.MULTILINE)
    found = {name: tuple(re.findall(r"`([^`]+)`", endings)) for name, endings in rows}
    loaded = [format for format in known.FORMATS if format.locate is not None]
    for format in loaded:
        (name,) = (name for name in found if f" {name} file" in format.name)
        assert found[name] == format.endings
    assert len(found) == len(loaded)
