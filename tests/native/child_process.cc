#include "child_process.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>

#include "error.h"
#include "file.h"

namespace fastio::testing {
namespace {

int wait_for_child(pid_t child) {
  int status = 0;
  if (waitpid(child, &status, 0) != child) throw_last_error("waitpid", {});
  return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

pid_t fork_or_throw() {
  const pid_t child = fork();
  if (child < 0) throw_last_error("fork", {});
  return child;
}

}  // namespace

int in_forked_child(const std::function<int()>& body) {
  const pid_t child = fork_or_throw();
  if (child == 0) {
    int status = 125;
    try {
      status = body();
    } catch (...) {
      status = 124;
    }
    _exit(status);
  }
  return wait_for_child(child);
}

ChildOutput run_skipped_test_case(const std::string& name) {
  std::array<int, 2> ends{};
  if (pipe2(ends.data(), O_CLOEXEC) != 0) throw_last_error("pipe2", {});
  const Descriptor from_child(ends[0]);
  Descriptor to_parent(ends[1]);
  const std::string filter = "--test-case=" + name;
  const pid_t child = fork_or_throw();
  if (child == 0) {
    dup2(to_parent.get(), STDOUT_FILENO);
    dup2(to_parent.get(), STDERR_FILENO);
    execl("/proc/self/exe", "/proc/self/exe", "--no-skip", filter.c_str(), nullptr);
    _exit(127);
  }
  to_parent = Descriptor();
  ChildOutput output;
  std::array<char, 4096> part{};
  for (ssize_t got = 0; (got = ::read(from_child.get(), part.data(), part.size())) > 0;) {
    output.text.append(part.data(), static_cast<std::size_t>(got));
  }
  output.status = wait_for_child(child);
  return output;
}

bool become_nobody() {
  constexpr unsigned kNobody = 65534;
  return setgroups(0, nullptr) == 0 && setgid(kNobody) == 0 && setuid(kNobody) == 0;
}

}  // namespace fastio::testing
