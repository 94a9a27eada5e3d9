// The bounds of hedged reads: which jobs hedge, whom they ask, how much memory that takes; and
// random faults.
#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <utility>
#include <vector>

#include "hedging.h"
#include "loader.h"
#include "loader_hedge.h"
#include "loading.h"
#include "memory.h"
#include "replicated_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::engines_here;
using testing::first_difference;
using testing::Hedged;
using testing::InjectedFaults;
using testing::kBlock;
using testing::kChunk;
using testing::kNbytes;
using testing::kPatience;
using testing::load_to_the_end;
using testing::Place;
using testing::Random;
using testing::ReplicatedFile;
using testing::soon;

TEST_CASE_FIXTURE(Hedged, "no hedge is asked of a bad replica, a silent one, or the same disk") {
  const Answers answers({{1, 1, 2, 3}});
  ReplicaChoice choice({{1, 1, 2, 3}}, {{0, kBlock}});
  CHECK(choice.beside(0, 0, 0, answers) == 2);
  CHECK(choice.beside(0, 0, only(2), answers) == 3);
  CHECK(choice.beside(0, 2, 0, answers) == 0);
  choice.dispatch().avoid(0, 2);
  CHECK(choice.beside(0, 0, 0, answers) == 3);
  Answers late({{1, 1, 2, 3}});
  late.begin_late(late.disk_of(0, 3));
  CHECK_FALSE(choice.beside(0, 0, 0, late).has_value());
  late.end_late(late.disk_of(0, 3));
  CHECK(choice.beside(0, 0, 0, late) == 3);
}

TEST_CASE_FIXTURE(Hedged,
                  "only a job that persists, with replicas of roots on several disks, hedges") {
  make_feeds(2, 0);
  CHECK(can_hedge({request()}, options));
  LoadOptions other = options;
  other.persistent = false;
  CHECK_FALSE(can_hedge({request()}, other));
  other = options;
  other.surveys = true;
  CHECK_FALSE(can_hedge({request()}, other));
  other = options;
  other.hedge_after.reset();
  CHECK_FALSE(can_hedge({request()}, other));
  ShardRequest one_disk = request();
  one_disk.replicas.assign(2, Replica(std::shared_ptr<Feed>(feeds[0])));
  CHECK_FALSE(can_hedge({one_disk}, options));
  ShardRequest off_roots = request();
  off_roots.on_roots = false;
  CHECK_FALSE(can_hedge({request(), off_roots}, options));
}

TEST_CASE_FIXTURE(Hedged, "staging of hedges counts against the limit; without room none is made") {
  make_feeds(2, 1);
  std::vector<ShardAccess> accesses;
  for (std::size_t i = 0; i < 2; ++i) accesses.push_back(choose_access(request(), i, options));
  const auto allowed = [&](std::uint64_t limit, std::optional<std::uint64_t> window) {
    LoadOptions asked = options;
    asked.memory_limit_bytes = limit;
    asked.window_bytes = window;
    return within_limits(asked, lay_out({request()}, {accesses}, asked, Landing::staged));
  };
  const std::uint64_t tensors =
      lay_out({request()}, {accesses}, options, Landing::staged).memory_bytes;
  const std::uint64_t slot = 2 * kBlock;
  CHECK(allowed(1 << 30, {}).queue_depth == 3);
  CHECK(allowed(tensors + slot, {}).lanes * allowed(tensors + slot, {}).queue_depth == 1);
  CHECK_FALSE(allowed(tensors + slot - 1, {}).hedge_after.has_value());
  const LoadOptions windowed = allowed(1 << 30, 8 * slot);
  CHECK(windowed.lanes * windowed.queue_depth == 2);
  CHECK(*windowed.window_bytes == 6 * slot);
  CHECK_FALSE(allowed(1 << 30, 4 * slot - 1).hedge_after.has_value());

  options.memory_limit_bytes = tensors;
  const auto job = LoadJob::start({request()}, options);
  CHECK_FALSE(job->layout().hedges());
  REQUIRE(job->outcome().fallbacks().size() == 1);
  CHECK(job->outcome().fallbacks()[0].find("no room for hedged reads") != std::string::npos);
  open_all();
  REQUIRE(job->wait_for(kPatience));
  check_right(*job);
  CHECK(job->counters().reads_hedged == 0);
}

TEST_CASE_FIXTURE(Hedged,
                  "a lane has no more reads out than it has memory for, however late they are") {
  make_feeds(2, 1);
  options.lanes = 1;
  options.block_bytes = kChunk;
  auto job = load_to_the_end({request()}, options);
  check_right(*job);
  CHECK(feeds[0]->reads <= 6);
  CHECK(abandoned_bytes() <= 6 * kChunk);
  open_all();
  CHECK(soon([] { return abandoned_bytes() == 0; }));
}

TEST_CASE_FIXTURE(Hedged, "a late disk that stays silent hangs all the same, and is told of") {
  make_feeds(2, 2);
  options.root_timeout = 200ms;
  one_block();
  const auto job = LoadJob::start({request()}, options);
  CHECK(soon([&] { return job->has_failed(); }));
  REQUIRE(job->outcome().failure().has_value());
  CHECK(job->outcome().failure()->error == ETIMEDOUT);
  CHECK(owes_answer(feeds[0]->disk()));
  CHECK(owes_answer(feeds[1]->disk()));
  open_all();
  REQUIRE(job->wait_for(kPatience));
  CHECK(soon([] { return abandoned_bytes() == 0; }));
  CHECK_FALSE(owes_answer(feeds[0]->disk()));
}

TEST_CASE_FIXTURE(Hedged, "a disk that never returns what was left hangs, while the job goes on") {
  make_feeds(2, 1);
  options.root_timeout = 200ms;
  options.window_bytes = kNbytes;
  options.block_bytes = kChunk;
  ShardRequest streamed = request();
  streamed.extents.clear();
  for (std::uint64_t at = 0; at < kNbytes; at += kChunk)
    streamed.extents.push_back({at, std::min(at + kChunk, kNbytes)});
  const auto job = LoadJob::start({std::move(streamed)}, options);  // nobody takes its regions
  CHECK(soon([&] { return owes_answer(feeds[0]->disk()); }));
  CHECK_FALSE(job->has_failed());
  job->cancel();
  open_all();
  CHECK(job->wait_for(kPatience));
  CHECK(soon([&] { return !owes_answer(feeds[0]->disk()); }));
}

TEST_CASE_FIXTURE(Hedged, "a cancelled job does not wait for late reads") {
  make_feeds(2, 2);
  const auto job = LoadJob::start({request()}, options);
  CHECK(soon([&] { return job->counters().reads_hedged > 0; }));
  job->cancel();
  CHECK(soon([] { return abandoned_bytes() > 0; }));
  open_all();
  CHECK(job->wait_for(kPatience));
  CHECK(soon([] { return abandoned_bytes() == 0; }));
}

TEST_CASE("whichever reads are late, short, failed or damaged, the bytes are right") {
  const std::uint64_t seed = testing::random_seed();
  Random random(seed);
  INFO("FASTIO_TEST_SEED=", seed);
  const ReplicatedFile file({Place::disk, Place::memory, Place::disk}, kNbytes, 0, kChunk);
  const auto engines = engines_here();
  constexpr std::array kKinds{FaultKind::late, FaultKind::late,  FaultKind::flip,
                              FaultKind::cut,  FaultKind::error, FaultKind::reorder};
  for (int i = 0; i < testing::random_cases(24); ++i) {
    LoadOptions options;
    options.engine = engines[static_cast<std::size_t>(i) % engines.size()];
    options.cache = static_cast<CacheMode>(between(random, 0, 2));
    options.block_bytes = 2 * kChunk;
    options.persistent = true;
    options.hedge_after = 1ms;
    options.lanes = static_cast<unsigned>(between(random, 1, 3));
    options.queue_depth = static_cast<unsigned>(between(random, 1, 4));
    std::vector<Fault> script;
    unsigned bad = 0;
    for (std::uint64_t count = between(random, 1, 8); count > 0; --count) {
      FaultKind kind = kKinds[between(random, 0, kKinds.size() - 1)];
      // Two replicas may be bad for one block, and not the third.
      const bool is_bad = kind == FaultKind::error || kind == FaultKind::flip;
      if (is_bad && ++bad > 2) kind = FaultKind::late;
      const std::int64_t value = kind == FaultKind::error  ? EIO
                                 : kind == FaultKind::late ? 30
                                                           : 4096;
      script.push_back({between(random, 0, 30), kind, value});
    }
    const InjectedFaults faults(std::move(script));
    ShardRequest request = file.request();
    request.on_roots = true;
    auto job = load_to_the_end({std::move(request)}, options);
    const auto failure = job->outcome().failure();
    CHECK((failure ? failure->message() : "") == "");
    REQUIRE_FALSE(job->has_failed());
    CHECK(job->bytes_done() == job->bytes_total());
    CHECK(first_difference(*job, {file.bytes()}) == "");
  }
  CHECK(soon([] { return abandoned_bytes() == 0; }));
}

}  // namespace
}  // namespace fastio
