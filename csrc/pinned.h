// Pinned: the host memory that devices copy from and to, one pool for all jobs of a process.
//
// The pool grows in slabs and stays: pinning is slow. A lease is a run of bytes in a slab and gives
// itself back. A caller without a lease waits for others to return theirs. Members may be called
// from any thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "device.h"

namespace fastio {

struct PinnedAccount {
  std::uint64_t bytes = 0;           // held from the system
  std::uint64_t leased_bytes = 0;    // in use
  std::uint64_t unpinned_bytes = 0;  // of `bytes`: the driver refused to pin them
  double seconds = 0;                // that pinning took, in all
  std::string refusal;               // why memory is not pinned, where that is so
};

[[nodiscard]] PinnedAccount pinned_account();

class PinnedLease {
 public:
  // Starts at a page, where direct I/O can put its bytes. Nothing where `limit_bytes` for the whole
  // pool leaves no room, and nothing large enough is free now. Throws std::bad_alloc.
  static std::optional<PinnedLease> take(Device& device, std::size_t nbytes,
                                         std::uint64_t limit_bytes);

  // The same, when room may have been made: waits until a lease is given back, or for that long.
  static void wait_for_room(std::chrono::milliseconds timeout);

  PinnedLease(PinnedLease&& other) noexcept
      : slab_(std::exchange(other.slab_, nullptr)), begin_(other.begin_), nbytes_(other.nbytes_) {}
  PinnedLease& operator=(PinnedLease&& other) noexcept;
  PinnedLease(const PinnedLease&) = delete;
  PinnedLease& operator=(const PinnedLease&) = delete;
  ~PinnedLease() { give_back(); }

  [[nodiscard]] std::byte* data() const;
  [[nodiscard]] std::size_t nbytes() const { return nbytes_; }

 private:
  friend class PinnedPool;
  PinnedLease(class PinnedSlab* slab, std::size_t begin, std::size_t nbytes)
      : slab_(slab), begin_(begin), nbytes_(nbytes) {}
  void give_back() noexcept;

  class PinnedSlab* slab_;
  std::size_t begin_, nbytes_;
};

// A slab that was pinned at once; it lives as long as a lease of it.
struct PinnedExtent {
  std::uint64_t id = 0;  // of no other one, ever
  std::byte* data = nullptr;
  std::size_t nbytes = 0;
};

// The slab of an address; none for other memory.
[[nodiscard]] std::optional<PinnedExtent> pinned_around(const std::byte* data);

// Gives back to the system what nobody uses; returns how much that was.
std::uint64_t trim_pinned();

}  // namespace fastio
