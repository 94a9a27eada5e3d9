// Feeds: bytes that come from elsewhere than a file are verified, placed, resumed and replaced as
// those of files.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "filling.h"
#include "loader.h"
#include "loading.h"
#include "mapped.h"
#include "memory.h"
#include "replica.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::first_difference;
using testing::kPatience;
using testing::load_to_the_end;
using testing::Place;
using testing::SampleFile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kStart = 4096;
constexpr std::uint64_t kChunk = 64 * kKiB;
constexpr std::uint64_t kNbytes = kStart + 40 * kChunk + 77;

using Remedy = Incident::Remedy;

// The bytes of a sample file, brought by a call; tests say what becomes of it.
class SampleFeed : public Feed {
 public:
  // Given the offset and the memory to fill, with the bytes in it already; returns the result.
  using Answer = std::function<std::int32_t(std::uint64_t, std::span<std::byte>)>;

  explicit SampleFeed(const SampleFile& sample, Answer answer = whole())
      : sample_(sample), answer_(std::move(answer)) {}

  static Answer whole() {
    return [](std::uint64_t, std::span<std::byte> out) {
      return static_cast<std::int32_t>(out.size());
    };
  }

  [[nodiscard]] const std::string& path() const override { return path_; }
  [[nodiscard]] std::uint64_t nbytes() const override { return sample_.bytes().size(); }
  [[nodiscard]] std::uint64_t disk() const override { return 0xFEED; }
  std::int32_t read(std::uint64_t offset, std::span<std::byte> out) override {
    ++reads;
    const auto bytes = sample_.bytes().subspan(offset);
    const auto filled = out.first(std::min(out.size(), bytes.size()));
    std::ranges::copy(bytes.first(filled.size()), filled.begin());
    return answer_(offset, filled);
  }
  [[nodiscard]] std::string why(std::uint64_t offset) override {
    return "the bucket said no at " + std::to_string(offset);
  }

  std::atomic<int> reads{0};

 private:
  const SampleFile& sample_;
  const Answer answer_;
  const std::string path_ = "bucket://shard";
};

LoadOptions options_of(CacheMode cache = CacheMode::automatic) {
  LoadOptions options;
  options.cache = cache;
  options.block_bytes = 4 * kChunk;
  options.queue_depth = 3;
  return options;
}

ShardRequest request_of(const SampleFile& sample, std::vector<Replica> replicas) {
  return {std::move(replicas), {{kStart, kNbytes}}, sample.table(kStart, kChunk)};
}

void check_right(LoadJob& job, const SampleFile& sample) {
  const auto failure = job.outcome().failure();
  CHECK((failure ? failure->message() : "") == "");
  CHECK_FALSE(job.outcome().damage().has_value());
  CHECK(job.bytes_done() == job.bytes_total());
  CHECK(first_difference(job, sample) == "");
}

TEST_CASE("what a feed brings is verified and placed, in each cache mode") {
  const SampleFile sample(Place::disk, kNbytes);
  for (const CacheMode cache : {CacheMode::automatic, CacheMode::bypass, CacheMode::keep}) {
    const auto feed = std::make_shared<SampleFeed>(sample);
    const auto job = load_to_the_end({request_of(sample, {{feed}})}, options_of(cache));
    check_right(*job, sample);
    CHECK(job->counters().chunks_verified() == 41);
    CHECK(job->counters().bytes_fed == job->bytes_total());
    CHECK(job->counters().bytes_direct + job->counters().bytes_buffered == 0);
    CHECK(job->report().engine == "pread");
    CHECK(feed->reads == 11);
  }
}

TEST_CASE("an answer of some bytes is resumed where it ended") {
  const SampleFile sample(Place::disk, kNbytes);
  const auto feed = std::make_shared<SampleFeed>(sample, [](std::uint64_t, auto out) {
    return static_cast<std::int32_t>(std::min<std::size_t>(out.size(), 100'001));
  });
  check_right(*load_to_the_end({request_of(sample, {{feed}})}, options_of()), sample);
  CHECK(feed->reads == 31);  // three for each whole block
}

TEST_CASE("a feed fills places, in one piece or with strides") {
  const SampleFile sample(Place::disk, kNbytes);
  const auto feed = std::make_shared<SampleFeed>(sample);
  for (const std::uint64_t lead : {std::uint64_t{0}, std::uint64_t{13}}) {
    testing::Target target(kNbytes - kStart, lead);
    ShardRequest request = request_of(sample, {{feed}});
    request.places.emplace_back(target.data(), 1, std::vector<Axis>{{kNbytes - kStart, 1}});
    const auto job = load_to_the_end({std::move(request)}, options_of());
    REQUIRE_FALSE(job->has_failed());
    CHECK(std::ranges::equal(target.bytes(), sample.bytes().subspan(kStart)));
    CHECK(target.fences_stand());
  }
}

TEST_CASE("damage that a feed brings is found, and read from another replica") {
  const SampleFile sample(Place::disk, kNbytes);
  const std::uint64_t damaged = kStart + 9 * kChunk + 5;
  const auto feed =
      std::make_shared<SampleFeed>(sample, [&](std::uint64_t offset, std::span<std::byte> out) {
        if (offset <= damaged && damaged < offset + out.size())
          out[damaged - offset] ^= std::byte{1};
        return static_cast<std::int32_t>(out.size());
      });
  const auto alone = load_to_the_end({request_of(sample, {{feed}})}, options_of());
  REQUIRE(alone->outcome().damage().has_value());
  CHECK(alone->outcome().damage()->chunk == 9);

  LoadOptions options = options_of(CacheMode::bypass);
  options.persistent = true;
  const auto other = std::make_shared<SampleFeed>(sample);  // on the same disk: asked second
  const auto job = load_to_the_end({request_of(sample, {{feed}, {other}})}, options);
  check_right(*job, sample);
  CHECK(other->reads == 1);
  const auto incidents = job->incidents().take();
  REQUIRE(incidents.size() == 2);  // it was read twice
  for (const Incident& incident : incidents) {
    CHECK(incident.extent == Extent{kStart + 9 * kChunk, kStart + 10 * kChunk});
    CHECK(incident.remedy == Remedy::other_replica);
  }
}

TEST_CASE("a feed stands in for a file that is damaged") {
  const SampleFile sample(Place::disk, kNbytes);
  sample.overwrite(kStart + 3 * kChunk, sample.bytes()[kStart + 3 * kChunk] ^ std::byte{1});
  LoadOptions options = options_of(CacheMode::bypass);
  options.persistent = true;
  const auto feed = std::make_shared<SampleFeed>(sample);
  const auto file = File::open(sample.path());
  const auto job = load_to_the_end({request_of(sample, {{file}, {feed}})}, options);
  check_right(*job, sample);
  CHECK(job->counters().bytes_fed > 0);
}

TEST_CASE("a feed that fails tells its reason, and one that ends early says where") {
  const SampleFile sample(Place::disk, kNbytes);
  const auto refusing = std::make_shared<SampleFeed>(sample, [](auto, auto) { return -EACCES; });
  const auto refused = load_to_the_end({request_of(sample, {{refusing}})}, options_of());
  REQUIRE(refused->outcome().failure().has_value());
  CHECK(refused->outcome().failure()->error == EACCES);
  CHECK(refused->outcome().failure()->path == "bucket://shard");
  CHECK(refused->outcome().failure()->detail.starts_with("the bucket said no at "));

  const auto ending = std::make_shared<SampleFeed>(sample, [](std::uint64_t offset, auto out) {
    constexpr std::uint64_t kEnd = kStart + 10 * kChunk;
    return static_cast<std::int32_t>(
        std::min<std::uint64_t>(out.size(), offset < kEnd ? kEnd - offset : 0));
  });
  LoadOptions one = options_of();
  one.lanes = one.queue_depth = 1;
  const auto ended = load_to_the_end({request_of(sample, {{ending}})}, one);
  REQUIRE(ended->outcome().failure().has_value());
  CHECK(ended->outcome().failure()->error == ENODATA);
  CHECK(ended->outcome().failure()->offset == kStart + 10 * kChunk);
}

TEST_CASE("a feed that does not answer is left, and its memory is kept until it does") {
  const SampleFile sample(Place::disk, kNbytes);
  std::atomic<bool> hangs{true};
  const auto feed = std::make_shared<SampleFeed>(sample, [&](auto, std::span<std::byte> out) {
    while (hangs) std::this_thread::sleep_for(1ms);
    return static_cast<std::int32_t>(out.size());
  });
  LoadOptions options = options_of(CacheMode::bypass);
  options.persistent = true;
  options.root_timeout = 100ms;
  ShardRequest request = request_of(sample, {{feed}, {File::open(sample.path())}});
  request.on_roots = true;
  {
    const auto job = load_to_the_end({std::move(request)}, options);
    check_right(*job, sample);
    CHECK(abandoned_bytes() > 0);
  }
  hangs = false;
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (abandoned_bytes() > 0 && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(1ms);
  CHECK(abandoned_bytes() == 0);
}

TEST_CASE("only threads read a feed, and none is mapped") {
  const SampleFile sample(Place::memory, kNbytes);
  const auto feed = std::make_shared<SampleFeed>(sample);
  LoadOptions options = options_of();
  options.engine = EnginePreference::uring;
  CHECK_THROWS_AS(LoadJob::start({request_of(sample, {{feed}})}, options), std::invalid_argument);
  CHECK(MappedFile::open(request_of(sample, {{feed}}), {}) == nullptr);
  CHECK(choose_access(request_of(sample, {{feed}}), 0, {}).mode == ReadMode::fed);
  CHECK_THROWS_AS(LoadJob::start({request_of(sample, {{std::shared_ptr<Feed>()}})}, options_of()),
                  std::invalid_argument);
}

}  // namespace
}  // namespace fastio
