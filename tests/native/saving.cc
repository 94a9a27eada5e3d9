#include "saving.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "checksum.h"

namespace fastio::testing {

WrittenFile::WrittenFile(Place place)
    : path_((place == Place::disk ? "." : "/dev/shm") + std::string("/fastio-test-XXXXXX")) {
  fd_ = Descriptor(mkostemp(path_.data(), O_CLOEXEC));
  if (!fd_.valid()) throw_last_error("mkostemp", path_);
}

WrittenFile::~WrittenFile() { unlink(path_.c_str()); }

std::shared_ptr<TargetFile> WrittenFile::target() const {
  return TargetFile::adopt(fd_.get(), path_, path_);
}

std::vector<std::byte> WrittenFile::bytes() const {
  const auto file = File::open(path_);
  std::vector<std::byte> bytes(file->nbytes());
  file->read(0, bytes);
  return bytes;
}

std::vector<std::byte> random_bytes(Random& random, std::size_t nbytes) {
  std::vector<std::byte> bytes(nbytes);
  for (std::size_t at = 0; at < nbytes; at += sizeof(std::uint64_t)) {
    const std::uint64_t value = random();
    std::memcpy(bytes.data() + at, &value, std::min(sizeof value, nbytes - at));
  }
  return bytes;
}

void SampleOrigins::add(Placement memory, std::uint64_t nbytes, std::uint8_t swapped) {
  origins_.extents.push_back({end(), end() + nbytes});
  origins_.memories.push_back(std::move(memory));
  origins_.swapped.push_back(swapped);
}

void SampleOrigins::fill_to(std::uint64_t multiple) {
  const std::uint64_t behind = expected_.size() % multiple;
  if (behind != 0) add_unaligned(multiple - behind);
}

void SampleOrigins::add_aligned(std::uint64_t nbytes) {
  const auto bytes = random_bytes(random_, nbytes);
  if (nbytes == 0) return add_unaligned(0);
  auto region = Region::allocate(end(), nbytes, HugePages::off);
  std::memcpy(region->at(end()), bytes.data(), nbytes);
  add({region->at(end()), nbytes, {}}, nbytes, 1);
  regions_.push_back(std::move(region));
  expected_.insert(expected_.end(), bytes.begin(), bytes.end());
}

void SampleOrigins::add_unaligned(std::uint64_t nbytes) {
  auto& memory = memories_.emplace_back(random_bytes(random_, nbytes + 2));
  // An odd address if the tensor begins at an even offset, and the other way round.
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  std::byte* data = memory.data() + (address % 2 == end() % 2 ? 1 : 0);
  add({data, nbytes, {}}, nbytes, 1);
  expected_.insert(expected_.end(), data, data + nbytes);
}

void SampleOrigins::add_swapped(std::uint64_t values, std::uint8_t value_bytes) {
  fill_to(value_bytes);
  auto& memory = memories_.emplace_back(random_bytes(random_, values * value_bytes));
  add({memory.data(), memory.size(), {}}, memory.size(), value_bytes);
  for (std::uint64_t value = 0; value < values; ++value) {
    for (std::uint64_t b = value_bytes; b-- > 0;)
      expected_.push_back(memory[value * value_bytes + b]);
  }
}

void SampleOrigins::add_strided(std::uint64_t rows, std::uint64_t columns,
                                std::uint8_t value_bytes) {
  fill_to(value_bytes);
  const bool backwards = between(random_, 0, 1) != 0;
  const bool one_row = between(random_, 0, 3) == 0;
  const bool swapped = between(random_, 0, 1) != 0;
  const std::uint64_t gap = between(random_, 0, 3);
  const std::uint64_t column_bytes = (one_row ? 1 : rows) * value_bytes + gap;
  auto& memory = memories_.emplace_back(random_bytes(random_, columns * column_bytes));
  const auto column_stride = static_cast<std::int64_t>(column_bytes);
  const std::uint64_t first = backwards ? (columns - 1) * column_bytes : 0;
  add({memory.data() + first,
       value_bytes,
       {{rows, one_row ? 0 : value_bytes}, {columns, backwards ? -column_stride : column_stride}}},
      rows * columns * value_bytes, swapped ? value_bytes : std::uint8_t{1});
  for (std::uint64_t row = 0; row < rows; ++row) {
    for (std::uint64_t column = 0; column < columns; ++column) {
      const std::uint64_t stored = backwards ? columns - 1 - column : column;
      const std::byte* value =
          memory.data() + stored * column_bytes + (one_row ? 0 : row * value_bytes);
      for (std::uint64_t b = 0; b < value_bytes; ++b)
        expected_.push_back(value[swapped ? value_bytes - 1 - b : b]);
    }
  }
}

void SampleOrigins::add_random(std::uint64_t nbytes_max) {
  const std::uint64_t nbytes = between(random_, 0, nbytes_max);
  const auto value_bytes = static_cast<std::uint8_t>(1U << between(random_, 0, 3));
  switch (between(random_, 0, 4)) {
    case 0:
      return add_aligned(nbytes);
    case 1:
      return add_swapped(nbytes / 16, 16);
    case 2:
      return add_swapped(nbytes / value_bytes, value_bytes);
    case 3: {
      const std::uint64_t columns = between(random_, 1, 40);
      return add_strided(nbytes / columns / value_bytes + 1, columns, value_bytes);
    }
    default:
      return add_unaligned(nbytes);
  }
}

Digests SampleOrigins::digests(std::uint64_t chunk_bytes) const {
  return digests_of(default_algorithm(), expected(), chunk_bytes);
}

void SampleOrigins::overwrite_memory() {
  for (auto& memory : memories_) std::fill(memory.begin(), memory.end(), std::byte{0xEE});
  for (const auto& region : regions_)
    std::memset(region->at(region->file_offset()), 0xEE, region->nbytes());
}

std::vector<Way> ways_here() {
  std::vector<Way> ways{{Leg::buffered, false}, {Leg::buffered, true}};
  const DirectAccess direct = WrittenFile().target()->direct_access();
  if (direct.possible) {
    ways.push_back({Leg::direct, false});
    ways.push_back({Leg::direct, true});
  } else {
    MESSAGE("not tested: direct writes: ", direct.reason);
  }
  return ways;
}

std::string name_of(const Way& way) {
  return std::string(way.copied ? "copied, then " : "") +
         (way.leg == Leg::direct ? "direct" : "buffered");
}

SaveOptions save_options(EnginePreference engine, std::uint64_t block_bytes, unsigned queue_depth,
                         unsigned lanes) {
  SaveOptions options;
  options.engine = engine;
  options.block_bytes = block_bytes;
  options.queue_depth = queue_depth;
  options.lanes = lanes;
  return options;
}

void run_leg(SaveJob& job, Leg leg, std::size_t first, std::size_t last) {
  job.start(leg, first, last);
  REQUIRE(job.wait_for(kPatience));
}

void run_to_the_end(SaveJob& job, Way way) {
  if (way.copied) run_leg(job, Leg::copied, 0, job.block_count());
  if (!job.has_failed()) run_leg(job, way.leg, 0, job.block_count());
}

std::string first_difference(const SaveJob& job, const WrittenFile& file,
                             const SampleOrigins& origins, std::uint64_t chunk_bytes) {
  if (const auto failure = job.outcome().failure()) return failure->message();
  job.file()->truncate(origins.end());
  const auto found = file.bytes();
  if (found.size() != origins.end())
    return "the file has " + std::to_string(found.size()) + " bytes";
  const auto head = found.begin() + static_cast<std::ptrdiff_t>(origins.begin());
  if (std::any_of(found.begin(), head, [](std::byte b) { return b != std::byte{0}; }))
    return "something was written before the data";
  const auto expected = origins.expected();
  if (!same(expected, std::span(found).subspan(origins.begin()))) {
    const auto at = std::mismatch(expected.begin(), expected.end(), head).first;
    return "differs at byte " + std::to_string(at - expected.begin()) + " of the data";
  }
  if (chunk_bytes == 0 ? !job.digests().empty() : job.digests() != origins.digests(chunk_bytes))
    return "other digests";
  return {};
}

}  // namespace fastio::testing
