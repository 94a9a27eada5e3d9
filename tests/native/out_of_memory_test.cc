// Memory that runs out at any allocation, one after the other: a job ends with an error, and keeps
// nothing. In an executable of its own, whose operator new (failing_memory.cc) fails on request.
#include <doctest/doctest.h>

#include <cerrno>
#include <memory>
#include <new>

#include "failing_memory.h"
#include "loader.h"
#include "loading.h"
#include "sample_file.h"

namespace fastio {
namespace {

using testing::engines_here;
using testing::FailingAllocation;
using testing::first_difference;
using testing::InjectedFaults;
using testing::kPatience;
using testing::nothing_is_abandoned;
using testing::Place;
using testing::SampleFile;
using testing::threads_become;
using testing::threads_of_this_process;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kChunk = 32 * kKiB;

// So many reads that a queue which grew with them would allocate.
class ManyReads {
 public:
  [[nodiscard]] std::vector<ShardRequest> request() const {
    return {{{file_}, {{0, sample.bytes().size()}}, table_}};
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

// Starts a job whose n-th allocation fails; null when it did. `n` is -1 afterwards if there was no
// n-th one.
std::shared_ptr<LoadJob> start_with_failure(const ManyReads& reads, EnginePreference engine,
                                            long& n) {
  auto request = reads.request();
  const LoadOptions options = ManyReads::options(engine);
  const FailingAllocation failing(n);
  try {
    auto job = LoadJob::start(std::move(request), options);
    if (!FailingAllocation::came()) n = -1;
    return job;
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

TEST_CASE("a job that runs out of memory while it starts is refused and leaves nothing behind") {
  testing::this_is_the_main_thread();
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
        CHECK_FALSE(job->outcome().failure().has_value());
        CHECK(first_difference(*job, reads.sample) == "");
      } else {
        ++refused;
      }
      REQUIRE(threads_become(threads));
      CHECK(nothing_is_abandoned());
      if (n < 0) break;
    }
    CHECK(refused > 20);
  }
}

TEST_CASE("a lane that runs out of memory fails its job, and no read is lost") {
  testing::this_is_the_main_thread();
  const ManyReads reads;
  for (const EnginePreference engine : engines_here()) {
    for (const FaultKind fault : {FaultKind::late, FaultKind::error, FaultKind::flip}) {
      CAPTURE(testing::name_of(engine));
      CAPTURE(static_cast<int>(fault));
      for (long n = 0; n < 1000; ++n) {
        CAPTURE(n);
        const InjectedFaults faults({{20, fault, fault == FaultKind::error ? EIO : 1}});
        testing::fail_allocation_elsewhere(n);
        const auto job = LoadJob::start(reads.request(), ManyReads::options(engine));
        REQUIRE(job->wait_for(kPatience));
        const bool failed = testing::allocation_failed_elsewhere();
        if (job->outcome().failure()) {
          CHECK((job->outcome().failure()->error == EIO ||
                 job->outcome().failure()->error == ENOMEM));
        } else if (!job->outcome().damage()) {
          CHECK(fault == FaultKind::late);
          CHECK(first_difference(*job, reads.sample) == "");
        }
        if (!failed) {
          CHECK((n > 0) == (fault != FaultKind::late));  // reading and verifying allocate nothing
          break;
        }
        CHECK(job->outcome().failure().has_value());
      }
    }
  }
}

TEST_CASE("a lane that runs out of memory while it tries again fails its job as well") {
  testing::this_is_the_main_thread();
  const ManyReads reads;
  const ManyReads copies;
  for (const EnginePreference engine : engines_here()) {
    for (const FaultKind fault : {FaultKind::error, FaultKind::flip}) {
      CAPTURE(testing::name_of(engine));
      CAPTURE(static_cast<int>(fault));
      for (long n = 0; n < 1000; ++n) {
        CAPTURE(n);
        auto request = reads.request();
        request[0].replicas.push_back(copies.request()[0].replicas[0]);
        LoadOptions options = ManyReads::options(engine);
        options.persistent = true;
        options.lanes = 1;  // else the second fault may hit the second try, and no replica is left
        const InjectedFaults faults({{20, fault, fault == FaultKind::error ? EIO : 1},
                                     {40, fault, fault == FaultKind::error ? EIO : 1}});
        testing::fail_allocation_elsewhere(n);
        const auto job = LoadJob::start(std::move(request), options);
        REQUIRE(job->wait_for(kPatience));
        const bool failed = testing::allocation_failed_elsewhere();
        CHECK_FALSE(job->outcome().damage().has_value());
        if (!job->outcome().failure()) CHECK(first_difference(*job, reads.sample) == "");
        if (!failed) {
          CHECK(n > 0);
          CHECK(job->incidents().take().size() == 2);
          break;
        }
        REQUIRE(job->outcome().failure().has_value());
        CHECK(job->outcome().failure()->error == ENOMEM);
      }
    }
  }
}

}  // namespace
}  // namespace fastio
