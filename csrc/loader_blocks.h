// The desk where lanes get the blocks of a load, and say what became of them.
//
// Each lane has a desk of its own; all of them share the state of the load. Members may be called
// from any thread. A call takes the crew's mutex for a short time, and never while bytes are moved.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "device_ends.h"
#include "ledger.h"
#include "loader_state.h"
#include "plan.h"
#include "replica_choice.h"

namespace fastio {

// A block that a lane has to bring: the replica to read first, and the region that it goes to.
struct Assignment {
  std::size_t index = 0;  // of the block
  ShardBlock block;
  std::size_t replica = 0;
  std::shared_ptr<Region> region;  // null: the block is staged
  unsigned version = 0;            // of the region
};

// The answer to a lane that asks for a block.
struct Handout {
  enum class Kind : std::uint8_t { block, none_yet, none_left };  // yet: there is no room now

  Kind kind = Kind::none_left;
  Assignment assignment = {};
};

// Whether the copies of a block to devices are in some stream already.
enum class Queued : std::uint8_t { no, yes };

class BlockDesk {
 public:
  explicit BlockDesk(LoadState& state) : state_(state) {}

  [[nodiscard]] Handout next();
  // A block of a region as it is handed out first, for a job without lanes.
  [[nodiscard]] Assignment assignment_of(std::size_t index) const;
  // And no lane has failed.
  [[nodiscard]] bool all_handed_out();
  // Waits until there may be a block, or for that long.
  void wait_for_room(std::chrono::milliseconds timeout);

  // A staged block is put to its places between these two. False where the job stops before.
  [[nodiscard]] bool begin_placing();
  void end_placing(const ShardBlock& block, Soundness soundness);
  // The copies of a block are in a lane's streams, each up to its event.
  void queue(const StreamEnds& ends);
  // The block is where it belongs, or will never be.
  void end(const Assignment& assignment, Soundness soundness, Queued queued = Queued::no);

  // Reads beside the first one of a block, and the end of each read.
  void read_started(std::size_t shard, std::size_t replica, std::uint64_t nbytes);
  void read_finished(std::size_t shard, std::size_t replica, std::uint64_t nbytes, ReadEnd end);
  // The replica to ask next, where those of the set `tried` are of no use.
  [[nodiscard]] std::optional<std::size_t> next_replica(std::size_t shard, ReplicaSet tried) const;
  // The replica to ask as well, while the read of `asked` is late: none of the set `tried`, and
  // none that is avoided, or whose disk is late, too.
  [[nodiscard]] std::optional<std::size_t> hedge_replica(std::size_t shard, std::size_t asked,
                                                         ReplicaSet tried) const;
  // Some disk was found to hang.
  void avoid_hung();

  // The read of a block is lost. The block is read anew into other memory: all of its region, as
  // those that are there already lie in the old one.
  void read_anew(const Assignment& work);

 private:
  [[nodiscard]] bool open_region() FASTIO_REQUIRES(state_.crew.mutex);
  [[nodiscard]] bool exceeds_limit() FASTIO_REQUIRES(state_.crew.mutex);

  LoadState& state_;
};

}  // namespace fastio
