// The pool of pinned memory: exclusive leases, a limit that is kept, slabs that are pinned once,
// and a complete release.
#include "pinned.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>
#include <thread>
#include <vector>

#include "child_process.h"
#include "device_double.h"
#include "loading.h"
#include "memory.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::between;
using testing::kPatience;
using testing::Random;

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kSlab = 64 * kMiB;
constexpr std::uint64_t kNoLimit = std::uint64_t{1} << 40;

// An empty pool, before and after.
struct Pool {
  Pool() = default;
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;
  ~Pool() {
    CHECK(pinned_account().leased_bytes == 0);
    static_cast<void>(trim_pinned());
    CHECK(pinned_account().bytes == 0);
    CHECK(pinned_account().unpinned_bytes == 0);
    CHECK(fake_cuda_pinned_bytes() == 0);
  }

  [[nodiscard]] std::optional<PinnedLease> try_take(std::size_t nbytes,
                                                    std::uint64_t limit_bytes = kNoLimit) const {
    return PinnedLease::take(*device, nbytes, limit_bytes);
  }
  [[nodiscard]] PinnedLease take(std::size_t nbytes, std::uint64_t limit_bytes = kNoLimit) const {
    auto lease = try_take(nbytes, limit_bytes);
    REQUIRE(lease.has_value());
    return std::move(*lease);
  }

  testing::Double fresh{};
  std::shared_ptr<Device> device = Device::of(0);
};

bool overlap(const PinnedLease& one, const PinnedLease& other) {
  return one.data() < other.data() + other.nbytes() && other.data() < one.data() + one.nbytes();
}

// ---- leases ----

TEST_CASE_FIXTURE(Pool, "leases start at pages, are large enough, and share no byte") {
  std::vector<PinnedLease> leases;
  std::uint64_t leased = 0;
  for (const std::size_t nbytes : {1U, 4095U, 4096U, 4097U, 100'000U, 5'000'000U}) {
    leases.push_back(take(nbytes));
    const PinnedLease& lease = leases.back();
    CHECK(reinterpret_cast<std::uintptr_t>(lease.data()) % page_bytes() == 0);
    CHECK(lease.nbytes() >= nbytes);
    CHECK(lease.nbytes() < nbytes + page_bytes());
    std::memset(lease.data(), 0x5A, lease.nbytes());
    leased += lease.nbytes();
    CHECK(pinned_account().leased_bytes == leased);
  }
  for (std::size_t i = 0; i < leases.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) CHECK_FALSE(overlap(leases[i], leases[j]));
  }
}

TEST_CASE_FIXTURE(Pool, "returned memory is leased again, and pinned only once") {
  std::byte* first = nullptr;
  for (int i = 0; i < 5; ++i) {
    const PinnedLease lease = take(3 * kMiB);
    if (i == 0) first = lease.data();
    CHECK(lease.data() == first);
  }
  CHECK(pinned_account().bytes == kSlab);
  CHECK(pinned_account().seconds >= 0);
  CHECK(fake_cuda_calls("cuMemHostRegister") == 1);
}

TEST_CASE_FIXTURE(Pool,
                  "a lease that is moved is given back once, and one that is replaced before") {
  PinnedLease one = take(kMiB);
  PinnedLease other = std::move(one);
  CHECK(pinned_account().leased_bytes == kMiB);
  one = take(2 * kMiB);
  other = std::move(one);
  CHECK(pinned_account().leased_bytes == 2 * kMiB);
  auto& same = other;
  other = std::move(same);
  CHECK(other.nbytes() == 2 * kMiB);
  CHECK(pinned_account().leased_bytes == 2 * kMiB);
}

TEST_CASE_FIXTURE(Pool, "free neighbours are one, in whatever order they come back") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(30); ++i) {
    std::vector<PinnedLease> leases;
    for (int step = 0; step < 200; ++step) {
      if (leases.empty() || between(random, 0, 2) != 0) {
        auto lease = try_take(between(random, 1, 3 * kMiB), kSlab);
        if (!lease) continue;
        for (const PinnedLease& other : leases) REQUIRE_FALSE(overlap(*lease, other));
        leases.push_back(std::move(*lease));
      } else {
        leases.erase(leases.begin() +
                     static_cast<std::ptrdiff_t>(between(random, 0, leases.size() - 1)));
      }
    }
    std::ranges::shuffle(leases, random);
    while (!leases.empty()) leases.pop_back();
    const PinnedLease whole = take(kSlab, kSlab);
    CHECK(pinned_account().leased_bytes == kSlab);
    CHECK(fake_cuda_calls("cuMemHostRegister") == 1);
  }
}

// ---- growth and limits ----

TEST_CASE_FIXTURE(Pool, "the pool grows in slabs, and in larger steps for larger leases") {
  const PinnedLease one = take(kMiB);
  CHECK(pinned_account().bytes == kSlab);
  const PinnedLease large = take(kSlab + 1);
  CHECK(pinned_account().bytes == 2 * kSlab + page_bytes());
  CHECK(fake_cuda_pinned_bytes() == pinned_account().bytes);
  CHECK(fake_cuda_calls("cuMemHostRegister") == 2);
}

TEST_CASE_FIXTURE(Pool, "the pool never grows over the limit, and says where it is full") {
  CHECK_FALSE(try_take(kMiB, kMiB - 1).has_value());
  CHECK(pinned_account().bytes == 0);
  const PinnedLease one = take(kSlab, kSlab + 3 * kMiB);
  const PinnedLease other = take(2 * kMiB, kSlab + 3 * kMiB);
  CHECK(pinned_account().bytes == kSlab + 3 * kMiB);
  CHECK_FALSE(try_take(2 * kMiB, kSlab + 3 * kMiB).has_value());
  CHECK_FALSE(try_take(2 * kMiB, kMiB).has_value());
  const PinnedLease last = take(kMiB, 1);  // is pinned already
  CHECK(pinned_account().leased_bytes == pinned_account().bytes);
  CHECK(take(1, kNoLimit).nbytes() == page_bytes());
}

TEST_CASE_FIXTURE(Pool, "free slabs that are too small make room for one that is not") {
  const PinnedLease kept = take(4 * kMiB, 4 * kMiB);
  auto other = std::make_optional(take(4 * kMiB, 8 * kMiB));
  CHECK(pinned_account().bytes == 8 * kMiB);
  CHECK_FALSE(try_take(8 * kMiB, 12 * kMiB).has_value());
  other.reset();
  const PinnedLease large = take(8 * kMiB, 12 * kMiB);
  CHECK(pinned_account().bytes == 12 * kMiB);
}

TEST_CASE_FIXTURE(Pool, "only unused memory goes back to the system") {
  auto one = std::make_optional(take(kSlab));
  const PinnedLease other = take(kMiB);
  CHECK(pinned_account().bytes == 2 * kSlab);
  CHECK(trim_pinned() == 0);
  one.reset();
  CHECK(trim_pinned() == kSlab);
  CHECK(trim_pinned() == 0);
  CHECK(pinned_account().bytes == kSlab);
  CHECK(fake_cuda_pinned_bytes() == kSlab);
  std::memset(other.data(), 1, other.nbytes());
}

TEST_CASE_FIXTURE(Pool, "a lease keeps its device, and the pool until it is trimmed") {
  const PinnedLease lease = take(kMiB);
  device.reset();
  CHECK(fake_cuda_contexts_retained() == 1);
  CHECK(trim_pinned() == 0);
  CHECK(fake_cuda_contexts_retained() == 1);
}

// ---- waiting and threads ----

TEST_CASE_FIXTURE(Pool, "a wait for room ends when a lease comes back") {
  std::atomic<bool> woken{false};
  const auto begin = std::chrono::steady_clock::now();
  std::thread waiting([&] {
    PinnedLease::wait_for_room(kPatience);
    woken = true;
  });
  while (!woken) static_cast<void>(take(kMiB));  // until the return of one after the wait began
  waiting.join();
  CHECK(std::chrono::steady_clock::now() - begin < kPatience);
  PinnedLease::wait_for_room(1ms);  // no lease is returned: the wait ends all the same
}

TEST_CASE_FIXTURE(Pool, "threads that lease at once share no byte, and keep the limit") {
  constexpr std::uint64_t kLimit = 6 * kMiB;
  const std::uint64_t seed = testing::random_seed();
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      Random random(seed + t);
      for (int i = 0; i < testing::random_cases(300); ++i) {
        auto lease = try_take(between(random, 1, 2 * kMiB), kLimit);
        if (!lease) {
          PinnedLease::wait_for_room(1ms);
          continue;
        }
        std::memset(lease->data(), static_cast<int>(t), lease->nbytes());
        if (pinned_account().bytes > kLimit) ++wrong;
        if (t == 0 && i % 8 == 0) static_cast<void>(trim_pinned());
        for (std::size_t at = 0; at < lease->nbytes(); at += 512) {
          if (lease->data()[at] != static_cast<std::byte>(t)) ++wrong;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
}

// ---- refusals of the system and the driver ----

TEST_CASE_FIXTURE(Pool, "memory that the driver does not pin is the driver's, or not pinned") {
  fake_cuda_refuse_registration(801);
  {
    const PinnedLease lease = take(kMiB, kMiB);
    std::memset(lease.data(), 1, lease.nbytes());
    CHECK(reinterpret_cast<std::uintptr_t>(lease.data()) % page_bytes() == 0);
    CHECK(pinned_account().unpinned_bytes == 0);
    fake_cuda_refuse_host_allocation(2);
    const PinnedLease other = take(kMiB, 3 * kMiB);
    std::memset(other.data(), 1, other.nbytes());
    CHECK(pinned_account().unpinned_bytes == 2 * kMiB);
    CHECK(pinned_account().refusal.find("cuMemHostRegister") != std::string::npos);
    CHECK(fake_cuda_pinned_bytes() == kMiB);
  }
  CHECK(trim_pinned() == 3 * kMiB);
  CHECK(pinned_account().refusal == "");  // later slabs may be pinned
  CHECK(fake_cuda_calls("cuMemHostUnregister") == 0);
  CHECK(fake_cuda_calls("cuMemFreeHost") == 1);
}

TEST_CASE_FIXTURE(Pool, "memory that there is not is bad_alloc, and the pool goes on") {
  constexpr std::size_t kTooMuch = std::size_t{1} << 62;
  CHECK_THROWS_AS(static_cast<void>(try_take(kTooMuch, UINT64_MAX)), std::bad_alloc);
  CHECK(pinned_account().bytes == 0);
  CHECK(take(kMiB).nbytes() == kMiB);
}

TEST_CASE_FIXTURE(Pool, "the node that a device is near to is advice") {
  if (!std::filesystem::exists("/sys/bus/pci/devices")) {
    MESSAGE("not tested: no PCI devices are listed here");
    return;
  }
  const std::string folder = "/tmp/gpu-" + std::to_string(getpid());
  std::filesystem::create_directory(folder);
  const std::string id = "../../../../TMP/GPU-" + std::to_string(getpid());
  fake_cuda_set_bus_id(0, id.c_str());
  for (const int node : {0, 1, 63, 64, 1023, 1024, 1'000'000, -1}) {
    CAPTURE(node);
    std::ofstream(folder + "/numa_node") << node << "\n";
    REQUIRE(device->numa_node() == (node < 0 ? std::nullopt : std::optional(node)));
    const PinnedLease lease = take(kMiB, kMiB);
    std::memset(lease.data(), 1, lease.nbytes());
    CHECK(pinned_account().unpinned_bytes == 0);
    CHECK(trim_pinned() == 0);
    CHECK(fake_cuda_pinned_bytes() == kMiB);
  }
  std::filesystem::remove_all(folder);
}

#if !defined(__SANITIZE_THREAD__)  // TSan stops a child of a process with threads
TEST_CASE_FIXTURE(Pool, "a forked child has a pool of its own, and the parent's is left alone") {
  const PinnedLease lease = take(kMiB);
  std::memset(lease.data(), 7, lease.nbytes());
  const int status = testing::in_forked_child([&] {
    if (pinned_account().bytes != 0 || pinned_account().leased_bytes != 0) return 1;
    if (trim_pinned() != 0) return 2;
    {
      // The driver is useless to a child: the child's memory is a private copy, and not pinned.
      const auto own = try_take(kMiB, 2 * kMiB);
      if (!own || own->data() == lease.data()) return 3;
      std::memset(own->data(), 8, own->nbytes());
      if (pinned_account().leased_bytes != kMiB) return 4;
      if (pinned_account().unpinned_bytes != 2 * kMiB) return 5;
    }
    return trim_pinned() == 2 * kMiB ? 0 : 6;
  });
  CHECK(status == 0);
  CHECK(lease.data()[kMiB - 1] == std::byte{7});
  CHECK(pinned_account().leased_bytes == kMiB);
  CHECK(pinned_account().unpinned_bytes == 0);
}
#endif

}  // namespace
}  // namespace fastio
