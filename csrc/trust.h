// Chunks that some process of this user has verified since this boot: no other has to, then.
//
// A record belongs to one state of one file: its device, inode, size, times and checksums. A file
// that changed has another record. Records lie in memory that the processes of a host share, in a
// folder that nobody else may write to. A record holds the digest of each chunk that was found
// sound. If it is damaged or stale, it holds no such digest, and the chunk is verified.
//
// All members may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "checksum.h"
#include "file.h"

namespace fastio {

class TrustRecord {
 public:
  // Why there is none: the folder is somebody else's, or the file has changed in the last seconds,
  // so that a further change could go unseen.
  struct Opened {
    std::shared_ptr<TrustRecord> record;
    std::string refusal;
  };

  // Makes what is missing. `folder` is where the records of this user are.
  [[nodiscard]] static Opened open(const std::string& folder, const File& file, std::uint64_t start,
                                   std::uint64_t chunk_bytes, const Digests& digests);

  // Whether some process has found this digest for the chunk.
  [[nodiscard]] bool holds(std::uint64_t chunk, const Digest& digest) const;

  // Where the record cannot be written, the chunk is verified by the next process, too.
  void put(std::uint64_t chunk, const Digest& digest) const;

 private:
  explicit TrustRecord(Descriptor fd) : fd_(std::move(fd)) {}

  Descriptor fd_;
};

// Where the records of this user are: gone with the next boot.
[[nodiscard]] std::string trust_folder();

}  // namespace fastio
