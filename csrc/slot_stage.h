// The stage of a slot, which is a block of a load on its way through a lane.
//
//                        ┌── what is missing, again, another replica
//                        ▼                    │
//   idle ──► taken ──► reading ──────────► arrived ──► placing ──► copying
//                                                      (host)      (devices)
//
// Each stage leads back to idle: the block is done, its read is lost, or the job fails or stops.
#pragma once

#include <cstdint>

#include "assertions.h"

namespace fastio {

enum class Stage : std::uint8_t {
  idle,     // no block
  taken,    // a block, and no memory or request yet
  reading,  // a read of the block is out, or about to be
  arrived,  // what was read is to be verified
  placing,  // it is put to its places, which the ledger counts
  copying,  // its copies to devices are in their streams
};

[[nodiscard]] constexpr bool may_follow(Stage before, Stage after) {
  switch (before) {
    case Stage::idle:
      return after == Stage::taken;
    case Stage::taken:
      return after == Stage::reading || after == Stage::idle;
    case Stage::reading:
      return after == Stage::reading || after == Stage::arrived || after == Stage::idle;
    case Stage::arrived:
      return after == Stage::reading || after == Stage::placing || after == Stage::idle;
    case Stage::placing:
      return after == Stage::copying || after == Stage::idle;
    case Stage::copying:
      return after == Stage::idle;
  }
  return false;
}

// A stage that changes in no other way.
class SlotStage {
 public:
  [[nodiscard]] operator Stage() const { return stage_; }  // NOLINT(google-explicit-constructor)

  void move_to(Stage next) {
    FASTIO_ASSERT(may_follow(stage_, next));
    stage_ = next;
  }

 private:
  Stage stage_ = Stage::idle;
};

}  // namespace fastio
