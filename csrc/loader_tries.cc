#include "loader_tries.h"

#include <algorithm>
#include <utility>

#include "assertions.h"

namespace fastio {
namespace {

bool overlap(const Extent& a, const Extent& b) { return a.begin < b.end && b.begin < a.end; }

// Damaged chunks that follow each other are one span.
std::vector<Extent> spans_of(std::span<const DamagedChunk> damaged) {
  std::vector<Extent> spans;
  for (const DamagedChunk& chunk : damaged) {
    if (!spans.empty() && spans.back().end == chunk.extent.begin) {
      spans.back().end = chunk.extent.end;
    } else {
      spans.push_back(chunk.extent);
    }
  }
  return spans;
}

// Takes those that `chosen` is true of out of `incidents`, in their order.
template <typename Chosen>
std::vector<Incident> taken_out(std::vector<Incident>& incidents, const Chosen& chosen) {
  std::vector<Incident> taken;
  taken.reserve(static_cast<std::size_t>(std::ranges::count_if(incidents, chosen)));
  for (Incident& incident : incidents) {
    if (chosen(incident)) taken.push_back(incident);
  }
  std::erase_if(incidents, chosen);
  return taken;
}

}  // namespace

void Tries::begin(std::size_t shard, const Extent& span, std::size_t replica) {
  FASTIO_ASSERT(later_.empty() && incidents_.empty());
  shard_ = shard;
  now_ = {span, replica};
}

void Tries::next() {
  FASTIO_ASSERT(!later_.empty());
  now_ = later_.back();
  later_.pop_back();
}

void Tries::fail(const Failure& failure, std::size_t replica) {
  incidents_.push_back({shard_, replica, now_.span, failure});
  now_.unreadable |= only(replica);
}

void Tries::ask(std::size_t replica) {
  FASTIO_ASSERT((now_.useless() & only(replica)) == 0);
  follow(replica);
}

void Tries::follow(std::size_t replica) {
  if (now_.replica == replica) return;
  now_.replica = replica;
  now_.again = false;
}

bool Tries::split(std::uint64_t step, std::size_t replica) {
  const Extent span = now_.span;
  if (span.nbytes() <= step) return false;
  FASTIO_ASSERT(!incidents_.empty() && incidents_.back().extent == span);
  incidents_.pop_back();  // the one of the whole span
  const std::uint64_t count = (span.nbytes() + step - 1) / step;
  for (std::uint64_t i = count; i > 0; --i) {  // the first one is taken first
    const std::uint64_t begin = span.begin + (i - 1) * step;
    later_.push_back({{begin, std::min(begin + step, span.end)}, replica});
  }
  return true;
}

void Tries::note_damage(std::span<const DamagedChunk> damaged) {
  for (const DamagedChunk& chunk : damaged) {
    incidents_.push_back(
        {chunk.shard, chunk.replica, chunk.extent, {}, chunk.expected, chunk.found});
  }
}

Try Tries::after_damage(std::span<const DamagedChunk> damaged) const {
  FASTIO_ASSERT(!damaged.empty());
  Try next = now_;
  next.again = !now_.again;
  if (now_.again) next.damaged |= only(next.replica);
  // A replica that could not read all of it may still have these parts.
  if (spans_of(damaged).front() != now_.span) next.unreadable = 0;
  return next;
}

std::optional<ReplicaSet> Tries::useless_for(std::span<const DamagedChunk> damaged) const {
  const Try next = after_damage(damaged);
  return next.again ? std::nullopt : std::optional(next.useless());
}

void Tries::read_later(std::span<const DamagedChunk> damaged, std::size_t replica) {
  Try next = after_damage(damaged);
  next.replica = replica;
  const std::vector<Extent> spans = spans_of(damaged);
  for (std::size_t i = spans.size(); i > 0; --i) {  // the first one is taken first
    next.span = spans[i - 1];
    later_.push_back(next);
  }
}

// This read may have filled the last gap left by an earlier failure.
std::vector<Incident> Tries::take_remedied() {
  std::vector<Incident> remedied = taken_out(incidents_, [&](const Incident& incident) {
    return std::ranges::none_of(
        later_, [&](const Try& later) { return overlap(later.span, incident.extent); });
  });
  for (Incident& incident : remedied) {
    incident.remedied_by = now_.replica;
    incident.remedy = incident.replica == now_.replica ? Incident::Remedy::read_again
                                                       : Incident::Remedy::other_replica;
  }
  return remedied;
}

std::vector<Incident> Tries::take_lost(const Extent& extent) {
  return taken_out(incidents_,
                   [&](const Incident& incident) { return overlap(incident.extent, extent); });
}

std::vector<Incident> Tries::take_all() { return std::exchange(incidents_, {}); }

void Tries::clear() {
  later_.clear();
  incidents_.clear();
}

}  // namespace fastio
