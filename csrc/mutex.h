// A mutex, a lock and a condition whose use clang checks (-Wthread-safety, .ci/lint).
//
// A member that is FASTIO_GUARDED_BY a mutex may only be touched with the mutex held, and a
// function that FASTIO_REQUIRES one may only be called so. Other compilers see no annotation.
// https://clang.llvm.org/docs/ThreadSafetyAnalysis.html
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#ifdef __clang__
#define FASTIO_THREAD_ANNOTATION(annotation) __attribute__((annotation))
#else
#define FASTIO_THREAD_ANNOTATION(annotation)
#endif

#define FASTIO_CAPABILITY(name) FASTIO_THREAD_ANNOTATION(capability(name))
#define FASTIO_SCOPED_CAPABILITY FASTIO_THREAD_ANNOTATION(scoped_lockable)
#define FASTIO_GUARDED_BY(mutex) FASTIO_THREAD_ANNOTATION(guarded_by(mutex))
#define FASTIO_REQUIRES(mutex) FASTIO_THREAD_ANNOTATION(requires_capability(mutex))
#define FASTIO_EXCLUDES(mutex) FASTIO_THREAD_ANNOTATION(locks_excluded(mutex))
#define FASTIO_ACQUIRE(...) FASTIO_THREAD_ANNOTATION(acquire_capability(__VA_ARGS__))
#define FASTIO_TRY_ACQUIRE(...) FASTIO_THREAD_ANNOTATION(try_acquire_capability(__VA_ARGS__))
#define FASTIO_RELEASE(...) FASTIO_THREAD_ANNOTATION(release_capability(__VA_ARGS__))

namespace fastio {

class FASTIO_CAPABILITY("mutex") Mutex {
 public:
  void lock() FASTIO_ACQUIRE() { mutex_.lock(); }
  void unlock() FASTIO_RELEASE() { mutex_.unlock(); }
  [[nodiscard]] bool try_lock() FASTIO_TRY_ACQUIRE(true) { return mutex_.try_lock(); }

 private:
  friend class MutexLock;
  std::mutex mutex_;
};

// Holds a mutex for as long as it lives, but for the time between unlock() and lock().
class FASTIO_SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) FASTIO_ACQUIRE(mutex) : lock_(mutex.mutex_) {}
  // The mutex is held already.
  MutexLock(Mutex& mutex, std::adopt_lock_t adopt) FASTIO_REQUIRES(mutex)
      : lock_(mutex.mutex_, adopt) {}
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  ~MutexLock() FASTIO_RELEASE() = default;

  void unlock() FASTIO_RELEASE() { lock_.unlock(); }
  void lock() FASTIO_ACQUIRE() { lock_.lock(); }

 private:
  friend class Condition;
  std::unique_lock<std::mutex> lock_;
};

// What a thread waits for with a mutex held, which is released meanwhile. Whoever waits asks for
// the state that it needs in a loop.
class Condition {
 public:
  void notify_all() { condition_.notify_all(); }

  // False when the time is over.
  [[nodiscard]] bool wait_until(MutexLock& lock, std::chrono::steady_clock::time_point until) {
    return condition_.wait_until(lock.lock_, until) == std::cv_status::no_timeout;
  }

 private:
  std::condition_variable condition_;
};

}  // namespace fastio
