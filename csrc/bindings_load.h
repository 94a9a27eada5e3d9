// Shared by the bindings of loads: arguments in, a job attended from Python, memory out.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "loader.h"

namespace fastio {

using Offsets =
    pybind11::array_t<std::int64_t, pybind11::array::c_style | pybind11::array::forcecast>;
// (start, chunk_bytes, algorithm, digests)
using TableArgument =
    std::optional<std::tuple<std::uint64_t, std::uint64_t, const Algorithm*, pybind11::bytes>>;
using ReplicaArgument = std::variant<std::shared_ptr<File>, std::shared_ptr<Feed>>;
// (replicas, the preferred one first; begins; ends; table; whether they lie on roots of a store)
using ShardArgument =
    std::tuple<std::vector<ReplicaArgument>, Offsets, Offsets, TableArgument, bool>;

[[nodiscard]] ShardRequest parse_shard(const ShardArgument& argument);
[[nodiscard]] std::vector<ShardRequest> parse_shards(const std::vector<ShardArgument>& arguments);

// From any object with the attributes of fastio.Options.
[[nodiscard]] LoadOptions parse_options(const pybind11::object& options, bool keep_cold);

// Starts a job so that Ctrl-C is answered, also where a server has to be asked first.
[[nodiscard]] std::shared_ptr<LoadJob> start_job(std::vector<ShardRequest> requests,
                                                 const LoadOptions& options);

// Waits until a job is finished, or has come so far; raises what it failed with, or what Python
// raised meanwhile, and cancels it then.
void attend(LoadJob& job, const pybind11::object& progress,
            bool (LoadJob::*so_far)(std::chrono::milliseconds) = &LoadJob::wait_for);
void raise_if_failed(const LoadJob& job);
[[noreturn]] void raise_damage(const Replica& replica, const DamagedChunk& damage);

[[nodiscard]] pybind11::dict statistics(const LoadJob& job);

// The job's notes since the last call, as dicts.
[[nodiscard]] pybind11::list take_incidents(LoadJob& job);

// Memory that was loaded: of all extents of a job, or of those of one region.
class Loaded {
 public:
  explicit Loaded(std::shared_ptr<LoadJob> job);
  Loaded(std::shared_ptr<LoadJob> job, RegionId region, std::shared_ptr<Region> memory);

  [[nodiscard]] const LoadJob& job() const { return *job_; }

  // Of the extents [first, first + count) of one shard: the region of each, null for an extent of
  // no bytes. Throws std::out_of_range for extents that are not here.
  [[nodiscard]] std::vector<std::shared_ptr<Region>> regions_of_extents(std::size_t shard,
                                                                        std::size_t first,
                                                                        std::size_t count) const;

  // From now on a region lives as long as its tensors.
  void release() { held_.clear(); }

 private:
  struct Held {
    std::size_t shard = 0;
    std::size_t first = 0, last = 0;  // extents
    std::shared_ptr<Region> region;
  };

  std::shared_ptr<LoadJob> job_;
  std::vector<Held> held_;  // by shard and extent
};

}  // namespace fastio
