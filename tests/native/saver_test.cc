// Tensors in memory are written to a file, in every layout, every way and on every engine.
#include "saver.h"

#include <doctest/doctest.h>
#include <fcntl.h>

#include <stdexcept>

#include "saving.h"

namespace fastio {
namespace {

using testing::between;
using testing::engines_here;
using testing::first_difference;
using testing::on_every_engine_and_way;
using testing::Random;
using testing::run_leg;
using testing::run_to_the_end;
using testing::SampleOrigins;
using testing::save_options;
using testing::Way;
using testing::ways_here;
using testing::WrittenFile;

constexpr std::uint64_t kKiB = 1024;
constexpr std::uint64_t kMiB = 1024 * kKiB;
constexpr std::uint64_t kStart = 4096;

std::shared_ptr<SaveJob> make(const WrittenFile& file, const SampleOrigins& origins,
                              const SaveOptions& options) {
  return SaveJob::make(file.target(), origins.origins(), options);
}

TEST_CASE("the file has the bytes and digests of tensors of any layout") {
  const std::uint64_t seed = testing::random_seed();
  Random random(seed);
  const auto engines = engines_here();
  const auto ways = ways_here();
  for (int i = 0; i < testing::random_cases(60); ++i) {
    INFO("FASTIO_TEST_SEED=", seed, ", save ", i);
    SampleOrigins origins(kStart * between(random, 0, 3), random());
    const bool tiny = between(random, 0, 2) == 0;
    for (std::uint64_t n = tiny ? 400 : between(random, 0, 9); n > 0; --n)
      origins.add_random(tiny ? 300 : 400 * kKiB);
    SaveOptions options = save_options(engines[between(random, 0, engines.size() - 1)],
                                       between(random, 1, 512 * kKiB));
    options.chunk_bytes = 64 * kKiB * between(random, 0, 3);
    options.queue_depth = static_cast<unsigned>(between(random, 1, 8));
    options.lanes = static_cast<unsigned>(between(random, 1, 3));
    if (between(random, 0, 1) != 0)
      options.memory_limit_bytes = origins.expected().size() + between(random, 192, 4096) * kKiB;
    const Way way = ways[between(random, 0, ways.size() - 1)];
    CAPTURE(testing::name_of(options.engine));
    CAPTURE(testing::name_of(way));
    const WrittenFile file;
    const auto job = make(file, origins, options);
    if (between(random, 0, 1) != 0) job->file()->reserve(origins.end());
    run_to_the_end(*job, way);
    REQUIRE(first_difference(*job, file, origins, options.chunk_bytes) == "");
    CHECK(job->bytes_total() == origins.expected().size());
    CHECK(job->bytes_done() == job->bytes_total());
    const SaveCounters& counters = job->counters();
    CHECK(counters.bytes_direct == (way.leg == Leg::direct ? job->bytes_total() : 0));
    CHECK(counters.bytes_direct + counters.bytes_buffered == job->bytes_total());
    CHECK(job->outcome().fallbacks().empty());
  }
}

TEST_CASE("blocks that are written in order reach the file one behind the other") {
  Random random(testing::random_seed());
  for (const EnginePreference engine : engines_here()) {
    for (const bool copied : {false, true}) {
      CAPTURE(testing::name_of(engine));
      CAPTURE(copied);
      SampleOrigins origins(kStart, random());
      for (int n = 0; n < 9; ++n) origins.add_random(900 * kKiB);
      SaveOptions options = save_options(engine, 128 * kKiB, 8, 3);
      options.chunk_bytes = 64 * kKiB;
      const WrittenFile refused;
      const WrittenFile file;
      const auto job = make(refused, origins, options);
      if (copied) run_leg(*job, Leg::copied, 0, job->block_count());
      run_leg(*job, Leg::summed, 0, job->block_count());
      CHECK(job->digests() == origins.digests(options.chunk_bytes));
      // Linux appends each write to such a descriptor, whatever the offset is.
      file.target()->truncate(kStart);
      const Descriptor appending(::open(file.path().c_str(), O_WRONLY | O_APPEND | O_CLOEXEC));
      REQUIRE(appending.valid());
      job->write_to(TargetFile::adopt(appending.get(), file.path(), file.path()));
      run_leg(*job, Leg::in_order, 0, job->block_count());
      REQUIRE(first_difference(*job, file, origins, options.chunk_bytes) == "");
      CHECK(refused.bytes().empty());
      CHECK(job->counters().bytes_buffered == job->bytes_total());
    }
  }
}

TEST_CASE("gather puts all bytes one behind the other, and nothing where there are none") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(50); ++i) {
    SampleOrigins origins(between(random, 0, 9) * 16, random());
    for (std::uint64_t n = between(random, 0, 20); n > 0; --n) origins.add_random(4000);
    std::vector<std::byte> out(origins.expected().size());
    gather(origins.origins(), out);
    REQUIRE(std::equal(out.begin(), out.end(), origins.expected().begin()));
    out.resize(out.size() + 1);
    if (!origins.origins().extents.empty())
      CHECK_THROWS_AS(gather(origins.origins(), out), std::invalid_argument);
  }
}

TEST_CASE("blocks are whole chunks, and of the size asked for where that is one") {
  const WrittenFile file;
  SampleOrigins origins(0);
  origins.add_unaligned(3 * kMiB + 1);
  for (const auto& [asked, chunk, made] :
       {std::array{256 * kKiB, std::uint64_t{0}, 256 * kKiB},
        std::array{std::uint64_t{1}, std::uint64_t{0}, 64 * kKiB},
        std::array{65 * kKiB, std::uint64_t{0}, 128 * kKiB}, std::array{64 * kKiB, kMiB, kMiB},
        std::array{kMiB + 1, kMiB, 2 * kMiB}, std::array{512 * kKiB, 64 * kKiB, 512 * kKiB}}) {
    SaveOptions options = save_options(EnginePreference::pread, asked);
    options.chunk_bytes = chunk;
    const auto job = make(file, origins, options);
    CHECK(job->block_bytes() == made);
    CHECK(job->block_count() == 3 * kMiB / made + 1);
    CHECK(job->digests().size() == (chunk == 0 ? 0 : 3 * kMiB / chunk + 1));
  }
}

TEST_CASE("bytes in one piece at an aligned address are written from where they lie") {
  on_every_engine_and_way([](EnginePreference engine, Way way) {
    SampleOrigins origins(kStart);
    origins.add_aligned(kMiB);
    origins.add_aligned(kMiB);
    const WrittenFile file;
    SaveOptions options = save_options(engine, 256 * kKiB);
    options.chunk_bytes = 64 * kKiB;
    const auto job = make(file, origins, options);
    run_to_the_end(*job, way);
    CHECK(first_difference(*job, file, origins, options.chunk_bytes) == "");
    CHECK(job->counters().bytes_gathered == 0);
  });
}

TEST_CASE("tensors that cannot be written straight from memory are gathered, and reported") {
  for (const EnginePreference engine : engines_here()) {
    for (const Way& way : ways_here()) {
      if (way.copied) continue;
      CAPTURE(testing::name_of(way));
      SampleOrigins origins(kStart);
      origins.add_unaligned(kMiB);       // gathered only for a direct write
      origins.add_swapped(kMiB / 8, 8);  // always
      origins.add_aligned(kMiB + 100);   // except for the end, which no direct write takes
      const WrittenFile file;
      const auto job = make(file, origins, save_options(engine, 256 * kKiB));
      run_to_the_end(*job, way);
      CHECK(first_difference(*job, file, origins) == "");
      CHECK(job->counters().bytes_gathered == (way.leg == Leg::direct ? 2 * kMiB + 100 : kMiB));
    }
  }
}

TEST_CASE("a direct write fills the last unit with zeros, and the file is cut afterwards") {
  for (const EnginePreference engine : engines_here()) {
    for (const Way& way : ways_here()) {
      if (way.leg != Leg::direct) continue;
      for (const std::uint64_t nbytes : {1U, 4095U, 4096U, 4097U, 65'537U, 300'000U}) {
        CAPTURE(nbytes);
        SampleOrigins origins(2 * kStart);  // gathered into a buffer that held other bytes before
        origins.add_unaligned(nbytes);
        const WrittenFile file;
        const auto job = make(file, origins, save_options(engine, 64 * kKiB, 1, 1));
        run_to_the_end(*job, way);
        const auto bytes = file.bytes();
        REQUIRE(bytes.size() == 2 * kStart + (nbytes + 4095) / 4096 * 4096);
        CHECK(std::all_of(bytes.begin() + static_cast<std::ptrdiff_t>(origins.end()), bytes.end(),
                          [](std::byte b) { return b == std::byte{0}; }));
        CHECK(first_difference(*job, file, origins) == "");
      }
    }
  }
}

TEST_CASE("legs follow one another over ranges of blocks, each in its own way") {
  const auto ways = ways_here();
  for (const EnginePreference engine : engines_here()) {
    for (const bool copied : {false, true}) {
      SampleOrigins origins(kStart);
      for (int i = 0; i < 12; ++i) origins.add_random(200 * kKiB);
      origins.add_unaligned(kMiB);
      const WrittenFile file;
      SaveOptions options = save_options(engine, 128 * kKiB);
      options.chunk_bytes = 64 * kKiB;
      const auto job = make(file, origins, options);
      if (copied) run_leg(*job, Leg::copied, 0, job->block_count());
      const std::size_t third = job->block_count() / 3;
      const Leg other = ways.size() > 2 ? Leg::direct : Leg::buffered;
      run_leg(*job, other, 0, third);
      CHECK(job->bytes_done() == third * job->block_bytes());
      run_leg(*job, Leg::buffered, third, 2 * third);
      CHECK(job->bytes_done() == 2 * third * job->block_bytes());
      run_leg(*job, other, 2 * third, 2 * third);  // of nothing
      run_leg(*job, other, 2 * third, job->block_count());
      CHECK(first_difference(*job, file, origins, options.chunk_bytes) == "");
    }
  }
}

TEST_CASE("changes after the copying leg do not reach the file") {
  on_every_engine_and_way([](EnginePreference engine, Way way) {
    if (!way.copied) return;
    SampleOrigins origins(kStart);
    origins.add_aligned(kMiB);
    origins.add_strided(300, 500, 4);
    origins.add_swapped(50'000, 2);
    const WrittenFile file;
    SaveOptions options = save_options(engine, 128 * kKiB);
    options.chunk_bytes = 128 * kKiB;
    const auto job = make(file, origins, options);
    run_leg(*job, Leg::copied, 0, job->block_count());
    CHECK(job->bytes_done() == 0);
    CHECK(job->counters().bytes_gathered == 0);
    CHECK(job->wait_until_released(std::chrono::milliseconds(0)));
    origins.overwrite_memory();
    run_leg(*job, way.leg, 0, job->block_count());
    CHECK(first_difference(*job, file, origins, options.chunk_bytes) == "");
  });
}

TEST_CASE("a save of nothing is done at once, and has no digests") {
  on_every_engine_and_way([](EnginePreference engine, Way way) {
    for (const int empty_tensors : {0, 3}) {
      SampleOrigins origins(kStart);
      for (int i = 0; i < empty_tensors; ++i) origins.add_aligned(0);
      const WrittenFile file;
      SaveOptions options = save_options(engine, 128 * kKiB);
      options.chunk_bytes = 64 * kKiB;
      const auto job = make(file, origins, options);
      CHECK(job->block_count() == 0);
      run_to_the_end(*job, way);
      CHECK_FALSE(job->has_failed());
      CHECK(job->digests().empty());
      CHECK(job->report().engine == "none");
      CHECK(file.bytes().empty());
    }
  });
}

TEST_CASE("the engine is told, and why") {
  for (const EnginePreference engine : engines_here()) {
    SampleOrigins origins(0);
    origins.add_unaligned(1000);
    const WrittenFile file(testing::Place::memory);
    const auto job = make(file, origins, save_options(engine, kMiB));
    run_leg(*job, Leg::buffered, 0, 1);
    CHECK(job->report().engine == testing::name_of(engine));
    CHECK(job->report().engine_reason == "asked for");
    CHECK(job->report().lanes == 1);
    CHECK(first_difference(*job, file, origins) == "");
  }
}

}  // namespace
}  // namespace fastio
