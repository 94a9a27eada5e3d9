// The tries of one block: what of it is read now, what is to be read again, and what has failed.
//
// A damaged part is read once more from the same replica, past the page cache, and then from the
// others. An unreadable part comes from the others at once. Sound parts of a block are not read
// again. Pure; used by the thread of a lane.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "incidents.h"
#include "outcome.h"
#include "plan.h"
#include "replica_choice.h"

namespace fastio {

// A read of a block, or of what of it is not sound yet.
struct Try {
  Extent span;
  std::size_t replica = 0;
  bool again = false;         // the second read of this replica, past the page cache
  ReplicaSet damaged = 0;     // replicas of no use for this span
  ReplicaSet unreadable = 0;  // the same

  [[nodiscard]] ReplicaSet useless() const { return damaged | unreadable; }
};

class Tries {
 public:
  // The first try of a block.
  void begin(std::size_t shard, const Extent& span, std::size_t replica);

  [[nodiscard]] const Try& now() const { return now_; }
  [[nodiscard]] bool has_later() const { return !later_.empty(); }
  // Goes on with the first of the later ones.
  void next();

  // The read of a replica, perhaps of one that was asked as well, has failed: an incident.
  void fail(const Failure& failure, std::size_t replica);
  // Reads the same span from another replica.
  void ask(std::size_t replica);
  // The read of another replica, which was asked for the same bytes, is the only one.
  void follow(std::size_t replica);
  // No replica of the span could be read: its parts of `step` bytes are tried one by one, from
  // `replica` on. False if it is one such part only, which is lost.
  [[nodiscard]] bool split(std::uint64_t step, std::size_t replica);

  // Chunks of the read are damaged, each an incident.
  void note_damage(std::span<const DamagedChunk> damaged);
  // The replicas of no use for them, if they are not to be read from the same one again.
  [[nodiscard]] std::optional<ReplicaSet> useless_for(std::span<const DamagedChunk> damaged) const;
  // They are read later, from that replica; chunks that follow each other together.
  void read_later(std::span<const DamagedChunk> damaged, std::size_t replica);

  // Incidents that have come to their end: those that no later try concerns any more, with their
  // remedy; those of bytes that are lost; all that are left.
  [[nodiscard]] std::vector<Incident> take_remedied();
  [[nodiscard]] std::vector<Incident> take_lost(const Extent& extent);
  [[nodiscard]] std::vector<Incident> take_all();
  [[nodiscard]] bool has_incidents() const { return !incidents_.empty(); }

  void clear();

 private:
  [[nodiscard]] Try after_damage(std::span<const DamagedChunk> damaged) const;

  std::size_t shard_ = 0;
  Try now_;
  std::vector<Try> later_;           // the last one is taken first
  std::vector<Incident> incidents_;  // not remedied yet
};

}  // namespace fastio
