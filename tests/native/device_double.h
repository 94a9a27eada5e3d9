// The fixture of the device tests: the double of the CUDA driver, fresh before each test and clean
// after it, and memory that is pinned for the life of its owner.
#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device.h"
#include "fake_cuda.h"

namespace fastio::testing {

class Double {
 public:
  // With both devices initialised, as by a framework.
  Double() {
    REQUIRE(std::getenv("FASTIO_CUDA_LIBRARY") != nullptr);
    fake_cuda_reset();
    for (int ordinal = 0; ordinal < 2; ++ordinal) REQUIRE(fake_cuda_activate(ordinal) == 0);
  }
  Double(const Double&) = delete;
  Double& operator=(const Double&) = delete;
  ~Double() {
    CHECK(std::string(fake_cuda_first_violation()) == "");
    CHECK(fake_cuda_contexts_retained() == 0);
    CHECK(fake_cuda_streams_alive() == 0);
    CHECK(fake_cuda_events_alive() == 0);
    CHECK(fake_cuda_pinned_bytes() == 0);
    CHECK(fake_cuda_device_bytes() == 0);
    CHECK(fake_cuda_current() == -1);
  }
};

constexpr std::byte kPoison{0xDB};

inline std::vector<std::byte> numbered(std::size_t nbytes, unsigned first = 0) {
  std::vector<std::byte> data(nbytes);
  for (std::size_t i = 0; i < nbytes; ++i) data[i] = static_cast<std::byte>((first + i) % 211);
  return data;
}

inline std::vector<std::byte> filled(std::size_t nbytes, std::byte value) {
  std::vector<std::byte> data(nbytes, value);
  return data;
}

class Pinned {
 public:
  Pinned(std::shared_ptr<Device> device, std::vector<std::byte> bytes)
      : device_(std::move(device)), bytes_(std::move(bytes)) {
    REQUIRE_FALSE(device_->pin(data(), bytes_.size()).has_value());
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { CHECK_FALSE(device_->unpin(data()).has_value()); }

  [[nodiscard]] std::byte* data() { return bytes_.data(); }
  [[nodiscard]] std::vector<std::byte>& bytes() { return bytes_; }

 private:
  std::shared_ptr<Device> device_;
  std::vector<std::byte> bytes_;
};

class DeviceBytes {
 public:
  DeviceBytes(int ordinal, std::size_t nbytes)
      : address_(fake_cuda_allocate(ordinal, nbytes)), nbytes_(nbytes) {
    REQUIRE(address_ != 0);
  }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  ~DeviceBytes() { fake_cuda_free(address_); }

  [[nodiscard]] DeviceAddress address() const { return address_; }
  // The bytes as they are now: the double's addresses are plain ones.
  [[nodiscard]] std::vector<std::byte> now() const {
    std::vector<std::byte> bytes(nbytes_);
    fake_cuda_read(bytes.data(), address_, nbytes_);
    return bytes;
  }

 private:
  DeviceAddress address_;
  std::size_t nbytes_;
};

// Describes a value of this kind: "cuEventQuery 700".
inline std::string told(const std::optional<Failure>& failure) {
  if (!failure) return "";
  CHECK(failure->kind == Failure::Kind::device);
  return failure->operation + " " + std::to_string(failure->error);
}

}  // namespace fastio::testing
