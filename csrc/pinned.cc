#include "pinned.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <iterator>
#include <mutex>
#include <new>
#include <vector>

#include "memory.h"
#include "process.h"

namespace fastio {
namespace {

constexpr std::uint64_t kSlabBytes = std::uint64_t{64} << 20;

std::uint64_t whole_pages(std::uint64_t nbytes) {
  return (nbytes + page_bytes() - 1) / page_bytes() * page_bytes();
}

// Before the pages are touched. Only advice: where the system has no such node, any will do.
void prefer_node(std::byte* data, std::size_t nbytes, int node) {
  constexpr int kPreferred = 1;  // MPOL_PREFERRED, linux/mempolicy.h
  constexpr int kNodesMost = 1024;
  constexpr int kBits = 8 * sizeof(unsigned long);
  if (node < 0 || node >= kNodesMost) return;
  unsigned long nodes[kNodesMost / kBits] = {};
  nodes[node / kBits] = 1UL << (node % kBits);
  static_cast<void>(syscall(SYS_mbind, data, nbytes, kPreferred, nodes, kNodesMost + 1, 0));
}

}  // namespace

// Memory that was pinned at once, and what of it is free.
class PinnedSlab {
 public:
  // Throws std::bad_alloc.
  PinnedSlab(std::uint64_t id, std::shared_ptr<Device> device, std::size_t nbytes)
      : id_(id),
        device_(std::move(device)),
        own_(Region::allocate(0, nbytes, HugePages::automatic)),
        data_(own_->at(0)),
        nbytes_(nbytes),
        free_{{0, nbytes}} {
    own_->hide_from_children();
    if (const auto node = device_->numa_node()) prefer_node(data_, nbytes, *node);
    pinned_ = true;
    if (const auto refused = device_->pin(data_, nbytes)) {
      const Device::PinnedMemory theirs = device_->allocate_pinned(nbytes);
      if (!theirs.refused) {
        own_.reset();
        data_ = theirs.data;
      } else {
        pinned_ = false;
        refusal_ = refused->message();
      }
    }
  }
  PinnedSlab(const PinnedSlab&) = delete;
  PinnedSlab& operator=(const PinnedSlab&) = delete;

  // A driver that is gone already has freed it by itself.
  ~PinnedSlab() {
    if (!own_) {
      static_cast<void>(device_->free_pinned(data_));
    } else if (pinned_) {
      static_cast<void>(device_->unpin(data_));
    }
  }

  [[nodiscard]] std::byte* data() const { return data_; }
  [[nodiscard]] std::size_t nbytes() const { return nbytes_; }
  [[nodiscard]] PinnedExtent extent() const { return {id_, data_, nbytes_}; }
  [[nodiscard]] bool pinned() const { return pinned_; }
  [[nodiscard]] const std::string& refusal() const { return refusal_; }
  [[nodiscard]] bool unused() const { return leases_ == 0; }

  // The first run that is free and large enough.
  [[nodiscard]] std::optional<std::size_t> take(std::size_t nbytes) {
    free_.reserve(leases_ + 2);  // so that nothing has to be allocated to give it back
    const auto run = std::ranges::find_if(free_, [&](const Run& r) { return r.nbytes >= nbytes; });
    if (run == free_.end()) return std::nullopt;
    ++leases_;
    const std::size_t begin = run->begin;
    run->begin += nbytes;
    run->nbytes -= nbytes;
    if (run->nbytes == 0) free_.erase(run);
    return begin;
  }

  void give_back(std::size_t begin, std::size_t nbytes) noexcept {
    --leases_;
    free_.insert(std::ranges::find_if(free_, [&](const Run& r) { return r.begin > begin; }),
                 Run{begin, nbytes});
    auto last = free_.begin();  // neighbours become one run
    for (auto run = std::next(last); run != free_.end(); ++run) {
      if (last->begin + last->nbytes == run->begin) {
        last->nbytes += run->nbytes;
      } else {
        *++last = *run;
      }
    }
    free_.erase(std::next(last), free_.end());
  }

 private:
  struct Run {
    std::size_t begin, nbytes;
  };

  std::uint64_t id_;
  std::shared_ptr<Device> device_;
  std::shared_ptr<Region> own_;  // none where it is the driver's
  std::byte* data_ = nullptr;
  std::size_t nbytes_ = 0;
  bool pinned_ = false;
  std::string refusal_;
  std::vector<Run> free_;  // ascending
  std::size_t leases_ = 0;
};

class PinnedPool {
 public:
  std::optional<PinnedLease> take(Device& device, std::size_t nbytes, std::uint64_t limit_bytes) {
    const std::size_t asked = whole_pages(nbytes);
    const std::lock_guard lock(mutex_);
    for (const auto& slab : slabs_) {
      if (const auto begin = slab->take(asked)) return lease(*slab, *begin, asked);
    }
    if (asked > limit_bytes || account_.bytes > limit_bytes - asked) {
      // Perhaps what is free is in pieces too small.
      release_unused();
      if (asked > limit_bytes || account_.bytes > limit_bytes - asked) return std::nullopt;
    }
    const std::uint64_t room = limit_bytes - account_.bytes;
    PinnedSlab& slab = grow(device, std::max<std::uint64_t>(asked, std::min(kSlabBytes, room)));
    return lease(slab, slab.take(asked).value(), asked);
  }

  void give_back(PinnedSlab& slab, std::size_t begin, std::size_t nbytes) {
    const std::lock_guard lock(mutex_);
    slab.give_back(begin, nbytes);
    account_.leased_bytes -= nbytes;
    room_.notify_all();
  }

  void wait_for_room(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    room_.wait_for(lock, timeout);
  }

  // Asked for each request: where there has never been a slab, nobody waits for anybody.
  std::optional<PinnedExtent> around(const std::byte* data) {
    if (!some_.load(std::memory_order_relaxed)) return std::nullopt;
    const std::lock_guard lock(mutex_);
    for (const auto& slab : slabs_) {
      const PinnedExtent extent = slab->extent();
      if (!std::less<>()(data, extent.data) && std::less<>()(data, extent.data + extent.nbytes))
        return extent;
    }
    return std::nullopt;
  }

  std::uint64_t trim() {
    const std::lock_guard lock(mutex_);
    return release_unused();
  }

  PinnedAccount account() {
    const std::lock_guard lock(mutex_);
    return account_;
  }

 private:
  PinnedLease lease(PinnedSlab& slab, std::size_t begin, std::size_t nbytes) {
    account_.leased_bytes += nbytes;
    return {&slab, begin, nbytes};
  }

  PinnedSlab& grow(Device& device, std::size_t nbytes) {
    slabs_.reserve(slabs_.size() + 1);
    const auto begin = std::chrono::steady_clock::now();
    slabs_.push_back(std::make_unique<PinnedSlab>(++made_, device.shared_from_this(), nbytes));
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - begin;
    const PinnedSlab& slab = *slabs_.back();
    account_.seconds += taken.count();
    account_.bytes += nbytes;
    some_.store(true, std::memory_order_relaxed);
    if (!slab.pinned()) {
      account_.unpinned_bytes += nbytes;
      account_.refusal = slab.refusal();
    }
    return *slabs_.back();
  }

  std::uint64_t release_unused() {
    std::uint64_t released = 0;
    std::erase_if(slabs_, [&](const auto& slab) {
      if (!slab->unused()) return false;
      released += slab->nbytes();
      if (!slab->pinned()) account_.unpinned_bytes -= slab->nbytes();
      return true;
    });
    account_.bytes -= released;
    if (account_.unpinned_bytes == 0) account_.refusal.clear();
    return released;
  }

  std::mutex mutex_;
  std::condition_variable room_;
  std::vector<std::unique_ptr<PinnedSlab>> slabs_;
  std::uint64_t made_ = 0;
  std::atomic<bool> some_{false};
  PinnedAccount account_;
};

namespace {

PinnedPool& pool() { return process_state<PinnedPool>(); }

}  // namespace

std::optional<PinnedLease> PinnedLease::take(Device& device, std::size_t nbytes,
                                             std::uint64_t limit_bytes) {
  return pool().take(device, nbytes, limit_bytes);
}

void PinnedLease::wait_for_room(std::chrono::milliseconds timeout) {
  pool().wait_for_room(timeout);
}

PinnedLease& PinnedLease::operator=(PinnedLease&& other) noexcept {
  if (this == &other) return *this;
  give_back();
  slab_ = std::exchange(other.slab_, nullptr);
  begin_ = other.begin_;
  nbytes_ = other.nbytes_;
  return *this;
}

std::byte* PinnedLease::data() const { return slab_->data() + begin_; }

void PinnedLease::give_back() noexcept {
  if (slab_ != nullptr) pool().give_back(*std::exchange(slab_, nullptr), begin_, nbytes_);
}

PinnedAccount pinned_account() { return pool().account(); }

std::optional<PinnedExtent> pinned_around(const std::byte* data) { return pool().around(data); }

std::uint64_t trim_pinned() { return pool().trim(); }

}  // namespace fastio
