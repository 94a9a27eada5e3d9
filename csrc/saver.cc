#include "saver.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "lanes.h"
#include "saver_lane.h"

namespace fastio {
namespace {

// All lanes' staging together. More than this does not make a device write faster, and it is the
// memory that a save may take beside the tensors.
constexpr std::uint64_t kStagingBytes = std::uint64_t{48} << 20;
constexpr std::uint64_t kSlotsOfALane = 3;  // one is gathered while others are written
// Of more of them each has smaller blocks: on 16 cores 12 lanes took 1.4 times as long as 8
// (bench/README.md, "Onto a GPU").
constexpr std::uint64_t kLanesMost = 8;
constexpr std::uint64_t kLargestBlockBytes = std::uint64_t{1} << 30;
std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

SaveJob::SaveJob(std::shared_ptr<TargetFile> file, Sources sources, SaveOptions options)
    : file_(std::move(file)),
      sources_(std::move(sources)),
      options_(std::move(options)),
      no_memory_(file_->failed("allocate", ENOMEM, {})) {}

std::shared_ptr<SaveJob> SaveJob::make(std::shared_ptr<TargetFile> file, Sources sources,
                                       const SaveOptions& options) {
  if (options.queue_depth == 0 || options.queue_depth > 4096)
    throw std::invalid_argument("queue_depth not in 1..4096");
  if (options.lanes == 0 || options.lanes > 1024)
    throw std::invalid_argument("lanes not in 1..1024");
  if (options.block_bytes == 0 || options.block_bytes > kLargestBlockBytes)
    throw std::invalid_argument("block_bytes not in 1..1 GiB");
  if (options.chunk_bytes > kLargestBlockBytes || options.chunk_bytes % kBlockUnit != 0)
    throw std::invalid_argument("chunk_bytes is no multiple of 64 KiB below 1 GiB");
  sources.check();
  auto job = std::shared_ptr<SaveJob>(new SaveJob(std::move(file), std::move(sources), options));
  job->data_ = job->sources_.range();
  job->bound_memory();
  job->mark_streams();
  if (options.chunk_bytes != 0) {
    job->from_memory_.reserve(job->block_count());  // a lane that has written a block needs none
    job->digests_.resize(round_up(job->bytes_total(), options.chunk_bytes) / options.chunk_bytes);
  }
  return job;
}

// Blocks of whole chunks, so small and so few in flight that staging stays within its bounds.
void SaveJob::bound_memory() {
  const std::uint64_t unit = options_.chunk_bytes != 0 ? options_.chunk_bytes : kBlockUnit;
  const std::uint64_t held = parked_bytes();
  std::uint64_t bound = std::max(kStagingBytes, unit);
  if (options_.memory_limit_bytes) {
    if (*options_.memory_limit_bytes < held || *options_.memory_limit_bytes - held < unit)
      throw MemoryLimitExceeded(unit, *options_.memory_limit_bytes, held);
    bound = std::min(bound, *options_.memory_limit_bytes - held);
  }
  if (!options_.devices.empty()) {
    if (options_.pinned_limit_bytes < unit)
      throw MemoryLimitExceeded(unit, options_.pinned_limit_bytes, 0);
    bound = std::min(bound, options_.pinned_limit_bytes);
  }
  const auto lanes = std::min({std::uint64_t{options_.lanes}, kLanesMost, bound / unit});
  const std::uint64_t largest = std::max(bound / (lanes * kSlotsOfALane) / unit * unit, unit);
  block_bytes_ = std::min(round_up(options_.block_bytes, unit), largest);
  options_.lanes = static_cast<unsigned>(lanes);
  options_.queue_depth = static_cast<unsigned>(
      std::clamp<std::uint64_t>(bound / (lanes * block_bytes_), 1, options_.queue_depth));
}

// Reads from devices wait for the work in the caller's streams.
void SaveJob::mark_streams() {
  for (const int device : sources_.devices) {
    if (device < kHost || device >= static_cast<int>(options_.devices.size()))
      throw std::invalid_argument("a source is on a device that the job has not");
  }
  ready_ = mark(options_.devices);
}

std::size_t SaveJob::block_count() const {
  return round_up(bytes_total(), block_bytes_) / block_bytes_;
}

std::shared_ptr<Region> SaveJob::make_snapshot() const {
  const std::uint64_t limit = options_.memory_limit_bytes.value_or(UINT64_MAX);
  const std::uint64_t held = parked_bytes();
  if (bytes_total() > limit || held > limit - bytes_total())
    throw MemoryLimitExceeded(bytes_total(), limit, held);
  return Region::allocate(data_.begin, bytes_total(), options_.huge_pages);
}

void SaveJob::start(Leg leg, std::size_t first, std::size_t last) {
  {
    const std::lock_guard lock(mutex_);
    if (lanes_running_ != 0 || stopping()) throw std::logic_error("no leg can be started now");
  }
  if (first > last || last > block_count()) throw std::invalid_argument("no such blocks");
  if (first == last) return;
  std::shared_ptr<Region> snapshot;
  if (leg == Leg::copied) {
    if (snapshot_ || first != 0 || last != block_count())
      throw std::invalid_argument("all blocks are copied, once");
    snapshot = make_snapshot();
  }
  leg_ = leg;
  alignment_ = 1;
  if (leg == Leg::direct) {
    const DirectAccess direct = file_->direct_access();
    // Blocks and staging come in units of 64 KiB.
    const bool aligned = direct.possible && data_.begin % direct.alignment == 0 &&
                         kBlockUnit % direct.alignment == 0;
    if (aligned) {
      alignment_ = direct.alignment;
    } else {
      leg_ = Leg::buffered;
      note_fallback(file_->path() + ": " +
                    (direct.possible ? "direct writes begin at multiples of " +
                                           std::to_string(direct.alignment) + " bytes there"
                                     : direct.reason) +
                    ", written through the page cache");
    }
  }
  next_block_ = first;
  last_block_ = last;
  // Not by a ring: of one write FUSE gets parts at once from it, and they come in any order.
  const bool in_order = leg == Leg::in_order;
  const unsigned lanes_allowed = in_order ? 1 : options_.lanes;
  const unsigned queue_depth = in_order ? 1 : options_.queue_depth;
  const std::size_t count = std::min<std::size_t>(lanes_allowed, last - first);
  EngineSet set;
  if (!writes()) {
    set.engines.resize(count);
  } else {
    try {
      set = make_engines(in_order ? EnginePreference::pread : options_.engine, count, queue_depth);
    } catch (const IoError& error) {
      throw concerning(file_->path(), Failure::Kind::write, error);
    }
    engine_name_ = name_of(set.kind);
    engine_reason_ = in_order ? "a file is written in order by calls" : std::move(set.reason);
  }
  std::vector<std::unique_ptr<SaveLane>> lanes;
  lanes.reserve(count);
  for (auto& engine : set.engines) {
    lanes.push_back(std::make_unique<SaveLane>(shared_from_this(), std::move(engine), queue_depth));
  }
  failures_.reserve(2 * count);  // a lane can tell that it has no memory without any
  staging_.reserve(std::size_t{options_.lanes} * options_.queue_depth);
  if (snapshot) {
    const std::lock_guard lock(mutex_);
    snapshot_ = std::move(snapshot);
  }
  try {
    lane_count_ = std::max(lane_count_, start_lanes(shared_from_this(), std::move(lanes)));
  } catch (const std::bad_alloc&) {
    cancel();  // blocks that were not copied must not be written
    throw;
  }
}

void SaveJob::write_to(std::shared_ptr<TargetFile> file) {
  const std::lock_guard lock(mutex_);
  if (lanes_running_ != 0) throw std::logic_error("the file cannot change during a leg");
  file_ = std::move(file);
}

void SaveJob::run_alone(std::unique_ptr<SaveLane> lane) {
  try {
    note_fallback("no thread could be started: written on the caller's, where Ctrl-C has to wait");
  } catch (const std::bad_alloc& error) {
    fail_without_memory(error);
  }
  run_lane(std::move(lane));
}

void SaveJob::run_lane(std::unique_ptr<SaveLane> lane) {
  try {
    lane->run();
  } catch (const std::bad_alloc& error) {
    fail_without_memory(error);
  }
  lane.reset();  // waits for writes that are still out
  lane_finished();
}

void SaveJob::lane_joins() {
  const std::lock_guard lock(mutex_);
  ++lanes_running_;
}

void SaveJob::lane_finished() {
  std::unique_lock lock(mutex_);
  if (lanes_running_ == 1 && stopping()) {
    auto unneeded = std::move(snapshot_);
    lock.unlock();  // freeing takes its time, and nobody who gives up waits for it
    unneeded.reset();
    lock.lock();
  }
  --lanes_running_;
  changed_.notify_all();
}

bool SaveJob::wait_for(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout, [this] { return lanes_running_ == 0; });
}

bool SaveJob::wait_until_left(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, timeout,
                           [this] { return looking_ == 0 && (stopping() || lanes_running_ == 0); });
}

void SaveJob::cancel() {
  stop();
  const std::lock_guard lock(mutex_);
  if (lanes_running_ == 0) snapshot_.reset();  // else by the last lane
  if (snapshot_) snapshot_->park();
  staging_.clear();
}

std::optional<Failure> SaveJob::failure() const {
  const std::lock_guard lock(mutex_);
  const auto first =
      std::min_element(failures_.begin(), failures_.end(),
                       [](const Failure& a, const Failure& b) { return a.offset < b.offset; });
  return first == failures_.end() ? std::nullopt : std::optional(*first);
}

std::vector<std::string> SaveJob::fallbacks() const {
  const std::lock_guard lock(mutex_);
  return fallbacks_;
}

void SaveJob::fail(Failure failure) {
  {
    const std::lock_guard lock(mutex_);
    failures_.push_back(std::move(failure));
  }
  stop();
}

void SaveJob::fail_without_memory(const std::bad_alloc& error) {
  {
    const std::lock_guard lock(mutex_);
    no_memory_.asked_bytes = asked_of(error);
    failures_.push_back(
        std::exchange(no_memory_, {ENOMEM, "allocate", {}, {}, {}, Failure::Kind::write}));
  }
  stop();
}

void SaveJob::note_fallback(const std::string& what) {
  const std::lock_guard lock(mutex_);
  if (std::find(fallbacks_.begin(), fallbacks_.end(), what) == fallbacks_.end())
    fallbacks_.push_back(what);
}

void SaveJob::stop() {
  const std::lock_guard lock(mutex_);
  stopping_.store(true, std::memory_order_release);
  changed_.notify_all();
}

}  // namespace fastio
