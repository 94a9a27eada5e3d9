// The engine that works everywhere: as many threads as the queue is deep, each in a call of its
// own.
//
// A request is a pread or a pwrite, or a read of a feed.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <system_error>
#include <thread>
#include <vector>

#include "engine.h"
#include "error.h"
#include "mutex.h"
#include "replica.h"

namespace fastio {
namespace {

std::int32_t serve(const IoRequest& request) {
  if (request.feed != nullptr)
    return request.feed->read(request.offset, {request.data, request.nbytes});
  const auto offset = static_cast<off_t>(request.offset);
  const ssize_t moved = request.operation == Operation::write
                            ? pwrite(request.fd, request.data, request.nbytes, offset)
                            : pread(request.fd, request.data, request.nbytes, offset);
  return static_cast<std::int32_t>(moved >= 0 ? moved : -last_error());
}

// The queues never grow past the queue depth and are allocated at once: with a read out, running
// out of memory is nothing that this class could answer.
class PreadEngine final : public Engine {
 public:
  explicit PreadEngine(unsigned queue_depth) {
    waiting_.reserve(queue_depth);
    completed_.reserve(queue_depth);
    threads_.reserve(queue_depth);
    try {
      for (unsigned i = 0; i < queue_depth; ++i) threads_.emplace_back([this] { serve_all(); });
    } catch (const std::system_error&) {
      // Fewer threads than asked for serve the queue all the same; without any, whoever waits does.
    } catch (...) {  // no memory for a thread; no destructor runs for those that were started
      close();
      throw;
    }
  }
  PreadEngine(const PreadEngine&) = delete;
  PreadEngine& operator=(const PreadEngine&) = delete;
  ~PreadEngine() override { close(); }

  void submit(std::span<const IoRequest> requests) override {
    {
      const MutexLock lock(mutex_);
      waiting_.insert(waiting_.end(), requests.begin(), requests.end());
    }
    if (requests.size() == 1) {
      work_.notify_one();
    } else {
      work_.notify_all();
    }
  }

  std::size_t wait(std::span<Completion> completions, std::chrono::milliseconds timeout) override {
    const auto until = std::chrono::steady_clock::now() + timeout;
    MutexLock lock(mutex_);
    if (threads_.empty() && completed_.empty() && !waiting_.empty()) serve_one(lock);
    while (completed_.empty() && arrived_.wait_until(lock, until)) {
    }
    const std::size_t taken = std::min(completions.size(), completed_.size());
    std::copy_n(completed_.begin(), taken, completions.begin());
    completed_.erase(completed_.begin(), completed_.begin() + static_cast<std::ptrdiff_t>(taken));
    return taken;
  }

 private:
  void close() {
    {
      const MutexLock lock(mutex_);
      closing_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void serve_all() {
    MutexLock lock(mutex_);
    for (;;) {
      while (!closing_ && waiting_.empty()) work_.wait(lock);
      if (waiting_.empty()) return;
      serve_one(lock);
    }
  }

  // With the mutex held, but for the time of the call itself.
  void serve_one(MutexLock& lock) FASTIO_REQUIRES(mutex_) FASTIO_NO_THREAD_SAFETY_ANALYSIS {
    const IoRequest request = waiting_.front();
    waiting_.erase(waiting_.begin());
    lock.unlock();
    const std::int32_t result = serve(request);
    lock.lock();
    completed_.push_back({request.tag, result});
    arrived_.notify_one();
  }

  Mutex mutex_;
  Condition work_, arrived_;
  std::vector<IoRequest> waiting_ FASTIO_GUARDED_BY(mutex_);
  std::vector<Completion> completed_ FASTIO_GUARDED_BY(mutex_);
  bool closing_ FASTIO_GUARDED_BY(mutex_) = false;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Engine> make_pread_engine(unsigned queue_depth) {
  return std::make_unique<PreadEngine>(queue_depth);
}

}  // namespace fastio
