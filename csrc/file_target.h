// A file that is being written: its space, its bytes, and its way to the disk.
//
// It keeps descriptors of its own, so that a write which nobody waits for any more has a file to go
// to. It knows nothing of names: what the file is called, and when, is decided above. All members
// may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "error.h"
#include "file.h"

namespace fastio {

class TargetFile {
 public:
  // Takes part in an open descriptor. `path` is for messages; `reopened_as` leads to the same file.
  // Throws IoError.
  static std::shared_ptr<TargetFile> adopt(int fd, std::string path, std::string reopened_as);

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] const Mount& mount() const { return mount_; }
  [[nodiscard]] int buffered_fd() const { return buffered_.get(); }
  [[nodiscard]] int direct_fd() const { return direct_.get(); }

  // As File has it: a second descriptor on first use, refusals remembered per mount.
  [[nodiscard]] DirectAccess direct_access();
  void forbid_direct(const std::string& reason) const;

  // Makes the file so long and has space set aside for it; ENOSPC where there is not enough. False
  // where the filesystem sets nothing aside: it is asked what is free, and the file only made
  // longer.
  bool reserve(std::uint64_t nbytes) const;

  // Writes all of it through the page cache.
  void write(std::uint64_t offset, std::span<const std::byte> bytes) const;

  void truncate(std::uint64_t nbytes) const;

  // Returns when the file is on the disk. A failure is final: the kernel takes the pages for clean
  // afterwards, and a second call would find nothing to do.
  void sync() const;

  [[nodiscard]] Failure failed(std::string operation, int error,
                               std::optional<std::uint64_t> offset, std::string detail = {}) const {
    return {error, std::move(operation), path_, offset, std::move(detail), Failure::Kind::write};
  }

 private:
  TargetFile(std::string path, std::string reopened_as, Descriptor buffered, Mount mount);

  std::string path_;
  std::string reopened_as_;
  Descriptor buffered_;
  Mount mount_;
  // Opened once, with the mutex held; read without it by those whom direct_access() has told of it.
  Descriptor direct_;
  Mutex direct_mutex_;
  std::string direct_refusal_ FASTIO_GUARDED_BY(direct_mutex_);
};

// Lets two files of one filesystem change their names in one step; false where one of them is not
// there, or the filesystem cannot do that. Throws IoError.
[[nodiscard]] bool exchange_names(const std::string& one, const std::string& other);

}  // namespace fastio
