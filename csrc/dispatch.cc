#include "dispatch.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace fastio {
namespace {

constexpr double kHalfLife_s = 0.5;  // of a measured rate, in time that the device was busy

double seconds(Dispatch::Clock::duration passed) {
  return std::chrono::duration<double>(passed).count();
}

}  // namespace

Dispatch::Dispatch(const std::vector<std::vector<std::uint64_t>>& devices,
                   std::vector<Block> blocks)
    : blocks_(std::move(blocks)), taken_(blocks_.size(), 0), untaken_(blocks_.size()) {
  std::vector<std::uint64_t> known;  // there are few
  for (const std::vector<std::uint64_t>& of_shard : devices) {
    std::vector<Copy>& copies = copies_.emplace_back();
    for (const std::uint64_t device : of_shard) {
      const auto found = std::find(known.begin(), known.end(), device);
      copies.push_back({static_cast<std::size_t>(found - known.begin()), false});
      if (found == known.end()) known.push_back(device);
    }
  }
  devices_.resize(known.size());
  for (std::size_t b = 0; b < blocks_.size(); ++b) {
    const std::vector<Copy>& copies = copies_[blocks_[b].shard];
    const std::size_t preferred = copies.front().device;
    devices_[preferred].own.blocks.push_back(b);
    bool alone = true;
    for (std::size_t d = 0; d < devices_.size(); ++d) {
      if (d == preferred || !copy_on(blocks_[b].shard, d)) continue;
      devices_[d].shared.blocks.push_back(b);
      alone = false;
    }
    if (alone) devices_[preferred].alone.blocks.push_back(b);
  }
}

// The copy that a device is asked for, if there is one.
std::optional<std::size_t> Dispatch::copy_on(std::size_t shard, std::size_t device) const {
  const std::vector<Copy>& copies = copies_[shard];
  for (std::size_t c = 0; c < copies.size(); ++c) {
    if (copies[c].device == device && !copies[c].avoided) return c;
  }
  return std::nullopt;
}

// A taken or avoided block stays so: it is passed for good.
std::optional<std::size_t> Dispatch::first_of(std::size_t device, Queue& queue) const {
  const auto of_no_use = [&](std::size_t block) {
    return taken_[block] != 0 || !copy_on(blocks_[block].shard, device);
  };
  while (queue.at < queue.blocks.size() && of_no_use(queue.blocks[queue.at])) ++queue.at;
  if (queue.at == queue.blocks.size()) return std::nullopt;
  return queue.blocks[queue.at];
}

std::optional<std::size_t> Dispatch::next_of(std::size_t device) {
  for (Queue* queue : {&devices_[device].own, &devices_[device].shared}) {
    if (const auto block = first_of(device, *queue); block && *block < opened_) return block;
  }
  return std::nullopt;
}

bool Dispatch::wants_more() {
  for (std::size_t d = 0; d < devices_.size(); ++d) {
    const auto own = first_of(d, devices_[d].own);
    if (own && *own >= opened_) return true;
    if (own) continue;
    const auto shared = first_of(d, devices_[d].shared);
    if (shared && *shared >= opened_) return true;
  }
  return false;
}

std::optional<Dispatch::Pick> Dispatch::pick(Time now) {
  for (Device& device : devices_) advance(device, now);
  const double mean = mean_rate();
  std::optional<std::pair<double, std::size_t>> best;  // seconds from now, block
  std::size_t best_device = 0;
  for (std::size_t d = 0; d < devices_.size(); ++d) {
    Device& device = devices_[d];
    auto block = next_of(d);
    if (!block) continue;
    const std::uint64_t nbytes = device.in_flight_bytes + blocks_[*block].nbytes;
    double ready_s = static_cast<double>(nbytes) / rate_of(device, mean, now);
    if (device.in_flight_bytes == 0) {
      const auto alone = first_of(d, device.alone);
      if (alone && *alone < opened_) {
        block = alone;
        ready_s = 0;
      }
    }
    const std::pair candidate(ready_s, *block);
    if (best && *best <= candidate) continue;
    best = candidate;
    best_device = d;
  }
  if (!best) return std::nullopt;
  const std::size_t block = best->second;
  const std::size_t copy = *copy_on(blocks_[block].shard, best_device);
  skip(block, block + 1);
  started(blocks_[block].shard, copy, blocks_[block].nbytes, now);
  return Pick{block, copy};
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
  for (Device& device : devices_) {
    for (Queue* queue : {&device.own, &device.shared, &device.alone}) {
      const auto at = std::ranges::lower_bound(queue->blocks, first) - queue->blocks.begin();
      queue->at = std::min(queue->at, static_cast<std::size_t>(at));
    }
  }
}

void Dispatch::started(std::size_t shard, std::size_t copy, std::uint64_t nbytes, Time now) {
  Device& device = devices_[copies_[shard][copy].device];
  advance(device, now);
  if (device.in_flight_bytes == 0) device.quiet_since = now;
  device.in_flight_bytes += nbytes;
}

void Dispatch::finished(std::size_t shard, std::size_t copy, std::uint64_t nbytes,
                        std::uint64_t brought, Time now) {
  Device& device = devices_[copies_[shard][copy].device];
  advance(device, now);
  device.in_flight_bytes -= nbytes;
  device.done_bytes += static_cast<double>(brought);
  device.quiet_since = now;
}

void Dispatch::avoid(std::size_t shard, std::size_t copy) {
  std::vector<Copy>& copies = copies_[shard];
  const auto others = std::count_if(copies.begin(), copies.end(),
                                    [&](const Copy& other) { return !other.avoided; });
  if (others > 1) copies[copy].avoided = true;
}

void Dispatch::admit(std::size_t shard, std::size_t copy) {
  Copy& admitted = copies_[shard][copy];
  if (!std::exchange(admitted.avoided, false)) return;
  Device& device = devices_[admitted.device];
  // From where blocks of it may have been passed.
  device.own.at = device.shared.at = device.alone.at = 0;
}

void Dispatch::advance(Device& device, Time now) {
  if (now <= device.counted_until) return;
  if (device.in_flight_bytes != 0) {
    const double passed_s = seconds(now - device.counted_until);
    const double kept = std::exp2(-passed_s / kHalfLife_s);
    device.done_bytes *= kept;
    device.busy_s = device.busy_s * kept + passed_s;
  }
  device.counted_until = now;
}

// Of the devices that were measured, in bytes a second; any number where none was.
double Dispatch::mean_rate() const {
  double sum = 0;
  std::size_t count = 0;
  for (const Device& device : devices_) {
    if (device.done_bytes <= 0 || device.busy_s <= 0) continue;
    sum += device.done_bytes / device.busy_s;
    ++count;
  }
  return count == 0 ? 0 : sum / static_cast<double>(count);
}

// Never 0. One that was not measured is as fast as the others, unless what it was asked for does
// not come.
double Dispatch::rate_of(const Device& device, double mean, Time now) {
  constexpr double kLeast = 1;
  if (device.done_bytes > 0 && device.busy_s > 0) {
    return std::max(device.done_bytes / device.busy_s, kLeast);
  }
  const double waited_s = seconds(now - device.quiet_since);
  if (device.in_flight_bytes != 0 && waited_s > 0) {
    mean = std::min(mean, static_cast<double>(device.in_flight_bytes) / waited_s);
  }
  return std::max(mean, kLeast);
}

}  // namespace fastio
