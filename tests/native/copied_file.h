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

class CopiedFile {
 public:
  CopiedFile(const std::vector<Place>& places, std::size_t nbytes, std::uint64_t start,
             std::uint64_t chunk_bytes, std::uint64_t seed = 1) {
    for (const Place place : places) {
      copies_.push_back(std::make_unique<SampleFile>(place, nbytes, seed));
    }
    table_ = copies_.front()->table(start, chunk_bytes);
  }

  [[nodiscard]] const SampleFile& copy(std::size_t index) const { return *copies_[index]; }
  [[nodiscard]] std::size_t size() const { return copies_.size(); }
  [[nodiscard]] std::span<const std::byte> bytes() const { return copies_.front()->bytes(); }
  [[nodiscard]] const ChunkTable& table() const { return table_; }

  // Flips a bit in a chunk of a replica.
  void damage(std::size_t copy, std::uint64_t chunk) const {
    const std::uint64_t at = table_.grid.start + chunk * table_.grid.chunk_bytes + 11;
    copies_[copy]->overwrite(at, bytes()[at] ^ std::byte{0x10});
  }

  // The replicas, opened now, as cold as possible.
  [[nodiscard]] ShardRequest request(std::vector<Extent> extents) const {
    ShardRequest request{{}, std::move(extents), table_};
    for (const auto& copy : copies_) {
      static_cast<void>(copy->evict());
      request.copies.push_back(File::open(copy->path()));
    }
    return request;
  }
  [[nodiscard]] ShardRequest request() const {
    return request({{table_.grid.start, bytes().size()}});
  }

 private:
  std::vector<std::unique_ptr<SampleFile>> copies_;
  ChunkTable table_;
};

}  // namespace fastio::testing
