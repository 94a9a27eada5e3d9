#include "bindings_load.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "bindings.h"
#include "bindings_jobs.h"

namespace py = pybind11;

namespace fastio {

Loaded::Loaded(std::shared_ptr<LoadJob> job) : job_(std::move(job)) {
  auto regions = job_->take_regions();
  for (std::size_t shard = 0; shard < regions.size(); ++shard) {
    for (std::size_t r = 0; r < regions[shard].size(); ++r) {
      const PlannedRegion& planned = job_->layout().region({shard, r});
      held_.push_back(
          {shard, planned.first_extent, planned.last_extent, std::move(regions[shard][r])});
    }
  }
}

Loaded::Loaded(std::shared_ptr<LoadJob> job, RegionId region, std::shared_ptr<Region> memory)
    : job_(std::move(job)) {
  const PlannedRegion& planned = job_->layout().region(region);
  held_.push_back({region.shard, planned.first_extent, planned.last_extent, std::move(memory)});
}

std::vector<std::shared_ptr<Region>> Loaded::regions_of_extents(std::size_t shard,
                                                                std::size_t first,
                                                                std::size_t count) const {
  if (shard >= job_->layout().shards.size()) throw std::out_of_range("no such shard");
  const std::vector<Extent>& extents = job_->layout().shards[shard].extents;
  if (first > extents.size() || count > extents.size() - first)
    throw std::out_of_range("no such extents");
  std::vector<std::shared_ptr<Region>> of_extents(count);
  auto held = std::partition_point(held_.begin(), held_.end(), [&](const Held& h) {
    return std::pair(h.shard, h.last) <= std::pair(shard, first);
  });
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t extent = first + i;
    if (extents[extent].begin == extents[extent].end) continue;
    while (held != held_.end() && held->shard == shard && held->last <= extent) ++held;
    if (held == held_.end() || held->shard != shard || held->first > extent)
      throw std::out_of_range("the memory of this extent is not here");
    of_extents[i] = held->region;
  }
  return of_extents;
}

namespace {

Replica parse_replica(const ReplicaArgument& argument) {
  Replica replica = std::visit([](const auto& given) { return Replica(given); }, argument);
  if (!replica.valid()) throw py::type_error("a shard's replicas must be File or Feed");
  return replica;
}

std::vector<Replica> parse_replicas(const std::vector<ReplicaArgument>& arguments) {
  std::vector<Replica> replicas;
  replicas.reserve(arguments.size());
  for (const ReplicaArgument& each : arguments) replicas.push_back(parse_replica(each));
  if (replicas.empty()) throw py::value_error("a shard has at least one file");
  return replicas;
}

ChunkTable parse_table(const TableArgument::value_type& argument, std::uint64_t file_nbytes) {
  const auto& [start, chunk_bytes, algorithm, stored] = argument;
  if (algorithm == nullptr) throw py::type_error("a table of checksums needs an Algorithm");
  const std::string_view text(stored);
  const auto bytes = std::as_bytes(std::span(text));
  ChunkTable table{{start, chunk_bytes}, {*algorithm, std::vector(bytes.begin(), bytes.end())}};
  if (!table_fits(table, file_nbytes))
    throw py::value_error("the chunk table does not fit the file");
  return table;
}

std::string detail_of(const Incident& incident) {
  if (!incident.failure) {
    return "checksum " + incident.expected.text() + " expected, " + incident.found.text() +
           " found";
  }
  // The system's text for ETIMEDOUT is about connections.
  if (incident.failure->error == ETIMEDOUT && !incident.failure->detail.empty())
    return incident.failure->detail;
  const std::string text = text_of_error(incident.failure->error);
  return incident.failure->detail.empty() ? text : text + ": " + incident.failure->detail;
}

const char* name_of(Incident::Remedy remedy) {
  switch (remedy) {
    case Incident::Remedy::read_again:
      return "read_again";
    case Incident::Remedy::other_replica:
      return "other_replica";
    case Incident::Remedy::none:
      break;
  }
  return "none";
}

py::list access_list(const LoadJob& job) {
  py::list answer;
  for (const auto& accesses : job.layout().accesses) {
    for (const ShardAccess& access : accesses) {
      answer.append(py::make_tuple(access.cache_state, access.reason));
    }
  }
  return answer;
}

py::list lane_times(const LoadReport& report) {
  const auto seconds = [](LaneTimes::Clock::duration part) {
    return std::chrono::duration<double>(part).count();
  };
  py::list answer;
  for (const LaneTimes& times : report.lane_times) {
    py::dict told;
    told["submit_s"] = seconds(times.submit);
    told["read_wait_s"] = seconds(times.read_wait);
    told["verify_s"] = seconds(times.verify);
    told["place_s"] = seconds(times.place);
    told["copy_queue_s"] = seconds(times.copy_queue);
    told["copy_wait_s"] = seconds(times.copy_wait);
    told["room_wait_s"] = seconds(times.room_wait);
    told["total_s"] = seconds(times.total);
    told["blocks"] = times.blocks;
    told["nbytes"] = times.nbytes;
    answer.append(std::move(told));
  }
  return answer;
}

std::uint64_t tensor_bytes(const LoadJob& job) {
  std::uint64_t nbytes = 0;
  for (const ShardRequest& shard : job.layout().shards) {
    for (const Extent& extent : shard.extents) nbytes += extent.nbytes();
  }
  return nbytes;
}

}  // namespace

ShardRequest parse_shard(const ShardArgument& argument) {
  const auto& [replicas, begins, ends, table, on_roots] = argument;
  if (begins.ndim() != 1 || ends.ndim() != 1 || begins.size() != ends.size()) {
    throw py::value_error("begins and ends must be (n,) int64");
  }
  ShardRequest request{parse_replicas(replicas), {}, {}};
  request.on_roots = on_roots;
  request.extents.reserve(static_cast<std::size_t>(begins.size()));
  const auto begin = begins.unchecked<1>();
  const auto end = ends.unchecked<1>();
  for (py::ssize_t i = 0; i < begins.size(); ++i) {
    request.extents.push_back(
        {static_cast<std::uint64_t>(begin(i)), static_cast<std::uint64_t>(end(i))});
  }
  if (table) request.table = parse_table(*table, request.nbytes());
  return request;
}

std::vector<ShardRequest> parse_shards(const std::vector<ShardArgument>& arguments) {
  std::vector<ShardRequest> requests;
  requests.reserve(arguments.size());
  for (const ShardArgument& argument : arguments) requests.push_back(parse_shard(argument));
  return requests;
}

LoadOptions parse_options(const py::object& options, bool keep_cold) {
  LoadOptions parsed;
  parsed.engine = parse_engine(options);
  parsed.cache = one_of<CacheMode>(
      options, "cache",
      {{"auto", CacheMode::automatic}, {"bypass", CacheMode::bypass}, {"keep", CacheMode::keep}});
  parsed.mapping = one_of<MappingMode>(options, "mapping",
                                       {{"auto", MappingMode::automatic},
                                        {"always", MappingMode::always},
                                        {"never", MappingMode::never}});
  parsed.huge_pages = parse_huge_pages(options);
  parsed.keep_cold = keep_cold;
  parsed.block_bytes = options.attr("block_bytes").cast<std::uint64_t>();
  parsed.queue_depth = options.attr("queue_depth").cast<unsigned>();
  parsed.lanes = options.attr("lanes").cast<unsigned>();
  parsed.lanes_limit = options.attr("lanes_limit").cast<std::optional<unsigned>>();
  parsed.memory_limit_bytes =
      options.attr("memory_limit_bytes").cast<std::optional<std::uint64_t>>();
  parsed.pinned_limit_bytes = options.attr("pinned_limit_bytes").cast<std::uint64_t>();
  if (options.attr("trust_verified").cast<bool>()) parsed.trust_folder = trust_folder();
  parsed.root_timeout = parse_timeout(options.attr("root_timeout_s").cast<double>());
  const auto hedge_after_s = options.attr("hedge_after_s").cast<std::optional<double>>();
  if (hedge_after_s) parsed.hedge_after = parse_timeout(*hedge_after_s);
  return parsed;
}

namespace {

// Lets each disk behind a server open the files that are read past the page cache. One that does
// not answer in time is known to owe an answer then, and a job asks it for nothing that others
// have.
void open_on_servers(const std::vector<ShardRequest>& requests, const LoadOptions& options) {
  std::map<std::uint64_t, std::vector<Replica>> by_disk;
  for (const ShardRequest& request : requests) {
    for (const Replica& replica : request.replicas) {
      if (request.on_roots && replica.asks_server() && !owes_answer(replica.disk()))
        by_disk[replica.disk()].push_back(replica);
    }
  }
  for (const auto& [disk, replicas] : by_disk) {
    const TimeLimit limit{options.root_timeout, {ETIMEDOUT, "open", {}, {}, {}}, disk};
    try {
      call_detached(
          [replicas = replicas] {
            for (const Replica& each : replicas) static_cast<void>(each.file()->direct_access());
            return true;
          },
          [](bool) {}, limit);
    } catch (const IoError& error) {
      if (error.failure().error != ETIMEDOUT) throw;
    }
  }
}

}  // namespace

std::shared_ptr<LoadJob> start_job(std::vector<ShardRequest> requests, const LoadOptions& options) {
  if (std::ranges::none_of(requests, [](const ShardRequest& request) {
        return std::ranges::any_of(request.replicas, &Replica::asks_server);
      })) {
    const GilReleased released;
    return LoadJob::start(std::move(requests), options);
  }
  // A server may be asked, which may not answer.
  if (options.root_timeout) open_on_servers(requests, options);
  auto job = call_detached([requests, options] { return LoadJob::prepare(requests, options); },
                           [](const std::shared_ptr<LoadJob>&) {});
  const GilReleased released;
  job->launch();
  return job;
}

void raise_damage(const Replica& replica, const DamagedChunk& damage) {
  const py::object type = py::module_::import("fastio.errors").attr("ChecksumError");
  const py::object error =
      type(shown_path(replica.path()), py::arg("chunk") = damage.chunk,
           py::arg("offset") = damage.extent.begin,
           py::arg("nbytes") = damage.extent.end - damage.extent.begin,
           py::arg("expected") = damage.expected.text(), py::arg("found") = damage.found.text());
  PyErr_SetObject(type.ptr(), error.ptr());
  throw py::error_already_set();
}

void raise_if_failed(const LoadJob& job) {
  const Outcome& outcome = job.outcome();
  const std::vector<ShardRequest>& shards = job.layout().shards;
  if (const auto exceeded = outcome.exceeded()) throw *exceeded;
  if (const auto failure = outcome.failure()) raise_failure(*failure);
  if (const auto damage = outcome.damage())
    raise_damage(shards[damage->shard].replicas[damage->replica], *damage);
  if (outcome.cancelled()) {  // by a Ctrl-C before, or in another thread
    const std::string& path = shards.front().replicas.front().path();
    raise_failure(Failure{ECANCELED, "load", path, {}, "it was cancelled"});
  }
}

void attend(LoadJob& job, const py::object& progress,
            bool (LoadJob::*so_far)(std::chrono::milliseconds)) {
  attend_job(job, progress, so_far);
  raise_if_failed(job);
}

py::dict statistics(const LoadJob& job) {
  const LoadCounters& counters = job.counters();
  const LoadReport report = job.report();
  py::dict answer;
  answer["engine"] = report.engine;
  answer["engine_reason"] = report.engine_reason;
  answer["lanes"] = report.lanes;
  answer["nbytes"] = tensor_bytes(job);
  answer["bytes_direct"] = counters.bytes_direct.load();
  answer["bytes_buffered"] = counters.bytes_buffered.load();
  answer["bytes_mapped"] = counters.bytes_mapped.load();
  answer["bytes_fed"] = counters.bytes_fed.load();
  answer["chunks_verified"] = counters.chunks_verified();
  answer["chunks_trusted"] = counters.chunks_trusted.load();
  answer["reads_hedged"] = counters.reads_hedged.load();
  answer["hedges_won"] = counters.hedges_won.load();
  answer["access"] = access_list(job);
  answer["fallbacks"] = job.outcome().fallbacks();
  answer["incidents_dropped"] = job.incidents().dropped();
  answer["lane_times"] = lane_times(report);
  return answer;
}

py::list take_incidents(LoadJob& job) {
  py::list answer;
  for (const Incident& incident : job.incidents().take()) {
    const std::optional<Failure>& failure = incident.failure;
    py::dict told;
    told["shard"] = incident.shard;
    told["replica"] = incident.replica;
    told["path"] =
        shown_path(job.layout().shards[incident.shard].replicas[incident.replica].path());
    told["offset"] = incident.extent.begin;
    told["nbytes"] = incident.extent.end - incident.extent.begin;
    told["cause"] = failure ? "read" : "checksum";
    told["detail"] = detail_of(incident);
    told["errno"] = failure ? py::object(py::int_(failure->error)) : py::none();
    told["remedy"] = name_of(incident.remedy);
    answer.append(std::move(told));
  }
  return answer;
}

void register_loading(py::module_& module) {
  py::class_<Loaded, std::shared_ptr<Loaded>> loaded(module, "Loaded");
  loaded.def_property_readonly("statistics",
                               [](const Loaded& self) { return statistics(self.job()); });
  register_tensors(loaded);
  module.def(
      "load",
      [](const std::vector<ShardArgument>& shards, const py::object& options, bool keep_cold,
         std::optional<std::uint64_t> mapping_room_bytes, const py::object& progress,
         bool persistent, const std::optional<py::list>& incidents) {
        LoadOptions parsed = parse_options(options, keep_cold);
        parsed.mapping_room_bytes = mapping_room_bytes;
        parsed.persistent = persistent;
        auto job = start_job(parse_shards(shards), parsed);
        const auto tell = [&] {
          if (incidents) incidents->attr("extend")(take_incidents(*job));
        };
        try {
          attend(*job, progress);
        } catch (...) {
          tell();
          throw;
        }
        tell();
        return std::make_shared<Loaded>(std::move(job));
      },
      py::arg("shards"), py::arg("options"), py::kw_only(), py::arg("keep_cold") = false,
      py::arg("mapping_room_bytes") = py::none(), py::arg("progress") = py::none(),
      py::arg("persistent") = false, py::arg("incidents") = py::none());
  module.def(
      "survey",
      [](const std::vector<ShardArgument>& shards, const py::object& options,
         const py::object& progress) {
        LoadOptions parsed = parse_options(options, false);
        parsed.persistent = parsed.surveys = true;
        const auto job = start_job(parse_shards(shards), parsed);
        py::list incidents;
        // Taken as they come: the job keeps so many of them only.
        const py::cpp_function tick([&](std::uint64_t done, std::uint64_t total) {
          incidents.attr("extend")(take_incidents(*job));
          if (!progress.is_none()) progress(done, total);
        });
        attend(*job, tick);
        incidents.attr("extend")(take_incidents(*job));
        return py::make_tuple(incidents, statistics(*job));
      },
      py::arg("shards"), py::arg("options"), py::kw_only(), py::arg("progress") = py::none());
}

}  // namespace fastio
