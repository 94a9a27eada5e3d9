// Reads a file once with io_uring and O_DIRECT, as fast as the storage can. A few buffers are used
// again and again; they lie on huge pages where there are some. For machines that have no fio.
//
// read-limit FILE BLOCK_BYTES DEPTH THREADS BYTES: each thread reads a part of its own, DEPTH
// requests of BLOCK_BYTES in flight. Prints the bytes read, the seconds that took, and CPU seconds,
// as JSON. The clock starts when all rings and buffers are there.
#include <fcntl.h>
#include <liburing.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <barrier>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr std::uint64_t kHugePageBytes = std::uint64_t{2} << 20;

struct Job {
  std::uint64_t begin = 0, end = 0;  // bytes of the file, whole blocks
  std::uint64_t read = 0;            // bytes
  std::string failure;
};

[[noreturn]] void fail(const std::string& what, int error) {
  throw std::runtime_error(what + ": " + std::strerror(error));
}

class Descriptor {
 public:
  explicit Descriptor(const char* path) : fd_(open(path, O_RDONLY | O_DIRECT | O_CLOEXEC)) {
    if (fd_ < 0) fail(path, errno);
  }
  ~Descriptor() { close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

class Buffers {
 public:
  explicit Buffers(std::uint64_t nbytes)
      : nbytes_((nbytes + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes),
        data_(static_cast<char*>(::operator new(nbytes_, kAlignment))) {
    madvise(data_, nbytes_, MADV_HUGEPAGE);  // refused: small pages
    std::memset(data_, 1, nbytes_);
  }
  ~Buffers() { ::operator delete(data_, kAlignment); }
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;
  [[nodiscard]] char* data() const { return data_; }

 private:
  static constexpr std::align_val_t kAlignment{kHugePageBytes};
  std::uint64_t nbytes_;
  char* data_;
};

class Ring {
 public:
  explicit Ring(unsigned depth) {
    if (const int error = io_uring_queue_init(depth, &ring_, 0); error < 0)
      fail("io_uring", -error);
  }
  ~Ring() { io_uring_queue_exit(&ring_); }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;
  [[nodiscard]] io_uring* get() { return &ring_; }

 private:
  io_uring ring_{};
};

void read_part(Job& job, Ring& ring, const Buffers& buffers, int fd, std::uint64_t block_bytes,
               unsigned depth) {
  std::uint64_t next = job.begin;
  unsigned in_flight = 0;
  const auto queue = [&](std::uint64_t slot) {
    io_uring_sqe* entry = io_uring_get_sqe(ring.get());
    if (entry == nullptr) fail("io_uring has no room", EBUSY);
    io_uring_prep_read(entry, fd, buffers.data() + slot * block_bytes,
                       static_cast<unsigned>(block_bytes), next);
    io_uring_sqe_set_data64(entry, slot);
    next += block_bytes;
    ++in_flight;
  };
  for (unsigned slot = 0; slot < depth && next < job.end; ++slot) queue(slot);
  while (in_flight > 0) {
    if (const int error = io_uring_submit_and_wait(ring.get(), 1); error < 0)
      fail("submit", -error);
    io_uring_cqe* done = nullptr;
    while (io_uring_peek_cqe(ring.get(), &done) == 0) {
      const std::uint64_t slot = io_uring_cqe_get_data64(done);
      const int result = done->res;
      io_uring_cqe_seen(ring.get(), done);
      --in_flight;
      if (result < 0) fail("read", -result);
      if (static_cast<std::uint64_t>(result) != block_bytes) fail("a short read", EIO);
      job.read += block_bytes;
      if (next < job.end) queue(slot);
    }
  }
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto of = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
  };
  return of(usage.ru_utime) + of(usage.ru_stime);
}

int run(const char* path, std::uint64_t block_bytes, unsigned depth, unsigned threads,
        std::uint64_t nbytes) {
  const Descriptor file(path);
  const std::uint64_t part = nbytes / threads / block_bytes * block_bytes;
  if (part == 0) throw std::runtime_error("the file is smaller than a block for each thread");
  std::vector<Job> jobs(threads);
  double cpu = 0;
  std::chrono::steady_clock::time_point begin;
  std::barrier ready(threads, [&]() noexcept {
    cpu = cpu_seconds();
    begin = std::chrono::steady_clock::now();
  });
  std::vector<std::thread> running;
  for (unsigned at = 0; at < threads; ++at) {
    running.emplace_back([&, at] {
      Job& job = jobs[at];
      job.begin = at * part;
      job.end = job.begin + part;
      bool waited = false;
      try {
        // The ring goes first: reads that are out when one fails write to the buffers until then.
        const Buffers buffers(depth * block_bytes);
        Ring ring(depth);
        ready.arrive_and_wait();
        waited = true;
        read_part(job, ring, buffers, file.get(), block_bytes, depth);
      } catch (const std::exception& error) {
        job.failure = error.what();
        if (!waited) ready.arrive_and_drop();
      }
    });
  }
  for (std::thread& thread : running) thread.join();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::uint64_t read = 0;
  for (const Job& job : jobs) {
    if (!job.failure.empty()) throw std::runtime_error(job.failure);
    read += job.read;
  }
  std::printf("{\"bytes\": %llu, \"seconds\": %.6f, \"cpu_s\": %.6f}\n",
              static_cast<unsigned long long>(read), took.count(), cpu_seconds() - cpu);
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 6) {
    std::fprintf(stderr, "read-limit FILE BLOCK_BYTES DEPTH THREADS BYTES\n");
    return 2;
  }
  try {
    return run(arguments[1], std::stoull(arguments[2]),
               static_cast<unsigned>(std::stoul(arguments[3])),
               static_cast<unsigned>(std::stoul(arguments[4])), std::stoull(arguments[5]));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "read-limit: %s\n", error.what());
    return 1;
  }
}
