#include "incidents.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "assertions.h"

namespace fastio {
namespace {

// The common part of incidents that may be told as one.
auto kind_of(const Incident& incident) {
  const int error = incident.failure ? incident.failure->error : 0;
  return std::tuple(incident.shard, incident.replica, incident.remedy, error);
}

// A replica that is damaged from end to end is one incident then.
void join_touching(std::vector<Incident>& incidents) {
  std::ranges::stable_sort(incidents, [](const Incident& a, const Incident& b) {
    return std::tuple(kind_of(a), a.extent.begin) < std::tuple(kind_of(b), b.extent.begin);
  });
  std::size_t kept = 0;
  for (std::size_t i = 1; i < incidents.size(); ++i) {
    Incident& last = incidents[kept];
    if (kind_of(last) == kind_of(incidents[i]) && incidents[i].extent.begin <= last.extent.end) {
      last.extent.end = std::max(last.extent.end, incidents[i].extent.end);
    } else if (++kept != i) {
      incidents[kept] = std::move(incidents[i]);
    }
  }
  incidents.resize(std::min(kept + 1, incidents.size()));
}

}  // namespace

void IncidentLog::note(Incident incident) {
  const MutexLock lock(mutex_);
  if (incidents_.size() >= joined_at_) {
    join_touching(incidents_);
    // Scattered ones are not gone through again and again.
    joined_at_ = std::max(joined_above_, 2 * incidents_.size());
  }
  if (incidents_.size() < most_) {
    incidents_.push_back(std::move(incident));
  } else {
    ++dropped_;
  }
  FASTIO_ASSERT(incidents_.size() <= most_);
}

std::vector<Incident> IncidentLog::take() {
  const MutexLock lock(mutex_);
  return std::exchange(incidents_, {});
}

std::uint64_t IncidentLog::dropped() const {
  const MutexLock lock(mutex_);
  return dropped_;
}

}  // namespace fastio
