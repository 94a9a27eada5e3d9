#include "saver_blocks.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "assertions.h"
#include "checksum.h"
#include "pinned.h"
#include "rounding.h"

namespace fastio {
namespace {

// What is copied in one go where there are no chunks: small enough for a processor's cache.
constexpr std::uint64_t kStepBytes = std::uint64_t{256} << 10;

}  // namespace

MemoryLook::MemoryLook(SaveState& state) : state_(state) {
  const MutexLock lock(state_.crew.mutex);
  if (state_.crew.stopping()) return;
  allowed_ = true;
  ++state_.looking;
}

MemoryLook::~MemoryLook() {
  if (!allowed_) return;
  const MutexLock lock(state_.crew.mutex);
  FASTIO_ASSERT(state_.looking != 0);
  --state_.looking;
  if (state_.crew.stopping()) state_.crew.changed.notify_all();
}

// At the end come those that were written from memory which was seen to change only later.
std::optional<SaveWork> SaveDesk::next() {
  if (state_.crew.stopping()) return std::nullopt;
  if (const std::size_t index = state_.next_block.fetch_add(1); index < state_.last_block) {
    const std::uint64_t block_bytes = state_.options.block_bytes;
    const std::uint64_t begin = state_.data.begin + index * block_bytes;
    FASTIO_ASSERT(begin < state_.data.end);
    return SaveWork{{begin, std::min(begin + block_bytes, state_.data.end)}};
  }
  if (!state_.memory_changes) return std::nullopt;
  const MutexLock lock(state_.crew.mutex);
  if (state_.from_memory.empty()) return std::nullopt;
  const Extent block = state_.from_memory.back();
  state_.from_memory.pop_back();
  return SaveWork{block, SaveWork::Kind::rewrite};
}

// One behind the other, as they are, at an address and of a length that direct writes take. In
// order, their checksums are in the file already, and those that are taken again must be of the
// very bytes that are written.
std::byte* SaveDesk::memory_of(const Extent& block, std::uint64_t alignment) const {
  const auto& snapshot = state_.snapshot;
  if (!snapshot && (state_.memory_changes || state_.leg == Leg::in_order)) return nullptr;
  std::byte* const found = snapshot ? snapshot->at(block.begin) : state_.origins.contiguous(block);
  const bool fits =
      reinterpret_cast<std::uintptr_t>(found) % alignment == 0 && block.nbytes() % alignment == 0;
  return fits ? found : nullptr;
}

bool SaveDesk::gather(const Extent& block, std::byte* to, DeviceReads* reads) {
  const std::uint64_t chunk_bytes = state_.options.chunk_bytes;
  const std::uint64_t step = chunk_bytes != 0 ? chunk_bytes : kStepBytes;
  for (std::uint64_t begin = block.begin; begin < block.end; begin += step) {
    const Extent part{begin, std::min(begin + step, block.end)};
    std::byte* const out = to + (part.begin - block.begin);
    if (state_.snapshot && state_.leg != Leg::copied) {
      std::memcpy(out, state_.snapshot->at(part.begin), part.nbytes());
    } else {
      const MemoryLook look(state_);
      if (!look.allowed()) return false;
      state_.origins.gather(part, out);
      if (reads != nullptr) {
        if (auto refused = reads->gather(state_.origins, part, out)) {
          state_.fail(std::move(*refused));
          return false;
        }
      }
    }
    if (state_.leg != Leg::copied && !take_checksums(part, out)) return false;
  }
  state_.counters.bytes_gathered += state_.writes() ? block.nbytes() : 0;
  return true;
}

bool SaveDesk::take_checksums(const Extent& block, const std::byte* data) {
  const std::uint64_t chunk_bytes = state_.options.chunk_bytes;
  if (chunk_bytes == 0) return !state_.crew.stopping();
  for (std::uint64_t begin = block.begin; begin < block.end; begin += chunk_bytes) {
    const std::uint64_t end = std::min(begin + chunk_bytes, block.end);
    const MemoryLook look(state_);
    if (!look.allowed()) return false;
    state_.digests.put((begin - state_.data.begin) / chunk_bytes,
                       {*state_.options.algorithm, {data + (begin - block.begin), end - begin}});
  }
  return true;
}

// A table must say what the file has, and a disk may have read the memory at any moment of the
// write. One change that is seen makes all of it doubtful, since memory may change and change back:
// whatever was written from there is copied then and written again.
void SaveDesk::compare(const Extent& block, const std::byte* data) {
  const std::uint64_t chunk_bytes = state_.options.chunk_bytes;
  bool same = true;
  for (std::uint64_t begin = block.begin; begin < block.end && same && !state_.memory_changes;
       begin += chunk_bytes) {
    const std::uint64_t end = std::min(begin + chunk_bytes, block.end);
    const MemoryLook look(state_);
    if (!look.allowed()) return;
    const Digest found(*state_.options.algorithm, {data + (begin - block.begin), end - begin});
    same = found == state_.digests.at((begin - state_.data.begin) / chunk_bytes);
  }
  if (!same) {
    state_.outcome.note_fallback(
        state_.file->path() +
        ": tensors changed while they were saved; they were copied and written again");
  }
  const MutexLock lock(state_.crew.mutex);
  state_.from_memory.push_back(block);
  if (!same) state_.memory_changes = true;
}

std::shared_ptr<Region> SaveDesk::take_staging() {
  {
    const MutexLock lock(state_.crew.mutex);
    if (!state_.staging.empty()) {
      auto staging = std::move(state_.staging.back());
      state_.staging.pop_back();
      return staging;
    }
  }
  const SaveOptions& options = state_.options;
  const std::uint64_t nbytes =
      std::min(round_up(state_.data.nbytes(), kBlockUnit), options.block_bytes);
  if (!options.devices.empty()) return take_pinned(nbytes);
  return Region::allocate(0, nbytes, options.huge_pages);
}

std::shared_ptr<Region> SaveDesk::take_pinned(std::uint64_t nbytes) const {
  struct Pinned {
    PinnedLease lease;
    std::shared_ptr<Region> region;
  };
  const SaveOptions& options = state_.options;
  while (!state_.crew.stopping()) {
    auto lease =
        PinnedLease::take(*options.devices.front().device, nbytes, options.pinned_limit_bytes);
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

// Fresh memory is slow.
void SaveDesk::give_staging(std::shared_ptr<Region> staging) {
  const MutexLock lock(state_.crew.mutex);
  if (!state_.crew.stopping()) state_.staging.push_back(std::move(staging));
}

void SaveDesk::written(const SaveWork& work, Way way) {
  const Extent& block = work.block;
  SaveCounters& counters = state_.counters;
  if (work.kind == SaveWork::Kind::rewrite) {
    counters.bytes_rewritten += block.nbytes();
    return;
  }
  counters.bytes_done += block.nbytes();
  (way == Way::direct ? counters.bytes_direct : counters.bytes_buffered) += block.nbytes();
  if (state_.snapshot) state_.snapshot->give_back(block.begin, block.end);
}

}  // namespace fastio
