// The reads of a lane: each with its replica, its extent, its memory, and since when it is out.
//
// A slot holds the read that brings its block, and its bytes until they are at their place. A read
// that is out and that nobody waits for belongs to no slot: it keeps its memory until it returns.
// Reads belong to their lane and are used by its thread alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "answers.h"
#include "loader_request.h"
#include "memory.h"
#include "pinned.h"

namespace fastio {

// The staging of a read, used again and again: fresh memory is slow. In a job with devices it is
// pinned, and leased for one block.
class ReadStaging {
 public:
  // False where another job holds all that may be pinned.
  [[nodiscard]] bool lease(const LoadOptions& options, std::uint64_t nbytes);
  // Memory for a block. Throws OutOfMemory.
  [[nodiscard]] std::byte* make(std::uint64_t nbytes, HugePages huge_pages);
  [[nodiscard]] const Region& memory() const { return *region_; }

  // A read still writes here, and nobody waits for it.
  void abandon() const;
  void release_lease() { lease_.reset(); }
  void release();

 private:
  std::shared_ptr<Region> region_;
  std::optional<PinnedLease> lease_;
};

// How bytes are read.
struct ReadAccess {
  std::uint64_t unit_bytes = 1;  // of direct I/O; 1: through the page cache
  bool resident = false;         // reading them is a copy, done by this thread

  [[nodiscard]] bool is_direct() const { return unit_bytes != 1; }
};

struct Slot;

struct LaneRead {
  enum class State : std::uint8_t {
    unused,
    held,     // by a slot, and no request is out
    out,      // a request is out, and the slot waits for it
    arrived,  // all of it came, and it is to be verified; without a slot it is to be released
    left,     // a request is out that nobody waits for
  };

  std::uint32_t tag = 0;  // of its requests
  State state = State::unused;
  bool lost = false;     // it is left, as its disk hangs
  bool late = false;     // it is out for long
  bool hedge = false;    // asked because another one was late
  bool again = false;    // past the page cache, also where the file is not read so otherwise
  Slot* slot = nullptr;  // that waits for it or holds its bytes; null: none
  std::size_t shard = 0, replica = 0;
  Extent span;                     // what was asked for
  std::uint64_t at = 0;            // the next byte to read, file offset
  std::uint64_t block_begin = 0;   // file offset of the block that the span is a part of
  std::byte* data = nullptr;       // place of the block's first byte: in its region, or staging
  std::shared_ptr<Region> region;  // that it reads into; null: into its staging
  ReadStaging staging;
  ReadAccess access;
  unsigned stalls = 0;               // answers in a row that brought nothing
  Vigil::Duration since{}, asked{};  // of the first request, of the one that is out

  [[nodiscard]] std::byte* data_at(std::uint64_t offset) const {
    return data + (offset - block_begin);
  }
  [[nodiscard]] const Region& memory() const { return region ? *region : staging.memory(); }
};

// As many as the lane's engine may have out. None ever moves.
class LaneReads {
 public:
  explicit LaneReads(std::size_t count);

  [[nodiscard]] std::size_t size() const { return reads_.size(); }
  [[nodiscard]] std::size_t unused() const { return unused_.size(); }
  [[nodiscard]] LaneRead& operator[](std::uint32_t tag) { return reads_[tag]; }
  [[nodiscard]] auto begin() { return reads_.begin(); }
  [[nodiscard]] auto end() { return reads_.end(); }

  // The read that is taken next. There has to be one.
  [[nodiscard]] LaneRead& next() { return reads_[unused_.back()]; }
  LaneRead& take(Slot& slot);
  // Its bytes are not needed any more, and no request of it is out.
  void release(LaneRead& read) noexcept;

  // Its slot needs it no longer.
  void drop(LaneRead& read);
  // A read that is out is waited for no longer.
  void leave(LaneRead& read);
  [[nodiscard]] std::size_t left() const { return left_; }
  // A read that was left has returned: its memory is freed.
  void take_back(LaneRead& read) noexcept;

  // Frees the memory that no read is in.
  void free_unused();

 private:
  std::vector<LaneRead> reads_;        // by tag
  std::vector<std::uint32_t> unused_;  // tags; the last one is taken first
  std::size_t left_ = 0;
};

}  // namespace fastio
