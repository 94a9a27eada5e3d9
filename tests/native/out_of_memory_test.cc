// Memory that runs out at any allocation, one after the other: a job ends with an error, and keeps
// nothing. In an executable of its own, whose operator new fails when it is asked to.
#include <dirent.h>
#include <doctest/doctest.h>

#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>

#include "loader.h"
#include "loading.h"
#include "sample_file.h"

namespace {

constexpr long kNever = -1;

// How many allocations succeed before one fails: of this thread, of all threads but the main one.
// That one failure is all; what cleans up after it finds memory again.
thread_local long left_here = kNever;
thread_local bool is_main_thread = false;
std::atomic<long> left_elsewhere{kNever};

bool fails_now() {
  if (left_here != kNever && left_here-- == 0) return true;
  if (is_main_thread || left_elsewhere.load() == kNever) return false;
  long left = left_elsewhere.load();
  while (left != kNever && !left_elsewhere.compare_exchange_weak(left, left - 1)) {
  }
  return left == 0;
}

}  // namespace

// NOLINTBEGIN(cppcoreguidelines-no-malloc): what operator new is made of.
void* operator new(std::size_t nbytes) {
  void* memory = fails_now() ? nullptr : std::malloc(nbytes == 0 ? 1 : nbytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
// NOLINTEND(cppcoreguidelines-no-malloc)

namespace fastio {
namespace {

using testing::engines_here;
using testing::first_difference;
using testing::InjectedFaults;
using testing::kPatience;
using testing::Place;
using testing::SampleFile;

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kChunk = 32 * kKiB;

std::size_t threads_of_this_process() {
  const std::unique_ptr<DIR, int (*)(DIR*)> tasks(opendir("/proc/self/task"), &closedir);
  REQUIRE(tasks != nullptr);
  std::size_t count = 0;
  while (readdir(tasks.get()) != nullptr) ++count;
  return count;
}

bool threads_become(std::size_t count) {
  const auto end = Clock::now() + kPatience;
  while (threads_of_this_process() > count && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return threads_of_this_process() <= count;
}

// What is parked goes with the thread that holds it, in either order.
bool nothing_is_parked() {
  const auto end = Clock::now() + kPatience;
  while (parked_bytes() != 0 && Clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return parked_bytes() == 0;
}

// So many reads that a queue which grew with them would allocate.
class ManyReads {
 public:
  [[nodiscard]] std::vector<ShardRequest> request() const {
    return {{file_, {{0, sample.bytes().size()}}, table_}};
  }

  [[nodiscard]] static LoadOptions options(EnginePreference engine) {
    LoadOptions options;
    options.engine = engine;
    options.cache = CacheMode::bypass;
    options.mapping = MappingMode::never;
    options.block_bytes = kChunk;
    options.queue_depth = 3;
    return options;
  }

  SampleFile sample{Place::disk, 6 * kMiB};

 private:
  std::shared_ptr<File> file_ = File::open(sample.path());
  ChunkTable table_ = sample.table(0, kChunk);
};

// Starts a job whose n-th allocation fails; null when it did. `n` is given back as -1 when there
// was no n-th one.
std::shared_ptr<LoadJob> start_with_failure(const ManyReads& reads, EnginePreference engine,
                                            long& n) {
  auto request = reads.request();
  const LoadOptions options = ManyReads::options(engine);
  std::shared_ptr<LoadJob> job;
  left_here = n;
  try {
    job = LoadJob::start(std::move(request), options);
  } catch (const std::bad_alloc&) {
    left_here = kNever;
    return nullptr;
  }
  if (left_here >= 0) n = -1;
  left_here = kNever;
  return job;
}

TEST_CASE("a job that runs out of memory while it starts is refused and leaves nothing behind") {
  is_main_thread = true;
  const ManyReads reads;
  for (const EnginePreference engine : engines_here()) {
    CAPTURE(testing::name_of(engine));
    const std::size_t threads = threads_of_this_process();
    long refused = 0;
    for (long n = 0; n >= 0; ++n) {
      CAPTURE(n);
      const auto job = start_with_failure(reads, engine, n);
      if (job != nullptr) {
        REQUIRE(job->wait_for(kPatience));
        CHECK_FALSE(job->failure().has_value());
        CHECK(first_difference(*job, reads.sample) == "");
      } else {
        ++refused;
      }
      REQUIRE(threads_become(threads));
      CHECK(nothing_is_parked());
      if (n < 0) break;
    }
    CHECK(refused > 20);
  }
}

TEST_CASE("a lane that runs out of memory fails its job, and no read is lost") {
  is_main_thread = true;
  const ManyReads reads;
  for (const EnginePreference engine : engines_here()) {
    for (const FaultKind fault : {FaultKind::late, FaultKind::error, FaultKind::flip}) {
      CAPTURE(testing::name_of(engine));
      CAPTURE(static_cast<int>(fault));
      for (long n = 0; n < 1000; ++n) {
        CAPTURE(n);
        const InjectedFaults faults({{20, fault, fault == FaultKind::error ? EIO : 1}});
        left_elsewhere = n;
        const auto job = LoadJob::start(reads.request(), ManyReads::options(engine));
        REQUIRE(job->wait_for(kPatience));
        const bool failed = left_elsewhere.exchange(kNever) == kNever;
        if (job->failure()) {
          CHECK((job->failure()->error == EIO || job->failure()->error == ENOMEM));
        } else if (!job->damage()) {
          CHECK(fault == FaultKind::late);
          CHECK(first_difference(*job, reads.sample) == "");
        }
        if (!failed) {
          CHECK((n > 0) == (fault != FaultKind::late));  // reading and verifying allocate nothing
          break;
        }
        CHECK(job->failure().has_value());
      }
    }
  }
}

}  // namespace
}  // namespace fastio
