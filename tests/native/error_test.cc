#include "error.h"

#include <doctest/doctest.h>

#include <cerrno>

namespace fastio {
namespace {

TEST_CASE(
    "a message names the operation, the path, the offset, the kernel's error and the expected "
    "bytes") {
  const Failure failure{EIO, "read", "/models/a.safetensors", 4096, "a whole block was expected"};
  CHECK(failure.message() ==
        "read failed: /models/a.safetensors at offset 4096: EIO (Input/output error): a whole "
        "block was expected");
}

TEST_CASE("a message leaves out fields that do not concern it") {
  CHECK(Failure{ENOMEM, "io_uring_setup", {}, {}, {}}.message() ==
        "io_uring_setup failed: ENOMEM (Cannot allocate memory)");
}

TEST_CASE("an offset of 0 is an offset") {
  CHECK(Failure{EIO, "read", "a", 0, {}}.message() ==
        "read failed: a at offset 0: EIO (Input/output error)");
}

TEST_CASE("an errno that no kernel has is told by its number") {
  CHECK(describe_error(4095) == "4095 (unknown error)");
}

TEST_CASE("an IoError carries its failure, and says the same") {
  errno = ENOSPC;
  try {
    throw_last_error("write", "b", 7);
    FAIL("nothing was thrown");
  } catch (const IoError& error) {
    CHECK(error.failure().error == ENOSPC);
    CHECK(error.failure().operation == "write");
    CHECK(error.failure().path == "b");
    CHECK(error.failure().offset == 7);
    CHECK(error.what() == error.failure().message());
  }
}

TEST_CASE("a memory limit error names the requested, the permitted and the held bytes") {
  const MemoryLimitExceeded error(300, 200, 100);
  CHECK(error.asked_bytes == 300);
  CHECK(error.limit_bytes == 200);
  CHECK(error.held_bytes == 100);
}

}  // namespace
}  // namespace fastio
