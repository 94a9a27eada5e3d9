#include "plan.h"

#include <algorithm>
#include <bit>
#include <stdexcept>

#include "rounding.h"

namespace fastio {
namespace {

// Two needed ranges this near are read in one request: a request costs more than these bytes.
constexpr std::uint64_t kGapBytes = std::uint64_t{128} << 10;

// Fewer bytes than these are not worth a request of their own: they are staged with their
// neighbours.
constexpr std::uint64_t kStraightBytes = std::uint64_t{512} << 10;

// The unit in which a file is read: chunks where they are verified, the alignment of direct I/O
// where not.
class Units {
 public:
  explicit Units(const PlanRequest& request)
      : start_(request.grid ? request.grid->start : 0),
        unit_(request.grid ? request.grid->chunk_bytes : request.alignment),
        file_nbytes_(request.file_nbytes) {}

  [[nodiscard]] Extent cover(const Extent& extent) const {
    return {start_ + (extent.begin - start_) / unit_ * unit_,
            std::min(start_ + round_up(extent.end - start_, unit_), file_nbytes_)};
  }

  // The whole units inside an extent; empty where there are none.
  [[nodiscard]] Extent inside(const Extent& extent) const {
    const std::uint64_t begin = start_ + round_up(extent.begin - start_, unit_);
    return {begin, std::max(begin, start_ + (extent.end - start_) / unit_ * unit_)};
  }

  [[nodiscard]] std::uint64_t block_step(std::uint64_t block_bytes) const {
    return std::max(round_up(block_bytes, unit_), unit_);
  }

 private:
  std::uint64_t start_, unit_, file_nbytes_;
};

void check(const PlanRequest& request) {
  if (!std::has_single_bit(request.alignment))
    throw std::invalid_argument("alignment is no power of two");
  if (request.block_bytes == 0 || request.region_bytes == 0)
    throw std::invalid_argument("a block or region of 0 bytes");
  if (request.grid && request.grid->chunk_bytes == 0)
    throw std::invalid_argument("a chunk of 0 bytes");
  std::uint64_t before = request.grid ? request.grid->start : 0;
  for (const Extent& extent : request.extents) {
    if (extent.begin < before || extent.end < extent.begin || extent.end > request.file_nbytes) {
      throw std::invalid_argument("extents must be ascending, disjoint and inside the file");
    }
    before = extent.end;
  }
}

// The ranges that one region needs, in whole units, neighbours joined.
std::vector<Extent> needed_ranges(const PlanRequest& request, const Units& units,
                                  const PlannedRegion& region) {
  std::vector<Extent> ranges;
  for (std::size_t i = region.first_extent; i < region.last_extent; ++i) {
    const Extent& extent = request.extents[i];
    if (extent.begin == extent.end) continue;
    const Extent range = units.cover(extent);
    if (!ranges.empty() && range.begin <= ranges.back().end + kGapBytes) {
      ranges.back().end = std::max(ranges.back().end, range.end);
    } else {
      ranges.push_back(range);
    }
  }
  return ranges;
}

// The extents that share a region, from `first` on: whole ones, until it would grow past
// region_bytes.
PlannedRegion gather(const PlanRequest& request, const Units& units, std::size_t first) {
  PlannedRegion region{0, 0, first, first, 0};
  bool empty = true;
  for (; region.last_extent < request.extents.size(); ++region.last_extent) {
    const Extent& extent = request.extents[region.last_extent];
    if (extent.begin == extent.end) continue;
    const Extent range = units.cover(extent);
    if (empty) {
      region.begin = range.begin;
      empty = false;
    } else if (!request.whole_file_region && range.end - region.begin > request.region_bytes) {
      break;
    }
    region.end = range.end;
  }
  return region;
}

void cut(Plan& plan, std::size_t region, std::uint64_t begin, std::uint64_t end,
         std::uint64_t step) {
  for (; begin < end; begin += step) {
    plan.blocks.push_back({region, begin, std::min(begin + step, end)});
  }
}

}  // namespace

Plan make_plan(const PlanRequest& request) {
  check(request);
  const Units units(request);
  const std::uint64_t step = units.block_step(request.block_bytes);
  Plan plan;
  std::uint64_t read_until = 0;
  for (std::size_t next = 0; next < request.extents.size();) {
    PlannedRegion region = gather(request, units, next);
    next = region.last_extent;
    if (region.begin == region.end) continue;  // only empty extents were left
    region.fresh_from = std::max(region.begin, read_until);
    read_until = region.end;
    for (const Extent& range : needed_ranges(request, units, region)) {
      cut(plan, plan.regions.size(), range.begin, range.end, step);
      plan.block_bytes_total += range.end - range.begin;
    }
    if (request.whole_file_region) {
      region.begin = 0;
      region.end = request.file_nbytes;
    } else {
      // Direct reads end on an aligned length: room for it behind the end of the file.
      region.end = region.begin + round_up(region.end - region.begin, request.alignment);
    }
    plan.regions.push_back(region);
  }
  return plan;
}

Plan make_fill_plan(const PlanRequest& request, std::span<const char> straight) {
  check(request);
  const Units units(request);
  const std::uint64_t step = units.block_step(request.block_bytes);
  Plan plan;
  std::size_t next = 0;
  const PlannedRegion everything{0, 0, 0, request.extents.size(), 0};
  for (const Extent& range : needed_ranges(request, units, everything)) {
    std::uint64_t done = range.begin;
    for (; next < request.extents.size() && request.extents[next].begin < range.end; ++next) {
      const Extent inside = straight[next] != 0 ? units.inside(request.extents[next]) : Extent{};
      if (inside.end - inside.begin < kStraightBytes) continue;
      cut(plan, kStaged, done, inside.begin, step);
      cut(plan, plan.regions.size(), inside.begin, inside.end, step);
      plan.regions.push_back({inside.begin, inside.end, next, next + 1, inside.begin});
      done = inside.end;
    }
    cut(plan, kStaged, done, range.end, step);
    plan.block_bytes_total += range.end - range.begin;
  }
  return plan;
}

}  // namespace fastio
