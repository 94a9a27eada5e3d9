#include "ledger.h"

#include <doctest/doctest.h>

#include <vector>

namespace fastio {
namespace {

constexpr std::uint64_t kBlock = 1000;

// Two regions of three blocks and of one, and a block that is staged.
struct Sample {
  std::vector<std::vector<PlannedRegion>> regions{{{0, 3 * kBlock}, {3 * kBlock, 4 * kBlock}}};
  std::vector<ShardBlock> blocks{{0, {0, 0, kBlock}},
                                 {0, {0, kBlock, 2 * kBlock}},
                                 {0, {0, 2 * kBlock, 3 * kBlock}},
                                 {0, {1, 3 * kBlock, 4 * kBlock}},
                                 {0, {kStaged, 4 * kBlock, 5 * kBlock}}};
  Ledger ledger{regions, blocks};
};

TEST_CASE_FIXTURE(Sample, "a region is whole when all of its blocks are sound") {
  CHECK(ledger.blocks_of({0, 0}).first == 0);
  CHECK(ledger.blocks_of({0, 0}).last == 3);
  CHECK(ledger.blocks_of({0, 1}).first == 3);
  for (const std::size_t block : {2U, 0U}) ledger.end_block(blocks[block], Soundness::sound);
  CHECK_FALSE(ledger.is_whole({0, 0}));
  ledger.end_block(blocks[1], Soundness::sound);
  CHECK(ledger.is_whole({0, 0}));
  CHECK_FALSE(ledger.is_whole({0, 1}));
}

TEST_CASE_FIXTURE(Sample, "a block that is not sound never makes its region whole") {
  ledger.end_block(blocks[3], Soundness::unsound);
  CHECK_FALSE(ledger.is_whole({0, 1}));
}

TEST_CASE_FIXTURE(Sample, "all is queued when every block has ended, staged or not, sound or not") {
  ledger.queue();  // the staged one
  for (const std::size_t block : {0U, 1U, 2U}) ledger.end_block(blocks[block], Soundness::sound);
  CHECK_FALSE(ledger.all_queued());
  ledger.end_block(blocks[3], Soundness::unsound);
  CHECK(ledger.all_queued());
}

TEST_CASE_FIXTURE(Sample, "a region that is read anew waits for all of its blocks once more") {
  for (const std::size_t block : {0U, 1U}) ledger.end_block(blocks[block], Soundness::sound);
  const unsigned before = ledger.version({0, 0});
  CHECK(ledger.restart({0, 0}) == 2 * kBlock);
  CHECK(ledger.version({0, 0}) != before);
  CHECK(ledger.version({0, 1}) == before);
  for (const std::size_t block : {0U, 1U}) ledger.end_block(blocks[block], Soundness::sound);
  CHECK_FALSE(ledger.is_whole({0, 0}));
  ledger.end_block(blocks[2], Soundness::sound);
  CHECK(ledger.is_whole({0, 0}));
  ledger.end_block(blocks[3], Soundness::sound);
  CHECK_FALSE(ledger.all_queued());
  ledger.queue();
  CHECK(ledger.all_queued());
}

TEST_CASE_FIXTURE(Sample, "an extent is placed when all blocks with bytes of it are") {
  const std::vector<Extent> extents{{100, 100}, {500, 1500}, {1500, 5 * kBlock}};
  ledger.expect_places(0, extents);
  CHECK(ledger.has_places());
  CHECK(ledger.is_placed(0, 0));  // it has no bytes
  ledger.begin_placing();
  ledger.end_block(blocks[0], Soundness::sound);  // read straight to its place
  CHECK_FALSE(ledger.is_placed(0, 1));
  ledger.begin_placing();
  ledger.end_block(blocks[1], Soundness::sound);
  CHECK(ledger.is_placed(0, 1));
  for (const std::size_t block : {2U, 3U, 4U}) {
    CHECK_FALSE(ledger.is_placed(0, 2));
    ledger.place(blocks[block]);
  }
  CHECK(ledger.is_placed(0, 2));
}

TEST_CASE_FIXTURE(Sample, "writers to places are counted until the last one ends") {
  const std::vector<Extent> extents{{0, 5 * kBlock}};
  ledger.expect_places(0, extents);
  CHECK_FALSE(ledger.is_placing());
  ledger.begin_placing();
  ledger.begin_placing();
  ledger.end_placing();
  CHECK(ledger.is_placing());
  ledger.end_block(blocks[0], Soundness::unsound);
  CHECK_FALSE(ledger.is_placing());
  CHECK_FALSE(ledger.is_placed(0, 0));
}

}  // namespace
}  // namespace fastio
