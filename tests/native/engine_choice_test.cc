// The chosen engine, also if io_uring is refused. Refusals are tried in children: a filter cannot
// be removed.
#include <doctest/doctest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "child_process.h"
#include "engine.h"
#include "error.h"
#include "file.h"
#include "sample_file.h"

namespace fastio {
namespace {

using testing::in_forked_child;

// As in a container's profile, io_uring's three system calls return `error`.
bool refuse_io_uring(int error) {
  std::array filter = {
      sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      sock_filter{BPF_JMP | BPF_JGE | BPF_K, 0, 2, SYS_io_uring_setup},
      sock_filter{BPF_JMP | BPF_JGT | BPF_K, 1, 0, SYS_io_uring_register},
      sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)},
      sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  sock_fprog program{static_cast<unsigned short>(filter.size()), filter.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST_CASE("as many engines are made as lanes ask for, all of one kind") {
  const EngineSet set = make_engines(EnginePreference::pread, 3, 4);
  CHECK(set.kind == EngineKind::pread);
  CHECK(set.engines.size() == 3);
  CHECK(set.reason == "asked for");
}

TEST_CASE("io_uring is taken where it works") {
  const EngineStatus& status = uring_status();
  CHECK_FALSE(status.reason.empty());
  const EngineSet set = make_engines(EnginePreference::automatic, 2, 4);
  CHECK(set.kind == (status.available ? EngineKind::uring : EngineKind::pread));
  CHECK(set.engines.size() == 2);
  if (status.available)
    CHECK(make_engines(EnginePreference::uring, 1, 4).kind == EngineKind::uring);
}

TEST_CASE("if a filter refuses io_uring, threads read and the reason says so") {
  for (const int error : {EPERM, ENOSYS}) {
    CAPTURE(error);
    const int status = in_forked_child([&] {
      if (!refuse_io_uring(error)) return 10;
      if (uring_status().available) return 1;
      const EngineSet set = make_engines(EnginePreference::automatic, 2, 4);
      if (set.kind != EngineKind::pread || set.engines.size() != 2) return 2;
      const std::string name = error == EPERM ? "EPERM" : "ENOSYS";
      if (uring_is_built() && set.reason.find(name) == std::string::npos) return 3;
      return set.reason.find("io_uring is not available") == 0 ? 0 : 4;
    });
    CHECK(status == 0);
  }
}

TEST_CASE("a ring that is refused after the probe was granted leads to threads as well") {
  const int status = in_forked_child([] {
    if (!uring_status().available) return 0;
    if (!refuse_io_uring(EPERM)) return 10;
    const EngineSet set = make_engines(EnginePreference::automatic, 2, 4);
    return set.kind == EngineKind::pread && set.reason.find("EPERM") != std::string::npos ? 0 : 1;
  });
  CHECK(status == 0);
}

TEST_CASE("a refused request for io_uring names the reason") {
  const int status = in_forked_child([] {
    if (!refuse_io_uring(EPERM)) return 10;
    try {
      static_cast<void>(make_engines(EnginePreference::uring, 1, 4));
    } catch (const IoError& error) {
      const Failure& failure = error.failure();
      return failure.operation == "io_uring_setup" && !failure.detail.empty() ? 0 : 1;
    }
    return 2;
  });
  CHECK(status == 0);
}

TEST_CASE(
    "a ring that is refused after it was made fails its reads, and does not keep anybody waiting") {
  const testing::SampleFile sample(testing::Place::memory, 8192);
  const int status = in_forked_child([&] {
    if (!uring_status().available) return 0;
    const auto file = File::open(sample.path());
    const auto engine = make_uring_engine(4);
    std::vector<std::byte> memory(8192);
    const std::vector<IoRequest> requests{
        {file->buffered_fd(), 0, memory.data(), 4096, 0},
        {file->buffered_fd(), 4096, memory.data() + 4096, 4096, 1}};
    if (!refuse_io_uring(EPERM)) return 10;
    for (int i = 0; i < 2; ++i) {  // now and ever after
      engine->submit(requests);
      std::vector<Completion> completions(4);
      if (engine->wait(completions, std::chrono::milliseconds(5000)) != 2) return 1;
      for (const Completion& completion : std::span(completions).first(2)) {
        if (completion.result != -EPERM) return 2;
      }
      if (completions[0].tag == completions[1].tag) return 3;
    }
    return 0;
  });
  CHECK(status == 0);
}

}  // namespace
}  // namespace fastio
