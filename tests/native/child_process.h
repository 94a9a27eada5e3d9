// Tests whose subject is a process: one that was forked, one that a sanitizer is to end.
#pragma once

#include <functional>
#include <string>

namespace fastio::testing {

// Forks; the child leaves with what `body` returns, by _exit, so that nothing of the parent runs in
// it. The answer is its exit status, or -N when signal N ended it. `body` must not use doctest's
// assertions: nobody counts them.
[[nodiscard]] int in_forked_child(const std::function<int()>& body);

struct ChildOutput {
  int status = 0;    // as above
  std::string text;  // what it said on stdout and stderr
};

// Runs one test case of this executable, one that is skipped otherwise, in a fresh process.
[[nodiscard]] ChildOutput run_skipped_test_case(const std::string& name);

// Only for root: becomes a user who owns nothing here.
[[nodiscard]] bool become_nobody();

}  // namespace fastio::testing
