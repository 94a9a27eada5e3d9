// A write job: bytes in memory out to one file, with checksums of them taken on the way.
//
// The file's data is cut into blocks, which lanes (saver_lane.h) take. A lane gathers the bytes of
// a block out of its tensors, or writes them from where they lie if it can. It takes the checksums
// of the chunks, and writes the block. Legs follow one another: some blocks through the page cache
// and some past it, to see which is faster, then the rest; or all of them into memory first. A job
// knows no tensor names, dtypes or formats. It gives the file neither its name nor its header.
//
// Members may be called from any thread, start() and write_to() by one at a time. A cancelled job
// may be dropped at once, since lanes hold its state. A write that is still out then can reach only
// its own file.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "saver_state.h"

namespace fastio {

// How a job was done.
struct SaveReport {
  std::string engine = "none";  // "uring", "pread", "none"
  std::string engine_reason;
  std::size_t lanes = 0;  // the most of a leg
};

class SaveJob {
 public:
  // Plans. Throws std::invalid_argument, MemoryLimitExceeded where the limit is below one block.
  static std::shared_ptr<SaveJob> make(std::shared_ptr<TargetFile> file, Origins origins,
                                       const SaveOptions& options);

  explicit SaveJob(std::shared_ptr<SaveState> state) : state_(std::move(state)) {}
  SaveJob(const SaveJob&) = delete;
  SaveJob& operator=(const SaveJob&) = delete;
  ~SaveJob() = default;

  // Starts on the blocks [first, last). One leg at a time; none after a failure or a cancel. Throws
  // IoError, MemoryLimitExceeded, std::bad_alloc.
  void start(Leg leg, std::size_t first, std::size_t last);

  // Has the legs to come write to another file: the first one is begun anew. Not during a leg.
  void write_to(std::shared_ptr<TargetFile> file);

  // True when no lane is at work any more.
  [[nodiscard]] bool wait_for(std::chrono::milliseconds timeout);

  // Stops within milliseconds. Memory of the job that a write still reads is abandoned.
  void cancel();

  // True when the caller's memory is released: no lane looks at it any more. (A disk may; what it
  // finds there then goes to a file that is thrown away.)
  [[nodiscard]] bool wait_until_released(std::chrono::milliseconds timeout);

  [[nodiscard]] const Outcome& outcome() const { return state_->outcome; }

  // Of each chunk of the data, once all blocks were written.
  [[nodiscard]] const Digests& digests() const { return state_->digests; }

  [[nodiscard]] std::size_t block_count() const { return state_->block_count(); }
  [[nodiscard]] std::uint64_t block_bytes() const { return state_->options.block_bytes; }
  [[nodiscard]] const std::shared_ptr<TargetFile>& file() const { return state_->file; }
  [[nodiscard]] const SaveCounters& counters() const { return state_->counters; }
  [[nodiscard]] const SaveReport& report() const { return report_; }

  // For whoever attends it.
  [[nodiscard]] bool has_failed() const { return outcome().has_failed(); }
  [[nodiscard]] std::uint64_t bytes_done() const { return counters().bytes_done; }
  [[nodiscard]] std::uint64_t bytes_total() const { return state_->data.nbytes(); }

 private:
  void check_leg(Leg leg, std::size_t first, std::size_t last) const;
  void choose_way(Leg leg);
  void start_lanes(std::size_t block_count, std::shared_ptr<Region> snapshot);

  std::shared_ptr<SaveState> state_;
  SaveReport report_;
};

}  // namespace fastio
