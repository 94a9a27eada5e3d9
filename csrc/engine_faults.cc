// The seam at the completion queue: an engine around another one that changes what completes. It
// serves the tests, through the same interface that lanes use, so both engines meet the same
// faults.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstddef>
#include <cstring>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "engine_faults.h"
#include "error.h"
#include "mutex.h"
#include "process.h"

namespace fastio {
namespace {

using Clock = std::chrono::steady_clock;

struct Script {
  Mutex mutex;
  std::vector<Fault> faults FASTIO_GUARDED_BY(mutex);
  // Completions since the faults were set.
  std::uint64_t seen FASTIO_GUARDED_BY(mutex) = 0;
  // Calls of release_held_completions, and what is held since the last of them.
  std::uint64_t releases FASTIO_GUARDED_BY(mutex) = 0;
  std::uint64_t held FASTIO_GUARDED_BY(mutex) = 0;

  // The fault of the next completion, with the releases until then. Both at once: a release that
  // came in between would be missed, and what is held would stay for ever.
  std::pair<std::optional<Fault>, std::uint64_t> next() {
    const MutexLock lock(mutex);
    const std::uint64_t at = seen++;
    const auto found = std::ranges::find_if(faults, [&](const Fault& fault) {
      return fault.at == at || (fault.kind == FaultKind::refuse && fault.at < at);
    });
    if (found == faults.end()) return {std::nullopt, releases};
    if (found->kind == FaultKind::never) ++held;
    return {*found, releases};
  }

  std::uint64_t release_count() {
    const MutexLock lock(mutex);
    return releases;
  }
};

struct Held {
  Completion completion;
  Clock::time_point due;
  bool until_released = false;
  std::uint64_t releases_before = 0;
  std::vector<std::byte> brought = {};  // by a read
};

class FaultyEngine final : public Engine {
 public:
  FaultyEngine(std::unique_ptr<Engine> engine, unsigned queue_depth)
      : engine_(std::move(engine)), requests_(queue_depth), raw_(queue_depth) {
    ready_.reserve(queue_depth);  // at once, as in the engines themselves
    swapped_.reserve(queue_depth);
    held_.reserve(queue_depth);
  }

  void submit(std::span<const IoRequest> requests) override {
    for (const IoRequest& request : requests) requests_[request.tag] = request;
    engine_->submit(requests);
  }

  std::size_t wait(std::span<Completion> completions, std::chrono::milliseconds timeout) override {
    const auto end = Clock::now() + timeout;
    for (;;) {
      if (const std::size_t taken = take_ready(completions); taken != 0) return taken;
      // Held completions come due without the inner engine: so ask it in short turns.
      const auto turn = held_.empty() ? timeout : std::chrono::milliseconds(1);
      const std::size_t got =
          engine_->wait(std::span(raw_).first(std::min(raw_.size(), completions.size())), turn);
      for (std::size_t i = 0; i < got; ++i) pass(raw_[i]);
      if (got == 0) release_reordered();  // nothing else is on its way: the swap has no partner
      if (got == 0 && Clock::now() >= end) return take_ready(completions);
    }
  }

 private:
  void pass(Completion completion) {
    const auto [fault, releases] = process_state<Script>().next();
    if (!fault) return deliver(completion);
    const IoRequest& request = requests_[completion.tag];
    const auto nbytes = std::max(completion.result, 0);
    switch (fault->kind) {
      case FaultKind::refuse:
        if (!is_direct(request)) return deliver(completion);
        [[fallthrough]];
      case FaultKind::error:
        overwrite(request, 0, nbytes);
        return deliver({completion.tag, -static_cast<std::int32_t>(fault->value)});
      case FaultKind::cut: {
        const auto kept = static_cast<std::int32_t>(std::min<std::int64_t>(nbytes, fault->value));
        overwrite(request, kept, nbytes);
        return deliver({completion.tag, kept});
      }
      case FaultKind::zero:
        overwrite(request, 0, nbytes);
        return deliver({completion.tag, 0});
      case FaultKind::flip:
        if (request.operation == Operation::read && fault->value < nbytes)
          request.data[fault->value] ^= std::byte{1};
        return deliver(completion);
      case FaultKind::change:
      case FaultKind::waver:
        if (request.operation == Operation::write && fault->value < nbytes)
          change(request, fault->value, fault->kind == FaultKind::waver);
        return deliver(completion);
      case FaultKind::late:
        held_.push_back(
            {completion, Clock::now() + std::chrono::milliseconds(fault->value), false, 0});
        return;
      case FaultKind::reorder:
        swapped_.push_back(completion);
        return;
      case FaultKind::never:
        held_.push_back({completion, {}, true, releases, take_away(request, nbytes)});
        return;
      case FaultKind::kill:
        raise(SIGKILL);
        return;
    }
  }

  void deliver(Completion completion) {
    ready_.push_back(completion);
    release_reordered();
  }

  void release_reordered() {
    ready_.insert(ready_.end(), swapped_.begin(), swapped_.end());
    swapped_.clear();
  }

  static bool is_direct(const IoRequest& request) {
    const int flags = fcntl(request.fd, F_GETFL);
    return flags >= 0 && (flags & O_DIRECT) != 0;  // a feed has no descriptor
  }

  // Bytes that a short read lacks are overwritten; bytes that a short write lacks become a hole.
  static void overwrite(const IoRequest& request, std::int32_t from, std::int32_t to) {
    if (from >= to) return;
    if (request.operation == Operation::read) {
      std::memset(request.data + from, 0xA5, static_cast<std::size_t>(to - from));
    } else if (fallocate(request.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         static_cast<off_t>(request.offset) + from, to - from) != 0) {
      throw_last_error("fallocate", {});  // a test on a filesystem without holes
    }
  }

  // The bytes of a read that is held back, taken away until it is released.
  static std::vector<std::byte> take_away(const IoRequest& request, std::int32_t nbytes) {
    if (request.operation != Operation::read || nbytes <= 0) return {};
    std::vector<std::byte> brought(request.data, request.data + nbytes);
    overwrite(request, 0, nbytes);
    return brought;
  }

  // It comes at last, as a disk writes it: into memory that nobody else may have by now.
  void bring(const Held& held) const {
    std::ranges::copy(held.brought, requests_[held.completion.tag].data);
  }

  // Memory that changes after it was handed over, as another thread of the caller does it.
  static void change(const IoRequest& request, std::int64_t at, bool back) {
    request.data[at] ^= std::byte{1};
    const auto offset = static_cast<off_t>(request.offset);
    if (pwrite(request.fd, request.data, request.nbytes, offset) < 0) throw_last_error("write", {});
    if (back) request.data[at] ^= std::byte{1};
  }

  std::size_t take_ready(std::span<Completion> completions) {
    const auto now = Clock::now();
    const std::uint64_t releases = held_.empty() ? 0 : process_state<Script>().release_count();
    std::erase_if(held_, [&](const Held& held) {
      const bool due = held.until_released ? releases != held.releases_before : held.due <= now;
      if (due && held.until_released) bring(held);
      if (due) ready_.push_back(held.completion);
      return due;
    });
    const std::size_t taken = std::min(completions.size(), ready_.size());
    std::copy_n(ready_.begin(), taken, completions.begin());
    ready_.erase(ready_.begin(), ready_.begin() + static_cast<std::ptrdiff_t>(taken));
    return taken;
  }

  std::unique_ptr<Engine> engine_;
  std::vector<IoRequest> requests_;  // by tag
  std::vector<Completion> raw_;
  std::vector<Completion> ready_, swapped_;
  std::vector<Held> held_;
};

}  // namespace

void set_completion_faults(std::vector<Fault> faults) {
  auto& script = process_state<Script>();
  const MutexLock lock(script.mutex);
  script.faults = std::move(faults);
  script.seen = 0;
}

void release_held_completions() {
  auto& script = process_state<Script>();
  const MutexLock lock(script.mutex);
  ++script.releases;
  script.held = 0;
}

std::uint64_t held_completions() {
  auto& script = process_state<Script>();
  const MutexLock lock(script.mutex);
  return script.held;
}

bool completion_faults_set() {
  auto& script = process_state<Script>();
  const MutexLock lock(script.mutex);
  return !script.faults.empty();
}

std::unique_ptr<Engine> with_completion_faults(std::unique_ptr<Engine> engine,
                                               unsigned queue_depth) {
  return std::make_unique<FaultyEngine>(std::move(engine), queue_depth);
}

}  // namespace fastio
