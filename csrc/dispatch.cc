#include "dispatch.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace fastio {
namespace {

constexpr double kHalfLife_s = 0.5;  // of a measured rate, in time that the disk was busy

double seconds(Dispatch::Clock::duration passed) {
  return std::chrono::duration<double>(passed).count();
}

}  // namespace

Dispatch::Dispatch(const std::vector<std::vector<std::uint64_t>>& disks, std::vector<Block> blocks)
    : blocks_(std::move(blocks)), taken_(blocks_.size(), 0), untaken_(blocks_.size()) {
  std::vector<std::uint64_t> known;  // there are few
  for (const std::vector<std::uint64_t>& of_shard : disks) {
    std::vector<Replica>& replicas = replicas_.emplace_back();
    for (const std::uint64_t disk : of_shard) {
      const auto found = std::find(known.begin(), known.end(), disk);
      replicas.push_back({static_cast<std::size_t>(found - known.begin()), false});
      if (found == known.end()) known.push_back(disk);
    }
  }
  disks_.resize(known.size());
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    const std::vector<Replica>& replicas = replicas_[blocks_[b].shard];
    const std::size_t preferred = replicas.front().disk;
    disks_[preferred].own.blocks.push_back(b);
    bool alone = true;
    for (std::size_t d = 0; d < disks_.size(); ++d) {
      if (d == preferred || !replica_on(blocks_[b].shard, d)) continue;
      disks_[d].shared.blocks.push_back(b);
      alone = false;
    }
    if (alone) disks_[preferred].alone.blocks.push_back(b);
  }
}

// The replica that a disk is asked for, if there is one.
std::optional<std::size_t> Dispatch::replica_on(std::size_t shard, std::size_t disk) const {
  const std::vector<Replica>& replicas = replicas_[shard];
  for (std::size_t c = 0; c < replicas.size(); ++c) {
    if (replicas[c].disk == disk && !replicas[c].avoided) return c;
  }
  return std::nullopt;
}

// A taken or avoided block stays so: it is passed for good.
std::optional<std::size_t> Dispatch::first_of(std::size_t disk, Queue& queue) const {
  const auto of_no_use = [&](std::size_t block) {
    return taken_[block] != 0 || !replica_on(blocks_[block].shard, disk);
  };
  while (queue.at < queue.blocks.size() && of_no_use(queue.blocks[queue.at])) ++queue.at;
  if (queue.at == queue.blocks.size()) return std::nullopt;
  return queue.blocks[queue.at];
}

std::optional<std::size_t> Dispatch::next_of(std::size_t disk) {
  for (Queue* queue : {&disks_[disk].own, &disks_[disk].shared}) {
    if (const auto block = first_of(disk, *queue); block && *block < opened_) return block;
  }
  return std::nullopt;
}

bool Dispatch::wants_more() {
  for (std::size_t d = 0; d < disks_.size(); ++d) {
    const auto own = first_of(d, disks_[d].own);
    if (own && *own >= opened_) return true;
    if (own) continue;
    const auto shared = first_of(d, disks_[d].shared);
    if (shared && *shared >= opened_) return true;
  }
  return false;
}

std::optional<Dispatch::Pick> Dispatch::pick(Time now) {
  for (Disk& disk : disks_) advance(disk, now);
  const double mean = mean_rate();
  std::optional<std::pair<double, std::size_t>> best;  // seconds from now, block
  std::size_t best_disk = 0;
  for (std::size_t d = 0; d < disks_.size(); ++d) {
    Disk& disk = disks_[d];
    auto block = next_of(d);
    if (!block) continue;
    const std::uint64_t nbytes = disk.in_flight_bytes + blocks_[*block].nbytes;
    double ready_s = static_cast<double>(nbytes) / rate_of(disk, mean, now);
    if (disk.in_flight_bytes == 0) {
      const auto alone = first_of(d, disk.alone);
      if (alone && *alone < opened_) {
        block = alone;
        ready_s = 0;
      }
    }
    const std::pair candidate(ready_s, *block);
    if (best && *best <= candidate) continue;
    best = candidate;
    best_disk = d;
  }
  if (!best) return std::nullopt;
  const std::size_t block = best->second;
  const std::size_t replica = *replica_on(blocks_[block].shard, best_disk);
  skip(block, block + 1);
  started(blocks_[block].shard, replica, blocks_[block].nbytes, now);
  return Pick{block, replica};
}

void Dispatch::skip(std::size_t first, std::size_t last) {
  for (std::size_t b = first; b < last; ++b) {
    if (std::exchange(taken_[b], 1) == 0) --untaken_;
  }
}

void Dispatch::put_back(std::size_t first, std::size_t last) {
  for (std::size_t b = first; b < last; ++b) {
    if (std::exchange(taken_[b], 0) != 0) ++untaken_;
  }
  for (Disk& disk : disks_) {
    for (Queue* queue : {&disk.own, &disk.shared, &disk.alone}) {
      const auto at = std::ranges::lower_bound(queue->blocks, first) - queue->blocks.begin();
      queue->at = std::min(queue->at, static_cast<std::size_t>(at));
    }
  }
}

void Dispatch::started(std::size_t shard, std::size_t replica, std::uint64_t nbytes, Time now) {
  Disk& disk = disks_[replicas_[shard][replica].disk];
  advance(disk, now);
  if (disk.in_flight_bytes == 0) disk.quiet_since = now;
  disk.in_flight_bytes += nbytes;
}

void Dispatch::finished(std::size_t shard, std::size_t replica, std::uint64_t nbytes,
                        std::uint64_t brought, Time now) {
  Disk& disk = disks_[replicas_[shard][replica].disk];
  advance(disk, now);
  disk.in_flight_bytes -= nbytes;
  disk.done_bytes += static_cast<double>(brought);
  disk.quiet_since = now;
}

void Dispatch::avoid(std::size_t shard, std::size_t replica) {
  std::vector<Replica>& replicas = replicas_[shard];
  const auto others = std::count_if(replicas.begin(), replicas.end(),
                                    [&](const Replica& other) { return !other.avoided; });
  if (others > 1) replicas[replica].avoided = true;
}

void Dispatch::admit(std::size_t shard, std::size_t replica) {
  Replica& admitted = replicas_[shard][replica];
  if (!std::exchange(admitted.avoided, false)) return;
  Disk& disk = disks_[admitted.disk];
  // From where blocks of it may have been passed.
  disk.own.at = disk.shared.at = disk.alone.at = 0;
}

void Dispatch::advance(Disk& disk, Time now) {
  if (now <= disk.counted_until) return;
  if (disk.in_flight_bytes != 0) {
    const double passed_s = seconds(now - disk.counted_until);
    const double kept = std::exp2(-passed_s / kHalfLife_s);
    disk.done_bytes *= kept;
    disk.busy_s = disk.busy_s * kept + passed_s;
  }
  disk.counted_until = now;
}

// Of the disks that were measured, in bytes a second; any number where none was.
double Dispatch::mean_rate() const {
  double sum = 0;
  std::size_t count = 0;
  for (const Disk& disk : disks_) {
    if (disk.done_bytes <= 0 || disk.busy_s <= 0) continue;
    sum += disk.done_bytes / disk.busy_s;
    ++count;
  }
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

// Never 0. One that was not measured is as fast as the others, unless what it was asked for does
// not come.
double Dispatch::rate_of(const Disk& disk, double mean, Time now) {
  constexpr double kLeast = 1;
  if (disk.done_bytes > 0 && disk.busy_s > 0) {
    return std::max(disk.done_bytes / disk.busy_s, kLeast);
  }
  const double waited_s = seconds(now - disk.quiet_since);
  if (disk.in_flight_bytes != 0 && waited_s > 0) {
    mean = std::min(mean, static_cast<double>(disk.in_flight_bytes) / waited_s);
  }
  return std::max(mean, kLeast);
}

}  // namespace fastio
