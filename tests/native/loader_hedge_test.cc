// Hedged reads: a read that is late is asked of another replica, too, and the first sound answer
// counts. Feeds answer when the test says so.
#include "loader_hedge.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "filling.h"
#include "hedging.h"
#include "loader.h"
#include "loading.h"
#include "memory.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::Hedged;
using testing::kBlock;
using testing::kChunk;
using testing::kNbytes;
using testing::kPatience;
using testing::load_to_the_end;
using testing::soon;

using Remedy = Incident::Remedy;

// What a late read brings when nobody waits for it.
std::int32_t bring_garbage(std::uint64_t, std::span<std::byte> out) {
  std::ranges::fill(out, std::byte{0x77});
  return static_cast<std::int32_t>(out.size());
}

TEST_CASE_FIXTURE(Hedged, "a late read is answered by another replica, and nobody is blamed") {
  make_feeds(2, 1);
  feeds[0]->answer = bring_garbage;
  for (const unsigned lanes : {1U, 3U}) {
    options.lanes = lanes;
    feeds[0]->is_open = false;
    feeds[0]->reads = 0;
    auto job = load_to_the_end({request()}, options);
    CHECK(feeds[0]->reads > 0);
    CHECK(job->counters().reads_hedged >= 1);
    CHECK(job->counters().hedges_won >= 1);
    CHECK(job->counters().hedges_won <= job->counters().reads_hedged);
    CHECK(job->incidents().take().empty());
    CHECK(job->outcome().fallbacks().empty());
    CHECK_FALSE(owes_answer(feeds[0]->disk()));
    CHECK(abandoned_bytes() >= kBlock);
    CHECK(job->counters().chunks_verified() == 41);
    const auto regions = job->take_regions();
    open_all();
    CHECK(soon([] { return abandoned_bytes() == 0; }));
    CHECK(testing::same(sample.bytes(), {regions[0][0]->at(0), kNbytes}));
  }
}

TEST_CASE_FIXTURE(Hedged, "a read in time is asked of one replica only") {
  make_feeds(2, 0);
  options.hedge_after = 1h;
  auto job = load_to_the_end({request()}, options);
  check_right(*job);
  CHECK(job->counters().reads_hedged == 0);
  CHECK(feeds[0]->reads + feeds[1]->reads == 11);
}

TEST_CASE_FIXTURE(Hedged,
                  "places and windows get the same bytes, and no late read writes to them") {
  make_feeds(2, 1);
  feeds[0]->answer = bring_garbage;
  {
    testing::Target target(kNbytes, 13);
    ShardRequest fills = request();
    fills.places.emplace_back(target.data(), 1, std::vector<Axis>{{kNbytes, 1}});
    const auto job = load_to_the_end({std::move(fills)}, options);
    CHECK_FALSE(job->has_failed());
    CHECK(job->counters().hedges_won >= 1);
    CHECK(job->wait_until_released(0ms));
    open_all();
    CHECK(soon([] { return abandoned_bytes() == 0; }));
    CHECK(std::ranges::equal(target.bytes(), sample.bytes()));
    CHECK(target.fences_stand());
  }
  feeds[0]->is_open = false;
  options.window_bytes = kNbytes;
  options.block_bytes = kChunk;
  ShardRequest streamed = request();
  streamed.extents.clear();
  for (std::uint64_t at = 0; at < kNbytes; at += kChunk)
    streamed.extents.push_back({at, std::min(at + kChunk, kNbytes)});
  const auto job = LoadJob::start({std::move(streamed)}, options);
  REQUIRE(job->layout().hedges());
  for (std::size_t r = 0; r < job->layout().plans[0].regions.size(); ++r) {
    REQUIRE(soon([&] { return job->delivery().wait_for({0, r}, 20ms); }));
    const auto region = job->delivery().take({0, r});
    REQUIRE(region != nullptr);
    const auto& [begin, end] = std::pair(job->layout().plans[0].regions[r].begin,
                                         std::min(job->layout().plans[0].regions[r].end, kNbytes));
    CHECK(testing::same(sample.bytes().subspan(begin, end - begin),
                        {region->at(begin), end - begin}));
    job->delivery().release({0, r});
  }
  CHECK(job->wait_for(kPatience));
  CHECK(job->counters().hedges_won >= 1);
  open_all();
  CHECK(soon([] { return abandoned_bytes() == 0; }));
}

TEST_CASE_FIXTURE(Hedged, "a hedge that brings damage is damage of its replica") {
  make_feeds(2, 1);
  one_block();
  feeds[1]->answer = [](std::uint64_t, std::span<std::byte> out) {
    out[9 * kChunk + 5] ^= std::byte{1};
    return static_cast<std::int32_t>(out.size());
  };
  const auto job = LoadJob::start({request()}, options);
  CHECK(soon([&] { return job->counters().bytes_fed >= kNbytes; }));  // it is compared
  open_all();
  REQUIRE(job->wait_for(kPatience));
  const auto incidents = job->incidents().take();
  REQUIRE(incidents.size() == 1);
  CHECK(incidents[0].replica == 1);
  CHECK(incidents[0].extent == Extent{9 * kChunk, 10 * kChunk});
  CHECK_FALSE(incidents[0].failure.has_value());
  CHECK(incidents[0].remedy == Remedy::other_replica);
  CHECK(incidents[0].remedied_by == 0);
  CHECK(job->counters().reads_hedged == 1);
  CHECK(job->counters().hedges_won == 0);
  check_right(*job);
}

TEST_CASE_FIXTURE(Hedged, "if both have damage, each part comes from the one that has it sound") {
  make_feeds(2, 1);
  one_block();
  const auto damaging = [](std::uint64_t chunk) {
    return [chunk](std::uint64_t offset, std::span<std::byte> out) {
      const std::uint64_t at = chunk * kChunk + 5;
      if (offset <= at && at < offset + out.size()) out[at - offset] ^= std::byte{1};
      return static_cast<std::int32_t>(out.size());
    };
  };
  feeds[0]->answer = damaging(3);
  feeds[1]->answer = damaging(9);
  const auto job = LoadJob::start({request()}, options);
  CHECK(soon([&] { return job->counters().bytes_fed >= kNbytes; }));
  open_all();
  REQUIRE(job->wait_for(kPatience));
  check_right(*job);
  for (const Incident& incident : job->incidents().take()) {
    CHECK(incident.replica == (incident.extent.begin == 3 * kChunk ? 0 : 1));
    CHECK(incident.remedy == Remedy::other_replica);
  }
}

TEST_CASE_FIXTURE(Hedged, "a hedge that fails is a failed read of its replica") {
  make_feeds(2, 1);
  one_block();
  feeds[1]->answer = [](auto, auto) { return -EIO; };
  const auto job = LoadJob::start({request()}, options);
  CHECK(soon([&] { return feeds[1]->asked_why > 0; }));
  open_all();
  REQUIRE(job->wait_for(kPatience));
  const auto incidents = job->incidents().take();
  REQUIRE(incidents.size() == 1);
  CHECK(incidents[0].replica == 1);
  CHECK(incidents[0].failure->error == EIO);
  CHECK(incidents[0].remedy == Remedy::other_replica);
  check_right(*job);
}

TEST_CASE_FIXTURE(Hedged, "if the late read fails, its hedge is waited for") {
  make_feeds(2, 2);
  one_block();
  feeds[0]->answer = [](auto, auto) { return -EIO; };
  const auto job = LoadJob::start({request()}, options);
  CHECK(soon([&] { return feeds[1]->reads > 0; }));
  feeds[0]->is_open = true;
  CHECK(soon([&] { return feeds[0]->asked_why > 0; }));
  feeds[1]->is_open = true;
  REQUIRE(job->wait_for(kPatience));
  const auto incidents = job->incidents().take();
  REQUIRE(incidents.size() == 1);
  CHECK(incidents[0].replica == 0);
  CHECK(incidents[0].remedied_by == 1);
  CHECK(feeds[1]->reads == 1);
  CHECK(job->counters().hedges_won == 1);
  check_right(*job);
}

TEST_CASE_FIXTURE(Hedged, "a part of a block is hedged, and the rest of the block comes with it") {
  make_feeds(3, 0);
  one_block();
  feeds[1]->is_open = false;
  feeds[0]->answer = [](std::uint64_t offset, std::span<std::byte> out) {
    constexpr std::uint64_t kAt = 9 * kChunk + 5;
    if (offset <= kAt && kAt < offset + out.size()) out[kAt - offset] ^= std::byte{1};
    return static_cast<std::int32_t>(out.size());
  };
  auto job = load_to_the_end({request()}, options);
  check_right(*job);
  CHECK(feeds[1]->reads == 1);
  CHECK(feeds[2]->reads >= 1);
  CHECK(job->counters().hedges_won >= 1);
  open_all();
  CHECK(soon([] { return abandoned_bytes() == 0; }));
}

}  // namespace
}  // namespace fastio
