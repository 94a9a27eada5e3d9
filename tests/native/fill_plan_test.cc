// The plan for bytes with given places.
#include <doctest/doctest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "plan.h"
#include "sample_file.h"

namespace fastio {
namespace {

using testing::between;
using testing::Random;

constexpr std::uint64_t kKiB = 1024;

struct Case {
  std::vector<Extent> extents;
  std::vector<char> straight;
  PlanRequest request;
};

Case random_case(Random& random) {
  Case made;
  made.request.alignment = 512U << between(random, 0, 3);
  std::uint64_t at = 0;
  if (between(random, 0, 1) != 0) {
    at = made.request.alignment * between(random, 0, 9);
    made.request.grid = ChunkGrid{at, std::uint64_t{1} << between(random, 12, 18)};
  }
  for (std::uint64_t i = between(random, 0, 20); i > 0; --i) {
    if (between(random, 0, 2) == 0) at += between(random, 0, 1024 * kKiB);
    const std::uint64_t nbytes =
        between(random, 0, 1) != 0 ? between(random, 0, 3000 * kKiB) : between(random, 0, 9 * kKiB);
    made.extents.push_back({at, at + nbytes});
    made.straight.push_back(static_cast<char>(between(random, 0, 1)));
    at += nbytes;
  }
  made.request.extents = made.extents;
  made.request.file_nbytes = at + between(random, 0, 5000);
  made.request.block_bytes = between(random, 1, 4096 * kKiB);
  made.request.region_bytes = 1;
  return made;
}

// The empty string if every promise holds.
std::string broken(const Case& made, const Plan& plan) {
  const PlanRequest& request = made.request;
  const std::uint64_t unit = request.grid ? request.grid->chunk_bytes : request.alignment;
  const std::uint64_t start = request.grid ? request.grid->start : 0;
  std::uint64_t before = 0;
  std::uint64_t total = 0;
  for (const PlannedBlock& block : plan.blocks) {
    if (block.begin >= block.end) return "an empty block";
    if (block.begin < before) return "blocks that overlap, or out of order";
    before = block.end;
    total += block.end - block.begin;
    if ((block.begin - start) % unit != 0) return "a block that begins inside a unit";
    if ((block.end - start) % unit != 0 && block.end != request.file_nbytes)
      return "a block that ends inside a unit";
    if (block.end - block.begin > (request.block_bytes + unit - 1) / unit * unit)
      return "a block longer than asked for";
    if (block.region == kStaged) continue;
    const PlannedRegion& region = plan.regions.at(block.region);
    const Extent& extent = made.extents.at(region.first_extent);
    if (made.straight.at(region.first_extent) == 0) return "read straight to where it cannot be";
    if (region.last_extent != region.first_extent + 1) return "a place of two extents";
    if (block.begin < extent.begin || block.end > extent.end) return "written beside a place";
    if (block.begin < region.begin || block.end > region.end) return "outside of its region";
    if ((block.end - block.begin) % unit != 0) return "a part of a unit that is read straight";
  }
  if (total != plan.block_bytes_total) return "the total is not the sum of the blocks";
  for (const Extent& extent : made.extents) {
    std::uint64_t read = 0;
    for (const PlannedBlock& block : plan.blocks) {
      const std::uint64_t begin = std::max(block.begin, extent.begin);
      const std::uint64_t end = std::min(block.end, extent.end);
      if (begin < end) read += end - begin;
    }
    if (read != extent.end - extent.begin) return "a byte that is not read exactly once";
  }
  return {};
}

TEST_CASE("fill plans keep their promises for random requests") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(3000); ++i) {
    const Case made = random_case(random);
    CHECK(broken(made, make_fill_plan(made.request, made.straight)) == "");
  }
}

TEST_CASE("the inside of a large extent goes straight, its ends and small ones are staged") {
  const std::vector<Extent> extents{{0, 100}, {100, 4096 * kKiB}, {4096 * kKiB, 4500 * kKiB}};
  PlanRequest request;
  request.extents = extents;
  request.file_nbytes = 4500 * kKiB;
  request.grid = ChunkGrid{0, 64 * kKiB};
  request.block_bytes = 8192 * kKiB;
  request.region_bytes = 1;
  const Plan plan = make_fill_plan(request, std::vector<char>{1, 1, 1});
  REQUIRE(plan.regions.size() == 1);
  CHECK(plan.regions[0].begin == 64 * kKiB);
  CHECK(plan.regions[0].end == 4096 * kKiB);
  REQUIRE(plan.blocks.size() == 3);
  CHECK(plan.blocks[0].region == kStaged);
  CHECK(plan.blocks[1].region == 0);
  CHECK(plan.blocks[2].region == kStaged);
  CHECK(make_fill_plan(request, std::vector<char>{0, 0, 0}).regions.empty());
}

}  // namespace
}  // namespace fastio
