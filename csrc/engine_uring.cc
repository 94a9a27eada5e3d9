// The io_uring engine: one ring a lane.
#include <liburing.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <thread>
#include <vector>

#include "assertions.h"
#include "engine.h"
#include "error.h"
#include "file.h"
#include "pinned.h"
#include "sanitizers.h"

namespace fastio {
namespace {

std::string likely_cause(int error) {
  switch (error) {
    case EPERM:
      return "a seccomp profile or kernel.io_uring_disabled refuses it";
    case ENOSYS:
      return "the kernel has no io_uring, or a filter hides it";
    case ENOMEM: {
      rlimit limit{};
      getrlimit(RLIMIT_MEMLOCK, &limit);
      return "RLIMIT_MEMLOCK is " + std::to_string(limit.rlim_cur) + " bytes";
    }
    default:
      return {};
  }
}

class Ring {
 public:
  explicit Ring(unsigned entries) {
    const int result = io_uring_queue_init(entries, &ring_, 0);
    if (result < 0)
      throw IoError(Failure{-result, "io_uring_setup", {}, {}, likely_cause(-result)});
    sanitize_ring_made();
  }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  ~Ring() {
    sanitize_ring_gone();
    io_uring_queue_exit(&ring_);
  }

  io_uring* get() { return &ring_; }

 private:
  io_uring ring_{};
};

// The pinned memory of the process that requests of a ring go to, registered with it: the kernel
// finds its pages once and not for each request. That costs about what it saves when as many bytes
// have been read as there are (bench/README.md), so it is done when others have
// come before. If RLIMIT_MEMLOCK forbids it, each request looks up its pages.
class FixedBuffers {
 public:
  FixedBuffers() { known_.reserve(kMost); }

  // The index of the buffer that a request lies in, or kNone.
  int find(io_uring* ring, const IoRequest& request) {
    if (refused_) return kNone;
    const auto extent = pinned_around(request.data);
    if (!extent) return kNone;
    auto known = std::ranges::find(known_, extent->id, &Known::id);
    if (known == known_.end()) {
      if (known_.size() == kMost) return kNone;
      known = known_.insert(known, {extent->id, 0, State::counted});
    }
    const auto index = static_cast<int>(known - known_.begin());
    if (known->state == State::counted && known->nbytes >= extent->nbytes) {
      known->state = add(ring, index, *extent) ? State::fixed : State::refused;
    }
    known->nbytes += request.nbytes;
    return known->state == State::fixed ? index : kNone;
  }

  static constexpr int kNone = -1;

 private:
  static constexpr unsigned kMost = 64;
  enum class State : std::uint8_t { counted, fixed, refused };
  struct Known {
    std::uint64_t id;
    std::uint64_t nbytes;  // of requests that went there
    State state;
  };

  bool add(io_uring* ring, int index, const PinnedExtent& extent) {
    if (!made_ && io_uring_register_buffers_sparse(ring, kMost) < 0) {
      refused_ = true;
      return false;
    }
    made_ = true;
    const iovec memory{extent.data, extent.nbytes};
    const __u64 no_tag = 0;
    const int added = io_uring_register_buffers_update_tag(ring, static_cast<unsigned>(index),
                                                           &memory, &no_tag, 1);
    if (added == -ENOMEM || added == -EPERM) refused_ = true;  // that others are in, they stay
    return added == 1;
  }

  std::vector<Known> known_;  // by index
  bool made_ = false;
  bool refused_ = false;
};

constexpr std::chrono::milliseconds kRefusedWait{20};

class UringEngine final : public Engine {
 public:
  // The queues are allocated at once, as large as the submission queue may get: with a read out,
  // running out of memory is nothing that this class could answer.
  explicit UringEngine(unsigned queue_depth) : ring_(queue_depth), requests_(queue_depth) {
    queued_.reserve(std::bit_ceil(queue_depth));
    failed_.reserve(std::bit_ceil(queue_depth));
  }

  void submit(std::span<const IoRequest> requests) override {
    for (const IoRequest& request : requests) {
      io_uring_sqe* sqe = refusal_ == 0 ? io_uring_get_sqe(ring_.get()) : nullptr;
      if (sqe == nullptr) {  // EBUSY: more than the depth, the caller's mistake, answered as one
        failed_.push_back({request.tag, refusal_ == 0 ? -EBUSY : refusal_});
        continue;
      }
      requests_[request.tag] = request;
      sanitize_submission(&requests_[request.tag], request.data, request.nbytes);
      prepare(sqe, request);
      queued_.push_back(request.tag);
    }
    flush();
  }

  std::size_t wait(std::span<Completion> completions, std::chrono::milliseconds timeout) override {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + timeout;
    for (;;) {
      if (const std::size_t taken = take(completions); taken != 0) return taken;
      flush();  // requests that an earlier EAGAIN left in the submission queue
      // A signal may end a wait before its time, so what is left is waited for again.
      const auto left = std::max<std::chrono::nanoseconds>(end - Clock::now(), {});
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(left);
      __kernel_timespec limit{seconds.count(), (left - seconds).count()};
      io_uring_cqe* first = nullptr;
      const int result = io_uring_wait_cqe_timeout(ring_.get(), &first, &limit);
      // If the kernel refuses even to wait, completions still arrive; this is no reason to spin.
      if (result < 0 && result != -ETIME && result != -EINTR) {
        std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(left, kRefusedWait));
      }
      if (Clock::now() >= end) return take(completions);
    }
  }

 private:
  void prepare(io_uring_sqe* sqe, const IoRequest& request) {
    const auto& [fd, offset, data, nbytes, tag, operation, feed] = request;
    FASTIO_ASSERT(feed == nullptr);
    const bool writes = operation == Operation::write;
    if (writes) {
      io_uring_prep_write(sqe, fd, data, nbytes, offset);
    } else {
      io_uring_prep_read(sqe, fd, data, nbytes, offset);
    }
    sqe->user_data = tag;
    if (const int fixed = fixed_.find(ring_.get(), request); fixed != FixedBuffers::kNone) {
      sqe->opcode = writes ? IORING_OP_WRITE_FIXED : IORING_OP_READ_FIXED;
      sqe->buf_index = static_cast<std::uint16_t>(fixed);
    }
  }

  // EAGAIN and EBUSY leave the entries queued: the next wait tries again, after completions made
  // room. Any other error will stay (a filter that came after the ring): what is queued fails, and
  // the ring takes no more.
  void flush() {
    if (io_uring_sq_ready(ring_.get()) == 0 || refusal_ != 0) return;
    int result = io_uring_submit(ring_.get());
    while (result == -EINTR) result = io_uring_submit(ring_.get());
    const std::size_t left = std::min<std::size_t>(queued_.size(), io_uring_sq_ready(ring_.get()));
    queued_.erase(queued_.begin(), queued_.end() - static_cast<std::ptrdiff_t>(left));  // in order
    if (result < 0 && result != -EAGAIN && result != -EBUSY) {
      refusal_ = result;
      for (const std::uint32_t tag : queued_) failed_.push_back({tag, result});
      queued_.clear();
    }
  }

  std::size_t take(std::span<Completion> completions) {
    std::size_t taken = 0;
    while (taken < completions.size() && !failed_.empty()) {
      completions[taken++] = failed_.back();
      failed_.pop_back();
    }
    io_uring_cqe* cqe = nullptr;
    while (taken < completions.size() && io_uring_peek_cqe(ring_.get(), &cqe) == 0) {
      const auto tag = static_cast<std::uint32_t>(cqe->user_data);
      std::int32_t result = cqe->res;
      io_uring_cqe_seen(ring_.get(), cqe);
      IoRequest& request = requests_[tag];
      if (result == -ECANCELED) result = serve(request);
      const bool filled = request.operation == Operation::read && result > 0;
      sanitize_completion(&request, request.data, filled ? static_cast<std::size_t>(result) : 0);
      completions[taken++] = {tag, result};
    }
    return taken;
  }

  // Nobody cancels requests here: the kernel does, where it gets no thread for one that has to wait
  // (io_uring/io-wq.c, io_queue_worker_create). It never will, so this thread waits.
  static std::int32_t serve(const IoRequest& request) {
    const auto offset = static_cast<off_t>(request.offset);
    const ssize_t moved = request.operation == Operation::write
                              ? pwrite(request.fd, request.data, request.nbytes, offset)
                              : pread(request.fd, request.data, request.nbytes, offset);
    return static_cast<std::int32_t>(moved >= 0 ? moved : -last_error());
  }

  Ring ring_;
  FixedBuffers fixed_;
  std::vector<IoRequest> requests_;    // by tag
  std::vector<std::uint32_t> queued_;  // tags of submissions that the kernel has not taken yet
  std::vector<Completion> failed_;
  int refusal_ = 0;  // -errno of a submission that the kernel will not take, ever
};

// ---- probing ----

constexpr std::size_t kProbeBytes = 4096;

// One read through `ring`; with `fixed` through its registered buffer 0.
int read_once(io_uring* ring, int fd, std::byte* data, bool fixed) {
  io_uring_sqe* sqe = io_uring_get_sqe(ring);
  if (fixed) {
    io_uring_prep_read_fixed(sqe, fd, data, kProbeBytes, 0, 0);
  } else {
    io_uring_prep_read(sqe, fd, data, kProbeBytes, 0);
  }
  if (const int result = io_uring_submit(ring); result < 0) return result;
  io_uring_cqe* cqe = nullptr;
  if (const int result = io_uring_wait_cqe(ring, &cqe); result < 0) return result;
  const int result = cqe->res;
  io_uring_cqe_seen(ring, cqe);
  return result;
}

class ProbePage {
 public:
  ProbePage()
      : data_(static_cast<std::byte*>(mmap(nullptr, kProbeBytes, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS, -1, 0))) {
    if (data_ == MAP_FAILED) throw_last_error("mmap", {});
  }
  ProbePage(const ProbePage&) = delete;
  ProbePage& operator=(const ProbePage&) = delete;
  ~ProbePage() { munmap(data_, kProbeBytes); }
  [[nodiscard]] std::byte* get() const { return data_; }

 private:
  std::byte* data_;
};

}  // namespace

std::unique_ptr<Engine> make_uring_engine(unsigned queue_depth) {
  return std::make_unique<UringEngine>(queue_depth);
}

EngineStatus probe_uring() {
  EngineStatus status{EngineKind::uring, false, {}, {}};
  try {
    Ring ring(8);
    const Descriptor file(
        static_cast<int>(syscall(SYS_memfd_create, "fastio-probe", 1U /* MFD_CLOEXEC */)));
    const ProbePage page;
    std::memset(page.get(), 0x5A, kProbeBytes);
    if (!file.valid() ||
        pwrite(file.get(), page.get(), kProbeBytes, 0) != static_cast<ssize_t>(kProbeBytes)) {
      throw_last_error("memfd_create", {});
    }
    const auto whole = static_cast<int>(kProbeBytes);
    std::memset(page.get(), 0, kProbeBytes);
    if (const int result = read_once(ring.get(), file.get(), page.get(), false); result != whole) {
      const int error = result < 0 ? -result : EIO;
      throw IoError(Failure{
          error, "read through io_uring", {}, {}, "a ring was granted, but a read in it failed"});
    }
    if (page.get()[kProbeBytes - 1] != std::byte{0x5A}) {
      throw IoError(Failure{
          EIO, "read through io_uring", {}, {}, "a read returned other bytes than were written"});
    }
    status.available = true;
    status.reason = "a ring was set up and read through";
    iovec buffer{page.get(), kProbeBytes};
    if (const int result = io_uring_register_buffers(ring.get(), &buffer, 1); result < 0) {
      status.features.push_back(
          "fixed buffers: no, " + describe_error(-result) +
          (likely_cause(-result).empty() ? "" : ", " + likely_cause(-result)));
    } else if (const int fixed = read_once(ring.get(), file.get(), page.get(), true);
               fixed != whole) {
      status.features.push_back("fixed buffers: no, a fixed read failed with " +
                                describe_error(fixed < 0 ? -fixed : EIO));
    } else {
      status.features.emplace_back("fixed buffers: yes");
    }
  } catch (const IoError& error) {
    status.reason = error.what();
  }
  return status;
}

}  // namespace fastio
