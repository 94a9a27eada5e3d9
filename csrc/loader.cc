#include "loader.h"

#include <algorithm>
#include <span>
#include <utility>

#include "loader_lanes.h"
#include "loader_mapped.h"
#include "loader_verify.h"

namespace fastio {
namespace {

constexpr std::uint64_t kInlineBytes = std::uint64_t{4} << 20;

bool any_shard(const LoadLayout& layout, bool (LoadLayout::*is_so)(std::size_t) const) {
  for (std::size_t shard = 0; shard < layout.shards.size(); ++shard) {
    if ((layout.*is_so)(shard)) return true;
  }
  return false;
}

// Reads a block that is not mapped out of the page cache. False if not all of it is there.
bool read_cached(const LoadLayout& layout, const Assignment& work) {
  const auto& [shard, range] = work.block;
  if (work.region->mapped()) return layout.access(shard).resident;
  const auto& replicas = layout.shards[shard].replicas;
  const File* const file = replicas.front().file();
  if (layout.access(shard).mode == ReadMode::direct || replicas.size() > 1) return false;
  const std::span out(work.region->at(range.begin), range.nbytes());
  return file != nullptr && file->read_cached(range.begin, out);
}

}  // namespace

LoadJob::LoadJob(std::shared_ptr<LoadState> state)
    : state_(std::move(state)), solo_(state_), delivery_(state_, solo_) {
  if (any_shard(layout(), &LoadLayout::maps)) {
    report_.engine = "mmap";
    report_.engine_reason = any_shard(layout(), &LoadLayout::brings_in)
                                ? "what was not in the page cache was brought in and mapped"
                                : "all bytes are in the page cache";
  }
  needs_lanes_ = !layout().blocks.empty() && !finish_inline();
}

std::shared_ptr<LoadJob> LoadJob::start(std::vector<ShardRequest> shards,
                                        const LoadOptions& options) {
  auto job = prepare(std::move(shards), options);
  job->launch();
  return job;
}

std::shared_ptr<LoadJob> LoadJob::prepare(std::vector<ShardRequest> shards,
                                          const LoadOptions& options) {
  return std::make_shared<LoadJob>(LoadState::make(std::move(shards), options));
}

void LoadJob::launch() {
  if (!needs_lanes_) return;
  state_->ready = mark(state_->options.devices);
  try {
    StartedLanes started = start_lanes(state_);
    report_.lanes = started.count;
    if (!started.engine.empty()) {
      report_.engine = std::move(started.engine);
      report_.engine_reason = std::move(started.reason);
    }
    if (started.solo) solo_.keep(std::move(started.solo));
  } catch (const std::bad_alloc&) {  // a refused caller has his memory back at once
    cancel();
    while (!wait_until_released(std::chrono::seconds(1))) {
    }
    throw;
  }
}

bool LoadJob::finish_inline() {
  const LoadOptions& options = state_->options;
  if (bytes_total() > kInlineBytes || options.window_bytes || options.persistent || layout().fills)
    return false;
  BlockDesk desk(*state_);
  for (std::size_t i = 0; i < layout().blocks.size(); ++i) {
    if (!read_cached(layout(), desk.assignment_of(i))) return false;
  }
  for (std::size_t i = 0; i < layout().blocks.size(); ++i) {
    const ShardBlock& block = layout().blocks[i];
    const Assignment work = desk.assignment_of(i);
    const bool mapped = work.region->mapped();
    if (!mapped) state_->counters.bytes_buffered += block.range.nbytes();
    Soundness soundness = mapped ? bring_in(*state_, work) : Soundness::sound;
    if (soundness == Soundness::sound)
      soundness = verify(*state_, work, work.region->at(block.range.begin));
    desk.end(work, soundness);
  }
  report_.engine = layout().bytes_to_read == 0 ? "mmap" : "inline";
  report_.engine_reason = "small and in memory: done on the caller's thread";
  return true;
}

bool LoadJob::wait_for(std::chrono::milliseconds timeout) {
  return state_->crew.wait_until_gone(timeout);
}

bool LoadJob::wait_until_queued(std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(state_->crew.mutex);
  while (!state_->ledger.all_queued() && state_->crew.running() != 0) {
    if (!state_->crew.changed.wait_until(lock, until))
      return state_->ledger.all_queued() || state_->crew.running() == 0;
  }
  return true;
}

bool LoadJob::wait_until_released(std::chrono::milliseconds timeout) {
  const auto until = std::chrono::steady_clock::now() + timeout;
  MutexLock lock(state_->crew.mutex);
  while (state_->ledger.is_placing()) {
    if (!state_->crew.changed.wait_until(lock, until)) return !state_->ledger.is_placing();
  }
  return true;
}

std::optional<Failure> LoadJob::hold_back(const DeviceTarget& later) {
  const MutexLock lock(state_->crew.mutex);
  return state_->ends.hold_back(later);
}

bool LoadJob::is_placed(std::size_t shard, std::size_t extent) const {
  const MutexLock lock(state_->crew.mutex);
  return state_->ledger.is_placed(shard, extent);
}

void LoadJob::cancel() {
  std::vector<std::shared_ptr<Region>> given_up;
  {
    const MutexLock lock(state_->crew.mutex);
    // A lane that only waits for its copies ends by itself.
    if (!state_->ledger.all_queued() && state_->crew.running() != 0) state_->outcome.cancel();
    state_->crew.stop();
    given_up = state_->regions.give_up();
  }
  const std::vector<std::weak_ptr<Region>> seen(given_up.begin(), given_up.end());
  given_up.clear();
  for (const auto& region : seen) {
    // A mapping takes no memory, and memory without a read in it was freed.
    if (const auto held = region.lock(); held && !held->mapped()) held->abandon();
  }
  solo_.end();
}

std::vector<std::vector<std::shared_ptr<Region>>> LoadJob::take_regions() {
  const MutexLock lock(state_->crew.mutex);
  return state_->regions.take_all();
}

LoadReport LoadJob::report() const {
  LoadReport report = report_;
  const MutexLock lock(state_->crew.mutex);
  report.lane_times = state_->lane_times;
  if (state_->may_grow()) report.lanes = std::max(report.lanes, state_->growth.lanes());
  return report;
}

}  // namespace fastio
