// Lanes that are added while it pays, on simulated machines: cores, disks, latencies and jitter.
#include "growth.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <queue>
#include <random>
#include <string>
#include <vector>

namespace fastio {
namespace {

constexpr double kBlock = 4 << 20;     // bytes
constexpr double kCoreRate = 3e9;      // bytes a second that one core verifies, into fresh memory
constexpr double kLaneStart_s = 2e-4;  // until a new lane's thread runs and its engine is made
constexpr unsigned kQueueDepth = 8;

struct Machine {
  std::size_t cores, disks;
  double disk_rate;         // bytes a second, of each
  double latency_s = 1e-4;  // of each read, beside its bytes
  double jitter = 0.2;      // of the time of each read and of each core's work
};

LaneGrowth::Time at(double time_s) {
  return LaneGrowth::Time() + std::chrono::duration_cast<LaneGrowth::Clock::duration>(
                                  std::chrono::duration<double>(time_s));
}

// Each lane keeps `kQueueDepth` reads in flight, over all disks in turn, and verifies on a core
// what came. A disk serves one read after the other, and cores take the lanes as they come.
class Simulation {
 public:
  Simulation(const Machine& machine, std::size_t blocks, LaneGrowth& growth)
      : machine_(machine),
        blocks_(blocks),
        growth_(growth),
        disk_free_s_(machine.disks),
        cores_free_(machine.cores) {
    while (lanes_.size() < growth.lanes()) begin_lane(0);
  }

  // Seconds until all blocks are done.
  double run() {
    while (!events_.empty()) {
      const Event event = events_.top();
      events_.pop();
      now_s_ = event.at_s;
      switch (event.kind) {
        case Kind::lane_runs:
          for (unsigned i = 0; i < kQueueDepth; ++i) read(event.lane);
          break;
        case Kind::read:
          ++lanes_[event.lane].arrived;
          wait_for_core(event.lane);
          break;
        case Kind::verified:
          verified(event.lane);
          break;
      }
    }
    REQUIRE(done_ == blocks_);
    return now_s_;
  }

 private:
  enum class Kind : std::uint8_t { lane_runs, read, verified };
  struct Event {
    double at_s;
    std::size_t number, lane;
    Kind kind;
    bool operator>(const Event& other) const {
      return std::pair(at_s, number) > std::pair(other.at_s, other.number);
    }
  };
  struct Lane {
    std::size_t arrived = 0;
    bool busy = false;  // on a core, or waiting for one
  };

  void add(double at_s, std::size_t lane, Kind kind) {
    events_.push({at_s, ++number_, lane, kind});
  }

  void begin_lane(double at_s) {
    lanes_.emplace_back();
    add(at_s, lanes_.size() - 1, Kind::lane_runs);
  }

  double jittered(double seconds) {
    return seconds *
           std::uniform_real_distribution<>(1 - machine_.jitter, 1 + machine_.jitter)(random_);
  }

  void read(std::size_t lane) {
    if (taken_ == blocks_) return;
    double& free_s = disk_free_s_[taken_++ % machine_.disks];
    free_s = std::max(free_s, now_s_) + jittered(kBlock / machine_.disk_rate);
    add(free_s + jittered(machine_.latency_s), lane, Kind::read);
  }

  void wait_for_core(std::size_t lane) {
    if (lanes_[lane].busy || lanes_[lane].arrived == 0) return;
    lanes_[lane].busy = true;
    waiting_.push(lane);
    give_cores();
  }

  void give_cores() {
    for (; cores_free_ > 0 && !waiting_.empty(); --cores_free_) {
      read(waiting_.front());  // the disk works while the core does
      add(now_s_ + jittered(kBlock / kCoreRate), waiting_.front(), Kind::verified);
      waiting_.pop();
    }
  }

  void verified(std::size_t lane) {
    ++cores_free_;
    ++done_;
    --lanes_[lane].arrived;
    lanes_[lane].busy = false;
    const auto bytes = [](std::size_t count) { return static_cast<std::uint64_t>(kBlock) * count; };
    std::size_t more = growth_.ask(at(now_s_), bytes(done_), bytes(blocks_ - done_));
    for (; more > 0; --more) begin_lane(now_s_ + kLaneStart_s);
    wait_for_core(lane);
    give_cores();
  }

  const Machine machine_;
  const std::size_t blocks_;
  LaneGrowth& growth_;
  std::vector<double> disk_free_s_;
  std::size_t cores_free_;
  std::vector<Lane> lanes_;
  std::queue<std::size_t> waiting_;
  std::priority_queue<Event, std::vector<Event>, std::greater<>> events_;
  std::size_t number_ = 0, taken_ = 0, done_ = 0;
  double now_s_ = 0;
  std::mt19937_64 random_{7};
};

double seconds_with(const Machine& machine, std::size_t blocks, LaneGrowth growth) {
  return Simulation(machine, blocks, growth).run();
}

// With as many blocks as take a second with the best count.
double share_of_best(const Machine& machine) {
  const double disks = machine.disk_rate * static_cast<double>(machine.disks);
  const double cores = kCoreRate * static_cast<double>(machine.cores);
  const auto blocks = static_cast<std::size_t>(std::min(disks, cores) / kBlock);
  double best_s = 1e9;
  for (std::size_t lanes = 1; lanes <= 2 * machine.cores; lanes *= 2)
    best_s = std::min(best_s, seconds_with(machine, blocks, {lanes, lanes}));
  const std::size_t most = std::max<std::size_t>(2, machine.cores);
  return best_s / seconds_with(machine, blocks, {2, most});
}

TEST_CASE("lanes that grow are as good as the best count, on each machine") {
  for (const std::size_t cores : {1, 2, 4, 16, 64}) {
    for (const std::size_t disks : {1, 2, 8, 32}) {
      for (const double rate : {7e9, 14e9}) {
        const double share = share_of_best({cores, disks, rate});
        INFO(cores, " cores, ", disks, " disks of ", rate / 1e9, " GB/s");
        CHECK(share >= 0.95);
      }
    }
  }
}

TEST_CASE("the same where reads take long to come, and with much jitter") {
  CHECK(share_of_best({16, 4, 14e9, 3e-3}) >= 0.95);
  CHECK(share_of_best({16, 4, 14e9, 1e-2}) >= 0.93);  // a step of growth takes two latencies
  CHECK(share_of_best({16, 4, 2e9, 1e-3, 0.8}) >= 0.95);
  CHECK(share_of_best({64, 32, 7e9, 1e-3, 0.8}) >= 0.95);
}

TEST_CASE("one disk that two lanes exhaust gets few lanes") {
  LaneGrowth growth(2, 64);
  Simulation(Machine{64, 1, 3e9}, 2000, growth).run();
  CHECK(growth.lanes() <= 8);
}

TEST_CASE("a count that is fixed stays, and so does one that was stopped") {
  LaneGrowth fixed(4, 4);
  CHECK_FALSE(fixed.can_grow());
  LaneGrowth stopped(2, 64);
  stopped.stop_at(3);
  for (int i = 0; i < 1000; ++i) {
    const auto done = static_cast<std::uint64_t>(i) << 22;
    CHECK(fixed.ask(at(i * 1e-3), done, 1ULL << 40) == 0);
    CHECK(stopped.ask(at(i * 1e-3), done, 1ULL << 40) == 0);
  }
  CHECK(stopped.lanes() == 3);
}

TEST_CASE("no lane begins for work that is done before it pays") {
  LaneGrowth growth(2, 64);
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t block = 1 << 22;
    CHECK(growth.ask(at(i * 1e-3), block * static_cast<unsigned>(i), 4 * block) == 0);
  }
}

TEST_CASE("more lanes are tried again when the rate is another one, and not before") {
  for (const unsigned later_ms : {1U, 2U}) {  // of each block, once two seconds have passed
    LaneGrowth growth(2, 64);
    double now_s = 0;
    std::size_t before = 0;
    for (std::uint64_t i = 0; i < 6000; ++i) {
      now_s += now_s < 2 ? 1e-3 : 1e-3 * later_ms;
      static_cast<void>(growth.ask(at(now_s), i << 22, 1ULL << 40));
      if (now_s < 2) before = growth.lanes();
    }
    CHECK(before == 4);
    CHECK((growth.lanes() > before) == (later_ms != 1));
  }
}

}  // namespace
}  // namespace fastio
