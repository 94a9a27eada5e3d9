// A sealed file with several replicas, for tests of jobs that read whichever one is sound.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "loader.h"
#include "sample_file.h"

namespace fastio::testing {

class ReplicatedFile {
 public:
  ReplicatedFile(const std::vector<Place>& places, std::size_t nbytes, std::uint64_t start,
                 std::uint64_t chunk_bytes, std::uint64_t seed = 1) {
    for (const Place place : places) {
      replicas_.push_back(std::make_unique<SampleFile>(place, nbytes, seed));
    }
    table_ = replicas_.front()->table(start, chunk_bytes);
  }

  [[nodiscard]] const SampleFile& replica(std::size_t index) const { return *replicas_[index]; }
  [[nodiscard]] std::size_t size() const { return replicas_.size(); }
  [[nodiscard]] std::span<const std::byte> bytes() const { return replicas_.front()->bytes(); }
  [[nodiscard]] const ChunkTable& table() const { return table_; }

  // Flips a bit in a chunk of a replica.
  void damage(std::size_t replica, std::uint64_t chunk) const {
    const std::uint64_t at = table_.grid.start + chunk * table_.grid.chunk_bytes + 11;
    replicas_[replica]->overwrite(at, bytes()[at] ^ std::byte{0x10});
  }

  // The replicas, opened now, as cold as possible.
  [[nodiscard]] ShardRequest request(std::vector<Extent> extents) const {
    ShardRequest request{{}, std::move(extents), table_};
    for (const auto& replica : replicas_) {
      static_cast<void>(replica->evict());
      request.replicas.push_back(File::open(replica->path()));
    }
    return request;
  }
  [[nodiscard]] ShardRequest request() const {
    return request({{table_.grid.start, bytes().size()}});
  }

 private:
  std::vector<std::unique_ptr<SampleFile>> replicas_;
  ChunkTable table_;
};

}  // namespace fastio::testing
