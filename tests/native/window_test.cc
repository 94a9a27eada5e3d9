#include "window.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>
#include <vector>

namespace fastio {
namespace {

using Stage = Window::Stage;

std::vector<std::vector<PlannedRegion>> regions_of(const std::vector<std::uint64_t>& sizes) {
  std::vector<PlannedRegion> regions;
  std::uint64_t at = 0;
  for (const std::uint64_t size : sizes) {
    regions.push_back({at, at + size});
    at += size;
  }
  return {regions};
}

TEST_CASE("as many regions are open as the limit holds, and each one released makes room") {
  Window window(100, regions_of({40, 60, 1}));
  for (const std::size_t region : {0U, 1U}) {
    REQUIRE(window.admits({0, region}));
    window.open({0, region});
  }
  CHECK(window.open_bytes() == 100);
  CHECK_FALSE(window.admits({0, 2}));
  CHECK(window.release({0, 0}));
  CHECK(window.admits({0, 2}));
  CHECK(window.open_bytes() == 60);
}

TEST_CASE("a region that is larger than the window is open alone") {
  Window window(100, regions_of({500, 1}));
  REQUIRE(window.admits({0, 0}));
  window.open({0, 0});
  CHECK_FALSE(window.admits({0, 1}));
  window.take({0, 0});
  CHECK_FALSE(window.admits({0, 1}));  // it still takes memory
  CHECK(window.release({0, 0}));
  CHECK(window.admits({0, 1}));
}

TEST_CASE("a region that was never opened makes no room when it is released") {
  Window window(100, regions_of({40, 0}));
  CHECK_FALSE(window.release({0, 0}));
  CHECK(window.stage({0, 0}) == Stage::released);
  window.take({0, 1});  // of no blocks
  CHECK_FALSE(window.release({0, 1}));
  CHECK(window.open_bytes() == 0);
}

TEST_CASE("without a limit there is always room") {
  const Window window(std::nullopt, regions_of({UINT64_MAX / 2, 1}));
  CHECK(window.admits({0, 0}));
  CHECK(window.admits({0, 1}));
}

TEST_CASE("the open bytes are those of the regions opened and not released") {
  std::mt19937_64 random(5);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::uint64_t> sizes(1 + random() % 20);
    for (std::uint64_t& size : sizes) size = random() % 50;
    const std::uint64_t limit = 1 + random() % 120;
    Window window(limit, regions_of(sizes));
    for (int step = 0; step < 100; ++step) {
      const RegionId id{0, random() % sizes.size()};
      if (window.stage(id) == Stage::closed && window.admits(id)) {
        window.open(id);
      } else if (window.stage(id) == Stage::open && random() % 2 == 0) {
        window.take(id);
      } else if (window.stage(id) != Stage::released && window.stage(id) != Stage::closed) {
        CHECK(window.release(id));
      }
      std::uint64_t open = 0;
      for (std::size_t region = 0; region < sizes.size(); ++region) {
        const Stage stage = window.stage({0, region});
        if (stage == Stage::open || stage == Stage::taken) open += sizes[region];
      }
      CHECK(window.open_bytes() == open);
      CHECK(open <= std::max(limit, *std::ranges::max_element(sizes)));
    }
  }
}

}  // namespace
}  // namespace fastio
