// The fixture of the saver's tests: files to write, tensors to write into them, every way to write,
// and the expected bytes.
#pragma once

#include <doctest/doctest.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "file_target.h"
#include "loading.h"
#include "sample_file.h"
#include "saver.h"

namespace fastio::testing {

// An empty file to write. Removes it at the end.
class WrittenFile {
 public:
  explicit WrittenFile(Place place = Place::disk);
  WrittenFile(const WrittenFile&) = delete;
  WrittenFile& operator=(const WrittenFile&) = delete;
  ~WrittenFile();

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] std::shared_ptr<TargetFile> target() const;
  [[nodiscard]] std::vector<std::byte> bytes() const;

 private:
  std::string path_;
  Descriptor fd_;
};

[[nodiscard]] std::vector<std::byte> random_bytes(Random& random, std::size_t nbytes);

// Tensors one behind the other, with their expected bytes in the file, assembled value by value.
class SampleOrigins {
 public:
  explicit SampleOrigins(std::uint64_t begin, std::uint64_t seed = 1)
      : begin_(begin), random_(seed) {}

  // In one piece, at an address that direct writes accept, if its place in the file is aligned; or
  // at one that they never accept.
  void add_aligned(std::uint64_t nbytes);
  void add_unaligned(std::uint64_t nbytes);
  // In one piece, with its values in the other byte order; the padding of the gap follows.
  void add_swapped(std::uint64_t values, std::uint8_t value_bytes);
  // (rows, columns), stored column by column with gaps, perhaps backwards, each row the same one,
  // or swapped.
  void add_strided(std::uint64_t rows, std::uint64_t columns, std::uint8_t value_bytes);
  void add_random(std::uint64_t nbytes_max);

  [[nodiscard]] Origins origins() const { return origins_; }
  [[nodiscard]] std::uint64_t begin() const { return begin_; }
  [[nodiscard]] std::uint64_t end() const { return begin_ + expected_.size(); }
  [[nodiscard]] std::span<const std::byte> expected() const { return expected_; }
  [[nodiscard]] Digests digests(std::uint64_t chunk_bytes) const;

  void overwrite_memory();

 private:
  void fill_to(std::uint64_t multiple);
  void add(Placement memory, std::uint64_t nbytes, std::uint8_t swapped);

  std::uint64_t begin_;
  Random random_;
  std::deque<std::vector<std::byte>> memories_;
  std::vector<std::shared_ptr<Region>> regions_;
  Origins origins_;
  std::vector<std::byte> expected_;
};

// A leg that writes, after everything was copied or not.
struct Way {
  Leg leg = Leg::buffered;
  bool copied = false;
};
[[nodiscard]] std::vector<Way> ways_here();
[[nodiscard]] std::string name_of(const Way& way);

[[nodiscard]] SaveOptions save_options(EnginePreference engine, std::uint64_t block_bytes,
                                       unsigned queue_depth = 8, unsigned lanes = 2);

// Runs one leg, or a whole save, to its end; not on after a failure.
void run_leg(SaveJob& job, Leg leg, std::size_t first, std::size_t last);
void run_to_the_end(SaveJob& job, Way way);

// Cuts the file to its length and describes the first difference from the expected bytes or
// digests.
[[nodiscard]] std::string first_difference(const SaveJob& job, const WrittenFile& file,
                                           const SampleOrigins& origins,
                                           std::uint64_t chunk_bytes = 0);

// Calls test(engine, way) for every engine and way of this host.
template <typename Test>
void on_every_engine_and_way(Test&& test) {
  for (const EnginePreference engine : engines_here()) {
    for (const Way& way : ways_here()) {
      CAPTURE(name_of(engine));
      CAPTURE(name_of(way));
      test(engine, way);
    }
  }
}

}  // namespace fastio::testing
