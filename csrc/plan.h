// From tensors' extents to blocks, and the regions they go to: pure arithmetic, no system call.
//
// A region covers whole extents and, where chunks have checksums, whole chunks, so that it is read
// and verified on its own; two regions that share a chunk each read it. Inside a region only what
// some extent needs is read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace fastio {

// Where the chunks of a file lie: chunk i covers [start + i * chunk_bytes, …), the last one ends
// with the file.
struct ChunkGrid {
  std::uint64_t start = 0;
  std::uint64_t chunk_bytes = 0;
};

struct Extent {
  std::uint64_t begin = 0;  // bytes from the start of the file
  std::uint64_t end = 0;

  [[nodiscard]] std::uint64_t nbytes() const { return end - begin; }
  friend bool operator==(const Extent&, const Extent&) = default;
};

struct PlanRequest {
  std::span<const Extent> extents;  // ascending, disjoint; empty ones are allowed anywhere
  std::uint64_t file_nbytes = 0;
  std::optional<ChunkGrid> grid;   // none: nothing is verified
  std::uint64_t alignment = 4096;  // of the blocks' begins; bytes, a power of two
  std::uint64_t block_bytes = 0;   // rounded up to whole chunks or alignments
  std::uint64_t region_bytes = 0;  // several extents share a region up to this size
  bool whole_file_region = false;  // one region [0, file_nbytes): a mapping
};

struct PlannedRegion {
  std::uint64_t begin = 0, end = 0;  // file range; end may be rounded up past the end of the file
  std::size_t first_extent = 0, last_extent = 0;  // [first, last) of the request's extents
  std::uint64_t fresh_from = 0;  // bytes below it were read for the region before, too

  [[nodiscard]] std::uint64_t nbytes() const { return end - begin; }
};

// A block that goes to no region: its bytes are staged and put to their places one by one.
constexpr std::size_t kStaged = SIZE_MAX;

struct PlannedBlock {
  std::size_t region = 0;
  std::uint64_t begin = 0, end = 0;  // file range, end not past the end of the file

  [[nodiscard]] bool staged() const { return region == kStaged; }
  [[nodiscard]] Extent extent() const { return {begin, end}; }
  [[nodiscard]] std::uint64_t nbytes() const { return end - begin; }
};

// A block of one of several files.
struct ShardBlock {
  std::size_t shard = 0;
  PlannedBlock range;
};

// A region of one of several files.
struct RegionId {
  std::size_t shard = 0, region = 0;
};

struct Plan {
  std::vector<PlannedRegion> regions;
  std::vector<PlannedBlock> blocks;  // in file order
  std::uint64_t block_bytes_total = 0;
};

// Throws std::invalid_argument for extents out of order or out of the file, and for units that are
// none.
[[nodiscard]] Plan make_plan(const PlanRequest& request);

// The plan for bytes whose places are given. Where `straight` says so of an extent, its whole units
// are read right into its place: a region of its own. All else is staged. The request's
// region_bytes mean nothing here. Throws as above.
[[nodiscard]] Plan make_fill_plan(const PlanRequest& request, std::span<const char> straight);

// Calls visit(index, begin, end) for the part of each extent that lies in the file range `range`.
template <typename Visit>
void each_part(std::span<const Extent> extents, const Extent& range, Visit&& visit) {
  auto extent = std::partition_point(extents.begin(), extents.end(),
                                     [&](const Extent& e) { return e.end <= range.begin; });
  for (; extent != extents.end() && extent->begin < range.end; ++extent) {
    const std::uint64_t begin = std::max(extent->begin, range.begin);
    const std::uint64_t end = std::min(extent->end, range.end);
    if (begin < end) visit(static_cast<std::size_t>(extent - extents.begin()), begin, end);
  }
}

}  // namespace fastio
