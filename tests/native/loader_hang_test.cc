// Disks that hang: their reads are lost, and other replicas have the bytes. Memory that a lost read
// may still write to is never reused.
#include <doctest/doctest.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <thread>

#include "answers.h"
#include "filling.h"
#include "loader.h"
#include "loading.h"
#include "memory.h"
#include "replicated_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::engines_here;
using testing::first_difference;
using testing::InjectedFaults;
using testing::kPatience;
using testing::load_to_the_end;
using testing::one_at_a_time;
using testing::Place;
using testing::Random;
using testing::ReplicatedFile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kChunk = 64 * kKiB;
constexpr std::uint64_t kBytes = 3 * kMiB + 1000;

using Remedy = Incident::Remedy;

LoadOptions impatient(EnginePreference engine) {
  LoadOptions options;
  options.engine = engine;
  options.cache = CacheMode::bypass;
  options.block_bytes = 128 * kKiB;
  options.queue_depth = 3;
  options.persistent = true;
  options.root_timeout = 100ms;
  return options;
}

ShardRequest on_roots(const ReplicatedFile& file) {
  ShardRequest request = file.request();
  request.on_roots = true;
  return request;
}

template <typename Condition>
bool soon(Condition&& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(1ms);
  return condition();
}

void check_right(LoadJob& job, const ReplicatedFile& file) {
  const auto failure = job.outcome().failure();
  CHECK((failure ? failure->message() : "") == "");
  CHECK_FALSE(job.outcome().damage().has_value());
  CHECK(job.bytes_done() == job.bytes_total());
  CHECK(first_difference(job, {file.bytes()}) == "");
}

TEST_CASE("blocks of a hung disk are read from the other one, to other memory") {
  const ReplicatedFile file({Place::disk, Place::memory}, kBytes, 0, kChunk);
  for (const EnginePreference engine : engines_here()) {
    for (const std::uint64_t nth : {0U, 5U, 20U}) {
      CAPTURE(testing::name_of(engine));
      CAPTURE(nth);
      const InjectedFaults faults({{nth, FaultKind::never, 0}});
      auto job = load_to_the_end({on_roots(file)}, impatient(engine));
      CHECK(abandoned_bytes() >= kBytes);
      const auto incidents = job->incidents().take();
      REQUIRE_FALSE(incidents.empty());
      for (const Incident& incident : incidents) {
        CHECK(incident.replica == incidents.front().replica);
        CHECK(incident.failure->error == ETIMEDOUT);
        CHECK(incident.remedy == Remedy::other_replica);
      }
      CHECK(job->bytes_done() == job->bytes_total());
      const auto regions = job->take_regions();
      REQUIRE(regions.size() == 1);
      REQUIRE(regions[0].size() == 1);
      std::byte* bytes = regions[0][0]->at(0);
      CHECK(testing::same(file.bytes(), {bytes, kBytes}));
      std::memset(bytes, 0x77, kBytes);  // its next owner writes to it
      release_held_completions();
      CHECK(soon([] { return abandoned_bytes() == 0; }));
      CHECK(std::all_of(bytes, bytes + kBytes, [](std::byte b) { return b == std::byte{0x77}; }));
      CHECK_FALSE(owes_answer(file.request().replicas[incidents.front().replica].disk()));
    }
  }
}

TEST_CASE("if no other disk has the bytes, the job fails, and says why") {
  for (const auto& places : {std::vector{Place::disk}, std::vector{Place::disk, Place::disk}}) {
    const ReplicatedFile file(places, kBytes, 0, kChunk);
    for (const EnginePreference engine : engines_here()) {
      const InjectedFaults faults({{3, FaultKind::never, 0}});
      const auto job = LoadJob::start({on_roots(file)}, impatient(engine));
      CHECK(soon([&] { return job->outcome().failure().has_value(); }));
      REQUIRE(job->outcome().failure().has_value());
      CHECK(job->outcome().failure()->error == ETIMEDOUT);
      CHECK(job->outcome().failure()->detail ==
            "no answer in time (Options.root_timeout_s is 0.1 s)");
      CHECK(job->incidents().take().front().remedy == Remedy::none);
      job->cancel();
      CHECK(abandoned_bytes() > 0);
      release_held_completions();
      CHECK(job->wait_for(kPatience));
      CHECK(soon([] { return abandoned_bytes() == 0; }));
    }
  }
}

TEST_CASE("files that are on no root, and jobs without a timeout, are waited for") {
  const ReplicatedFile file({Place::disk, Place::memory}, kBytes, 0, kChunk);
  for (const EnginePreference engine : engines_here()) {
    for (const bool roots : {false, true}) {
      LoadOptions options = impatient(engine);
      if (roots) options.root_timeout.reset();
      ShardRequest request = file.request();
      request.on_roots = roots;
      const InjectedFaults faults({{3, FaultKind::never, 0}});
      const auto job = LoadJob::start({std::move(request)}, options);
      CHECK_FALSE(job->wait_for(500ms));
      CHECK(job->incidents().take().empty());
      release_held_completions();
      REQUIRE(job->wait_for(kPatience));
      check_right(*job, file);
    }
  }
}

TEST_CASE("a job that does not persist fails") {
  const ReplicatedFile file({Place::disk, Place::memory}, kBytes, 0, kChunk);
  for (const EnginePreference engine : engines_here()) {
    LoadOptions options = impatient(engine);
    options.persistent = false;
    const InjectedFaults faults({{0, FaultKind::never, 0}});
    const auto job = LoadJob::start({on_roots(file)}, options);
    REQUIRE(soon([&] { return job->outcome().failure().has_value(); }));
    CHECK(job->outcome().failure()->error == ETIMEDOUT);
    job->cancel();
    release_held_completions();
    CHECK(job->wait_for(kPatience));
    CHECK(soon([] { return abandoned_bytes() == 0; }));
  }
}

TEST_CASE("regions of a window that were taken stay, the one that was hit is read anew") {
  const ReplicatedFile file({Place::disk, Place::memory}, kBytes, 0, kChunk);
  for (const EnginePreference engine : engines_here()) {
    LoadOptions options = impatient(engine);
    options.window_bytes = 1 * kMiB;
    ShardRequest request = on_roots(file);
    request.extents.clear();
    for (std::uint64_t at = 0; at < kBytes; at += kChunk) {
      request.extents.push_back({at, std::min(at + kChunk, kBytes)});
    }
    const InjectedFaults faults({{9, FaultKind::never, 0}});
    const auto job = LoadJob::start({std::move(request)}, options);
    for (std::size_t r = 0; r < job->layout().plans[0].regions.size(); ++r) {
      REQUIRE(soon([&] { return job->delivery().wait_for({0, r}, 20ms); }));
      const auto region = job->delivery().take({0, r});
      REQUIRE(region != nullptr);
      const PlannedRegion& planned = job->layout().plans[0].regions[r];
      const std::uint64_t end = std::min(planned.end, kBytes);
      CHECK(testing::same(file.bytes().subspan(planned.begin, end - planned.begin),
                          {region->at(planned.begin), end - planned.begin}));
      job->delivery().release({0, r});
    }
    CHECK(job->incidents().take().size() >= 1);
    CHECK(job->bytes_done() == job->bytes_total());
    CHECK(job->wait_for(kPatience));  // though a read is still in flight
    CHECK(abandoned_bytes() > 0);
    release_held_completions();
    CHECK(soon([] { return abandoned_bytes() == 0; }));
  }
}

TEST_CASE("a lane whose slots are all lost is succeeded, as often as that happens") {
  const ReplicatedFile file({Place::disk, Place::memory, Place::disk}, kBytes, 0, kChunk);
  for (const EnginePreference engine : engines_here()) {
    LoadOptions options = impatient(engine);
    options.lanes = 1;
    options.queue_depth = 1;
    const InjectedFaults faults({{0, FaultKind::never, 0}});
    auto job = load_to_the_end({on_roots(file)}, options);
    check_right(*job, file);
    CHECK(job->report().lane_times.size() == 2);
  }
  CHECK(soon([] { return abandoned_bytes() == 0; }));
}

TEST_CASE("places are filled by way of staging, and no lost read writes to them") {
  const ReplicatedFile file({Place::disk, Place::memory}, kBytes, 0, kChunk);
  for (const EnginePreference engine : engines_here()) {
    testing::Filling filling;
    filling.extents = {{0, kMiB}, {kMiB, kBytes}};
    filling.targets.emplace_back(kMiB, 0);
    filling.targets.emplace_back(kBytes - kMiB, 0);
    ShardRequest request = on_roots(file);
    request.extents = filling.extents;
    const InjectedFaults faults({{4, FaultKind::never, 0}});
    const auto job = load_to_the_end({filling.with_places(std::move(request))}, impatient(engine));
    CHECK_FALSE(job->has_failed());
    CHECK(job->wait_until_released(0ms));
    for (std::size_t i = 0; i < 2; ++i) {
      const auto& [begin, end] = filling.extents[i];
      CHECK(testing::same(file.bytes().subspan(begin, end - begin), filling.targets[i].bytes()));
      CHECK(job->is_placed(0, i));
      std::memset(filling.targets[i].data(), 0x77, end - begin);
    }
    CHECK(abandoned_bytes() > 0);
    release_held_completions();
    CHECK(soon([] { return abandoned_bytes() == 0; }));
    for (const auto& target : filling.targets) {
      CHECK(std::ranges::all_of(target.bytes(), [](std::byte b) { return b == std::byte{0x77}; }));
    }
  }
}

TEST_CASE("a replica that owes an answer is left alone by the next job, and told of") {
  const ReplicatedFile file({Place::disk, Place::memory}, kBytes, 0, kChunk);
  const std::uint64_t disk = file.request().replicas.front().disk();
  for (const EnginePreference engine : engines_here()) {
    note_debt(disk);
    auto job = load_to_the_end({on_roots(file)}, impatient(engine));
    check_right(*job, file);
    auto incidents = job->incidents().take();
    REQUIRE(incidents.size() == 1);
    CHECK(incidents[0].replica == 0);
    CHECK(incidents[0].failure->detail == kOwesAnswer);
    CHECK(job->counters().bytes_direct == 0);
    note_answer(disk);
    job = load_to_the_end({on_roots(file)}, impatient(engine));
    CHECK(job->incidents().take().empty());
  }
}

TEST_CASE("whichever reads hang, the bytes are right or the job says that a disk hung") {
  const std::uint64_t seed = testing::random_seed();
  Random random(seed);
  INFO("FASTIO_TEST_SEED=", seed);
  const ReplicatedFile file({Place::disk, Place::memory}, kBytes, 0, kChunk);
  const auto engines = engines_here();
  for (int i = 0; i < testing::random_cases(12); ++i) {
    LoadOptions options = impatient(engines[static_cast<std::size_t>(i) % engines.size()]);
    options.lanes = static_cast<unsigned>(between(random, 1, 4));
    options.queue_depth = static_cast<unsigned>(between(random, 1, 5));
    std::vector<Fault> script;
    for (std::uint64_t count = between(random, 1, 6); count > 0; --count) {
      script.push_back({between(random, 0, 40), FaultKind::never, 0});
    }
    const InjectedFaults faults(std::move(script));
    const auto job = LoadJob::start({on_roots(file)}, options);
    REQUIRE(soon([&] { return job->has_failed() || job->wait_for(5ms); }));
    if (job->has_failed()) {
      CHECK(job->outcome().failure()->error == ETIMEDOUT);
      job->cancel();
    } else {
      check_right(*job, file);
    }
    release_held_completions();
    REQUIRE(job->wait_for(kPatience));
    CHECK(soon([] { return abandoned_bytes() == 0; }));
  }
}

}  // namespace
}  // namespace fastio
