// Lanes that a load adds while it runs. Its bytes come from a feed that takes its time for each
// block, so that the rate rises with each lane.
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "failing_memory.h"
#include "filling.h"
#include "loader.h"
#include "loading.h"
#include "replica.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::first_difference;
using testing::load_to_the_end;
using testing::Place;
using testing::SampleFile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kChunk = 64 * kKiB;
constexpr std::uint64_t kNbytes = 600 * kChunk;

class SlowFeed : public Feed {
 public:
  explicit SlowFeed(const SampleFile& sample) : sample_(sample) {}

  [[nodiscard]] const std::string& path() const override { return path_; }
  [[nodiscard]] std::uint64_t nbytes() const override { return sample_.bytes().size(); }
  [[nodiscard]] std::uint64_t disk() const override { return 0xFEED; }
  std::int32_t read(std::uint64_t offset, std::span<std::byte> out) override {
    const std::size_t readers = ++readers_;
    std::size_t most = most_readers_;
    while (most < readers && !most_readers_.compare_exchange_weak(most, readers)) {
    }
    std::this_thread::sleep_for(1ms);
    const auto bytes = sample_.bytes().subspan(offset);
    std::copy_n(bytes.begin(), std::min(out.size(), bytes.size()), out.begin());
    --readers_;
    return static_cast<std::int32_t>(std::min(out.size(), bytes.size()));
  }
  [[nodiscard]] std::string why(std::uint64_t) override { return ""; }
  [[nodiscard]] std::size_t most_readers() const { return most_readers_; }

 private:
  const SampleFile& sample_;
  const std::string path_ = "bucket://shard";
  std::atomic<std::size_t> readers_{0}, most_readers_{0};
};

LoadOptions growing_to(std::optional<unsigned> limit) {
  LoadOptions options;
  options.block_bytes = kChunk;
  options.queue_depth = 1;
  options.lanes = 2;
  options.lanes_limit = limit;
  return options;
}

ShardRequest request_of(const SampleFile& sample, std::shared_ptr<Feed> feed) {
  return {{{std::move(feed)}}, {{0, kNbytes}}, sample.table(0, kChunk)};
}

TEST_CASE("lanes are added up to the limit, and each byte is read once") {
  const SampleFile sample(Place::memory, kNbytes);
  const auto feed = std::make_shared<SlowFeed>(sample);
  const auto job = load_to_the_end({request_of(sample, feed)}, growing_to(5));
  CHECK_FALSE(job->has_failed());
  CHECK(first_difference(*job, sample) == "");
  CHECK(job->counters().chunks_verified() == 600);
  CHECK(job->counters().bytes_fed == kNbytes);
  const LoadReport report = job->report();
  CHECK(report.lanes > 2);
  CHECK(report.lanes <= 5);
  CHECK(report.lane_times.size() == report.lanes);
  CHECK(feed->most_readers() > 2);
  CHECK(feed->most_readers() <= 5);
}

TEST_CASE("no lane is added without a limit, nor for less work than it takes to begin one") {
  const SampleFile sample(Place::memory, kNbytes);
  for (const auto limit : {std::optional<unsigned>(), std::optional(1U), std::optional(2U)}) {
    const auto feed = std::make_shared<SlowFeed>(sample);
    const auto job = load_to_the_end({request_of(sample, feed)}, growing_to(limit));
    CHECK(job->report().lanes == 2);
    CHECK(feed->most_readers() <= 2);
  }
  const auto feed = std::make_shared<SlowFeed>(sample);
  ShardRequest request = request_of(sample, feed);
  request.extents = {{0, 3 * kChunk}};
  const auto job = load_to_the_end({std::move(request)}, growing_to(64));
  CHECK_FALSE(job->has_failed());
  CHECK(job->report().lanes == 2);
}

TEST_CASE("lanes stay within what the memory limit leaves for blocks") {
  const SampleFile sample(Place::memory, kNbytes);
  const auto feed = std::make_shared<SlowFeed>(sample);
  testing::Target target(kNbytes, 0);
  ShardRequest request = request_of(sample, feed);
  request.places.emplace_back(target.data(), 1, std::vector<Axis>{{kNbytes, 1}});
  LoadOptions options = growing_to(64);
  options.memory_limit_bytes = 3 * kChunk;
  const auto job = load_to_the_end({std::move(request)}, options);
  CHECK_FALSE(job->has_failed());
  CHECK(std::ranges::equal(target.bytes(), sample.bytes()));
  CHECK(job->report().lanes <= 3);
  CHECK(feed->most_readers() <= 3);
}

TEST_CASE("a job that is cancelled while lanes are added ends with all of them") {
  testing::this_is_the_main_thread();
  const SampleFile sample(Place::memory, kNbytes);
  const std::size_t threads = testing::threads_of_this_process();
  for (const auto after : {0ms, 5ms, 10ms, 20ms, 40ms}) {
    const auto feed = std::make_shared<SlowFeed>(sample);
    const auto job = LoadJob::start({request_of(sample, feed)}, growing_to(32));
    std::this_thread::sleep_for(after);
    job->cancel();
    CHECK(job->wait_for(testing::kPatience));
    CHECK(testing::threads_become(threads));
  }
  CHECK(testing::nothing_is_abandoned());
}

TEST_CASE("a lane that there is no memory for is done without, or fails the job") {
  testing::this_is_the_main_thread();
  const SampleFile sample(Place::memory, kNbytes);
  const std::size_t threads = testing::threads_of_this_process();
  bool ended = false;
  for (long n = 0; n < 200 && !ended; ++n) {
    CAPTURE(n);
    const auto feed = std::make_shared<SlowFeed>(sample);
    ShardRequest request = request_of(sample, feed);
    request.extents = {{0, 200 * kChunk}};
    testing::fail_allocation_elsewhere(n);
    const auto job = LoadJob::start({std::move(request)}, growing_to(4));
    REQUIRE(job->wait_for(testing::kPatience));
    ended = !testing::allocation_failed_elsewhere();
    if (job->outcome().failure()) {
      CHECK_FALSE(ended);
      CHECK(job->outcome().failure()->error == ENOMEM);
    } else {
      CHECK(job->bytes_done() == job->bytes_total());
    }
    REQUIRE(testing::threads_become(threads));
    CHECK(testing::nothing_is_abandoned());
  }
  CHECK(ended);
}

}  // namespace
}  // namespace fastio
