// The requests of one lane: gathered, submitted together, counted until their completions come.
//
// Used by the lane's thread alone. Requests must all have come back before this goes, which drain()
// waits for: memory under a read must not be freed, and none that a disk still writes from.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "engine.h"

namespace fastio {

class Requests {
 public:
  // `engine` may be null for a lane that makes none.
  Requests(std::unique_ptr<Engine> engine, unsigned depth);

  // Counts as in flight from now on.
  void add(const IoRequest& request);
  [[nodiscard]] bool has_added() const { return !added_.empty(); }  // and not submitted
  void submit();

  // Waits up to `timeout` for the first completion and takes what has come. None of these is in
  // flight any more. The span is good until the next call.
  [[nodiscard]] std::span<const Completion> wait(std::chrono::milliseconds timeout);

  [[nodiscard]] std::size_t in_flight() const { return in_flight_; }

  // Forgets what was not submitted, and waits for all else; `taken` gets each completion.
  template <typename Taken>
  void drain(Taken&& taken) {
    forget_unsubmitted();
    while (in_flight_ > 0) {
      for (const Completion& completion : wait(std::chrono::milliseconds(20))) taken(completion);
    }
  }

 private:
  void forget_unsubmitted();

  std::unique_ptr<Engine> engine_;
  std::vector<IoRequest> added_;
  std::vector<Completion> completions_;
  std::size_t in_flight_ = 0;
};

}  // namespace fastio
