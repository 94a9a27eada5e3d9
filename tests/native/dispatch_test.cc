// The choice of the next block and its disk, with simulated disks of given speeds and without any
// I/O.
#include "dispatch.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <vector>

#include "sample_file.h"

namespace fastio {
namespace {

using testing::between;
using testing::Random;

constexpr std::uint64_t kBlock = 4'000'000;
constexpr double kNever = 1e9;  // seconds

using Disks = std::vector<std::vector<std::uint64_t>>;  // of the replicas of each shard

std::vector<Dispatch::Block> blocks_of(const std::vector<std::size_t>& counts) {
  std::vector<Dispatch::Block> blocks;
  for (std::size_t shard = 0; shard < counts.size(); ++shard) {
    blocks.insert(blocks.end(), counts[shard], {shard, kBlock});
  }
  return blocks;
}

Dispatch::Time at(double time_s) {
  return Dispatch::Time() + std::chrono::duration_cast<Dispatch::Clock::duration>(
                                std::chrono::duration<double>(time_s));
}

struct Read {
  std::size_t block = 0, replica = 0;
  std::uint64_t disk = 0;
  double begin_s = 0, end_s = 0;
};

// Disks that serve one read after the other, and the number of reads in flight over all of them.
class Simulation {
 public:
  Simulation(Dispatch& dispatch, Disks disks, std::vector<Dispatch::Block> blocks,
             std::map<std::uint64_t, double> bytes_s, std::size_t slots)
      : dispatch_(dispatch),
        disks_(std::move(disks)),
        blocks_(std::move(blocks)),
        bytes_s_(std::move(bytes_s)),
        slots_(slots) {}

  // Takes every available block.
  void top_up() {
    while (out_.size() < slots_) {
      const auto pick = dispatch_.pick(at(now_s_));
      if (!pick) return;
      const Dispatch::Block& block = blocks_[pick->block];
      const std::uint64_t disk = disks_[block.shard][pick->replica];
      double& free_s = free_s_[disk];
      free_s = std::max(free_s, now_s_) + static_cast<double>(block.nbytes) / bytes_s_.at(disk);
      out_.push_back({pick->block, pick->replica, disk, now_s_, free_s});
      reads_.push_back(out_.back());
    }
  }

  // Completes the earliest read. False if there is none.
  bool step() {
    const auto first = std::min_element(
        out_.begin(), out_.end(), [](const Read& a, const Read& b) { return a.end_s < b.end_s; });
    if (first == out_.end() || first->end_s >= kNever) return false;
    now_s_ = first->end_s;
    const Dispatch::Block& block = blocks_[first->block];
    dispatch_.finished(block.shard, first->replica, block.nbytes, block.nbytes, at(now_s_));
    done_.insert(first->block);
    out_.erase(first);
    return true;
  }

  const std::vector<Read>& run() {
    do top_up();
    while (step());
    return reads_;
  }

  [[nodiscard]] const std::vector<Read>& reads() const { return reads_; }
  [[nodiscard]] bool idle() const { return out_.empty(); }
  [[nodiscard]] bool done(std::size_t block) const { return done_.contains(block); }
  [[nodiscard]] double now_s() const { return now_s_; }

 private:
  Dispatch& dispatch_;
  Disks disks_;
  std::vector<Dispatch::Block> blocks_;
  std::map<std::uint64_t, double> bytes_s_;
  std::size_t slots_;
  double now_s_ = 1;
  std::map<std::uint64_t, double> free_s_;
  std::vector<Read> out_, reads_;
  std::set<std::size_t> done_;
};

struct Outcome {
  std::vector<Read> reads;
  double took_s = 0;
  std::map<std::uint64_t, std::size_t> of_disk;
};

Outcome simulate(const Disks& disks, const std::vector<std::size_t>& counts,
                 const std::map<std::uint64_t, double>& bytes_s, std::size_t slots = 16) {
  const auto blocks = blocks_of(counts);
  Dispatch dispatch(disks, blocks);
  dispatch.open_until(blocks.size());
  Simulation simulation(dispatch, disks, blocks, bytes_s, slots);
  Outcome outcome{simulation.run(), 0, {}};
  outcome.took_s = simulation.now_s() - 1;
  for (const Read& read : outcome.reads) ++outcome.of_disk[read.disk];
  std::set<std::size_t> once;
  for (const Read& read : outcome.reads) once.insert(read.block);
  CHECK(once.size() == outcome.reads.size());
  CHECK(dispatch.over() == (once.size() == blocks.size()));
  return outcome;
}

TEST_CASE("with one disk, blocks come in their order, and from the preferred replica") {
  for (const std::size_t slots : {1U, 16U}) {
    const Outcome outcome = simulate({{7}, {7, 7}, {7}}, {5, 3, 4}, {{7, 1e9}}, slots);
    REQUIRE(outcome.reads.size() == 12);
    for (std::size_t i = 0; i < outcome.reads.size(); ++i) {
      CHECK(outcome.reads[i].block == i);
      CHECK(outcome.reads[i].replica == 0);
    }
  }
}

TEST_CASE("two disks of equal speed share evenly, whichever is preferred") {
  for (const Disks& disks : {Disks{{1, 2}}, Disks{{1, 2}, {2, 1}}}) {
    const std::vector<std::size_t> counts(disks.size(), 200 / disks.size());
    Outcome outcome = simulate(disks, counts, {{1, 1e9}, {2, 1e9}});
    CHECK(outcome.of_disk[1] >= 95);
    CHECK(outcome.of_disk[2] >= 95);
    CHECK(outcome.took_s < 1.05 * 100 * kBlock / 1e9);
  }
}

TEST_CASE(
    "a disk takes blocks whose preferred replica it has, in order, and then those of others") {
  const Outcome outcome = simulate({{1, 2}, {2, 1}}, {100, 100}, {{1, 2e9}, {2, 1e9}});
  std::array<std::vector<std::size_t>, 3> taken;
  for (const Read& read : outcome.reads) taken[read.disk].push_back(read.block);
  for (const auto& of_disk : taken) CHECK(std::is_sorted(of_disk.begin(), of_disk.end()));
  // The faster one takes some of the other's, which never finishes its own.
  CHECK(taken[1][99] == 99);
  CHECK(taken[1].size() > 120);
  CHECK(taken[2].front() == 100);
}

TEST_CASE("disks share by their speeds") {
  Outcome outcome = simulate({{1, 2}}, {500}, {{1, 4e9}, {2, 1e9}});
  const double ratio =
      static_cast<double>(outcome.of_disk[1]) / static_cast<double>(outcome.of_disk[2]);
  CHECK(ratio > 3.3);
  CHECK(ratio < 4.6);
  CHECK(outcome.took_s < 1.05 * 500 * kBlock / 5e9);
  outcome = simulate({{3, 2, 1}}, {900}, {{1, 4e9}, {2, 1e9}, {3, 2e9}}, 32);
  CHECK(outcome.took_s < 1.05 * 900 * kBlock / 7e9);
}

TEST_CASE("a slow disk does not get the last blocks") {
  for (const double slow : {5e8, 1e8, 2e7}) {
    CAPTURE(slow);
    const Outcome outcome = simulate({{1, 2}}, {3000}, {{1, 4e9}, {2, slow}});
    double fast_end = 0;
    double slow_end = 0;
    for (const Read& read : outcome.reads) {
      double& end = read.disk == 1 ? fast_end : slow_end;
      end = std::max(end, read.end_s);
    }
    CHECK(slow_end <= fast_end + 0.5 * kBlock / slow);
  }
}

TEST_CASE("a change of a disk's speed is seen: measurements fade") {
  const auto blocks = blocks_of({100'000});
  const Disks disks{{1, 2}};
  Dispatch dispatch(disks, blocks);
  dispatch.open_until(blocks.size());
  double now_s = 1;
  std::array<double, 3> busy_until{0, 1, 1};
  std::array<double, 3> rate{0, 1e9, 1e9};
  std::array<std::size_t, 3> latest{};
  for (const bool slower : {false, true}) {
    if (slower) rate[1] = 1e8;
    latest = {};
    std::vector<Read> out;
    const double end_s = now_s + 20;
    while (now_s < end_s) {
      while (out.size() < 32) {
        const auto pick = dispatch.pick(at(now_s));
        REQUIRE(pick.has_value());
        const std::uint64_t disk = disks[0][pick->replica];
        busy_until[disk] = std::max(busy_until[disk], now_s) + kBlock / rate[disk];
        out.push_back({pick->block, pick->replica, disk, now_s, busy_until[disk]});
        ++latest[disk];
      }
      const auto first = std::min_element(
          out.begin(), out.end(), [](const Read& a, const Read& b) { return a.end_s < b.end_s; });
      now_s = first->end_s;
      dispatch.finished(0, first->replica, kBlock, kBlock, at(now_s));
      out.erase(first);
    }
    const double ratio = static_cast<double>(latest[2]) / static_cast<double>(latest[1]);
    CHECK(ratio > (slower ? 7 : 0.9));
    CHECK(ratio < (slower ? 12 : 1.1));
    // The blocks in flight on each are in proportion to its speed.
    const auto on_its_way =
        std::count_if(out.begin(), out.end(), [](const Read& read) { return read.disk == 1; });
    CHECK(on_its_way >= (slower ? 1 : 13));
    CHECK(on_its_way <= (slower ? 5 : 19));
    for (const Read& read : out) dispatch.finished(0, read.replica, kBlock, kBlock, at(read.end_s));
  }
}

TEST_CASE("a block with a single replica waits for its disk, and its disk does not stand idle") {
  // The second shard has no other replica: thirty blocks that take the slow disk three seconds,
  // while the fast one is busy for four.
  const Disks disks{{1, 2}, {2}};
  Outcome outcome = simulate(disks, {4000, 30}, {{1, 4e9}, {2, 4e7}});
  REQUIRE(outcome.reads.size() == 4030);
  for (const Read& read : outcome.reads) {
    if (read.block >= 4000) CHECK(read.disk == 2);
  }
  CHECK(outcome.took_s < 4.4);
  CHECK(outcome.of_disk[1] > 3980);
}

TEST_CASE("a disk that does not answer holds up only its first blocks") {
  const Disks disks{{1, 2}};
  const Outcome outcome = simulate(disks, {1000}, {{1, kBlock / kNever}, {2, 1e9}});
  CHECK(outcome.reads.size() == 1000);
  CHECK(std::count_if(outcome.reads.begin(), outcome.reads.end(),
                      [](const Read& read) { return read.disk == 1; }) <= 8);
}

TEST_CASE("a replica that is avoided is asked for nothing while there is another one") {
  const Disks disks{{1, 2}, {2, 1}, {1}};
  const auto blocks = blocks_of({20, 20, 20});
  Dispatch dispatch(disks, blocks);
  dispatch.open_until(blocks.size());
  dispatch.avoid(0, 0);
  dispatch.avoid(1, 1);
  dispatch.avoid(2, 0);  // the only one
  CHECK(dispatch.avoided(0, 0));
  CHECK_FALSE(dispatch.avoided(2, 0));
  Simulation simulation(dispatch, disks, blocks, {{1, 1e9}, {2, 1e9}}, 4);
  CHECK(simulation.run().size() == 60);
  for (const Read& read : simulation.reads()) {
    CHECK(read.disk == (blocks[read.block].shard == 2 ? 1 : 2));
  }
  dispatch.avoid(0, 1);  // the last one that was left
  CHECK_FALSE(dispatch.avoided(0, 1));
}

TEST_CASE("skipped blocks are not read") {
  const Disks disks{{1, 2}};
  const auto blocks = blocks_of({30});
  Dispatch dispatch(disks, blocks);
  dispatch.open_until(blocks.size());
  dispatch.skip(0, 5);
  dispatch.skip(10, 20);
  dispatch.skip(10, 20);
  Simulation simulation(dispatch, disks, blocks, {{1, 1e9}, {2, 1e9}}, 3);
  CHECK(simulation.run().size() == 15);
  for (const Read& read : simulation.reads()) {
    CHECK(((read.block >= 5 && read.block < 10) || read.block >= 20));
  }
  CHECK(dispatch.over());
}

TEST_CASE("blocks that are put back are read once more") {
  const Disks disks{{1, 2}, {2, 1}};
  const auto blocks = blocks_of({6, 6});
  Dispatch dispatch(disks, blocks);
  dispatch.open_until(blocks.size());
  dispatch.skip(0, blocks.size());
  CHECK(dispatch.over());
  dispatch.put_back(2, 4);
  dispatch.put_back(3, 5);
  dispatch.put_back(9, 10);
  CHECK_FALSE(dispatch.over());
  Simulation simulation(dispatch, disks, blocks, {{1, 1e9}, {2, 1e9}}, 3);
  std::set<std::size_t> read;
  for (const Read& each : simulation.run()) read.insert(each.block);
  CHECK(read == std::set<std::size_t>{2, 3, 4, 9});
  CHECK(dispatch.over());
}

TEST_CASE("a replica that is admitted again gets the blocks passed over meanwhile") {
  const Disks disks{{1, 2}};
  const auto blocks = blocks_of({6});
  Dispatch dispatch(disks, blocks);
  dispatch.open_until(blocks.size());
  dispatch.avoid(0, 0);
  CHECK(dispatch.pick(at(1))->replica == 1);
  dispatch.admit(0, 0);
  dispatch.admit(0, 0);
  dispatch.avoid(0, 1);
  Simulation simulation(dispatch, disks, blocks, {{1, 1e9}, {2, 1e9}}, 3);
  for (const Read& read : simulation.run()) CHECK(read.disk == 1);
  CHECK(simulation.reads().size() == 5);
}

// ---- windows ----

// Opens regions as a job does, in order and as there is room; a consumer takes one after the other.
class Window {
 public:
  Window(Dispatch& dispatch, std::vector<std::size_t> bounds, std::size_t blocks_most)
      : dispatch_(dispatch), bounds_(std::move(bounds)), blocks_most_(blocks_most) {}

  void open() {
    while (dispatch_.wants_more() && opened_ + 1 < bounds_.size()) {
      const std::size_t blocks = bounds_[opened_ + 1] - bounds_[opened_];
      if (used_ != 0 && used_ + blocks > blocks_most_) return;
      used_ += blocks;
      dispatch_.open_until(bounds_[++opened_]);
    }
  }

  // Releases the next region if all its blocks are there.
  bool consume(const Simulation& simulation) {
    if (consumed_ == opened_) return false;
    for (std::size_t b = bounds_[consumed_]; b < bounds_[consumed_ + 1]; ++b) {
      if (!simulation.done(b)) return false;
    }
    used_ -= bounds_[consumed_ + 1] - bounds_[consumed_];
    ++consumed_;
    return true;
  }

  [[nodiscard]] bool over() const { return consumed_ + 1 == bounds_.size(); }
  [[nodiscard]] std::size_t used() const { return used_; }

 private:
  Dispatch& dispatch_;
  std::vector<std::size_t> bounds_;  // of the regions, in blocks
  std::size_t blocks_most_;
  std::size_t opened_ = 0, consumed_ = 0, used_ = 0;
};

TEST_CASE("a window never comes to a standstill, for any replicas and speeds") {
  Random random(testing::random_seed());
  for (int i = 0; i < testing::random_cases(300); ++i) {
    CAPTURE(i);
    const std::uint64_t device_count = between(random, 1, 4);
    std::map<std::uint64_t, double> bytes_s;
    for (std::uint64_t d = 0; d < device_count; ++d) {
      bytes_s[d] = static_cast<double>(between(random, 1, 1000)) * 1e7;
    }
    Disks disks(between(random, 1, 6));
    std::vector<std::size_t> counts;
    std::vector<std::size_t> bounds{0};
    for (auto& of_shard : disks) {
      const std::uint64_t replicas = between(random, 1, 3);
      while (of_shard.size() < replicas) of_shard.push_back(between(random, 0, device_count - 1));
      std::size_t blocks = 0;
      for (std::uint64_t regions = between(random, 1, 9); regions > 0; --regions) {
        const std::size_t in_region = between(random, 1, 12);
        bounds.push_back(bounds.back() + in_region);
        blocks += in_region;
      }
      counts.push_back(blocks);
    }
    const auto blocks = blocks_of(counts);
    Dispatch dispatch(disks, blocks);
    Simulation simulation(dispatch, disks, blocks, bytes_s, between(random, 1, 20));
    Window window(dispatch, bounds, between(random, 1, 40));
    bool moved = true;
    std::size_t seen = 0;
    while (!window.over() && moved) {
      moved = false;
      window.open();
      simulation.top_up();
      for (; seen < simulation.reads().size(); ++seen) {
        REQUIRE(simulation.reads()[seen].block < dispatch.opened());
      }
      if (simulation.step()) moved = true;
      if ((between(random, 0, 2) == 0 || simulation.idle()) && window.consume(simulation))
        moved = true;
    }
    REQUIRE(window.over());
    CHECK(dispatch.over());
    REQUIRE(simulation.reads().size() == blocks.size());
    if (device_count > 1) continue;
    for (std::size_t b = 0; b < blocks.size(); ++b) CHECK(simulation.reads()[b].block == b);
  }
}

TEST_CASE("more regions are opened only for a disk that would be idle") {
  const Disks disks{{1}};
  const auto blocks = blocks_of({6});
  Dispatch dispatch(disks, blocks);
  CHECK(dispatch.wants_more());
  CHECK_FALSE(dispatch.pick(at(1)).has_value());
  dispatch.open_until(2);
  CHECK_FALSE(dispatch.wants_more());
  CHECK(dispatch.pick(at(1))->block == 0);
  CHECK_FALSE(dispatch.wants_more());
  CHECK(dispatch.pick(at(1))->block == 1);
  CHECK(dispatch.wants_more());
  dispatch.skip(2, 6);
  CHECK_FALSE(dispatch.wants_more());
  CHECK(dispatch.over());
}

}  // namespace
}  // namespace fastio
