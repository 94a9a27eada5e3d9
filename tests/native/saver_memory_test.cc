// A save whose memory runs out at any allocation, one after the other, or that gets no thread. It
// ends with an error, or with the file, and keeps nothing.
#include <doctest/doctest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <new>
#include <stdexcept>

#include "child_process.h"
#include "failing_memory.h"
#include "saving.h"

namespace fastio {
namespace {

using testing::FailingAllocation;
using testing::first_difference;
using testing::InjectedFaults;
using testing::kPatience;
using testing::nothing_is_abandoned;
using testing::on_every_engine_and_way;
using testing::run_to_the_end;
using testing::SampleOrigins;
using testing::save_options;
using testing::threads_become;
using testing::threads_of_this_process;
using testing::Way;
using testing::WrittenFile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kChunk = 64 * kKiB;

// So many blocks that a queue which grew with them would allocate.
class ManyWrites {
 public:
  ManyWrites() {
    origins.add_aligned(10 * kChunk);
    origins.add_strided(200, 300, 4);
    origins.add_unaligned(kChunk + 5);
  }

  [[nodiscard]] static SaveOptions options(EnginePreference engine) {
    SaveOptions options = save_options(engine, kChunk, 3);
    options.chunk_bytes = kChunk;
    return options;
  }

  SampleOrigins origins{4096};
};

TEST_CASE("a save that runs out of memory while it is made is refused") {
  const ManyWrites writes;
  const WrittenFile file;
  long refused = 0;
  for (long n = 0;; ++n) {
    auto origins = writes.origins.origins();
    const auto target = file.target();
    const FailingAllocation failing(n);
    try {
      static_cast<void>(
          SaveJob::make(target, std::move(origins), ManyWrites::options(EnginePreference::pread)));
      if (!FailingAllocation::came()) break;
    } catch (const std::bad_alloc&) {
      ++refused;
    }
  }
  CHECK(refused > 1);
}

TEST_CASE("a leg that runs out of memory while it starts is refused and leaves nothing behind") {
  testing::this_is_the_main_thread();
  const ManyWrites writes;
  on_every_engine_and_way([&](EnginePreference engine, Way way) {
    for (const Leg tried : {Leg::copied, way.leg}) {
      if (tried == Leg::copied && !way.copied) continue;
      const std::size_t threads = threads_of_this_process();
      bool came = true;
      long n = 0;
      for (; came; ++n) {
        CAPTURE(n);
        const WrittenFile file;
        const auto job =
            SaveJob::make(file.target(), writes.origins.origins(), ManyWrites::options(engine));
        const std::size_t blocks = job->block_count();
        if (way.copied && tried != Leg::copied) testing::run_leg(*job, Leg::copied, 0, blocks);
        try {
          const FailingAllocation failing(n);
          job->start(tried, 0, blocks);
          came = FailingAllocation::came();
        } catch (const std::bad_alloc&) {
        }
        REQUIRE(job->wait_for(kPatience));
        REQUIRE(threads_become(threads));
        CHECK(nothing_is_abandoned());
        CHECK_FALSE(job->has_failed());
        if (!came && tried != Leg::copied) {
          CHECK(first_difference(*job, file, writes.origins, kChunk) == "");
          continue;
        }
        try {  // a job that survives it goes on, and is right
          run_to_the_end(*job, {way.leg, false});
          CHECK(first_difference(*job, file, writes.origins, kChunk) == "");
        } catch (const std::logic_error&) {
        }
      }
      CHECK(n > 10);
    }
  });
}

TEST_CASE("a lane that runs out of memory fails its save, and no write is lost") {
  testing::this_is_the_main_thread();
  const ManyWrites writes;
  on_every_engine_and_way([&](EnginePreference engine, Way way) {
    for (const FaultKind fault : {FaultKind::late, FaultKind::error}) {
      CAPTURE(static_cast<int>(fault));
      for (long n = 0; n < 1000; ++n) {
        CAPTURE(n);
        const InjectedFaults faults({{8, fault, fault == FaultKind::error ? EIO : 1}});
        const WrittenFile file;
        const auto job =
            SaveJob::make(file.target(), writes.origins.origins(), ManyWrites::options(engine));
        testing::fail_allocation_elsewhere(n);
        run_to_the_end(*job, way);
        const bool failed = testing::allocation_failed_elsewhere();
        const auto failure = job->outcome().failure();
        if (failed) {
          REQUIRE(failure.has_value());
          CHECK((failure->error == EIO || failure->error == ENOMEM));
          CHECK(failure->path == file.path());
          continue;
        }
        CHECK(failure.has_value() == (fault == FaultKind::error));
        if (!failure) CHECK(first_difference(*job, file, writes.origins, kChunk) == "");
        CHECK(n > 0);  // strided tensors have their indices
        break;
      }
    }
  });
}

TEST_CASE("a lane that runs out of memory waits for the writes that are out") {
  testing::this_is_the_main_thread();
  const ManyWrites writes;
  on_every_engine_and_way([&](EnginePreference engine, Way way) {
    if (way.copied) return;  // then there are no strides to gather
    const InjectedFaults faults({{0, FaultKind::never, 0}});
    const WrittenFile file;
    SaveOptions options = ManyWrites::options(engine);
    options.lanes = 1;
    const auto job = SaveJob::make(file.target(), writes.origins.origins(), options);
    testing::fail_allocation_elsewhere(0);
    job->start(way.leg, 0, job->block_count());
    const auto end = std::chrono::steady_clock::now() + kPatience;
    while (!job->has_failed() && std::chrono::steady_clock::now() < end)
      static_cast<void>(job->wait_for(std::chrono::milliseconds(1)));
    CHECK(testing::allocation_failed_elsewhere());
    REQUIRE(job->has_failed());
    CHECK(job->outcome().failure()->error == ENOMEM);
    CHECK_FALSE(job->wait_for(std::chrono::milliseconds(50)));
    release_held_completions();
    CHECK(job->wait_for(kPatience));
    CHECK(nothing_is_abandoned());
  });
}

TEST_CASE("a save without threads" * doctest::skip()) {
  // The modes open to a user without files here: the file is opened by its descriptor.
  const ManyWrites writes;
  const WrittenFile file;
  REQUIRE(fchmod(file.fd(), 0666) == 0);
  if (geteuid() == 0) {
    REQUIRE(unlink(file.path().c_str()) == 0);  // the user nobody may not
    REQUIRE(testing::become_nobody());
  }
  rlimit threads{};
  REQUIRE(getrlimit(RLIMIT_NPROC, &threads) == 0);
  const rlimit none{0, threads.rlim_max};
  REQUIRE(setrlimit(RLIMIT_NPROC, &none) == 0);
  for (const bool copied : {false, true}) {
    for (const Leg leg : {Leg::buffered, Leg::direct}) {
      const auto target =
          TargetFile::adopt(file.fd(), file.path(), "/proc/self/fd/" + std::to_string(file.fd()));
      const auto job = SaveJob::make(target, writes.origins.origins(),
                                     ManyWrites::options(EnginePreference::pread));
      run_to_the_end(*job, {leg, copied});
      REQUIRE_FALSE(job->has_failed());
      target->truncate(writes.origins.end());
      const auto bytes = Region::allocate(0, writes.origins.end(), HugePages::off);
      REQUIRE(pread(file.fd(), bytes->at(0), bytes->nbytes(), 0) ==
              static_cast<ssize_t>(bytes->nbytes()));
      const auto expected = writes.origins.expected();
      CHECK(std::equal(expected.begin(), expected.end(), bytes->at(writes.origins.begin())));
      CHECK(job->digests() == writes.origins.digests(kChunk));
      CHECK(job->report().lanes == 1);
      REQUIRE_FALSE(job->outcome().fallbacks().empty());
      CHECK(job->outcome().fallbacks()[0].find("no thread") != std::string::npos);
    }
  }
  setrlimit(RLIMIT_NPROC, &threads);  // the leak sanitizer needs one in the end
}

TEST_CASE("without further threads the caller's does the work, and the report says so") {
#if defined(__SANITIZE_THREAD__)
  MESSAGE("not tested: the thread sanitizer dies when a thread cannot be started");
#else
  const auto child = testing::run_skipped_test_case("a save without threads");
  CAPTURE(child.text);
  CHECK(child.status == 0);
#endif
}

}  // namespace
}  // namespace fastio
