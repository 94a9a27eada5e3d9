#include "loading.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <thread>

namespace fastio::testing {

std::vector<EnginePreference> engines_here() {
  std::vector<EnginePreference> engines{EnginePreference::pread};
  if (uring_status().available) {
    engines.push_back(EnginePreference::uring);
  } else {
    MESSAGE("not tested: ", uring_status().reason);
  }
  return engines;
}

std::string name_of(EnginePreference engine) {
  return engine == EnginePreference::uring   ? "uring"
         : engine == EnginePreference::pread ? "pread"
                                             : "automatic";
}

void wait_until_held() {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (held_completions() == 0 && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  REQUIRE(held_completions() > 0);
}

LoadOptions one_at_a_time(EnginePreference engine, std::uint64_t block_bytes) {
  LoadOptions options;
  options.engine = engine;
  options.cache = CacheMode::bypass;
  options.mapping = MappingMode::never;
  options.block_bytes = block_bytes;
  options.queue_depth = 1;
  options.lanes = 1;
  return options;
}

std::shared_ptr<LoadJob> load_to_the_end(std::vector<ShardRequest> shards,
                                         const LoadOptions& options) {
  auto job = LoadJob::start(std::move(shards), options);
  REQUIRE(job->wait_for(kPatience));
  return job;
}

std::string first_difference(LoadJob& job,
                             const std::vector<std::span<const std::byte>>& expected) {
  const auto regions = job.take_regions();
  if (regions.size() != job.layout().shards.size()) return "no regions";
  for (std::size_t s = 0; s < regions.size(); ++s) {
    const auto& extents = job.layout().shards[s].extents;
    std::vector<const Region*> of_extents(extents.size(), nullptr);
    for (std::size_t r = 0; r < regions[s].size(); ++r) {
      const PlannedRegion& planned = job.layout().plans[s].regions[r];
      for (std::size_t e = planned.first_extent; e < planned.last_extent; ++e) {
        of_extents[e] = regions[s][r].get();
      }
    }
    for (std::size_t e = 0; e < extents.size(); ++e) {
      const auto [begin, end] = extents[e];
      if (begin == end) continue;
      const std::string where = "shard " + std::to_string(s) + ", extent " + std::to_string(e);
      if (of_extents[e] == nullptr) return where + " has no region";
      const std::span<const std::byte> wanted = expected[s].subspan(begin, end - begin);
      const std::span<const std::byte> found(of_extents[e]->at(begin), end - begin);
      if (same(wanted, found)) continue;
      const auto at = std::mismatch(wanted.begin(), wanted.end(), found.begin()).first;
      const auto run = static_cast<std::uint64_t>(at - wanted.begin());
      return where + " differs at offset " + std::to_string(begin + run);
    }
  }
  return {};
}

std::string first_difference(LoadJob& job, const SampleFile& file) {
  return first_difference(job, {file.bytes()});
}

}  // namespace fastio::testing
