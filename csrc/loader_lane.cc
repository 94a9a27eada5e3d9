#include "loader_lane.h"

#include <sys/mman.h>

#include <cerrno>
#include <chrono>
#include <thread>
#include <utility>

#include "checksum.h"

namespace fastio {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kWait{20};  // how often a waiting lane looks whether it shall stop
constexpr unsigned kStallsAllowed =
    64;  // EAGAIN and reads that bring nothing, in a row, before it is an error

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

// ---- what a job does with one block ----

std::optional<LoadJob::Assignment> LoadJob::next_block() {
  if (stopping()) return std::nullopt;
  const std::size_t index = next_block_.fetch_add(1, std::memory_order_relaxed);
  if (index >= blocks_.size()) return std::nullopt;
  const Block& block = blocks_[index];
  const std::lock_guard lock(mutex_);
  if (stopping()) return std::nullopt;
  return Assignment{block, regions_[block.shard][block.range.region]};
}

// Brings a mapped block's pages in at once, and finds out in a way that can be reported whether
// they are there: touching a page behind the end of a file that shrank would be a SIGBUS.
bool LoadJob::populate(const Block& block, const Region& region) {
#ifdef MADV_POPULATE_READ
  const std::uint64_t begin = block.range.begin / page_bytes() * page_bytes();
  if (madvise(region.at(begin), block.range.end - begin, MADV_POPULATE_READ) != 0) {
    const int error = last_error();
    if (error == EFAULT || error == EHWPOISON || error == EIO) {
      const std::string detail =
          error == EFAULT ? "the file ends before (it shrank after it was opened)" : "";
      fail(block.shard, Failure{error, "read from a mapping", shards_[block.shard].file->path(),
                                block.range.begin, detail});
      return false;
    }
  }
#endif
  counters_.bytes_mapped += block.range.end - block.range.begin;
  return true;
}

void LoadJob::verify(const Block& block, const Region& region) {
  const ShardRequest& shard = shards_[block.shard];
  const PlannedBlock& range = block.range;
  if (shard.table) {
    const ChunkGrid& grid = shard.table->grid;
    const std::uint64_t fresh_from = plans_[block.shard].regions[range.region].fresh_from;
    std::uint64_t counted = 0;
    for (std::uint64_t begin = range.begin; begin < range.end && !stopping();
         begin += grid.chunk_bytes) {
      const std::uint64_t end = std::min(begin + grid.chunk_bytes, range.end);
      const std::uint64_t chunk = (begin - grid.start) / grid.chunk_bytes;
      const std::uint64_t found = xxh3_64({region.at(begin), end - begin});
      if (begin >= fresh_from) ++counted;
      if (found == shard.table->digests[chunk]) continue;
      const std::lock_guard lock(mutex_);
      damages_.push_back({block.shard, chunk, {begin, end}, shard.table->digests[chunk], found});
      stopping_.store(true, std::memory_order_release);
    }
    counters_.chunks_verified += counted;
  }
  counters_.bytes_done += range.end - range.begin;
}

// ---- the lane ----

Lane::Lane(std::shared_ptr<LoadJob> job, std::unique_ptr<Engine> engine, unsigned queue_depth)
    : job_(std::move(job)),
      engine_(std::move(engine)),
      slots_(queue_depth),
      completions_(queue_depth) {
  for (std::uint32_t tag = queue_depth; tag > 0; --tag) free_.push_back(tag - 1);
  arrived_.reserve(queue_depth);
  to_submit_.reserve(queue_depth);
}

Lane::~Lane() { drain(); }

void Lane::run() {
  for (;;) {
    top_up();
    if (in_flight_ == 0) return;
    const std::size_t taken = engine_->wait(completions_, kWait);
    in_flight_ -=
        taken;  // all at once: none is waited for again, should settling one of them throw
    for (std::size_t i = 0; i < taken; ++i) settle(completions_[i].tag, completions_[i].result);
    while (!arrived_.empty()) {
      top_up();  // the device works while this thread hashes
      const std::uint32_t tag = arrived_.back();
      arrived_.pop_back();
      finish(tag);
    }
  }
}

void Lane::top_up() {
  while (!free_.empty()) {
    std::optional<LoadJob::Assignment> work = job_->next_block();
    if (!work) break;
    if (work->region->mapped()) {
      submit();  // the device works while this thread hashes
      take_mapped(*work);
      continue;
    }
    const std::uint32_t tag = free_.back();
    free_.pop_back();
    const std::uint64_t begin = work->block.range.begin;
    const bool direct = reads_direct(*work);
    slots_[tag] = {std::move(*work), begin, direct, 0};
    issue(tag);
  }
  submit();
}

void Lane::submit() {
  if (to_submit_.empty()) return;
  engine_->submit(to_submit_);
  to_submit_.clear();
}

bool Lane::reads_direct(const LoadJob::Assignment& work) const {
  const auto& range = work.block.range;
  switch (job_->access(work.block.shard).source) {
    case Source::direct:
      return true;
    case Source::by_block: {
      const std::uint64_t nbytes = range.end - range.begin;
      return job_->request(work.block.shard).file->resident_bytes(range.begin, nbytes).value_or(0) <
             nbytes;
    }
    case Source::mapped:
    case Source::buffered:
      break;
  }
  return false;
}

void Lane::take_mapped(const LoadJob::Assignment& work) {
  if (job_->populate(work.block, *work.region)) job_->verify(work.block, *work.region);
}

void Lane::issue(std::uint32_t tag) {
  const Slot& slot = slots_[tag];
  const LoadJob::Block& block = slot.work.block;
  const File& file = *job_->request(block.shard).file;
  std::uint64_t nbytes = block.range.end - slot.at;
  // The file may end inside its last unit of direct I/O; the region has room for the whole of it.
  if (slot.direct) nbytes = round_up(nbytes, job_->access(block.shard).alignment);
  to_submit_.push_back({slot.direct ? file.direct_fd() : file.buffered_fd(), slot.at,
                        slot.work.region->at(slot.at), static_cast<std::uint32_t>(nbytes), tag});
  ++in_flight_;
}

void Lane::settle(std::uint32_t tag, std::int32_t result) {
  Slot& slot = slots_[tag];
  const LoadJob::Block& block = slot.work.block;
  File& file = *job_->request(block.shard).file;
  if (job_->stopping()) {
    slot.work = {};
    free_.push_back(tag);
    return;
  }
  if (result < 0) {
    const int error = -result;
    if (error == EINTR || error == EAGAIN) return retry(tag, error);
    if (error == EINVAL && slot.direct) {
      file.forbid_direct("a direct read was refused with EINVAL");
      job_->note_fallback(file.path() +
                          ": a direct read was refused with EINVAL, read through the page cache");
      slot.direct = false;
      return issue(tag);
    }
    return give_up(tag, Failure{error, "read", file.path(), slot.at, {}});
  }
  const std::uint64_t reached = slot.at + static_cast<std::uint32_t>(result);
  if (reached >= block.range.end) {
    arrived_.push_back(tag);
    return;
  }
  // Asked, because direct I/O never gets to the end of a file that shrank inside an alignment.
  if (result == 0 || file.current_nbytes() <= reached) {
    return give_up(tag, ended_early(file, reached, block.range.end));
  }
  const std::uint64_t unit = slot.direct ? job_->access(block.shard).alignment : 1;
  const std::uint64_t resume =
      reached / unit * unit;  // direct I/O goes on at the aligned offset below
  if (resume <= slot.at) return retry(tag, EIO);
  slot.at = resume;
  slot.stalls = 0;
  issue(tag);
}

void Lane::retry(std::uint32_t tag, int error) {
  Slot& slot = slots_[tag];
  if (++slot.stalls > kStallsAllowed) {
    return give_up(
        tag, Failure{error, "read", job_->request(slot.work.block.shard).file->path(), slot.at,
                     "no progress in " + std::to_string(kStallsAllowed) + " tries"});
  }
  if (slot.stalls > 4) std::this_thread::sleep_for(std::chrono::microseconds(100));
  issue(tag);
}

void Lane::finish(std::uint32_t tag) {
  Slot& slot = slots_[tag];
  const PlannedBlock& range = slot.work.block.range;
  LoadCounters& counters = job_->counters_;
  (slot.direct ? counters.bytes_direct : counters.bytes_buffered)
      .fetch_add(range.end - range.begin);
  job_->verify(slot.work.block, *slot.work.region);
  slot.work = {};
  free_.push_back(tag);
}

void Lane::give_up(std::uint32_t tag, Failure failure) {
  job_->fail(slots_[tag].work.block.shard, std::move(failure));
  slots_[tag].work = {};
  free_.push_back(tag);
}

void Lane::drain() {
  in_flight_ -=
      to_submit_.size();  // counted when they were queued here, but no engine has seen them
  to_submit_.clear();
  while (in_flight_ > 0) in_flight_ -= engine_->wait(completions_, kWait);
}

}  // namespace fastio
