#include "loader_slot.h"

#include "assertions.h"

namespace fastio {

bool SlotStaging::lease(const LoadOptions& options, std::uint64_t nbytes) {
  if (!lease_) {
    lease_ = PinnedLease::take(*options.devices.front().device, nbytes, options.pinned_limit_bytes);
  }
  return lease_.has_value();
}

std::byte* SlotStaging::make(std::uint64_t nbytes, HugePages huge_pages) {
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

void SlotStaging::abandon() const {
  if (region_) region_->abandon();
}

void SlotStaging::release() {
  region_.reset();
  lease_.reset();
}

}  // namespace fastio
