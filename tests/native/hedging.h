// The fixture of the tests of hedged reads: feeds that answer when the test says so.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "loader.h"
#include "loading.h"
#include "replica.h"
#include "sample_file.h"

namespace fastio::testing {

inline constexpr std::uint64_t kChunk = std::uint64_t{64} << 10;
inline constexpr std::uint64_t kBlock = 4 * kChunk;
inline constexpr std::uint64_t kNbytes = 40 * kChunk + 77;

template <typename Condition>
bool soon(Condition&& condition) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!condition() && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return condition();
}

// The bytes of a file on a disk of its own. A read waits at a gate first, then `answer` may change
// what it brings.
class GatedFeed : public Feed {
 public:
  using Answer = std::function<std::int32_t(std::uint64_t, std::span<std::byte>)>;

  GatedFeed(const SampleFile& sample, std::uint64_t disk, bool open = true)
      : is_open(open), sample_(sample), disk_(disk) {}

  [[nodiscard]] const std::string& path() const override { return path_; }
  [[nodiscard]] std::uint64_t nbytes() const override { return sample_.bytes().size(); }
  [[nodiscard]] std::uint64_t disk() const override { return disk_; }
  std::int32_t read(std::uint64_t offset, std::span<std::byte> out) override {
    ++reads;
    CHECK(soon([&] { return is_open.load(); }));
    const auto bytes = sample_.bytes().subspan(offset);
    const auto filled = out.first(std::min(out.size(), bytes.size()));
    std::ranges::copy(bytes.first(filled.size()), filled.begin());
    return answer ? answer(offset, filled) : static_cast<std::int32_t>(filled.size());
  }
  [[nodiscard]] std::string why(std::uint64_t) override {
    ++asked_why;
    return {};
  }

  std::atomic<bool> is_open;
  std::atomic<int> reads{0}, asked_why{0};
  Answer answer;

 private:
  const SampleFile& sample_;
  const std::uint64_t disk_;
  const std::string path_ = "bucket://" + std::to_string(disk_);
};

using Feeds = std::vector<std::shared_ptr<GatedFeed>>;

struct Hedged {
  SampleFile sample{Place::memory, kNbytes};
  Feeds feeds;
  LoadOptions options;

  Hedged() {
    options.block_bytes = kBlock;
    options.queue_depth = 3;
    options.persistent = true;
    options.hedge_after = std::chrono::milliseconds(5);
  }
  // A gate is open for all but the first `held` feeds.
  void make_feeds(std::size_t count, std::size_t held) {
    for (std::size_t i = 0; i < count; ++i)
      feeds.push_back(std::make_shared<GatedFeed>(sample, 0xFEED0 + i, i >= held));
  }
  // One block alone, asked of the first feed first.
  void one_block() {
    options.block_bytes = kNbytes;
    options.lanes = options.queue_depth = 1;
  }
  [[nodiscard]] ShardRequest request() const {
    ShardRequest request{{}, {{0, kNbytes}}, sample.table(0, kChunk)};
    for (const auto& feed : feeds) request.replicas.emplace_back(feed);
    request.on_roots = true;
    return request;
  }
  void open_all() const {
    for (const auto& feed : feeds) feed->is_open = true;
  }
  void check_right(LoadJob& job) const {
    const auto failure = job.outcome().failure();
    CHECK((failure ? failure->message() : "") == "");
    CHECK_FALSE(job.outcome().damage().has_value());
    CHECK(job.bytes_done() == job.bytes_total());
    CHECK(job.counters().chunks_verified() == 41);
    CHECK(first_difference(job, sample) == "");
  }
};

}  // namespace fastio::testing
