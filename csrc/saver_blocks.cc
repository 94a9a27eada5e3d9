// What a job does with its blocks: hands them to lanes, finds or copies their bytes together, and
// takes their checksums.
#include <algorithm>
#include <cstring>
#include <utility>

#include "checksum.h"
#include "pinned.h"
#include "saver.h"
#include "saver_device.h"

namespace fastio {
namespace {

// What is copied in one go where there are no chunks: small enough for a processor's cache.
constexpr std::uint64_t kStepBytes = std::uint64_t{256} << 10;

std::uint64_t round_up(std::uint64_t value, std::uint64_t unit) {
  return (value + unit - 1) / unit * unit;
}

}  // namespace

// At the end come those that were written from memory which was seen to change only later.
std::optional<SaveJob::Work> SaveJob::next_block() {
  if (stopping()) return std::nullopt;
  if (const std::size_t index = next_block_.fetch_add(1); index < last_block_) {
    const std::uint64_t begin = data_.begin + index * block_bytes_;
    return Work{{begin, std::min(begin + block_bytes_, data_.end)}};
  }
  if (!memory_changes_) return std::nullopt;
  const std::lock_guard lock(mutex_);
  if (from_memory_.empty()) return std::nullopt;
  const Extent block = from_memory_.back();
  from_memory_.pop_back();
  return Work{block, true};
}

// Where the bytes of a block lie if they can be written from there: one behind the other, as they
// are, at an address and of a length that direct writes take. In order, their checksums are in the
// file already, and those that are taken again must be of the very bytes that are written.
std::byte* SaveJob::memory_of(const Extent& block, std::uint64_t alignment) const {
  if (!snapshot_ && (memory_changes_ || leg_ == Leg::in_order)) return nullptr;
  std::byte* const found = snapshot_ ? snapshot_->at(block.begin) : sources_.contiguous(block);
  const bool fits = reinterpret_cast<std::uintptr_t>(found) % alignment == 0 &&
                    (block.end - block.begin) % alignment == 0;
  return fits ? found : nullptr;
}

SaveJob::Look::Look(SaveJob& job) : job_(job) {
  const std::lock_guard lock(job_.mutex_);
  if (job_.stopping()) return;
  allowed_ = true;
  ++job_.looking_;
}

SaveJob::Look::~Look() {
  if (!allowed_) return;
  const std::lock_guard lock(job_.mutex_);
  --job_.looking_;
  if (job_.stopping()) job_.changed_.notify_all();
}

// Copies a block's bytes together and takes its checksums on the way. False where the job stops
// before all is done.
bool SaveJob::gather(const Extent& block, std::byte* to, DeviceReads* reads) {
  const std::uint64_t step = options_.chunk_bytes != 0 ? options_.chunk_bytes : kStepBytes;
  for (std::uint64_t begin = block.begin; begin < block.end; begin += step) {
    const Extent part{begin, std::min(begin + step, block.end)};
    std::byte* const out = to + (part.begin - block.begin);
    if (snapshot_ && leg_ != Leg::copied) {
      std::memcpy(out, snapshot_->at(part.begin), part.end - part.begin);
    } else {
      const Look look(*this);
      if (!look.allowed()) return false;
      sources_.gather(part, out);
      if (reads != nullptr) {
        if (auto refused = reads->gather(sources_, part, out)) {
          fail(std::move(*refused));
          return false;
        }
      }
    }
    if (leg_ != Leg::copied && !take_checksums(part, out)) return false;
  }
  counters_.bytes_gathered += writes() ? block.end - block.begin : 0;
  return true;
}

bool SaveJob::take_checksums(const Extent& block, const std::byte* data) {
  const std::uint64_t chunk_bytes = options_.chunk_bytes;
  if (chunk_bytes == 0) return !stopping();
  for (std::uint64_t begin = block.begin; begin < block.end; begin += chunk_bytes) {
    const std::uint64_t end = std::min(begin + chunk_bytes, block.end);
    const Look look(*this);
    if (!look.allowed()) return false;
    digests_[(begin - data_.begin) / chunk_bytes] =
        xxh3_64({data + (begin - block.begin), end - begin});
  }
  return true;
}

// A table must say what the file has, and a device may have read the memory at any moment of the
// write. One change that is seen makes all of it doubtful, since memory may change and change back:
// whatever was written from there is copied then and written again.
void SaveJob::compare(const Extent& block, const std::byte* data) {
  const std::uint64_t chunk_bytes = options_.chunk_bytes;
  bool same = true;
  for (std::uint64_t begin = block.begin; begin < block.end && same && !memory_changes_;
       begin += chunk_bytes) {
    const std::uint64_t end = std::min(begin + chunk_bytes, block.end);
    const Look look(*this);
    if (!look.allowed()) return;
    const std::uint64_t found = xxh3_64({data + (begin - block.begin), end - begin});
    same = found == digests_[(begin - data_.begin) / chunk_bytes];
  }
  if (!same) {
    note_fallback(file_->path() +
                  ": tensors changed while they were saved; they were copied and written again");
  }
  const std::lock_guard lock(mutex_);
  from_memory_.push_back(block);
  if (!same) memory_changes_ = true;
}

std::shared_ptr<Region> SaveJob::take_staging() {
  {
    const std::lock_guard lock(mutex_);
    if (!staging_.empty()) {
      auto staging = std::move(staging_.back());
      staging_.pop_back();
      return staging;
    }
  }
  const std::uint64_t nbytes = std::min(round_up(bytes_total(), kBlockUnit), block_bytes_);
  if (!options_.devices.empty()) return take_pinned(nbytes);
  return Region::allocate(0, nbytes, options_.huge_pages);
}

// Null where the job stops before there is room.
std::shared_ptr<Region> SaveJob::take_pinned(std::uint64_t nbytes) const {
  struct Pinned {
    PinnedLease lease;
    std::shared_ptr<Region> region;
  };
  while (!stopping()) {
    auto lease =
        PinnedLease::take(*options_.devices.front().device, nbytes, options_.pinned_limit_bytes);
    if (!lease) {
      PinnedLease::wait_for_room(std::chrono::milliseconds(20));
      continue;
    }
    auto region = Region::borrow(lease->data(), 0, nbytes);
    const auto pinned = std::make_shared<Pinned>(Pinned{std::move(*lease), std::move(region)});
    return {pinned, pinned->region.get()};
  }
  return nullptr;
}

// Used again in the next leg: fresh memory is slow.
void SaveJob::give_staging(std::shared_ptr<Region> staging) {
  const std::lock_guard lock(mutex_);
  if (!stopping()) staging_.push_back(std::move(staging));
}

void SaveJob::written(const Extent& block, bool direct, bool again) {
  if (again) {
    counters_.bytes_rewritten += block.end - block.begin;
    return;
  }
  counters_.bytes_done += block.end - block.begin;
  (direct ? counters_.bytes_direct : counters_.bytes_buffered) += block.end - block.begin;
  if (snapshot_) snapshot_->give_back(block.begin, block.end);
}

}  // namespace fastio
