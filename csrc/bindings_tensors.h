// One tensor's memory, and the objects that frameworks take it over with.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <span>
#include <vector>

#include "memory.h"
#include "plan.h"

namespace fastio {

// What keeps a tensor's bytes: a share of a region, or a copy at an aligned place where the file's
// offset breaks the dtype's alignment (which safetensors allows), or of bytes that are not its own.
class TensorMemory {
 public:
  TensorMemory(const std::shared_ptr<Region>& region, const Extent& extent, std::size_t alignment);
  explicit TensorMemory(std::span<const std::byte> bytes) { copy(bytes); }
  explicit TensorMemory(std::size_t nbytes) { make(nbytes); }  // uninitialised

  [[nodiscard]] std::byte* data() const { return data_; }

 private:
  static constexpr std::size_t kCopyAlignment = 64;
  struct Delete {
    void operator()(std::byte* data) const {
      operator delete[](data, std::align_val_t{kCopyAlignment});
    }
  };

  void make(std::size_t nbytes);
  void copy(std::span<const std::byte> bytes);

  std::optional<Share> share_;  // none for a copy
  std::byte* data_ = nullptr;
  std::unique_ptr<std::byte, Delete> copy_;
};

// `memory` is null for a tensor of no bytes. Raise ValueError where dtype and shape do not come to
// the extent.
[[nodiscard]] pybind11::array make_array(std::unique_ptr<TensorMemory> memory,
                                         const pybind11::dtype& dtype,
                                         const pybind11::handle& shape, const Extent& extent);
// Without an extent: `memory` has the bytes of dtype and shape.
[[nodiscard]] pybind11::array make_array(std::unique_ptr<TensorMemory> memory,
                                         const pybind11::dtype& dtype,
                                         const std::vector<pybind11::ssize_t>& shape);
[[nodiscard]] pybind11::object make_capsule(std::unique_ptr<TensorMemory> memory, std::uint8_t code,
                                            std::uint8_t bits,
                                            const std::vector<pybind11::ssize_t>& shape);

[[nodiscard]] pybind11::object make_capsule(std::unique_ptr<TensorMemory> memory, std::uint8_t code,
                                            std::uint8_t bits, const pybind11::handle& shape,
                                            const Extent& extent);

// Of memory on a device that `owner` keeps.
[[nodiscard]] pybind11::object make_device_capsule(const pybind11::object& owner, int ordinal,
                                                   std::uintptr_t address, std::uint8_t code,
                                                   std::uint8_t bits, const pybind11::handle& shape,
                                                   std::uint64_t nbytes);

}  // namespace fastio
