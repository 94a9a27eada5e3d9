// The annotations of sanitizers.h work: the mistakes here are deliberate, each in a process that
// its sanitizer must end. Without annotations the sanitizers cannot see the kernel's writes through
// a ring.
#include "sanitizers.h"

#include <doctest/doctest.h>

#include <array>
#include <atomic>
#include <memory>
#include <thread>

#include "child_process.h"
#include "engine.h"
#include "file.h"
#include "sample_file.h"

namespace fastio {
namespace {

using namespace std::chrono_literals;
using testing::Place;
using testing::run_skipped_test_case;
using testing::SampleFile;

constexpr std::uint32_t kReadBytes = 4096;

// A ring with one read of one page, whose memory the mistakes below misuse.
class OneRead {
 public:
  OneRead()
      : file_(File::open(SampleFile(Place::memory, kReadBytes).path())),  // gone before the end
        engine_(make_uring_engine(4)),
        memory_(std::make_unique<std::byte[]>(kReadBytes)),
        data_(memory_.get()) {}

  // Atomic: it hides the mistakes from the compiler, and not from the sanitizers.
  std::byte* data() { return data_.load(std::memory_order_relaxed); }
  void free_memory() { memory_.reset(); }
  void submit(std::byte* data) {
    const IoRequest request{file_->buffered_fd(), 0, data, kReadBytes, 0};
    engine_->submit({&request, 1});
  }
  bool wait() {
    std::array<Completion, 1> completions{};
    return engine_->wait(completions, 10s) == 1 &&
           completions[0].result == static_cast<std::int32_t>(kReadBytes);
  }

 private:
  std::shared_ptr<File> file_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<std::byte[]> memory_;
  std::atomic<std::byte*> data_;
};

// ---- mistakes, run by name only ----

TEST_CASE("mistake: a read into freed memory is submitted" * doctest::skip()) {
  OneRead read;
  read.free_memory();
  read.submit(read.data());
  CHECK(read.wait());
}

TEST_CASE("mistake: memory is freed under a read" * doctest::skip()) {
  OneRead read;
  read.submit(read.data());
  read.free_memory();
  CHECK(read.wait());
}

TEST_CASE("mistake: a thread looks at memory that a read is writing to" * doctest::skip()) {
  OneRead read;
  std::atomic<bool> submitted{false};
  std::atomic<bool> looked{false};
  std::atomic<int> seen{0};
  // Relaxed: this test knows the order of events, and the sanitizer does not.
  std::thread reader([&] {
    while (!submitted.load(std::memory_order_relaxed)) std::this_thread::yield();
    seen.store(static_cast<int>(read.data()[100]), std::memory_order_relaxed);
    looked.store(true, std::memory_order_relaxed);
  });
  read.submit(read.data());
  submitted.store(true, std::memory_order_relaxed);
  while (!looked.load(std::memory_order_relaxed)) std::this_thread::yield();
  CHECK(read.wait());
  reader.join();
}

TEST_CASE("no mistake: a thread looks at what was read when it is told to" * doctest::skip()) {
  OneRead read;
  std::atomic<bool> arrived{false};
  std::atomic<int> seen{0};
  std::thread reader([&] {
    while (!arrived.load(std::memory_order_acquire)) std::this_thread::yield();
    seen.store(static_cast<int>(read.data()[100]), std::memory_order_relaxed);
  });
  read.submit(read.data());
  CHECK(read.wait());
  arrived.store(true, std::memory_order_release);
  reader.join();
}

// ---- and their results ----

bool tested_here([[maybe_unused]] bool address) {
  if (!uring_status().available) {
    MESSAGE("not tested: ", uring_status().reason);
    return false;
  }
#if defined(__SANITIZE_ADDRESS__)
  if (address) return true;
#endif
#if defined(__SANITIZE_THREAD__)
  if (!address) return true;
#endif
  MESSAGE("not tested: built without this sanitizer");
  return false;
}

TEST_CASE("the address sanitizer ends a process that reads into freed memory") {
  if (!tested_here(true)) return;
  CHECK(run_skipped_test_case("mistake: a read into freed memory is submitted").status < 0);
  CHECK(run_skipped_test_case("mistake: memory is freed under a read").status < 0);
}

TEST_CASE("the thread sanitizer reports who looks at memory under a read") {
  if (!tested_here(false)) return;
  const auto output =
      run_skipped_test_case("mistake: a thread looks at memory that a read is writing to");
  CHECK(output.status != 0);
  CHECK(output.text.find("data race") != std::string::npos);
}

TEST_CASE("no sanitizer has anything to say where nothing is wrong") {
  if (!uring_status().available) return;
  const auto output =
      run_skipped_test_case("no mistake: a thread looks at what was read when it is told to");
  INFO(output.text);
  CHECK(output.status == 0);
}

}  // namespace
}  // namespace fastio
