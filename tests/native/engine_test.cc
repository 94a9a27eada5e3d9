// The contract of both engines; each test runs on each of them.
#include "engine.h"

#include <doctest/doctest.h>

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <thread>
#include <vector>

#include "file.h"
#include "loading.h"
#include "memory.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::engines_here;
using testing::Place;
using testing::Random;
using testing::SampleFile;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kPage = 4096;

std::unique_ptr<Engine> make_engine(EnginePreference kind, unsigned queue_depth) {
  return kind == EnginePreference::uring ? make_uring_engine(queue_depth)
                                         : make_pread_engine(queue_depth);
}

// Waits until `count` requests have completed; a timeout returns fewer.
std::vector<Completion> wait_for(Engine& engine, std::size_t count) {
  std::vector<Completion> completions(count);
  std::size_t taken = 0;
  const auto end = std::chrono::steady_clock::now() + testing::kPatience;
  while (taken < count && std::chrono::steady_clock::now() < end) {
    taken += engine.wait(std::span(completions).subspan(taken), 100ms);
  }
  completions.resize(taken);
  return completions;
}

TEST_CASE("all bytes are right with many requests in flight that complete in any order") {
  constexpr unsigned kDepth = 32;
  constexpr std::uint32_t kSlotBytes = 64 * 1024;
  const SampleFile sample(Place::disk, 4 * kMiB + 17);
  const auto file = File::open(sample.path());
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    const std::uint64_t seed = testing::random_seed();
    INFO("FASTIO_TEST_SEED=", seed);
    Random random(seed);
    const auto engine = make_engine(kind, kDepth);
    std::vector<std::byte> memory(std::size_t{kDepth} * kSlotBytes);
    std::vector<IoRequest> requests(kDepth);
    std::vector<std::uint32_t> idle;
    for (std::uint32_t tag = 0; tag < kDepth; ++tag) idle.push_back(tag);
    std::size_t wrong = 0;
    std::size_t submitted = 0;
    std::size_t completed = 0;
    while (completed < 1000) {
      std::vector<IoRequest> batch;
      while (!idle.empty() && submitted < 1000 && between(random, 0, 3) != 0) {
        const std::uint32_t tag = idle.back();
        idle.pop_back();
        const auto nbytes = static_cast<std::uint32_t>(between(random, 1, kSlotBytes));
        requests[tag] = {file->buffered_fd(), between(random, 0, file->nbytes() - nbytes),
                         memory.data() + std::size_t{tag} * kSlotBytes, nbytes, tag};
        batch.push_back(requests[tag]);
        ++submitted;
      }
      engine->submit(batch);
      if (submitted == completed) continue;
      std::vector<Completion> completions(between(random, 1, kDepth));
      const std::size_t taken = engine->wait(completions, 1000ms);
      for (const Completion& completion : std::span(completions).first(taken)) {
        const IoRequest& request = requests[completion.tag];
        if (completion.result != static_cast<std::int32_t>(request.nbytes) ||
            std::memcmp(request.data, sample.bytes().data() + request.offset, request.nbytes) !=
                0) {
          ++wrong;
        }
        idle.push_back(completion.tag);
      }
      completed += taken;
    }
    CHECK(wrong == 0);
    CHECK(idle.size() == kDepth);
  }
}

TEST_CASE("a direct read lands where it shall") {
  const SampleFile sample(Place::disk, kMiB);
  const auto file = File::open(sample.path());
  const DirectAccess direct = file->direct_access();
  if (!direct.possible) {
    MESSAGE("not tested: ", direct.reason);
    return;
  }
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    const auto region = Region::allocate(direct.alignment, kMiB, HugePages::automatic);
    const auto engine = make_engine(kind, 4);
    const auto nbytes = static_cast<std::uint32_t>(8 * direct.alignment);
    const IoRequest request{file->direct_fd(), direct.alignment, region->at(direct.alignment),
                            nbytes, 3};
    engine->submit({&request, 1});
    const auto completions = wait_for(*engine, 1);
    REQUIRE(completions.size() == 1);
    CHECK(completions[0].tag == 3);
    CHECK(completions[0].result == static_cast<std::int32_t>(nbytes));
    CHECK(std::memcmp(request.data, sample.bytes().data() + direct.alignment, nbytes) == 0);
  }
}

TEST_CASE("a read at the end of the file is short, one behind it brings nothing") {
  const SampleFile sample(Place::disk, 10'000);
  const auto file = File::open(sample.path());
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    const auto engine = make_engine(kind, 2);
    std::vector<std::byte> memory(2 * kPage);
    const std::vector<IoRequest> requests{
        {file->buffered_fd(), 8192, memory.data(), 4096, 0},
        {file->buffered_fd(), 20'000, memory.data() + kPage, 4096, 1}};
    engine->submit(requests);
    for (const Completion& completion : wait_for(*engine, 2)) {
      CHECK(completion.result == (completion.tag == 0 ? 1808 : 0));
    }
  }
}

TEST_CASE("a bad descriptor is an error of its request, and the others of its batch are read") {
  const SampleFile sample(Place::disk, 16 * kPage);
  const auto file = File::open(sample.path());
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    constexpr std::uint32_t kRequests = 5;
    const auto engine = make_engine(kind, kRequests);
    std::vector<std::byte> memory(kRequests * kPage);
    std::vector<IoRequest> requests;
    for (std::uint32_t tag = 0; tag < kRequests; ++tag) {
      const int fd = tag % 2 == 1 ? 1'000'000 : file->buffered_fd();
      requests.push_back({fd, tag * kPage, memory.data() + tag * kPage, 4096, tag});
    }
    engine->submit(requests);
    const auto completions = wait_for(*engine, kRequests);
    REQUIRE(completions.size() == kRequests);
    for (const Completion& completion : completions) {
      CAPTURE(completion.tag);
      CHECK(completion.result == (completion.tag % 2 == 1 ? -EBADF : 4096));
    }
    CHECK(std::memcmp(memory.data(), sample.bytes().data(), 4096) == 0);
  }
}

TEST_CASE("a wait with nothing in flight ends with its time, not before") {
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    const auto engine = make_engine(kind, 4);
    std::vector<Completion> completions(4);
    for (const auto timeout : {0ms, 50ms}) {
      const auto begin = std::chrono::steady_clock::now();
      CHECK(engine->wait(completions, timeout) == 0);
      const auto taken = std::chrono::steady_clock::now() - begin;
      CHECK(taken >= timeout);
      CHECK(taken < timeout + testing::kPatience);
    }
  }
}

TEST_CASE("a signal does not end a wait before its time, nor does it lose a read") {
  struct sigaction handler {};
  struct sigaction before {};
  handler.sa_handler = [](int) {};  // and no SA_RESTART: system calls return with EINTR
  REQUIRE(sigaction(SIGUSR1, &handler, &before) == 0);
  const SampleFile sample(Place::disk, 16 * kPage);
  const auto file = File::open(sample.path());
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    const auto engine = make_engine(kind, 1);
    std::atomic<bool> done{false};
    std::thread disturber([&, waiting = pthread_self()] {
      while (!done) {
        pthread_kill(waiting, SIGUSR1);
        std::this_thread::sleep_for(1ms);
      }
    });
    std::vector<Completion> completions(1);
    const auto begin = std::chrono::steady_clock::now();
    const std::size_t taken = engine->wait(completions, 50ms);
    const auto waited = std::chrono::steady_clock::now() - begin;
    std::vector<std::byte> memory(4096);
    std::size_t right = 0;
    for (std::uint64_t offset = 0; offset < file->nbytes(); offset += 4096) {
      const IoRequest request{file->buffered_fd(), offset, memory.data(), 4096, 0};
      engine->submit({&request, 1});
      if (engine->wait(completions, testing::kPatience) != 1) break;
      if (std::memcmp(memory.data(), sample.bytes().data() + offset, 4096) == 0) ++right;
    }
    done = true;
    disturber.join();
    CHECK(taken == 0);
    CHECK(waited >= 50ms);
    CHECK(right == 16);
  }
  sigaction(SIGUSR1, &before, nullptr);
}

TEST_CASE("completions beyond the caller's buffer are returned next time") {
  const SampleFile sample(Place::disk, 16 * kPage);
  const auto file = File::open(sample.path());
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    const auto engine = make_engine(kind, 8);
    std::vector<std::byte> memory(8 * kPage);
    std::vector<IoRequest> requests;
    for (std::uint32_t tag = 0; tag < 8; ++tag) {
      requests.push_back(
          {file->buffered_fd(), tag * kPage, memory.data() + tag * kPage, 4096, tag});
    }
    engine->submit(requests);
    std::vector<bool> seen(8);
    for (int i = 0; i < 8; ++i) {
      Completion completion;
      REQUIRE(engine->wait({&completion, 1}, testing::kPatience) == 1);
      CHECK_FALSE(seen[completion.tag]);
      seen[completion.tag] = true;
    }
  }
}

TEST_CASE("an engine of depth one reads one after the other") {
  const SampleFile sample(Place::disk, 16 * kPage);
  const auto file = File::open(sample.path());
  for (const EnginePreference kind : engines_here()) {
    CAPTURE(testing::name_of(kind));
    const auto engine = make_engine(kind, 1);
    std::vector<std::byte> memory(4096);
    for (std::uint64_t offset = 0; offset < file->nbytes(); offset += 4096) {
      const IoRequest request{file->buffered_fd(), offset, memory.data(), 4096, 0};
      engine->submit({&request, 1});
      REQUIRE(wait_for(*engine, 1).size() == 1);
      CHECK(std::memcmp(memory.data(), sample.bytes().data() + offset, 4096) == 0);
    }
  }
}

TEST_CASE("requests that do not fit into a ring come back as failed completions") {
  if (!uring_status().available) {
    MESSAGE("not tested: ", uring_status().reason);
    return;
  }
  const SampleFile sample(Place::disk, 16 * kPage);
  const auto file = File::open(sample.path());
  const auto engine = make_uring_engine(4);
  std::vector<std::byte> memory(4 * kPage);
  std::vector<IoRequest> requests;
  for (std::uint32_t tag = 0; tag < 4; ++tag) {
    requests.push_back({file->buffered_fd(), tag * kPage, memory.data() + tag * kPage, 4096, tag});
  }
  requests.push_back(requests[0]);
  engine->submit(requests);
  const auto completions = wait_for(*engine, 5);
  REQUIRE(completions.size() == 5);
  CHECK(std::count_if(completions.begin(), completions.end(), [](const Completion& completion) {
          return completion.result == -EBUSY;
        }) == 1);
}

}  // namespace
}  // namespace fastio
