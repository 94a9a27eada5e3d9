"""The settings of a limit are the fastest ones on the whole file."""

import pytest

from bench.measure import settings
from bench.measure.settings import Grid, Settings


def test_the_search_prefers_settings_fast_on_the_whole_file_and_keeps_the_given_jobs():
    def run(tried: Settings, nbytes: int | None) -> dict[str, float]:
        assert tried.jobs == 1
        best = (tried.block_mib, tried.depth) == (2, 16)
        lucky = nbytes is not None and tried.block_mib == 8
        return {"bytes_per_s": 3e9 if best else 4e9 if lucky and tried.depth < 16 else 1e9}

    grid = Grid(jobs=(1,))
    found, runs = settings.search(run, grid)
    assert found == Settings(2, 16, 1)
    trials = 2 * len(grid.blocks_mib) * len(grid.depths)
    assert len(runs) == trials + grid.finalists * grid.final_rounds


def test_a_small_grid_has_fewer_finalists_than_there_are_places():
    tried: list[Settings] = []

    def run(each: Settings, nbytes: int | None) -> dict[str, float]:
        tried.append(each)
        return {"bytes_per_s": float(each.depth)}

    grid = Grid(blocks_mib=(4,), depths=(8, 32), jobs=(2,), final_rounds=2)
    assert settings.search(run, grid)[0] == Settings(4, 32, 2)
    assert len(tried) == 2 * 2 + 2 * 2


@pytest.mark.parametrize("each", [Settings(1, 4, 1), Settings(16, 32, 8)])
def test_settings_are_read_as_they_are_written(each: Settings):
    assert Settings.parse(each.text()) == each


@pytest.mark.parametrize("text", ["", "1:2", "1:2:3:4", "a:b:c"])
def test_anything_but_three_numbers_is_refused(text: str):
    with pytest.raises(ValueError):
        Settings.parse(text)
