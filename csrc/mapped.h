// A file that is wholly in the page cache, tensor by tensor. Each tensor gets memory of its own. A
// chunk is verified with the first tensor that has bytes in it.
//
// All members may be called from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "active_time.h"
#include "loader_request.h"
#include "outcome.h"
#include "placement.h"

namespace fastio {

// Values of a tensor that lie apart by strides. Offsets are from the start of the file.
struct StridedPart {
  std::uint64_t first = 0;       // of the first value, in the order of the part
  Extent span;                   // from the lowest byte to the highest
  std::uint64_t item_bytes = 0;  // of one value
  std::vector<Axis> axes;        // outermost first
};

class MappedFile {
 public:
  // None where a load with these options would not map the file, or it cannot be mapped. Several
  // files may share the time in which bytes are taken from them.
  static std::shared_ptr<MappedFile> open(ShardRequest shard, const LoadOptions& options,
                                          std::shared_ptr<ActiveTime> active_time = nullptr);

  [[nodiscard]] const ShardRequest& shard() const { return shard_; }

  // Whether the bytes of an extent need no more looking at.
  [[nodiscard]] bool verified(const Extent& extent) const;

  // Verifies what was not verified before; says which chunk is damaged. Throws IoError where the
  // file ends before.
  [[nodiscard]] std::optional<DamagedChunk> verify(const Extent& extent);

  // Verifies a part and copies it to `out`, which has its size. Releases the pages of a long part
  // as it goes. Returns and throws as above.
  [[nodiscard]] std::optional<DamagedChunk> take(const StridedPart& part, std::span<std::byte> out);

  [[nodiscard]] std::span<const std::byte> bytes(const Extent& extent) const {
    return {everything_->at(extent.begin), extent.end - extent.begin};
  }

  // Releases the pages inside an extent: they count as memory of this process only when they are
  // read again. The page cache keeps them.
  void release(const Extent& extent) const { everything_->give_back(extent.begin, extent.end); }

  // The pages of an extent, mapped once more: written to, they are nobody else's. Throws IoError.
  [[nodiscard]] std::shared_ptr<Region> map(const Extent& extent) const {
    return Region::map(*shard_.local_file(), extent.begin, extent.end);
  }

  [[nodiscard]] std::uint64_t chunks_verified() const { return chunks_verified_; }
  [[nodiscard]] std::uint64_t chunks_trusted() const { return chunks_trusted_; }

  [[nodiscard]] ActiveTime* active_time() const { return active_time_.get(); }
  void note_taken(std::uint64_t nbytes) { bytes_taken_ += nbytes; }
  [[nodiscard]] std::uint64_t bytes_taken() const { return bytes_taken_; }

 private:
  MappedFile(ShardRequest shard, std::shared_ptr<Region> everything,
             std::shared_ptr<ActiveTime> active_time);
  [[nodiscard]] std::uint64_t chunk_of(std::uint64_t offset) const;

  ShardRequest shard_;
  std::shared_ptr<Region> everything_;    // only read from
  std::vector<std::atomic<bool>> sound_;  // of each chunk
  std::shared_ptr<ActiveTime> active_time_;
  std::atomic<std::uint64_t> chunks_verified_{0}, chunks_trusted_{0}, bytes_taken_{0};
};

}  // namespace fastio
