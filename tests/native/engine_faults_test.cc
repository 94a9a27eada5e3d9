// The seam at the completion queue does the faults that the loader's tests rely on, on every
// engine.
#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <vector>

#include "engine.h"
#include "engine_faults.h"
#include "file.h"
#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::engines_here;
using testing::InjectedFaults;
using testing::Place;
using testing::SampleFile;

using Clock = std::chrono::steady_clock;

constexpr std::uint32_t kReadBytes = 4096;
constexpr std::byte kOverwritten{0xA5};

// One engine with faults that reads the pages of a file, tag by tag.
class FaultyReads {
 public:
  FaultyReads(EnginePreference kind, std::vector<Fault> faults)
      : sample_(Place::memory, 16 * std::size_t{kReadBytes}),
        file_(File::open(sample_.path())),
        faults_(std::move(faults)),
        set_(make_engines(kind, 1, 16)),
        memory_(sample_.bytes().size()) {}

  void submit(std::uint32_t tag) {
    const IoRequest request{file_->buffered_fd(), std::uint64_t{tag} * kReadBytes, data(tag),
                            kReadBytes, tag};
    set_.engines[0]->submit({&request, 1});
  }

  std::optional<Completion> wait(std::chrono::milliseconds timeout) {
    Completion completion;
    return set_.engines[0]->wait({&completion, 1}, timeout) == 1 ? std::optional(completion)
                                                                 : std::nullopt;
  }

  Completion read(std::uint32_t tag) {
    submit(tag);
    const auto completion = wait(testing::kPatience);
    REQUIRE(completion.has_value());
    CHECK(completion->tag == tag);
    return *completion;
  }

  // The number of bytes at the beginning of a tag's page that are the file's.
  std::size_t right_bytes(std::uint32_t tag) {
    const auto expected = sample_.bytes().subspan(std::size_t{tag} * kReadBytes, kReadBytes);
    return static_cast<std::size_t>(
        std::mismatch(expected.begin(), expected.end(), data(tag)).first - expected.begin());
  }

  std::byte* data(std::uint32_t tag) { return memory_.data() + std::size_t{tag} * kReadBytes; }

 private:
  SampleFile sample_;
  std::shared_ptr<File> file_;
  InjectedFaults faults_;
  EngineSet set_;
  std::vector<std::byte> memory_;
};

TEST_CASE("a fault meets the completion that it is for, and no other") {
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    FaultyReads reads(kind, {{2, FaultKind::error, EIO}});
    for (std::uint32_t tag = 0; tag < 5; ++tag) {
      CHECK(reads.read(tag).result == (tag == 2 ? -EIO : static_cast<std::int32_t>(kReadBytes)));
    }
  }
}

TEST_CASE("a failed read leaves nothing behind that could pass for its bytes") {
  for (const EnginePreference kind : engines_here()) {
    for (const FaultKind fault : {FaultKind::error, FaultKind::zero}) {
      FaultyReads reads(kind, {{0, fault, EIO}});
      CHECK(reads.read(0).result == (fault == FaultKind::zero ? 0 : -EIO));
      CHECK(std::all_of(reads.data(0), reads.data(0) + kReadBytes,
                        [](std::byte b) { return b == kOverwritten; }));
    }
  }
}

TEST_CASE("a short read brings its bytes and none behind them") {
  for (const EnginePreference kind : engines_here()) {
    FaultyReads reads(kind, {{0, FaultKind::cut, 100}, {1, FaultKind::cut, 1'000'000}});
    CHECK(reads.read(0).result == 100);
    CHECK(reads.right_bytes(0) == 100);
    CHECK(std::all_of(reads.data(0) + 100, reads.data(0) + kReadBytes,
                      [](std::byte b) { return b == kOverwritten; }));
    CHECK(reads.read(1).result == static_cast<std::int32_t>(kReadBytes));
    CHECK(reads.right_bytes(1) == kReadBytes);
  }
}

TEST_CASE("a flipped bit is one bit of one byte") {
  for (const EnginePreference kind : engines_here()) {
    FaultyReads reads(kind, {{0, FaultKind::flip, 77}});
    CHECK(reads.read(0).result == static_cast<std::int32_t>(kReadBytes));
    CHECK(reads.right_bytes(0) == 77);
    reads.data(0)[77] ^= std::byte{1};
    CHECK(reads.right_bytes(0) == kReadBytes);
  }
}

TEST_CASE("a late completion comes late") {
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    FaultyReads reads(kind, {{0, FaultKind::late, 200}});
    const auto begin = Clock::now();
    CHECK(reads.read(0).result == static_cast<std::int32_t>(kReadBytes));
    CHECK(Clock::now() - begin >= 200ms);
    CHECK(reads.right_bytes(0) == kReadBytes);
  }
}

TEST_CASE("a completion that is swapped comes after the next one") {
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    FaultyReads reads(kind, {{0, FaultKind::reorder, 0}});
    reads.submit(0);
    reads.submit(1);
    std::vector<std::uint32_t> order;
    while (order.size() < 2) {
      const auto completion = reads.wait(testing::kPatience);
      REQUIRE(completion.has_value());
      order.push_back(completion->tag);
    }
    // Threads complete in any order: the first completion is the one that is swapped.
    CHECK(((order == std::vector<std::uint32_t>{1, 0}) || kind == EnginePreference::pread));
    CHECK(order[0] != order[1]);
  }
}

TEST_CASE("a swapped completion without a partner comes after the wait") {
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    FaultyReads reads(kind, {{0, FaultKind::reorder, 0}});
    reads.submit(0);
    std::optional<Completion> completion;
    const auto end = Clock::now() + testing::kPatience;
    while (!completion && Clock::now() < end) completion = reads.wait(10ms);
    REQUIRE(completion.has_value());
    CHECK(completion->tag == 0);
  }
}

TEST_CASE("a completion that never comes is held until it is released, and holds up no other") {
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    FaultyReads reads(kind, {{0, FaultKind::never, 0}});
    reads.submit(0);
    reads.submit(1);
    const auto first = reads.wait(testing::kPatience);
    REQUIRE(first.has_value());
    CHECK_FALSE(reads.wait(50ms).has_value());
    release_held_completions();
    const auto second = reads.wait(testing::kPatience);
    REQUIRE(second.has_value());
    CHECK(first->tag != second->tag);
    for (const Completion& completion : {*first, *second}) {
      CHECK(completion.result == static_cast<std::int32_t>(kReadBytes));
      CHECK(reads.right_bytes(completion.tag) == kReadBytes);
    }
  }
}

TEST_CASE("without faults the engines are bare") {
  CHECK_FALSE(completion_faults_set());
  {
    const InjectedFaults faults({{0, FaultKind::zero, 0}});
    CHECK(completion_faults_set());
  }
  CHECK_FALSE(completion_faults_set());
}

}  // namespace
}  // namespace fastio
