// One-in-a-million errors of disks on writes: retried, resumed, or an error with its place. A wrong
// byte is always reported.
#include <doctest/doctest.h>

#include <cerrno>

#include "saving.h"

namespace fastio {
namespace {

using testing::between;
using testing::engines_here;
using testing::first_difference;
using testing::InjectedFaults;
using testing::on_every_engine_and_way;
using testing::Random;
using testing::SampleOrigins;
using testing::save_options;
using testing::Way;
using testing::ways_here;
using testing::WrittenFile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kStart = 4096;
constexpr std::uint64_t kChunk = 64 * kKiB;
constexpr std::uint64_t kChunksPerBlock = 4;
constexpr std::uint64_t kBlock = kChunksPerBlock * kChunk;
constexpr std::uint64_t kBlocks = 8;  // the last one is short

// One block at a time in file order, so that the n-th completion is that of the n-th block. The
// first blocks are written straight from memory, later ones from staging.
class FaultySave {
 public:
  FaultySave() {
    origins.add_aligned(3 * kBlock);
    origins.add_unaligned(2 * kBlock);
    origins.add_strided(100, 200, 4);
    origins.add_swapped((7 * kBlock + 3 * kChunk + 1000 - origins.expected().size()) / 2, 2);
  }

  std::shared_ptr<SaveJob> run(EnginePreference engine, Way way, std::vector<Fault> faults) {
    return run(save_options(engine, kBlock, 1, 1), way, std::move(faults));
  }

  std::shared_ptr<SaveJob> run(SaveOptions options, Way way, std::vector<Fault> faults) {
    const InjectedFaults injected(std::move(faults));
    file = std::make_unique<WrittenFile>();
    options.chunk_bytes = kChunk;
    auto job = SaveJob::make(file->target(), origins.origins(), options);
    testing::run_to_the_end(*job, way);
    return job;
  }

  void check_right(SaveJob& job) const {
    CHECK(first_difference(job, *file, origins, kChunk) == "");
    CHECK(job.bytes_done() == job.bytes_total());
    CHECK(job.outcome().fallbacks().empty());  // as an unaligned write would leave one
  }

  std::unique_ptr<WrittenFile> file;
  SampleOrigins origins{kStart};
};

template <typename Test>
void on_every_engine_and_way_of_a_save(Test&& test) {
  FaultySave save;
  on_every_engine_and_way([&](EnginePreference engine, Way way) { test(save, engine, way); });
}

TEST_CASE("a write that fails ends the job with its errno, its path and its offset") {
  on_every_engine_and_way_of_a_save([](FaultySave& save, EnginePreference engine, Way way) {
    for (const int error : {EIO, ENOSPC, EDQUOT}) {
      for (const std::uint64_t block : {std::uint64_t{0}, std::uint64_t{3}, kBlocks - 1}) {
        const auto job = save.run(engine, way, {{block, FaultKind::error, error}});
        REQUIRE(job->outcome().failure().has_value());
        CHECK(job->outcome().failure()->error == error);
        CHECK(job->outcome().failure()->operation == "write");
        CHECK(job->outcome().failure()->kind == Failure::Kind::write);
        CHECK(job->outcome().failure()->path == save.file->path());
        CHECK(job->outcome().failure()->offset == kStart + block * kBlock);
        CHECK(job->bytes_done() == block * kBlock);  // and no block after it was begun
        CHECK(job->wait_until_released(std::chrono::milliseconds(0)));
        CHECK_THROWS_AS(job->start(way.leg, 0, job->block_count()), std::logic_error);
      }
    }
  });
}

TEST_CASE("of several failed writes the first in the file is told") {
  FaultySave save;
  for (const EnginePreference engine : engines_here()) {
    std::vector<Fault> faults;
    for (std::uint64_t at = 0; at < kBlocks; ++at) faults.push_back({at, FaultKind::error, EIO});
    const auto job = save.run(save_options(engine, kBlock, 4, 2), {}, faults);
    REQUIRE(job->outcome().failure().has_value());
    REQUIRE(job->outcome().failure()->offset.has_value());
    CHECK((*job->outcome().failure()->offset - kStart) % kBlock == 0);
    CHECK(job->bytes_done() == 0);
  }
}

TEST_CASE("a write that meets EAGAIN or EINTR is tried again") {
  on_every_engine_and_way_of_a_save([](FaultySave& save, EnginePreference engine, Way way) {
    std::vector<Fault> faults;
    for (std::uint64_t at = 0; at < 40; ++at)
      faults.push_back({at, FaultKind::error, at % 2 == 0 ? EAGAIN : EINTR});
    save.check_right(*save.run(engine, way, faults));
  });
}

TEST_CASE("a write that meets EAGAIN without an end is an error in the end") {
  on_every_engine_and_way_of_a_save([](FaultySave& save, EnginePreference engine, Way way) {
    std::vector<Fault> faults;
    for (std::uint64_t at = 2; at < 1000; ++at) faults.push_back({at, FaultKind::error, EAGAIN});
    const auto job = save.run(engine, way, faults);
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->error == EAGAIN);
    CHECK(job->outcome().failure()->offset == kStart + 2 * kBlock);
    CHECK(job->outcome().failure()->detail.find("no progress") != std::string::npos);
  });
}

TEST_CASE("a write that writes nothing is tried again, and without an end it is an error") {
  on_every_engine_and_way_of_a_save([](FaultySave& save, EnginePreference engine, Way way) {
    save.check_right(*save.run(engine, way, {{4, FaultKind::zero, 0}, {5, FaultKind::zero, 0}}));
    std::vector<Fault> faults;
    for (std::uint64_t at = 0; at < 1000; ++at) faults.push_back({at, FaultKind::zero, 0});
    const auto job = save.run(engine, way, faults);
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->error == EIO);
    CHECK(job->outcome().failure()->offset == kStart);
    CHECK(job->outcome().failure()->detail.find("no progress") != std::string::npos);
  });
}

TEST_CASE("a short write is resumed, a direct one at the aligned offset below") {
  on_every_engine_and_way_of_a_save([](FaultySave& save, EnginePreference engine, Way way) {
    for (const std::uint64_t block : {std::uint64_t{1}, std::uint64_t{3}, kBlocks - 1}) {
      for (const std::int64_t kept : {4096LL, 4097LL, 100'001LL, 197'000LL}) {
        CAPTURE(block);
        CAPTURE(kept);
        save.check_right(*save.run(
            engine, way, {{block, FaultKind::cut, kept}, {block + 1, FaultKind::cut, kept}}));
      }
    }
  });
}

TEST_CASE("a short write that ends inside the last unit is the end of a save") {
  on_every_engine_and_way_of_a_save([](FaultySave& save, EnginePreference engine, Way way) {
    const auto left = static_cast<std::int64_t>(save.origins.expected().size() % kBlock);
    for (const std::int64_t kept : {left - 1, left, left + 1})
      save.check_right(*save.run(engine, way, {{kBlocks - 1, FaultKind::cut, kept}}));
  });
}

TEST_CASE(
    "a write shorter than the alignment is tried again, but not for ever where it is direct") {
  on_every_engine_and_way_of_a_save([](FaultySave& save, EnginePreference engine, Way way) {
    for (const std::int64_t kept : {1LL, 4095LL}) {
      CAPTURE(kept);
      std::vector<Fault> faults;
      for (std::uint64_t at = 1; at < 20; ++at) faults.push_back({at, FaultKind::cut, kept});
      save.check_right(*save.run(engine, way, faults));
    }
    if (way.leg != Leg::direct) return;
    std::vector<Fault> faults;
    for (std::uint64_t at = 0; at < 200; ++at) faults.push_back({at, FaultKind::cut, 4095});
    const auto job = save.run(engine, way, faults);
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->error == EIO);
  });
}

TEST_CASE("a buffered write that is refused with EINVAL is an error") {
  FaultySave save;
  for (const EnginePreference engine : engines_here()) {
    const auto job = save.run(engine, {}, {{2, FaultKind::error, EINVAL}});
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->error == EINVAL);
    CHECK(job->outcome().failure()->offset == kStart + 2 * kBlock);
    CHECK(job->outcome().fallbacks().empty());
  }
}

TEST_CASE("late writes are waited for, and may come in any order") {
  on_every_engine_and_way_of_a_save([](FaultySave& save, EnginePreference engine, Way way) {
    std::vector<Fault> faults{{1, FaultKind::late, 100}};
    for (std::uint64_t at = 0; at < kBlocks; at += 2) faults.push_back({at, FaultKind::reorder, 0});
    save.check_right(*save.run(engine, way, faults));
    save.check_right(*save.run(save_options(engine, kBlock, 4, 2), way, faults));
  });
}

TEST_CASE("the file is right after late, short, repeated and reordered completions") {
  const std::uint64_t seed = testing::random_seed();
  Random random(seed);
  FaultySave save;
  const auto engines = engines_here();
  const auto ways = ways_here();
  for (int i = 0; i < testing::random_cases(30); ++i) {
    INFO("FASTIO_TEST_SEED=", seed, ", job ", i);
    std::vector<Fault> faults;
    for (std::uint64_t at = 0; at < 80; ++at) {
      const auto some = static_cast<std::int64_t>(between(random, 1, kBlock));
      switch (between(random, 0, 7)) {
        case 0:
          faults.push_back({at, FaultKind::error, some % 2 == 0 ? EAGAIN : EINTR});
          break;
        case 1:
          faults.push_back({at, FaultKind::cut, some});
          break;
        case 2:
          faults.push_back({at, FaultKind::late, some % 5});
          break;
        case 3:
          faults.push_back({at, FaultKind::reorder, 0});
          break;
        case 4:
          faults.push_back({at, FaultKind::zero, 0});
          break;
        default:
          break;
      }
    }
    const SaveOptions options = save_options(
        engines[between(random, 0, engines.size() - 1)], kChunk * between(random, 1, 4),
        static_cast<unsigned>(between(random, 1, 8)), static_cast<unsigned>(between(random, 1, 3)));
    save.check_right(*save.run(options, ways[between(random, 0, ways.size() - 1)], faults));
  }
}

TEST_CASE("a descriptor that cannot be written to is an error of the first write") {
  SampleOrigins origins(0);
  origins.add_unaligned(kBlock);
  const testing::SampleFile sample(testing::Place::disk, 100);
  const auto readable = File::open(sample.path());
  for (const EnginePreference engine : engines_here()) {
    const auto target = TargetFile::adopt(readable->buffered_fd(), sample.path(), sample.path());
    const auto job = SaveJob::make(target, origins.origins(), save_options(engine, kBlock));
    testing::run_leg(*job, Leg::buffered, 0, 1);
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->error == EBADF);
    CHECK(job->outcome().failure()->offset == 0);
  }
}

}  // namespace
}  // namespace fastio
