// Memory that changes during a save: the file agrees with its table in every case.
#include <doctest/doctest.h>

#include <algorithm>
#include <cerrno>

#include "checksum.h"
#include "saving.h"

namespace fastio {
namespace {

using testing::engines_here;
using testing::InjectedFaults;
using testing::on_every_engine_and_way;
using testing::run_leg;
using testing::SampleOrigins;
using testing::save_options;
using testing::Way;
using testing::ways_here;
using testing::WrittenFile;

constexpr std::uint64_t kStart = 4096;
constexpr std::uint64_t kChunk = std::uint64_t{64} << 10;
constexpr std::uint64_t kBlock = 2 * kChunk;
constexpr std::uint64_t kBlocks = 6;

// Tensors that are written straight from their memory, while a fault changes them.
class ChangingSave {
 public:
  explicit ChangingSave(std::uint64_t nbytes = kBlocks * kBlock) { origins.add_aligned(nbytes); }

  std::shared_ptr<SaveJob> make(EnginePreference engine, unsigned queue_depth = 1,
                                unsigned lanes = 1, std::uint64_t chunk_bytes = kChunk) {
    SaveOptions options = save_options(engine, kBlock, queue_depth, lanes);
    options.chunk_bytes = chunk_bytes;
    return SaveJob::make(file.target(), origins.origins(), options);
  }

  [[nodiscard]] std::vector<std::byte> data() const {
    auto bytes = file.bytes();
    bytes.erase(bytes.begin(), bytes.begin() + kStart);
    bytes.resize(origins.expected().size());
    return bytes;
  }

  // The bytes of the file.
  [[nodiscard]] Digests digests() const { return digests_of(default_algorithm(), data(), kChunk); }

  [[nodiscard]] std::vector<std::byte> memory() const {
    std::vector<std::byte> bytes(origins.expected().size());
    gather(origins.origins(), bytes);
    return bytes;
  }

  WrittenFile file;
  SampleOrigins origins{kStart};
};

std::uint64_t rewritten(const SaveJob& job) { return job.counters().bytes_rewritten; }

// Blocks before the changed one, too: they may have changed and changed back. The next block may be
// in flight before the change is seen.
void check_rewritten(const SaveJob& job, std::uint64_t changed) {
  CHECK(rewritten(job) >= (changed + 1) * kBlock);
  CHECK(rewritten(job) <= std::min(changed + 2, kBlocks) * kBlock);
}

TEST_CASE("a block that changes while it is written is copied and written again") {
  for (const EnginePreference engine : engines_here()) {
    for (const Way& way : ways_here()) {
      if (way.copied) continue;
      for (const std::uint64_t block : {std::uint64_t{0}, std::uint64_t{3}, kBlocks - 1}) {
        for (const std::int64_t at : {std::int64_t{0}, std::int64_t{kBlock - 1}}) {
          CAPTURE(testing::name_of(way));
          CAPTURE(block);
          CAPTURE(at);
          ChangingSave save;
          const InjectedFaults injected({{block, FaultKind::change, at}});
          const auto job = save.make(engine);
          run_leg(*job, way.leg, 0, kBlocks);
          REQUIRE_FALSE(job->has_failed());
          CHECK(save.digests() == job->digests());
          CHECK(save.data() == save.memory());
          CHECK(job->bytes_done() == job->bytes_total());
          check_rewritten(*job, block);
          CHECK(job->counters().bytes_gathered == kBlocks * kBlock);
          REQUIRE(job->outcome().fallbacks().size() == 1);
          CHECK(job->outcome().fallbacks().front().find("changed while they were saved") !=
                std::string::npos);
        }
      }
    }
  }
}

TEST_CASE("one change that is seen casts doubt on all that was written from memory") {
  for (const EnginePreference engine : engines_here()) {
    for (const Way& way : ways_here()) {
      if (way.copied) continue;
      CAPTURE(testing::name_of(way));
      ChangingSave save;
      const InjectedFaults injected({{0, FaultKind::waver, 5},
                                     {2, FaultKind::waver, kBlock - 1},
                                     {4, FaultKind::change, 77}});
      const auto job = save.make(engine);
      run_leg(*job, way.leg, 0, kBlocks);
      REQUIRE_FALSE(job->has_failed());
      CHECK(save.digests() == job->digests());
      CHECK(save.data() == save.memory());
      check_rewritten(*job, 4);
    }
  }
}

TEST_CASE("blocks of an earlier leg are written again, too") {
  for (const EnginePreference engine : engines_here()) {
    ChangingSave save;
    const InjectedFaults injected({{1, FaultKind::waver, 5}, {3, FaultKind::change, 5}});
    const auto job = save.make(engine);
    run_leg(*job, ways_here().back().leg, 0, 2);
    CHECK(rewritten(*job) == 0);
    run_leg(*job, Leg::buffered, 2, 4);
    CHECK(rewritten(*job) == 4 * kBlock);
    CHECK(job->bytes_done() == 4 * kBlock);
    run_leg(*job, ways_here().back().leg, 4, kBlocks);
    REQUIRE_FALSE(job->has_failed());
    CHECK(rewritten(*job) == 4 * kBlock);
    CHECK(save.digests() == job->digests());
    CHECK(save.data() == save.memory());
  }
}

TEST_CASE("many lanes with many writes in flight leave a file that agrees with its table") {
  for (const EnginePreference engine : engines_here()) {
    for (const Way& way : ways_here()) {
      if (way.copied) continue;
      for (std::uint64_t at = 0; at < 24; at += 3) {
        CAPTURE(at);
        ChangingSave save(24 * kBlock);
        // All writes that end before the change is seen are from memory.
        std::vector<Fault> faults;
        for (std::uint64_t n = 0; n < at; ++n) faults.push_back({n, FaultKind::waver, 6});
        faults.push_back({at, FaultKind::change, 5});
        const InjectedFaults injected(faults);
        const auto job = save.make(engine, 4, 3);
        run_leg(*job, way.leg, 0, job->block_count());
        REQUIRE_FALSE(job->has_failed());
        CHECK(save.digests() == job->digests());
        CHECK(job->bytes_done() == job->bytes_total());
      }
    }
  }
}

TEST_CASE("a write of a changed block that fails ends the job as any other") {
  for (const EnginePreference engine : engines_here()) {
    ChangingSave save;
    const InjectedFaults injected({{1, FaultKind::change, 5}, {kBlocks, FaultKind::error, EIO}});
    const auto job = save.make(engine);
    run_leg(*job, Leg::buffered, 0, kBlocks);
    REQUIRE(job->outcome().failure().has_value());
    CHECK(job->outcome().failure()->error == EIO);
    CHECK(job->outcome().failure()->offset == kStart + kBlock);
  }
}

TEST_CASE("tensors that were copied first are not compared, nor those without checksums") {
  for (const EnginePreference engine : engines_here()) {
    ChangingSave copied;
    const auto job = copied.make(engine);
    run_leg(*job, Leg::copied, 0, kBlocks);
    copied.origins.overwrite_memory();
    run_leg(*job, Leg::buffered, 0, kBlocks);
    REQUIRE_FALSE(job->has_failed());
    CHECK(rewritten(*job) == 0);
    CHECK(copied.digests() == job->digests());

    ChangingSave plain;
    const InjectedFaults injected({{1, FaultKind::change, 5}});
    const auto unsummed = plain.make(engine, 1, 1, 0);
    run_leg(*unsummed, Leg::buffered, 0, unsummed->block_count());
    REQUIRE_FALSE(unsummed->has_failed());
    CHECK(rewritten(*unsummed) == 0);
  }
}

}  // namespace
}  // namespace fastio
