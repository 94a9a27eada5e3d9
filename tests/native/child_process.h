// Tests of whole processes: forked ones, and ones that a sanitizer must end.
#pragma once

#include <functional>
#include <string>

namespace fastio::testing {

// Forks; the child exits with the result of `body`, by _exit, so that no code of the parent runs in
// it. Returns its exit status, or -N when signal N ended it. `body` must not use doctest's
// assertions: they are not counted.
[[nodiscard]] int in_forked_child(const std::function<int()>& body);

struct ChildOutput {
  int status = 0;    // as above
  std::string text;  // its output on stdout and stderr
};

// Runs one otherwise skipped test case of this executable in a fresh process.
[[nodiscard]] ChildOutput run_skipped_test_case(const std::string& name);

// Only for root: becomes a user without any files here.
[[nodiscard]] bool become_nobody();

}  // namespace fastio::testing
