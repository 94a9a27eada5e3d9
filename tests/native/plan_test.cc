#include "plan.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>

#include "sample_file.h"

namespace fastio {
namespace {

using testing::between;
using testing::Random;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kGapBytes = 128 * kKiB;  // smaller gaps are read, larger ones split

struct Case {
  std::vector<Extent> extents;
  PlanRequest request;
};

std::uint64_t power_of_two(Random& random, unsigned low, unsigned high) {
  return std::uint64_t{1} << between(random, low, high);
}

// A size of any magnitude: a few bytes are as frequent as megabytes.
std::uint64_t any_size(Random& random, unsigned bits) {
  return between(random, 0, power_of_two(random, 0, bits));
}

Case random_case(Random& random) {
  Case made;
  PlanRequest& request = made.request;
  request.alignment = power_of_two(random, 0, 16);
  std::uint64_t start = 0;
  if (between(random, 0, 2) != 0) {
    start = between(random, 0, 1) != 0 ? request.alignment * between(random, 0, 20)
                                       : any_size(random, 20);
    request.grid = ChunkGrid{start, power_of_two(random, 12, 20)};
  }
  request.block_bytes = 1 + any_size(random, 23);
  request.region_bytes = 1 + any_size(random, 24);
  std::uint64_t at = start;
  const std::uint64_t count = between(random, 0, 40);
  for (std::uint64_t i = 0; i < count; ++i) {
    if (between(random, 0, 2) == 0)
      at += any_size(random, 20);  // a hole: a tensor that was not requested
    const std::uint64_t nbytes = between(random, 0, 4) == 0 ? 0 : any_size(random, 21);
    made.extents.push_back({at, at + nbytes});
    at += nbytes;
  }
  request.file_nbytes = at + (between(random, 0, 1) != 0 ? any_size(random, 20) : 0);
  request.whole_file_region = between(random, 0, 7) == 0;
  // A thousand blocks are enough to find the faults of a million.
  request.block_bytes = std::max(request.block_bytes, request.file_nbytes / 1000);
  return made;
}

std::uint64_t unit_of(const PlanRequest& request) {
  return request.grid ? request.grid->chunk_bytes : request.alignment;
}

std::uint64_t start_of(const PlanRequest& request) {
  return request.grid ? request.grid->start : 0;
}

// Whole units around an extent, cut off at the end of the file.
Extent covered(const PlanRequest& request, const Extent& extent) {
  const std::uint64_t unit = unit_of(request);
  const std::uint64_t start = start_of(request);
  return {start + (extent.begin - start) / unit * unit,
          std::min(start + (extent.end - start + unit - 1) / unit * unit, request.file_nbytes)};
}

// Each of these returns the empty string if the promise holds.

std::string every_extent_has_one_region(const Case& made, const Plan& plan) {
  std::size_t next = 0;
  for (const PlannedRegion& region : plan.regions) {
    if (region.first_extent != next) return "an extent between two regions, or in two of them";
    next = region.last_extent;
    for (std::size_t e = region.first_extent; e < region.last_extent; ++e) {
      const Extent& extent = made.extents[e];
      if (extent.begin == extent.end) continue;
      if (extent.begin < region.begin || extent.end > region.end)
        return "an extent outside its region";
    }
  }
  for (; next < made.extents.size(); ++next) {
    if (made.extents[next].begin != made.extents[next].end) return "an extent without a region";
  }
  return {};
}

std::string every_byte_is_read_exactly_once(const Case& made, const Plan& plan) {
  for (std::size_t r = 0; r < plan.regions.size(); ++r) {
    std::uint64_t before = 0;
    for (const PlannedBlock& block : plan.blocks) {
      if (block.region != r) continue;
      if (block.begin < before) return "two blocks of a region overlap or are out of order";
      before = block.end;
    }
    for (std::size_t e = plan.regions[r].first_extent; e < plan.regions[r].last_extent; ++e) {
      std::uint64_t read = 0;
      for (const PlannedBlock& block : plan.blocks) {
        if (block.region != r) continue;
        const std::uint64_t begin = std::max(block.begin, made.extents[e].begin);
        const std::uint64_t end = std::min(block.end, made.extents[e].end);
        if (begin < end) read += end - begin;
      }
      if (read != made.extents[e].end - made.extents[e].begin) return "a byte that is not read";
    }
  }
  return {};
}

std::string blocks_are_whole_units_inside_region_and_file(const Case& made, const Plan& plan) {
  const std::uint64_t unit = unit_of(made.request);
  const std::uint64_t start = start_of(made.request);
  const std::uint64_t longest = (made.request.block_bytes + unit - 1) / unit * unit;
  std::uint64_t total = 0;
  std::size_t region = 0;
  for (const PlannedBlock& block : plan.blocks) {
    if (block.begin >= block.end) return "an empty block";
    if (block.region < region || block.region >= plan.regions.size()) return "regions out of order";
    region = block.region;
    if (block.begin < plan.regions[region].begin || block.end > plan.regions[region].end) {
      return "a block outside its region";
    }
    if (block.end > made.request.file_nbytes) return "a block past the end of the file";
    if ((block.begin - start) % unit != 0) return "a block that begins inside a unit";
    if ((block.end - start) % unit != 0 && block.end != made.request.file_nbytes) {
      return "a block that ends inside a unit";
    }
    if (block.end - block.begin > longest) return "a block longer than asked for";
    total += block.end - block.begin;
  }
  return total == plan.block_bytes_total ? "" : "the total is not the sum of the blocks";
}

std::string only_what_is_needed_is_read(const Case& made, const Plan& plan) {
  std::size_t e = 0;
  for (const PlannedBlock& block : plan.blocks) {
    // Every byte of a block lies in a needed unit, or in a gap between two that is too small to
    // split at.
    const PlannedRegion& region = plan.regions[block.region];
    std::uint64_t needed_until = block.begin;
    bool near_before = false;
    for (e = region.first_extent; e < region.last_extent; ++e) {
      if (made.extents[e].begin == made.extents[e].end) continue;
      const Extent unit = covered(made.request, made.extents[e]);
      if (unit.end <= needed_until) {
        near_before = true;
        continue;
      }
      if (needed_until >= block.end) break;
      if (unit.begin > needed_until) {
        std::uint64_t previous_end = needed_until;
        if (!near_before) return "a block begins with bytes that nobody needs";
        for (std::size_t p = e; p-- > region.first_extent;) {
          if (made.extents[p].begin == made.extents[p].end) continue;
          previous_end = covered(made.request, made.extents[p]).end;
          break;
        }
        if (unit.begin - previous_end > kGapBytes) return "a wide gap is read";
      }
      needed_until = std::max(needed_until, unit.end);
      near_before = true;
    }
    if (needed_until < block.end) return "a block ends with bytes that nobody needs";
  }
  return {};
}

std::string regions_keep_their_size(const Case& made, const Plan& plan) {
  const PlanRequest& request = made.request;
  if (request.whole_file_region) {
    if (plan.regions.size() > 1) return "more than one region for a mapping";
    for (const PlannedRegion& region : plan.regions) {
      if (region.begin != 0 || region.end != request.file_nbytes) return "not the whole file";
    }
    return {};
  }
  for (const PlannedRegion& region : plan.regions) {
    std::size_t extents = 0;
    Extent used{UINT64_MAX, 0};
    for (std::size_t e = region.first_extent; e < region.last_extent; ++e) {
      if (made.extents[e].begin == made.extents[e].end) continue;
      ++extents;
      const Extent unit = covered(request, made.extents[e]);
      used = {std::min(used.begin, unit.begin), std::max(used.end, unit.end)};
    }
    if (extents == 0) return "a region of nothing";
    if (region.begin != used.begin) return "a region that begins before it is needed";
    if (extents > 1 && used.end - used.begin > request.region_bytes)
      return "a region of several extents is too large";
    // Direct I/O reads whole alignments, also at the end of the file.
    const std::uint64_t room =
        (used.end - used.begin + request.alignment - 1) / request.alignment * request.alignment;
    if (region.end - region.begin != room) return "no room for the last direct read, or too much";
  }
  return {};
}

// A consumer that counts only chunks from fresh_from on counts each chunk once.
std::string fresh_from_counts_each_chunk_once(const Case& made, const Plan& plan) {
  if (!made.request.grid) return {};
  const std::uint64_t unit = unit_of(made.request);
  std::set<std::uint64_t> distinct;
  std::size_t fresh = 0;
  for (const PlannedBlock& block : plan.blocks) {
    for (std::uint64_t begin = block.begin; begin < block.end; begin += unit) {
      distinct.insert(begin);
      if (begin >= plan.regions[block.region].fresh_from) ++fresh;
    }
  }
  return fresh == distinct.size() ? "" : "a chunk is counted twice or never";
}

TEST_CASE("a plan keeps its promises for random extents, units and sizes") {
  const std::uint64_t seed = testing::random_seed();
  Random random(seed);
  for (int i = 0; i < 4000; ++i) {
    const Case made = random_case(random);
    PlanRequest request = made.request;
    request.extents = made.extents;
    INFO("FASTIO_TEST_SEED=", seed, ", plan ", i);
    CAPTURE(made.extents.size());
    CAPTURE(request.file_nbytes);
    CAPTURE(request.alignment);
    CAPTURE(request.block_bytes);
    CAPTURE(request.region_bytes);
    CAPTURE(unit_of(request));
    CAPTURE(start_of(request));
    const Plan plan = make_plan(request);
    REQUIRE(every_extent_has_one_region(made, plan) == "");
    REQUIRE(every_byte_is_read_exactly_once(made, plan) == "");
    REQUIRE(blocks_are_whole_units_inside_region_and_file(made, plan) == "");
    REQUIRE(only_what_is_needed_is_read(made, plan) == "");
    REQUIRE(regions_keep_their_size(made, plan) == "");
    REQUIRE(fresh_from_counts_each_chunk_once(made, plan) == "");
  }
}

Plan plan_of(std::vector<Extent> extents, PlanRequest request) {
  request.extents = extents;
  return make_plan(request);
}

PlanRequest ordinary(std::uint64_t file_nbytes) {
  PlanRequest request;
  request.file_nbytes = file_nbytes;
  request.block_bytes = 8 * kMiB;
  request.region_bytes = 256 * kMiB;
  return request;
}

TEST_CASE("nothing to read is no region and no block") {
  for (const auto& extents : {std::vector<Extent>{}, std::vector<Extent>{{5, 5}, {9, 9}}}) {
    const Plan plan = plan_of(extents, ordinary(10));
    CHECK(plan.regions.empty());
    CHECK(plan.blocks.empty());
    CHECK(plan.block_bytes_total == 0);
  }
}

TEST_CASE("one byte reads its aligned page, and no further than the file goes") {
  const Plan plan = plan_of({{5000, 5001}}, ordinary(6000));
  REQUIRE(plan.blocks.size() == 1);
  CHECK(plan.blocks[0].begin == 4096);
  CHECK(plan.blocks[0].end == 6000);
  CHECK(plan.regions[0].begin == 4096);
  CHECK(plan.regions[0].end == 8192);
}

TEST_CASE("a block is at least one chunk and whole chunks") {
  PlanRequest request = ordinary(10 * kMiB);
  request.grid = ChunkGrid{4096, kMiB};
  request.block_bytes = kMiB + kMiB / 2;
  const Plan plan = plan_of({{4096, 10 * kMiB}}, request);
  REQUIRE(plan.blocks.size() == 5);
  CHECK(plan.blocks[0].begin == 4096);
  CHECK(plan.blocks[1].begin == 4096 + 2 * kMiB);
  CHECK(plan.blocks[4].end == 10 * kMiB);
  request.block_bytes = 1;
  CHECK(plan_of({{4096, 10 * kMiB}}, request).blocks.size() == 10);
}

TEST_CASE("two ranges are read in one request up to 128 KiB apart, and in two beyond") {
  const PlanRequest request = ordinary(kMiB);
  CHECK(plan_of({{0, 4096}, {4096 + kGapBytes, 8192 + kGapBytes}}, request).blocks.size() == 1);
  const Plan apart = plan_of({{0, 4096}, {8192 + kGapBytes, 8193 + kGapBytes}}, request);
  CHECK(apart.blocks.size() == 2);
  CHECK(apart.regions.size() == 1);
  CHECK(apart.block_bytes_total == 8192);
}

TEST_CASE("regions of whole extents end before they would grow past region_bytes") {
  PlanRequest request = ordinary(48 * kKiB);
  request.region_bytes = 16 * kKiB;
  const Plan plan = plan_of({{0, 8192}, {8192, 16384}, {16384, 40960}, {40960, 40961}}, request);
  REQUIRE(plan.regions.size() == 3);
  CHECK(plan.regions[0].last_extent == 2);
  CHECK(plan.regions[1].last_extent == 3);  // larger than region_bytes: on its own
  CHECK(plan.regions[1].end - plan.regions[1].begin == 24576);
  CHECK(plan.regions[2].first_extent == 3);
}

TEST_CASE(
    "two regions that share a chunk each read it, and the second one says from where it is fresh") {
  PlanRequest request = ordinary(2 * kMiB);
  request.grid = ChunkGrid{0, kMiB};
  request.region_bytes = kMiB;
  const Plan plan = plan_of({{0, 1000}, {1000, kMiB + 1000}}, request);
  REQUIRE(plan.regions.size() == 2);
  CHECK(plan.regions[1].begin == 0);
  CHECK(plan.regions[1].fresh_from == kMiB);
  CHECK(plan.block_bytes_total == 3 * kMiB);
}

TEST_CASE("a mapping is one region of the whole file, and only needed chunks are verified") {
  PlanRequest request = ordinary(10 * kMiB);
  request.whole_file_region = true;
  request.region_bytes = kMiB;
  const Plan plan = plan_of({{2 * kMiB, 3 * kMiB}, {9 * kMiB, 10 * kMiB}}, request);
  REQUIRE(plan.regions.size() == 1);
  CHECK(plan.regions[0].begin == 0);
  CHECK(plan.regions[0].end == 10 * kMiB);
  CHECK(plan.block_bytes_total == 2 * kMiB);
}

TEST_CASE("a plan for invalid extents or options is refused") {
  const PlanRequest good = ordinary(100);
  CHECK_NOTHROW(plan_of({{0, 50}, {50, 100}}, good));
  CHECK_THROWS_AS(plan_of({{0, 101}}, good), std::invalid_argument);
  CHECK_THROWS_AS(plan_of({{50, 40}}, good), std::invalid_argument);
  CHECK_THROWS_AS(plan_of({{0, 60}, {50, 100}}, good), std::invalid_argument);
  CHECK_THROWS_AS(plan_of({{50, 100}, {0, 50}}, good), std::invalid_argument);
  CHECK_THROWS_AS(plan_of({{UINT64_MAX, UINT64_MAX}}, good), std::invalid_argument);

  PlanRequest request = good;
  request.alignment = 0;
  CHECK_THROWS_AS(plan_of({}, request), std::invalid_argument);
  request.alignment = 4095;
  CHECK_THROWS_AS(plan_of({}, request), std::invalid_argument);
  request = good;
  request.block_bytes = 0;
  CHECK_THROWS_AS(plan_of({}, request), std::invalid_argument);
  request = good;
  request.region_bytes = 0;
  CHECK_THROWS_AS(plan_of({}, request), std::invalid_argument);
  request = good;
  request.grid = ChunkGrid{0, 0};
  CHECK_THROWS_AS(plan_of({}, request), std::invalid_argument);
  request.grid = ChunkGrid{50, 10};
  CHECK_NOTHROW(plan_of({{50, 100}}, request));
  CHECK_THROWS_AS(plan_of({{49, 100}}, request), std::invalid_argument);  // no chunk covers byte 49
}

}  // namespace
}  // namespace fastio
