// A replica of a shard: a file, or a feed, which brings bytes from elsewhere.
//
// A feed may be an object store, another host, or a library that decodes. Its bytes are verified
// and placed like those of a file. All members may be called from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include "error.h"
#include "file.h"

namespace fastio {

class Feed {
 public:
  Feed() = default;
  Feed(const Feed&) = delete;
  Feed& operator=(const Feed&) = delete;
  virtual ~Feed() = default;

  // For messages.
  [[nodiscard]] virtual const std::string& path() const = 0;
  // Of all of it; does not change.
  [[nodiscard]] virtual std::uint64_t nbytes() const = 0;
  // Replicas with one number have one disk under them: they share its speed, and hang together.
  [[nodiscard]] virtual std::uint64_t disk() const = 0;

  // Fills `out` with the bytes from `offset` on, or the first part of it: how many, or -errno. It
  // may wait; several threads call it at once.
  virtual std::int32_t read(std::uint64_t offset, std::span<std::byte> out) = 0;
  // Why the last read at this offset failed, where the error number does not say it.
  [[nodiscard]] virtual std::string why(std::uint64_t offset) = 0;
};

// The failure of a feed that brought nothing from `end` on.
[[nodiscard]] Failure ended_early(const Feed& feed, std::uint64_t end, std::uint64_t expected_end);

class Replica {
 public:
  // None of them may be null. Not explicit: a list of files is a list of replicas.
  Replica(std::shared_ptr<File> file) : file_(std::move(file)) {}
  Replica(std::shared_ptr<Feed> feed) : feed_(std::move(feed)) {}

  // One of them is null.
  [[nodiscard]] File* file() const { return file_.get(); }
  [[nodiscard]] Feed* feed() const { return feed_.get(); }
  [[nodiscard]] bool valid() const { return file_ != nullptr || feed_ != nullptr; }

  [[nodiscard]] const std::string& path() const { return file_ ? file_->path() : feed_->path(); }
  [[nodiscard]] std::uint64_t nbytes() const { return file_ ? file_->nbytes() : feed_->nbytes(); }
  [[nodiscard]] std::uint64_t disk() const { return file_ ? file_->mount().disk : feed_->disk(); }
  // As far as is known now.
  [[nodiscard]] std::uint64_t current_nbytes() const {
    return file_ ? file_->current_nbytes() : feed_->nbytes();
  }
  [[nodiscard]] Failure ended_early(std::uint64_t end, std::uint64_t expected_end) const {
    return file_ ? fastio::ended_early(*file_, end, expected_end)
                 : fastio::ended_early(*feed_, end, expected_end);
  }

  // Whether its bytes lie on a filesystem of this host.
  [[nodiscard]] bool is_local() const { return file_ && file_->mount().local; }
  // Whether planning a load of it may wait for a server.
  [[nodiscard]] bool asks_server() const { return file_ && !file_->mount().local; }

 private:
  std::shared_ptr<File> file_;
  std::shared_ptr<Feed> feed_;
};

}  // namespace fastio
