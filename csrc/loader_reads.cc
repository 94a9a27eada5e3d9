#include "loader_reads.h"

#include "assertions.h"

namespace fastio {

bool ReadStaging::lease(const LoadOptions& options, std::uint64_t nbytes) {
  if (!lease_) {
    lease_ = PinnedLease::take(*options.devices.front().device, nbytes, options.pinned_limit_bytes);
  }
  return lease_.has_value();
}

std::byte* ReadStaging::make(std::uint64_t nbytes, HugePages huge_pages) {
  if (lease_) {
    FASTIO_ASSERT(nbytes <= lease_->nbytes());
    region_ = Region::borrow(lease_->data(), 0, lease_->nbytes());
  } else if (!region_ || region_->nbytes() < nbytes) {
    region_.reset();
    region_ = Region::allocate(0, nbytes, huge_pages);
    region_->hide_from_children();
  }
  return region_->at(0);
}

void ReadStaging::abandon() const {
  if (region_) region_->abandon();
}

void ReadStaging::release() {
  region_.reset();
  lease_.reset();
}

LaneReads::LaneReads(std::size_t count) : reads_(count) {
  unused_.reserve(count);
  for (std::size_t tag = count; tag > 0; --tag) {
    reads_[tag - 1].tag = static_cast<std::uint32_t>(tag - 1);
    unused_.push_back(static_cast<std::uint32_t>(tag - 1));
  }
}

LaneRead& LaneReads::take(Slot& slot) {
  LaneRead& read = next();
  FASTIO_ASSERT(read.state == LaneRead::State::unused);
  unused_.pop_back();
  read.state = LaneRead::State::held;
  read.slot = &slot;
  return read;
}

void LaneReads::release(LaneRead& read) noexcept {
  FASTIO_ASSERT(read.state == LaneRead::State::held || read.state == LaneRead::State::left);
  read.state = LaneRead::State::unused;
  read.lost = read.late = read.hedge = read.again = false;
  read.slot = nullptr;
  read.region.reset();
  read.staging.release_lease();
  unused_.push_back(read.tag);
}

void LaneReads::drop(LaneRead& read) {
  switch (read.state) {
    case LaneRead::State::out:
      return leave(read);
    case LaneRead::State::arrived:
      read.slot = nullptr;
      return;
    case LaneRead::State::unused:
    case LaneRead::State::held:
    case LaneRead::State::left:
      return release(read);
  }
}

void LaneReads::leave(LaneRead& read) {
  FASTIO_ASSERT(read.state == LaneRead::State::out);
  read.state = LaneRead::State::left;
  read.slot = nullptr;
  read.staging.abandon();
  ++left_;
}

void LaneReads::take_back(LaneRead& read) noexcept {
  FASTIO_ASSERT(read.state == LaneRead::State::left && left_ != 0);
  --left_;
  release(read);
  read.staging.release();
}

void LaneReads::free_unused() {
  for (LaneRead& read : reads_) {
    if (read.state == LaneRead::State::unused) read.staging.release();
  }
}

}  // namespace fastio
