#include "bindings_load.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstdio>
#include <string>

#include "bindings.h"

namespace py = pybind11;

namespace fastio {

Loaded::Loaded(std::shared_ptr<LoadJob> job) : job_(std::move(job)) {
  auto regions = job_->take_regions();
  for (std::size_t shard = 0; shard < regions.size(); ++shard) {
    for (std::size_t r = 0; r < regions[shard].size(); ++r) {
      const PlannedRegion& planned = job_->plan(shard).regions[r];
      held_.push_back(
          {shard, planned.first_extent, planned.last_extent, std::move(regions[shard][r])});
    }
  }
}

Loaded::Loaded(std::shared_ptr<LoadJob> job, std::size_t shard, std::size_t region,
               std::shared_ptr<Region> memory)
    : job_(std::move(job)) {
  const PlannedRegion& planned = job_->plan(shard).regions.at(region);
  held_.push_back({shard, planned.first_extent, planned.last_extent, std::move(memory)});
}

std::vector<std::shared_ptr<Region>> Loaded::regions_of_extents(std::size_t shard,
                                                                std::size_t first,
                                                                std::size_t count) const {
  if (shard >= job_->shard_count()) throw std::out_of_range("no such shard");
  const std::vector<Extent>& extents = job_->request(shard).extents;
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

ChunkTable parse_table(const File& file, std::uint64_t start, std::uint64_t chunk_bytes,
                       const std::string& digests) {
  const std::uint64_t covered = file.nbytes() < start ? 0 : file.nbytes() - start;
  if (chunk_bytes == 0 || digests.size() != (covered + chunk_bytes - 1) / chunk_bytes * 8) {
    throw py::value_error("the chunk table does not fit the file");
  }
  ChunkTable table{{start, chunk_bytes}, std::vector<std::uint64_t>(digests.size() / 8)};
  for (std::size_t i = 0; i < digests.size(); ++i) {
    table.digests[i / 8] |= std::uint64_t{static_cast<unsigned char>(digests[i])} << (8 * (i % 8));
  }
  return table;
}

template <typename Value>
Value one_of(const char* what, const std::string& name,
             std::initializer_list<std::pair<const char*, Value>> values) {
  for (const auto& [known, value] : values) {
    if (name == known) return value;
  }
  throw py::value_error(std::string(what) + " cannot be " + name);
}

std::string text(const py::object& options, const char* name) {
  return options.attr(name).cast<std::string>();
}

std::string hex16(std::uint64_t value) {
  std::string text(17, '\0');
  std::snprintf(text.data(), text.size(), "%016llx", static_cast<unsigned long long>(value));
  text.resize(16);
  return text;
}

// Cancels the job when Python leaves before it is done: Ctrl-C, an error in the progress callback,
// a failure beside a read that hangs.
class Attendance {
 public:
  explicit Attendance(LoadJob& job) : job_(job) {}
  Attendance(const Attendance&) = delete;
  Attendance& operator=(const Attendance&) = delete;
  ~Attendance() {
    if (finished_) return;
    job_.cancel();
    if (job_.wait_for_places(std::chrono::milliseconds::zero())) return;
    const GilReleased released;  // the caller's memory: nobody leaves while a read writes to it
    while (!job_.wait_for_places(std::chrono::milliseconds(20))) {
    }
  }
  void finished() { finished_ = true; }

 private:
  LoadJob& job_;
  bool finished_ = false;
};

py::list access_list(const LoadJob& job) {
  py::list answer;
  for (std::size_t i = 0; i < job.shard_count(); ++i) {
    answer.append(py::make_tuple(job.access(i).cache_state, job.access(i).reason));
  }
  return answer;
}

std::uint64_t tensor_bytes(const LoadJob& job) {
  std::uint64_t nbytes = 0;
  for (std::size_t i = 0; i < job.shard_count(); ++i) {
    for (const Extent& extent : job.request(i).extents) nbytes += extent.end - extent.begin;
  }
  return nbytes;
}

}  // namespace

ShardRequest parse_shard(const ShardArgument& argument) {
  const auto& [file, begins, ends, table] = argument;
  if (begins.ndim() != 1 || ends.ndim() != 1 || begins.size() != ends.size()) {
    throw py::value_error("begins and ends must be (n,) int64");
  }
  ShardRequest request{file, {}, {}};
  request.extents.reserve(static_cast<std::size_t>(begins.size()));
  const auto begin = begins.unchecked<1>();
  const auto end = ends.unchecked<1>();
  for (py::ssize_t i = 0; i < begins.size(); ++i) {
    request.extents.push_back(
        {static_cast<std::uint64_t>(begin(i)), static_cast<std::uint64_t>(end(i))});
  }
  if (table) {
    request.table =
        parse_table(*file, std::get<0>(*table), std::get<1>(*table), std::get<2>(*table));
  }
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
  parsed.engine = one_of<EnginePreference>("engine", text(options, "engine"),
                                           {{"auto", EnginePreference::automatic},
                                            {"uring", EnginePreference::uring},
                                            {"pread", EnginePreference::pread}});
  parsed.cache = one_of<CacheMode>(
      "cache", text(options, "cache"),
      {{"auto", CacheMode::automatic}, {"bypass", CacheMode::bypass}, {"keep", CacheMode::keep}});
  parsed.mapping =
      one_of<MappingMode>("mapping", text(options, "mapping"),
                          {{"auto", MappingMode::automatic}, {"never", MappingMode::never}});
  parsed.huge_pages = one_of<HugePages>(
      "huge_pages", text(options, "huge_pages"),
      {{"auto", HugePages::automatic}, {"on", HugePages::on}, {"off", HugePages::off}});
  parsed.keep_cold = keep_cold;
  parsed.block_bytes = options.attr("block_bytes").cast<std::uint64_t>();
  parsed.queue_depth = options.attr("queue_depth").cast<unsigned>();
  parsed.lanes = options.attr("lanes").cast<unsigned>();
  parsed.memory_limit_bytes =
      options.attr("memory_limit_bytes").cast<std::optional<std::uint64_t>>();
  return parsed;
}

std::shared_ptr<LoadJob> start_job(std::vector<ShardRequest> requests, const LoadOptions& options) {
  if (std::all_of(requests.begin(), requests.end(),
                  [](const auto& r) { return r.file->mount().local; })) {
    const GilReleased released;
    return LoadJob::start(std::move(requests), options);
  }
  // A server may be asked, which may not answer.
  return call_detached([requests, options] { return LoadJob::start(requests, options); },
                       [](const std::shared_ptr<LoadJob>& late) { late->cancel(); });
}

void raise_damage(const File& file, const DamagedChunk& damage) {
  const py::object type = py::module_::import("fastio.errors").attr("ChecksumError");
  const py::object path = py::module_::import("os").attr("fsdecode")(py::bytes(file.path()));
  const py::object error =
      type(path, py::arg("chunk") = damage.chunk, py::arg("offset") = damage.extent.begin,
           py::arg("nbytes") = damage.extent.end - damage.extent.begin,
           py::arg("expected") = hex16(damage.expected), py::arg("found") = hex16(damage.found));
  PyErr_SetObject(type.ptr(), error.ptr());
  throw py::error_already_set();
}

void raise_if_failed(const LoadJob& job) {
  if (const auto failure = job.failure()) raise_failure(*failure);
  if (const auto damage = job.damage()) raise_damage(*job.request(damage->shard).file, *damage);
}

void attend(LoadJob& job, const py::object& progress) {
  Attendance attendance(job);
  bool finished = false;
  bool failed_before = false;
  wait_for_python(
      [&](std::chrono::milliseconds turn) {
        finished = job.wait_for(turn);
        // A failed job gets one more turn to bring its reads home; a hung one does not hold the
        // error back.
        const bool failed = job.failure().has_value() || job.damage().has_value();
        return finished || std::exchange(failed_before, failed);
      },
      [&] {
        if (!progress.is_none()) progress(job.counters().bytes_done.load(), job.bytes_total());
      });
  if (finished) attendance.finished();
  raise_if_failed(job);
}

py::dict statistics(const LoadJob& job) {
  const LoadCounters& counters = job.counters();
  py::dict answer;
  answer["engine"] = job.engine();
  answer["engine_reason"] = job.engine_reason();
  answer["lanes"] = job.lanes();
  answer["nbytes"] = tensor_bytes(job);
  answer["bytes_direct"] = counters.bytes_direct.load();
  answer["bytes_buffered"] = counters.bytes_buffered.load();
  answer["bytes_mapped"] = counters.bytes_mapped.load();
  answer["chunks_verified"] = counters.chunks_verified.load();
  answer["access"] = access_list(job);
  answer["fallbacks"] = job.fallbacks();
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
         const py::object& progress) {
        auto job = start_job(parse_shards(shards), parse_options(options, keep_cold));
        attend(*job, progress);
        return std::make_shared<Loaded>(std::move(job));
      },
      py::arg("shards"), py::arg("options"), py::kw_only(), py::arg("keep_cold") = false,
      py::arg("progress") = py::none());
  module.def(
      "plan",
      [](const Offsets& begins, const Offsets& ends, std::uint64_t file_nbytes,
         std::optional<std::pair<std::uint64_t, std::uint64_t>> grid, std::uint64_t alignment,
         std::uint64_t block_bytes, std::uint64_t region_bytes) {
        std::vector<Extent> extents;
        for (py::ssize_t i = 0; i < begins.size(); ++i) {
          extents.push_back(
              {static_cast<std::uint64_t>(begins.at(i)), static_cast<std::uint64_t>(ends.at(i))});
        }
        PlanRequest request{extents, file_nbytes, {}, alignment, block_bytes, region_bytes, false};
        if (grid) request.grid = ChunkGrid{grid->first, grid->second};
        const Plan plan = make_plan(request);
        py::list regions, blocks;
        for (const auto& r : plan.regions) {
          regions.append(py::make_tuple(r.begin, r.end, r.first_extent, r.last_extent));
        }
        for (const auto& b : plan.blocks) blocks.append(py::make_tuple(b.region, b.begin, b.end));
        return py::make_tuple(regions, blocks);
      },
      py::arg("begins"), py::arg("ends"), py::arg("file_nbytes"), py::kw_only(), py::arg("grid"),
      py::arg("alignment"), py::arg("block_bytes"), py::arg("region_bytes"));
}

}  // namespace fastio
