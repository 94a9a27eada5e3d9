// One file, opened once for reading: its descriptors, its size, and what the kernel says of it.
//
// A File never follows its path again: whoever replaces the file leaves this one as it was opened.
// Its size is fixed at open. All members may be called from any thread. file_mount.cc knows
// filesystems, file_residency.cc the page cache; file_target.h has files that are written.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "mutex.h"

namespace fastio {

// Owns a descriptor. close() of a file that was only read has nothing to report, so it is not
// asked.
class Descriptor {
 public:
  Descriptor() = default;
  explicit Descriptor(int fd) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.release()) {}
  Descriptor& operator=(Descriptor&& other) noexcept;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();

  [[nodiscard]] int get() const { return fd_; }
  [[nodiscard]] bool valid() const { return fd_ >= 0; }
  int release();

 private:
  int fd_ = -1;
};

// The properties of a filesystem that reading depends on.
struct Mount {
  dev_t disk = 0;
  std::string filesystem;      // "ext4", "tmpfs", or the magic number in hex
  bool local = false;          // its pages cannot change behind the kernel's back
  bool memory_backed = false;  // tmpfs and the like: always in memory
};

// Whether O_DIRECT can be used, and at which granularity of offsets and lengths.
struct DirectAccess {
  bool possible = false;
  std::uint64_t alignment = 0;  // bytes; of offset and length; memory is always page aligned here
  std::string reason;           // why not, or where the alignment comes from
};

class File {
 public:
  // Throws IoError (ENOENT, EISDIR, EACCES, …); anything but a regular file is refused with EINVAL.
  // Waits for another process that holds a lease on the file (fcntl(2), F_SETLEASE), until it gives
  // the lease back, or for 45 seconds.
  static std::shared_ptr<File> open(const std::string& path);

  // The file that has this name in an open folder, and nothing outside of it: a link is refused
  // with ELOOP, what is no name of a regular file with EINVAL. `shown_path` is for messages, and is
  // never opened.
  static std::shared_ptr<File> open_in(int folder, const std::string& name,
                                       const std::string& shown_path);

  // The same, but null where there is a lease to wait for.
  static std::shared_ptr<File> open_at_once(const std::string& path);
  static std::shared_ptr<File> open_in_at_once(int folder, const std::string& name,
                                               const std::string& shown_path);

  // The same, but null where that would ask the disk, or is refused.
  static std::shared_ptr<File> open_in_cached(int folder, const std::string& name,
                                              const std::string& shown_path);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::uint64_t nbytes() const { return nbytes_; }
  [[nodiscard]] std::uint64_t current_nbytes() const;  // as the kernel says now
  [[nodiscard]] const Mount& mount() const { return mount_; }
  [[nodiscard]] int buffered_fd() const { return buffered_.get(); }

  // Opens the second descriptor on first use. Direct access is remembered per mount: one refusal
  // (EINVAL at a real read, reported through forbid_direct) is enough for every file there.
  [[nodiscard]] DirectAccess direct_access();
  [[nodiscard]] int direct_fd() const { return direct_.get(); }
  void forbid_direct(const std::string& reason) const;

  // Lets go of the pages of the bytes [begin, end) in the page cache, as far as they are clean and
  // nobody else has them.
  void drop_cached(std::uint64_t begin, std::uint64_t end) const;

  // Asks for the bytes [begin, end) to be brought into the page cache, and waits for none of them.
  void will_need(std::uint64_t begin, std::uint64_t end) const;

  // How many of the bytes [offset, offset + nbytes) are in the page cache; nullopt where the kernel
  // will not say or cannot be believed.
  [[nodiscard]] std::optional<std::uint64_t> resident_bytes(std::uint64_t offset,
                                                            std::uint64_t nbytes) const;

  // Reads what is in the page cache without ever waiting for a disk; false when it is not all
  // there.
  [[nodiscard]] bool read_cached(std::uint64_t offset, std::span<std::byte> out) const;

  // Reads exactly out.size() bytes through the page cache; throws IoError, ENODATA where the file
  // ends before.
  void read(std::uint64_t offset, std::span<std::byte> out) const;

 private:
  enum class Reopening { by_descriptor, by_path_too };

  File(std::string path, Reopening reopening, Descriptor buffered, std::uint64_t nbytes,
       Mount mount);
  static std::shared_ptr<File> adopt(Descriptor fd, const std::string& path, Reopening reopening);

  std::string path_;
  Reopening reopening_;  // for the second descriptor
  Descriptor buffered_;
  std::uint64_t nbytes_;
  Mount mount_;
  // Opened once, with the mutex held; read without it by those whom direct_access() has told of it.
  Descriptor direct_;
  Mutex direct_mutex_;
  std::string direct_refusal_ FASTIO_GUARDED_BY(direct_mutex_);
};

// The failure that everybody reports when a file ends before its size at open: nothing came from
// `end` on. Its offset is where the file ends now, if that is before.
struct Failure;
[[nodiscard]] Failure ended_early(const File& file, std::uint64_t end, std::uint64_t expected_end);

// file_mount.cc
[[nodiscard]] Mount identify_mount(int fd, dev_t disk);
// Whether the path leads to a mount that was identified as local before; asks no server, and so
// waits for none.
[[nodiscard]] bool on_known_local_mount(const std::string& path);
[[nodiscard]] bool on_known_local_mount(int fd);
// The disk under an open file or folder (st_dev), as it is known here: no server is asked.
[[nodiscard]] std::optional<std::uint64_t> disk_under(int fd);
[[nodiscard]] std::uint64_t reported_direct_alignment(
    int fd);                                              // 0: O_DIRECT is refused; 1: not said
[[nodiscard]] std::string direct_refusal_of(dev_t disk);  // empty: none known
void remember_direct_refusal(dev_t disk, const std::string& reason);
// The alignment that O_DIRECT needs on an open descriptor.
[[nodiscard]] DirectAccess direct_access_of(int fd);
[[nodiscard]] bool same_file(int a, int b);

}  // namespace fastio
