// A lane: one thread with its own engine that takes blocks all the way, read and verified.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "loader.h"

namespace fastio {

// The size of a slot's own memory for a block of so many bytes: whole units of direct I/O.
[[nodiscard]] std::uint64_t staging_bytes(std::uint64_t block_bytes);

class Lane {
 public:
  // `engine` may be null for a job whose blocks are all mapped.
  Lane(std::shared_ptr<LoadJob> job, std::unique_ptr<Engine> engine, unsigned queue_depth);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;

  // Waits for every read that is out: memory under a read must not be freed.
  ~Lane();

  void run();

 private:
  // A block on its way; its index is the tag of its request.
  struct Slot {
    LoadJob::Assignment work;
    std::shared_ptr<Region> staging;
    std::byte* data = nullptr;  // where the block's first byte goes: in its region, or staging
    std::uint64_t at = 0;       // the next byte to read, file offset
    bool busy = false;
    bool direct = false;
    unsigned stalls = 0;  // answers in a row that brought nothing
  };

  LoadJob::Turn top_up();
  [[nodiscard]] std::byte* staging_of(Slot& slot);
  void submit();
  void issue(std::uint32_t tag);
  void settle(std::uint32_t tag, std::int32_t result);
  void retry(std::uint32_t tag, int error);
  void finish(std::uint32_t tag);
  void give_up(std::uint32_t tag, Failure failure);
  void leave(std::uint32_t tag, bool sound);
  [[nodiscard]] bool reads_direct(const LoadJob::Assignment& work) const;
  void park_staging();
  void drain();

  std::shared_ptr<LoadJob> job_;
  std::unique_ptr<Engine> engine_;
  std::vector<Slot> slots_;
  std::vector<std::uint32_t> free_;
  std::vector<std::uint32_t> arrived_;  // read, not yet verified
  std::vector<ReadRequest> to_submit_;
  std::vector<Completion> completions_;
  std::size_t in_flight_ = 0;
};

}  // namespace fastio
