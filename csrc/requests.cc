#include "requests.h"

#include <utility>

#include "assertions.h"

namespace fastio {

Requests::Requests(std::unique_ptr<Engine> engine, unsigned depth)
    : engine_(std::move(engine)), completions_(depth) {
  added_.reserve(depth);
}

void Requests::add(const IoRequest& request) {
  FASTIO_ASSERT(engine_ != nullptr && in_flight_ < completions_.size());
  FASTIO_ASSERT(request.tag < completions_.size() && request.nbytes != 0);
  added_.push_back(request);
  ++in_flight_;
}

void Requests::submit() {
  if (added_.empty()) return;
  engine_->submit(added_);
  added_.clear();
}

std::span<const Completion> Requests::wait(std::chrono::milliseconds timeout) {
  FASTIO_ASSERT(added_.empty());
  const std::size_t taken = engine_->wait(completions_, timeout);
  FASTIO_ASSERT(taken <= in_flight_);
  in_flight_ -= taken;
  return std::span(completions_).first(taken);
}

// They were counted when they were added, but no engine has seen them.
void Requests::forget_unsubmitted() {
  in_flight_ -= added_.size();
  added_.clear();
}

}  // namespace fastio
