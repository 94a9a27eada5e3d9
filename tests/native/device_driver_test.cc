// The opening of the driver, and its error messages. A process opens it once, so each failure has
// its own process.
#include <doctest/doctest.h>

#include <cstdlib>

#include "child_process.h"
#include "device_double.h"

namespace fastio {
namespace {

using testing::in_forked_child;
using testing::run_skipped_test_case;

constexpr const char* kNoDevice =
    "no CUDA: cuInit: CUDA_ERROR_NO_DEVICE, no CUDA-capable device is detected";

void open_instead(const char* library) { setenv("FASTIO_CUDA_LIBRARY", library, 1); }

void check_refused(const std::string& reason) {
  const DriverStatus status = driver_status();
  CHECK_FALSE(status.available);
  CHECK(status.reason == reason);
  try {
    static_cast<void>(Device::of(0));
    FAIL("a device without a driver");
  } catch (const IoError& error) {
    CHECK(error.failure().kind == Failure::Kind::device);
    CHECK(error.failure().operation == "open");
    CHECK(error.failure().path == "cuda:0");
    CHECK(error.failure().error == 0);
    CHECK(error.failure().detail == reason);
    CHECK(error.what() == "open failed: cuda:0: " + reason);
  }
}

// ---- each by name only ----

TEST_CASE("driver: there is no such library" * doctest::skip()) {
  open_instead("/nowhere/libcuda.so.1");
  check_refused(
      "no CUDA: /nowhere/libcuda.so.1: cannot open shared object file: No such file or directory");
}

TEST_CASE("driver: a library of something else" * doctest::skip()) {
  open_instead("libm.so.6");
  check_refused("no CUDA: libm.so.6 has no cuInit: the driver is too old");
}

TEST_CASE("driver: an empty name is none" * doctest::skip()) {
  open_instead("");
  const DriverStatus status = driver_status();
  CHECK((status.available || status.reason.starts_with("no CUDA: ")));
  CHECK(fake_cuda_calls("cuDriverGetVersion") == 0);
}

TEST_CASE("driver: found and left as it is" * doctest::skip()) {
  const DriverStatus found = find_driver();
  CHECK(found.available);
  CHECK(found.reason.ends_with(", CUDA 12.4"));
  CHECK(found.device_count == 0);
  CHECK(fake_cuda_calls("cuInit") == 0);
  CHECK(driver_status().device_count == 2);
  CHECK(fake_cuda_calls("cuInit") == 1);
  CHECK(find_driver().available);
  CHECK(fake_cuda_calls("cuInit") == 1);
}

TEST_CASE("driver: too old" * doctest::skip()) {
  fake_cuda_set_version(10020);
  check_refused("no CUDA: the driver is too old: CUDA 10.2, and 11.0 is the least");
  CHECK(driver_status().version == 10020);
  CHECK(fake_cuda_calls("cuInit") == 0);
}

TEST_CASE("driver: it does not say its version" * doctest::skip()) {
  fake_cuda_fail("cuDriverGetVersion", 1, 999, 0);
  check_refused("no CUDA: cuDriverGetVersion: CUDA_ERROR_UNKNOWN, unknown error");
}

TEST_CASE("driver: no device" * doctest::skip()) {
  fake_cuda_fail("cuInit", 1, 100, 0);
  check_refused(kNoDevice);
}

TEST_CASE("driver: it does not count its devices" * doctest::skip()) {
  fake_cuda_fail("cuDeviceGetCount", 1, 803, 0);
  check_refused(
      "no CUDA: cuDeviceGetCount: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH, system has unsupported "
      "display driver / cuda driver combination");
}

TEST_CASE("driver: an error without a name" * doctest::skip()) {
  fake_cuda_fail("cuInit", 1, 4321, 0);
  check_refused("no CUDA: cuInit: unknown error 4321");
}

// What a row for another driver has: a kind, a library, and names of its own.
DriverNames of_another_kind() {
  DriverNames names = known_drivers().front();
  names.kind = "HIP";
  names.init = "hipInit";
  names.version_major = 10000;
  names.version_minor = 100;
  return names;
}

TEST_CASE("driver: of another kind by its own names" * doctest::skip()) {
  const DriverNames names = of_another_kind();
  const Driver opened(names, std::getenv("FASTIO_CUDA_LIBRARY"), Driver::Initialisation::full);
  CHECK(opened.status().available);
  CHECK(opened.status().reason.ends_with(", HIP 1.20"));
  CHECK(opened.status().device_count == 2);
  CHECK(fake_cuda_calls("cuInit") == 1);  // which hipInit of the double is
}

TEST_CASE("driver: of another kind and refused" * doctest::skip()) {
  fake_cuda_fail("cuInit", 1, 100, 0);
  const DriverNames names = of_another_kind();
  const Driver opened(names, std::getenv("FASTIO_CUDA_LIBRARY"), Driver::Initialisation::full);
  CHECK(opened.status().reason ==
        "no HIP: hipInit: CUDA_ERROR_NO_DEVICE, no CUDA-capable device is detected");
  const Driver other(names, "libm.so.6", Driver::Initialisation::full);
  CHECK(other.status().reason == "no HIP: libm.so.6 has no hipInit: the driver is too old");
}

TEST_CASE("driver: no device and none in a child" * doctest::skip()) {
  fake_cuda_fail("cuInit", 1, 100, 0);
  check_refused(kNoDevice);
  CHECK(in_forked_child([] {
          fake_cuda_fail("cuInit", 1, 100, 0);
          return driver_status().reason == kNoDevice ? 0 : 1;
        }) == 0);
}

TEST_CASE("driver: initialised before a fork by a framework alone" * doctest::skip()) {
  REQUIRE(fake_cuda_activate(0) == 0);
  CHECK(in_forked_child([] {
          const DriverStatus status = driver_status();
          return !status.available && status.reason.find("forked") != std::string::npos ? 0 : 1;
        }) == 0);
}

TEST_CASE("driver: a process leaves with copies pending" * doctest::skip()) {
  REQUIRE(fake_cuda_activate(0) == 0);
  static const auto device = Device::of(0);
  static Stream stream(device);
  static auto bytes = testing::numbered(4096);
  REQUIRE_FALSE(device->pin(bytes.data(), bytes.size()).has_value());
  fake_cuda_hold_all(1);
  CHECK_FALSE(stream.copy_in(fake_cuda_allocate(0, 4096), bytes.data(), 4096).has_value());
}

// ---- and their results ----

TEST_CASE("a driver that cannot be used says why, and a device says the same") {
  for (const std::string name :
       {"driver: there is no such library", "driver: a library of something else",
        "driver: an empty name is none", "driver: found and left as it is", "driver: too old",
        "driver: it does not say its version", "driver: no device",
        "driver: it does not count its devices", "driver: an error without a name",
        "driver: no device and none in a child", "driver: of another kind by its own names",
        "driver: of another kind and refused",
        "driver: initialised before a fork by a framework alone",
        "driver: a process leaves with copies pending"}) {
    const auto output = run_skipped_test_case(name);
    INFO(name, ": ", output.text);
    CHECK(output.status == 0);
    CHECK(output.text.find(" 1 passed") != std::string::npos);
  }
}

TEST_CASE("a usable driver describes itself") {
  const DriverStatus status = driver_status();
  CHECK(status.available);
  CHECK(status.reason == std::string(std::getenv("FASTIO_CUDA_LIBRARY")) + ", CUDA 12.4");
  CHECK(status.version == 12040);
  CHECK(status.device_count == 2);
}

TEST_CASE("a child cannot use the driver that its parent has initialised, and is told so") {
  const testing::Double fresh;
  REQUIRE(driver_status().available);
  const auto device = Device::of(0);
  CHECK(in_forked_child([&] {
          const DriverStatus status = driver_status();
          if (status.available) return 1;
          if (status.reason.find("cuInit: CUDA_ERROR_NOT_INITIALIZED") == std::string::npos)
            return 2;
          if (status.reason.find("a process that was forked after it was initialised") ==
              std::string::npos)
            return 3;
          // A child refuses the driver handles of its parent.
          std::byte data{};
          const auto refused = device->pin(&data, 1);
          if (!refused || refused->error != 3) return 4;
          return 0;
        }) == 0);
  CHECK(driver_status().available);
}

}  // namespace
}  // namespace fastio
